//! Writes a GGUF file, version 3: metadata, tensor table, then each tensor as it is made.

use std::io::{self, Write};

use super::blocks::GgmlType;
use super::{DEFAULT_ALIGNMENT, MAGIC, ValueType};

/// Metadata in the order in which it is written.
#[derive(Default)]
pub struct Metadata {
    count: u64,
    bytes: Vec<u8>,
}

impl Metadata {
    fn key(&mut self, key: &str, kind: ValueType) {
        self.count += 1;
        push_string(&mut self.bytes, key.as_bytes());
        self.bytes.extend((kind as u32).to_le_bytes());
    }

    /// Adds all of `other`.
    pub fn append(&mut self, other: Metadata) {
        self.count += other.count;
        self.bytes.extend(other.bytes);
    }

    fn array(&mut self, key: &str, element: ValueType, len: usize) {
        self.key(key, ValueType::Array);
        self.bytes.extend((element as u32).to_le_bytes());
        self.bytes.extend((len as u64).to_le_bytes());
    }

    /// Adds a string.
    pub fn string(&mut self, key: &str, value: &str) {
        self.key(key, ValueType::String);
        push_string(&mut self.bytes, value.as_bytes());
    }

    /// Adds an unsigned integer.
    pub fn u32(&mut self, key: &str, value: u32) {
        self.key(key, ValueType::U32);
        self.bytes.extend(value.to_le_bytes());
    }

    /// Adds a float.
    pub fn f32(&mut self, key: &str, value: f32) {
        self.key(key, ValueType::F32);
        self.bytes.extend(value.to_le_bytes());
    }

    /// Adds a truth value.
    pub fn bool(&mut self, key: &str, value: bool) {
        self.key(key, ValueType::Bool);
        self.bytes.push(value.into());
    }

    /// Adds an array of strings, which need not be UTF-8.
    pub fn strings<'a>(&mut self, key: &str, values: impl IntoIterator<Item = &'a [u8], IntoIter: ExactSizeIterator>) {
        let values = values.into_iter();
        self.array(key, ValueType::String, values.len());
        values.for_each(|value| push_string(&mut self.bytes, value));
    }

    /// Adds an array of unsigned integers.
    pub fn u32s(&mut self, key: &str, values: &[u32]) {
        self.array(key, ValueType::U32, values.len());
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Adds an array of signed integers.
    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        self.array(key, ValueType::I32, values.len());
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Adds an array of floats.
    pub fn f32s(&mut self, key: &str, values: &[f32]) {
        self.array(key, ValueType::F32, values.len());
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Adds an array of truth values.
    pub fn bools(&mut self, key: &str, values: &[bool]) {
        self.array(key, ValueType::Bool, values.len());
        self.bytes.extend(values.iter().map(|&value| u8::from(value)));
    }
}

fn push_string(bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.extend((value.len() as u64).to_le_bytes());
    bytes.extend_from_slice(value);
}

/// Name, type and shape of a tensor that is still to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedGgml {
    /// Name in the file.
    pub name: String,
    /// Storage type, whose block divides the first dimension.
    pub kind: GgmlType,
    /// Dimensions as ggml counts them: the row's length first.
    pub dimensions: Vec<usize>,
}

impl PlannedGgml {
    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        self.dimensions.iter().product::<usize>() / self.kind.block_columns() * self.kind.block_bytes()
    }
}

/// Writes a file of `metadata` and `tensors`; `produce` makes each tensor's bytes, in order.
pub fn write_gguf(
    out: &mut impl Write,
    metadata: &Metadata,
    tensors: &[PlannedGgml],
    mut produce: impl FnMut(usize, &PlannedGgml) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    let mut header = MAGIC.to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend(metadata.count.to_le_bytes());
    header.extend_from_slice(&metadata.bytes);
    let mut offset = 0;
    for tensor in tensors {
        push_string(&mut header, tensor.name.as_bytes());
        header.extend((tensor.dimensions.len() as u32).to_le_bytes());
        header.extend(tensor.dimensions.iter().flat_map(|&size| (size as u64).to_le_bytes()));
        header.extend(tensor.kind.code().to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(DEFAULT_ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
    out.write_all(&header)?;
    for (index, tensor) in tensors.iter().enumerate() {
        let mut data = produce(index, tensor)?;
        if data.len() != tensor.bytes() {
            let why =
                format!("tensor {} was planned with {} bytes and has {}", tensor.name, tensor.bytes(), data.len());
            return Err(io::Error::other(why));
        }
        data.resize(data.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
        out.write_all(&data)?;
    }
    out.flush()
}

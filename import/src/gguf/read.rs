//! Reads a GGUF file's tables. Nothing is copied: keys, strings and arrays borrow the file.
//!
//! Counts and lengths come from a stranger: each is compared with the bytes that are left
//! before anything is reserved or skipped, so that the memory taken is bounded by a small
//! multiple of the file.

use std::collections::BTreeMap;
use std::ops::Range;

use super::blocks::GgmlType;
use super::{DEFAULT_ALIGNMENT, MAGIC, ValueType};
use crate::error::{Error, Result};

/// Versions with this layout; version 1 had shorter counts and is extinct.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
/// Most dimensions of a tensor, as in ggml.
const MAX_DIMENSIONS: u32 = 4;
/// Largest alignment that is believed: a large page.
const MAX_ALIGNMENT: u64 = 1 << 21;

/// One metadata value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Either float.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string; UTF-8 by the specification, but tokens are not always.
    String(&'a [u8]),
    /// Many values of one type.
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// The value as an unsigned integer, if it is one that is not negative.
    pub fn as_u64(self) -> Option<u64> {
        match self {
            Value::Unsigned(value) => Some(value),
            Value::Signed(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// The value as a float; integers count too.
    pub fn as_f64(self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(value),
            Value::Unsigned(value) => Some(value as f64),
            Value::Signed(value) => Some(value as f64),
            _ => None,
        }
    }

    /// The value as text, if it is valid UTF-8.
    pub fn as_str(self) -> Option<&'a str> {
        match self {
            Value::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

/// An array of the metadata, decoded when it is iterated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    element: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut cursor = Cursor { bytes: self.bytes, at: 0 };
        let element = self.element;
        // Every element was read once when the file was parsed, so none can fail here.
        (0..self.len).map_while(move |_| cursor.scalar(element).ok())
    }

    /// The elements as strings of bytes, if that is what they are.
    pub fn strings(&self) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        (self.element == ValueType::String).then(|| {
            self.iter().filter_map(|value| match value {
                Value::String(bytes) => Some(bytes),
                _ => None,
            })
        })
    }
}

/// A tensor's type, shape and place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Storage type.
    pub kind: GgmlType,
    /// Dimensions as ggml counts them: the row's length (columns) first.
    pub dimensions: Vec<usize>,
    /// Bytes of the file.
    pub range: Range<usize>,
}

/// The tables of a GGUF file.
#[derive(Debug)]
pub struct Gguf<'a> {
    /// Metadata by key.
    pub metadata: BTreeMap<&'a str, Value<'a>>,
    /// Tensors by name.
    pub tensors: BTreeMap<&'a str, TensorInfo>,
}

impl<'a> Gguf<'a> {
    /// Parses a whole file's bytes. Errors name no file.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.take(4, "magic")? != MAGIC {
            return Err(corrupt("not a GGUF file: it does not begin with GGUF"));
        }
        let version = cursor.u32("version")?;
        if !VERSIONS.contains(&version) {
            return Err(Error::unsupported("", format!("GGUF version {version}, expected 2 or 3, little-endian")));
        }
        // Name length, dimension count, type and offset: what the shortest entry takes.
        let tensor_count = cursor.count("tensor count", 8 + 4 + 4 + 8)?;
        // Key length, type and a one-byte value.
        let value_count = cursor.count("metadata count", 8 + 4 + 1)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..value_count {
            let key = cursor.name("metadata key")?;
            let value = cursor.value(key)?;
            if metadata.insert(key, value).is_some() {
                return Err(corrupt(format!("metadata {key} occurs twice")));
            }
        }
        let mut places = Vec::new();
        for _ in 0..tensor_count {
            places.push(Place::read(&mut cursor)?);
        }
        let alignment = alignment(&metadata)?;
        let data_start = cursor.at.next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        for place in places {
            let (name, info) = place.locate(data_start, alignment, bytes.len())?;
            if tensors.insert(name, info).is_some() {
                return Err(corrupt(format!("tensor {name} occurs twice")));
            }
        }
        Ok(Self { metadata, tensors })
    }

    /// The metadata value `key`, if present.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.metadata.get(key).copied()
    }
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::corrupt("", why)
}

fn alignment(metadata: &BTreeMap<&str, Value>) -> Result<usize> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(DEFAULT_ALIGNMENT) };
    match value.as_u64() {
        Some(bytes) if bytes.is_power_of_two() && bytes <= MAX_ALIGNMENT => Ok(bytes as usize),
        _ => Err(corrupt(format!("general.alignment is {value:?}, expected a power of two up to {MAX_ALIGNMENT}"))),
    }
}

/// A tensor's entry before its place in the file is known.
struct Place<'a> {
    name: &'a str,
    dimensions: Vec<usize>,
    kind: u32,
    offset: u64,
}

impl<'a> Place<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self> {
        let name = cursor.name("tensor name")?;
        let count = cursor.u32(name)?;
        if count == 0 || count > MAX_DIMENSIONS {
            return Err(corrupt(format!("tensor {name} has {count} dimensions, expected 1 to {MAX_DIMENSIONS}")));
        }
        let dimensions = (0..count)
            .map(|_| {
                let size = cursor.u64(name)?;
                usize::try_from(size).map_err(|_| corrupt(format!("tensor {name} has a dimension of {size}")))
            })
            .collect::<Result<_>>()?;
        Ok(Self { name, dimensions, kind: cursor.u32(name)?, offset: cursor.u64(name)? })
    }

    fn locate(self, data_start: usize, alignment: usize, file_len: usize) -> Result<(&'a str, TensorInfo)> {
        let Self { name, dimensions, kind, offset } = self;
        let kind = GgmlType::from_code(kind).ok_or_else(|| {
            Error::unsupported(
                "",
                format!("tensor {name} has type {}: re-quantize it, for example to Q8_0", GgmlType::code_name(kind)),
            )
        })?;
        let overflow =
            || corrupt(format!("tensor {name} of shape {dimensions:?} lies outside the file's {file_len} bytes"));
        let columns = dimensions[0];
        if columns == 0 || !columns.is_multiple_of(kind.block_columns()) {
            return Err(corrupt(format!(
                "tensor {name} has rows of {columns}, expected a multiple of {} for {}",
                kind.block_columns(),
                kind.name()
            )));
        }
        let row = (columns / kind.block_columns()).checked_mul(kind.block_bytes()).ok_or_else(overflow)?;
        let bytes =
            dimensions[1..].iter().try_fold(row, |bytes, &size| bytes.checked_mul(size)).ok_or_else(overflow)?;
        let start = usize::try_from(offset).ok().and_then(|o| o.checked_add(data_start)).ok_or_else(overflow)?;
        let end = start.checked_add(bytes).filter(|&end| end <= file_len).ok_or_else(overflow)?;
        if !offset.is_multiple_of(alignment as u64) {
            return Err(corrupt(format!("tensor {name} begins at {offset}, which is not a multiple of {alignment}")));
        }
        Ok((name, TensorInfo { kind, dimensions, range: start..end }))
    }
}

/// A place in the file, which every read moves forwards, after a check.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        let taken = self.bytes[self.at..].get(..len).ok_or_else(|| {
            corrupt(format!("{what} at byte {} takes {len} bytes, {} are left", self.at, self.remaining()))
        })?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        Ok(self.take(N, what)?.try_into().expect("as many bytes as asked for"))
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things of at least `width` bytes each, of which as many are left.
    fn count(&mut self, what: &str, width: usize) -> Result<usize> {
        let count = self.u64(what)?;
        let most = self.remaining() / width;
        if count > most as u64 {
            return Err(corrupt(format!("{what} is {count}, the rest of the file has room for {most}")));
        }
        Ok(count as usize)
    }

    fn string(&mut self, what: &str) -> Result<&'a [u8]> {
        let len = self.count(what, 1)?;
        self.take(len, what)
    }

    fn name(&mut self, what: &str) -> Result<&'a str> {
        let at = self.at;
        std::str::from_utf8(self.string(what)?).map_err(|_| corrupt(format!("{what} at byte {at} is not UTF-8")))
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType> {
        let code = self.u32(key)?;
        ValueType::from_code(code).ok_or_else(|| corrupt(format!("metadata {key} has type {code}, expected 0 to 12")))
    }

    fn value(&mut self, key: &str) -> Result<Value<'a>> {
        let kind = self.value_type(key)?;
        if kind != ValueType::Array {
            return self.scalar(kind);
        }
        let element = self.value_type(key)?;
        // A string is at least its length; nested arrays are refused below.
        let len = self.count(key, element.width().unwrap_or(8))?;
        let start = self.at;
        match element.width() {
            Some(width) => _ = self.take(len * width, key)?,
            None => {
                for _ in 0..len {
                    self.scalar(element)?;
                }
            }
        }
        if element == ValueType::Bool && self.bytes[start..self.at].iter().any(|&b| b > 1) {
            return Err(corrupt(format!("metadata {key} has truth values other than 0 and 1")));
        }
        Ok(Value::Array(Array { element, len, bytes: &self.bytes[start..self.at] }))
    }

    fn scalar(&mut self, kind: ValueType) -> Result<Value<'a>> {
        let what = "metadata value";
        Ok(match kind {
            ValueType::U8 => Value::Unsigned(u8::from_le_bytes(self.array(what)?).into()),
            ValueType::I8 => Value::Signed(i8::from_le_bytes(self.array(what)?).into()),
            ValueType::U16 => Value::Unsigned(u16::from_le_bytes(self.array(what)?).into()),
            ValueType::I16 => Value::Signed(i16::from_le_bytes(self.array(what)?).into()),
            ValueType::U32 => Value::Unsigned(self.u32(what)?.into()),
            ValueType::I32 => Value::Signed(i32::from_le_bytes(self.array(what)?).into()),
            ValueType::F32 => Value::Float(f32::from_le_bytes(self.array(what)?).into()),
            ValueType::U64 => Value::Unsigned(self.u64(what)?),
            ValueType::I64 => Value::Signed(i64::from_le_bytes(self.array(what)?)),
            ValueType::F64 => Value::Float(f64::from_le_bytes(self.array(what)?)),
            ValueType::Bool => match self.array::<1>(what)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(corrupt(format!("a truth value at byte {} is {other}", self.at - 1))),
            },
            ValueType::String => Value::String(self.string(what)?),
            // The specification allows them, no model has them, and they invite recursion.
            ValueType::Array => return Err(Error::unsupported("", "an array of arrays in the metadata")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::write::{Metadata, PlannedGgml, write_gguf};
    use proptest::prelude::*;

    /// A small file with every kind of value and two tensors.
    fn sample() -> Vec<u8> {
        let mut metadata = Metadata::default();
        metadata.string("general.architecture", "llama");
        metadata.u32("llama.block_count", 2);
        metadata.f32("llama.rope.freq_base", 1e4);
        metadata.bool("flag", true);
        metadata.strings("tokens", [b"a".as_slice(), b"\xff", b""]);
        metadata.i32s("types", &[1, -3]);
        metadata.f32s("scores", &[0.5]);
        metadata.bools("pattern", &[true, false]);
        let tensors = [
            PlannedGgml { name: "a".into(), kind: GgmlType::F32, dimensions: vec![3] },
            PlannedGgml { name: "b".into(), kind: GgmlType::Q8_0, dimensions: vec![32, 2] },
        ];
        let mut out = Vec::new();
        write_gguf(&mut out, &metadata, &tensors, |_, tensor| Ok(vec![7; tensor.bytes()])).unwrap();
        out
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample();
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.get("general.architecture").unwrap().as_str(), Some("llama"));
        assert_eq!(gguf.get("llama.block_count").unwrap().as_u64(), Some(2));
        assert_eq!(gguf.get("flag"), Some(Value::Bool(true)));
        let Some(Value::Array(tokens)) = gguf.get("tokens") else { panic!() };
        assert_eq!(tokens.strings().unwrap().collect::<Vec<_>>(), [b"a".as_slice(), b"\xff", b""]);
        let b = &gguf.tensors["b"];
        assert_eq!((b.kind, b.dimensions.as_slice()), (GgmlType::Q8_0, [32, 2].as_slice()));
        assert!(bytes[b.range.clone()].iter().all(|&byte| byte == 7));
        assert!(b.range.start.is_multiple_of(DEFAULT_ALIGNMENT));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample();
        let needed = Gguf::parse(&bytes).unwrap().tensors["b"].range.end;
        for len in 0..needed {
            assert!(Gguf::parse(&bytes[..len]).is_err(), "{len} of {needed} bytes");
        }
    }

    #[test]
    fn absurd_counts_are_errors() {
        let bytes = sample();
        // Tensor count, metadata count, length of the first key.
        for at in [8, 16, 24] {
            for value in [u64::MAX, u64::MAX / 8, 1 << 40, bytes.len() as u64] {
                let mut damaged = bytes.clone();
                damaged[at..at + 8].copy_from_slice(&value.to_le_bytes());
                assert!(Gguf::parse(&damaged).is_err(), "{value} at {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn damage_never_panics(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let mut bytes = sample();
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(gguf) = Gguf::parse(&bytes) {
                for value in gguf.metadata.values() {
                    if let Value::Array(array) = value {
                        prop_assert_eq!(array.iter().count(), array.len());
                    }
                }
                for tensor in gguf.tensors.values() {
                    prop_assert!(bytes.get(tensor.range.clone()).is_some());
                }
            }
        }

        #[test]
        fn noise_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            _ = Gguf::parse(&bytes);
            for (byte, magic) in bytes.iter_mut().zip(b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0") {
                *byte = *magic;
            }
            _ = Gguf::parse(&bytes);
        }
    }
}

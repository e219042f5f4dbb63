//! The bytes of a model: mapped from a file, or owned. The only `mmap` of the project.
//!
//! A mapped file that another process truncates turns reads into `SIGBUS`; a
//! host that cannot rule this out opens with [`Bytes::read`], which copies.

use std::alloc::Layout;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Tensors must start on this boundary in memory: one cache line.
pub const ALIGNMENT: usize = 64;

/// The bytes of a model file, aligned to [`ALIGNMENT`], shared by all threads.
pub struct Bytes(Source);

enum Source {
    Mapped(memmap2::Mmap),
    /// Held by somebody else, for as long as the program runs.
    Static(&'static [u8]),
    /// Over-allocated by one cache line, so that an aligned window fits.
    Owned {
        buffer: Vec<u8>,
        start: usize,
        len: usize,
    },
}

impl Bytes {
    /// Maps the file at `path` read-only. Costs no memory in proportion to the file.
    pub fn map(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        Self::map_file(&file).map_err(io)
    }

    /// Maps an open file read-only. The file may be closed afterwards.
    pub fn map_file(file: &File) -> std::io::Result<Self> {
        if file.metadata()?.is_dir() {
            return Err(std::io::Error::from(std::io::ErrorKind::IsADirectory));
        }
        // SAFETY: the map is read-only and private to this value. That nobody truncates
        // the file meanwhile is the caller's contract, stated in the module's header.
        let map = unsafe { memmap2::MmapOptions::new().map(file)? };
        // All weights are read for each token: 24,000 pages of 4 KiB for 100 MB, each with its own entry in the TLB.
        // Filesystems that can (ext4, XFS, tmpfs) then read the file into huge pages, unless its pages are in memory
        // already; where they cannot, nothing is lost.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self(Source::Mapped(map)))
    }

    /// Reads the whole file into memory: immune to later changes of the file.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        Self::read_file(&File::open(path).map_err(io)?)?.map_err(io)
    }

    /// The same for an open file, from its current position. Two results: the memory may
    /// not be had, and the file may not be readable.
    pub fn read_file(mut file: &File) -> Result<std::io::Result<Self>> {
        let len = match file.metadata() {
            Ok(metadata) => usize::try_from(metadata.len()).map_err(|_| Error::OutOfMemory { bytes: usize::MAX })?,
            Err(error) => return Ok(Err(error)),
        };
        let (mut buffer, start) = aligned(len)?;
        Ok(file.read_to_end(&mut buffer).map(|read| match buffer.as_ptr().wrapping_add(start).addr() % ALIGNMENT {
            0 => Self(Source::Owned { buffer, start, len: read }),
            // The file grew while it was read, and the buffer moved.
            _ => Self::copy(&buffer[start..]),
        }))
    }

    /// Bytes that outlive the program's use of them. Copied if they do not begin on a
    /// cache line, which kernels rely on.
    pub fn from_static(bytes: &'static [u8]) -> Result<Self> {
        if bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            Ok(Self(Source::Static(bytes)))
        } else {
            Self::try_copy(bytes)
        }
    }

    /// Copies `bytes` to aligned memory, or says that there is none.
    pub fn try_copy(bytes: &[u8]) -> Result<Self> {
        let (mut buffer, start) = aligned(bytes.len())?;
        buffer.extend_from_slice(bytes);
        Ok(Self(Source::Owned { buffer, start, len: bytes.len() }))
    }

    /// Copies `bytes` to aligned memory.
    pub fn copy(bytes: &[u8]) -> Self {
        let mut buffer: Vec<u8> = Vec::with_capacity(bytes.len() + ALIGNMENT);
        let start = buffer.as_ptr().align_offset(ALIGNMENT);
        buffer.resize(start, 0);
        buffer.extend_from_slice(bytes);
        Self(Source::Owned { buffer, start, len: bytes.len() })
    }

    /// Whether the bytes are mapped from a file, not held in private memory.
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Source::Mapped(_))
    }

    /// Bytes of private memory that this holds: none where a file is mapped, or memory
    /// of somebody else is used.
    pub fn private_bytes(&self) -> usize {
        if let Source::Owned { buffer, .. } = &self.0 { buffer.capacity() } else { 0 }
    }
}

/// An empty buffer with room for `len` bytes after its start, which is on a cache line.
fn aligned(len: usize) -> Result<(Vec<u8>, usize)> {
    let mut buffer: Vec<u8> = Vec::new();
    let needed = len.checked_add(ALIGNMENT).ok_or(Error::OutOfMemory { bytes: len })?;
    buffer.try_reserve_exact(needed).map_err(|_| Error::OutOfMemory { bytes: needed })?;
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    buffer.resize(start, 0);
    Ok((buffer, start))
}

/// `len` zeros, or the news that memory for them cannot be had. The system hands out large
/// zeroed memory untouched: it costs nothing until it is written.
pub(crate) fn try_zeroed<T: Plain>(len: usize) -> Result<Vec<T>> {
    let layout = Layout::array::<T>(len).map_err(|_| Error::OutOfMemory { bytes: usize::MAX })?;
    if layout.size() == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the layout is not empty.
    let at = unsafe { std::alloc::alloc_zeroed(layout) };
    if at.is_null() {
        return Err(Error::OutOfMemory { bytes: layout.size() });
    }
    // SAFETY: allocated just now with the layout of `len` elements, for which zeros are valid.
    Ok(unsafe { Vec::from_raw_parts(at.cast(), len, len) })
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Source::Mapped(map) => map,
            Source::Static(bytes) => bytes,
            Source::Owned { buffer, start, len } => &buffer[*start..*start + *len],
        }
    }
}

/// Plain numbers whose every bit pattern is valid, so that file bytes may be read as them.
///
/// # Safety
/// The type has no padding and no invalid bit pattern.
pub unsafe trait Plain: Copy + 'static {}
// SAFETY: integers and floats of fixed size.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

/// A typed window of a model's bytes, which keeps them alive. Clones share the bytes.
pub struct Slice<T> {
    bytes: Arc<Bytes>,
    offset: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Plain> Slice<T> {
    /// The window `range` (in bytes) of `bytes`, if it lies inside, is aligned and whole.
    pub fn new(bytes: &Arc<Bytes>, range: Range<usize>) -> Option<Self> {
        let window = bytes.get(range.clone())?;
        let aligned = window.as_ptr().addr().is_multiple_of(align_of::<T>());
        let whole = window.len().is_multiple_of(size_of::<T>());
        (aligned && whole).then(|| Self {
            bytes: Arc::clone(bytes),
            offset: range.start,
            len: window.len() / size_of::<T>(),
            element: PhantomData,
        })
    }

    /// The elements `range`, which must lie inside.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len);
        Self { offset: self.offset + range.start * size_of::<T>(), len: range.len(), ..self.clone() }
    }

    /// The first `len` elements, if there are as many.
    pub fn truncated(mut self, len: usize) -> Option<Self> {
        (len <= self.len).then(|| {
            self.len = len;
            self
        })
    }
}

impl Slice<u8> {
    /// Owned bytes, for values that do not come from a file.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let len = bytes.len();
        Self { bytes: Arc::new(Bytes::copy(bytes)), offset: 0, len, element: PhantomData }
    }
}

impl Slice<f32> {
    /// Owned values, for vectors that do not come from a file.
    pub fn from_values(values: &[f32]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { bytes: Arc::new(Bytes::copy(&raw)), offset: 0, len: values.len(), element: PhantomData }
    }
}

impl<T> Clone for Slice<T> {
    fn clone(&self) -> Self {
        Self { bytes: Arc::clone(&self.bytes), ..*self }
    }
}

impl<T: Plain> Deref for Slice<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `new` checked bounds, alignment and size once, the bytes never move or
        // change while `self.bytes` is alive, and every bit pattern is a valid T.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().add(self.offset).cast(), self.len) }
    }
}

#[cfg(target_endian = "big")]
compile_error!("model files are little-endian and read in place: big-endian machines are not supported");

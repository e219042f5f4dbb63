//! Structs that begin with their size: the host's may be older or newer than ours.
//!
//! Fields are only ever appended, and zero means the default. So a shorter struct is an
//! older program's, whose missing fields are zero; a longer one is a newer program's, and
//! is understood as long as it uses none of the fields that we do not know.

use std::mem::MaybeUninit;

use crate::boundary::{Failure, Outcome};

/// No struct will be as large: a size above it is memory that was never initialised.
const LARGEST: usize = 4096;

/// A struct of the header that begins with `size_t struct_size`.
///
/// # Safety
/// `repr(C)`, begins with a `usize`, and any bytes after it that are zero, or come from
/// fields of the right types, are a valid value.
pub(crate) unsafe trait Versioned: Copy {}

/// Reads the caller's struct. NULL is `None`.
///
/// # Safety
/// `from` is NULL or points to as many readable bytes as its first field says.
pub(crate) unsafe fn read<T: Versioned>(from: *const T, name: &str) -> Outcome<Option<T>> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: the first field is readable.
    let size = unsafe { checked_size(from, name)? };
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: both sides have that many bytes; fields beyond them stay zero.
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), value.as_mut_ptr().cast(), size.min(size_of::<T>())) };
    for offset in size_of::<T>()..size {
        // SAFETY: the caller says that the struct has `size` bytes.
        if unsafe { from.cast::<u8>().add(offset).read() } != 0 {
            return Err(Failure::invalid(format!(
                "{name}: byte {offset} is set, which this version of the library does not know"
            )));
        }
    }
    // SAFETY: as `Versioned` promises.
    Ok(Some(unsafe { value.assume_init() }))
}

/// Writes `value` to the caller's struct, whose first field says how long it is: what does
/// not fit is left out, and what we do not know becomes zero.
///
/// # Safety
/// `to` is NULL or points to as many writable bytes as its first field says.
pub(crate) unsafe fn write<T: Versioned>(value: &T, to: *mut T, name: &str) -> Outcome {
    if to.is_null() {
        return Err(Failure::null(name));
    }
    // SAFETY: the first field is readable.
    let size = unsafe { checked_size(to, name)? };
    let (known, head) = (size.min(size_of::<T>()), size_of::<usize>());
    // SAFETY: within the caller's `size` bytes and ours; the size itself stays as it is.
    unsafe {
        let (from, to) = ((&raw const *value).cast::<u8>(), to.cast::<u8>());
        std::ptr::copy_nonoverlapping(from.add(head), to.add(head), known - head);
        to.add(known).write_bytes(0, size - known);
    }
    Ok(())
}

/// # Safety
/// `from` points to a readable `size_t`.
unsafe fn checked_size<T: Versioned>(from: *const T, name: &str) -> Outcome<usize> {
    // SAFETY: as the caller promises.
    let size = unsafe { from.cast::<usize>().read_unaligned() };
    // Half a pointer would be worse than none.
    if size < size_of::<usize>() || size > LARGEST || !size.is_multiple_of(size_of::<usize>()) {
        return Err(Failure::invalid(format!(
            "{name}: struct_size is {size}, expected sizeof, which is {} in this version",
            size_of::<T>()
        )));
    }
    Ok(size)
}

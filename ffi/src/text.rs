//! Text on its way in and out.

use std::ffi::c_char;

/// UTF-8 with a length in bytes. Need not end in NUL, and may contain it. All zero is the
/// empty text. What it points to belongs to whoever handed it out: texts that you give
/// need to live until the call returns, texts that you get say how long they live.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct critic_text {
    /// The first byte; may be NULL where len is 0.
    pub data: *const c_char,
    /// Bytes.
    pub len: usize,
}

impl critic_text {
    /// The empty text.
    pub(crate) const NONE: Self = Self { data: std::ptr::null(), len: 0 };

    /// A text that lives as long as `text`.
    pub(crate) fn of(text: &str) -> Self {
        Self { data: text.as_ptr().cast(), len: text.len() }
    }

    /// Its bytes, or `None` for a NULL with a length, or a length that no memory has.
    ///
    /// # Safety
    /// `data` is NULL or points to `len` bytes that live and stay as they are for `'a`.
    pub(crate) unsafe fn bytes<'a>(self) -> Option<&'a [u8]> {
        if self.len == 0 {
            return Some(&[]);
        }
        if self.data.is_null() || self.len > isize::MAX as usize {
            return None;
        }
        // SAFETY: as the caller promises; the length is one that memory can have.
        Some(unsafe { std::slice::from_raw_parts(self.data.cast(), self.len) })
    }
}

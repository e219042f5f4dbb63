//! The release that a program was built with, and the one that it runs with.

use std::ffi::c_char;

/// Version of this header.
pub const CRITIC_VERSION_MAJOR: u32 = 0;
/// Grows when something is added.
pub const CRITIC_VERSION_MINOR: u32 = 1;
/// Grows when something is mended.
pub const CRITIC_VERSION_PATCH: u32 = 0;

/// The version of the library that is loaded, as major << 24 | minor << 16 | patch << 8.
/// It may be newer than this header. Never fails; any thread.
#[unsafe(no_mangle)]
pub extern "C" fn critic_version_number() -> u32 {
    CRITIC_VERSION_MAJOR << 24 | CRITIC_VERSION_MINOR << 16 | CRITIC_VERSION_PATCH << 8
}

/// The same as text, for example "0.1.0". Static: do not free it. Never fails; any thread.
#[unsafe(no_mangle)]
pub extern "C" fn critic_version() -> *const c_char {
    const { assert!(CRITIC_VERSION_MAJOR == 0 && CRITIC_VERSION_MINOR == 1 && CRITIC_VERSION_PATCH == 0) };
    c"0.1.0".as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_packages() {
        let header = format!("{CRITIC_VERSION_MAJOR}.{CRITIC_VERSION_MINOR}.{CRITIC_VERSION_PATCH}");
        assert_eq!(header, env!("CARGO_PKG_VERSION"));
        // SAFETY: the function returns a static string that ends in NUL.
        let text = unsafe { std::ffi::CStr::from_ptr(critic_version()) };
        assert_eq!(text.to_str(), Ok(env!("CARGO_PKG_VERSION")));
    }
}

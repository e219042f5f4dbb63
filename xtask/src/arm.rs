//! The runtime's tests on AArch64, cross-compiled and run under qemu.
//!
//! Debian's own compiler is used, because it comes with the standard library for arm64.

use std::path::Path;
use std::process::Command;

use crate::run as run_command;

/// What has to be installed (after `dpkg --add-architecture arm64`).
pub const PACKAGES: &str = "Debian's rustc-web, cargo-web, libstd-rust-web-dev:arm64, gcc-aarch64-linux-gnu, \
                            libc6-dev-arm64-cross and qemu-user-static";

const CARGO: &str = "/usr/bin/cargo";
const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Whether all of [`PACKAGES`] are there.
pub fn available() -> bool {
    ["/usr/bin/cargo", "/usr/bin/rustc", "/usr/bin/aarch64-linux-gnu-gcc", "/usr/bin/qemu-aarch64-static"]
        .iter()
        .all(|file| Path::new(file).exists())
        && standard_library().is_some()
}

/// The folder of the standard library for the target.
fn standard_library() -> Option<String> {
    let output = Command::new("/usr/bin/rustc").args(["--print", "target-libdir", "--target", TARGET]).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Path::new(&folder).exists().then_some(folder)
}

pub fn run() -> Result<(), String> {
    if !available() {
        return Err(format!("this needs {PACKAGES}"));
    }
    // Emulation is slow: kernels, quantization and threads are what differs on ARM.
    run_command(
        Command::new(CARGO)
            .args(["test", "--target", TARGET, "--package", "critic", "--lib", "--", "kernels", "quant", "pool", "kv"])
            .env("RUSTC", "/usr/bin/rustc")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env("CARGO_TARGET_DIR", "target/arm")
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
            // Without -L: the C library came with the standard library's package, and a second
            // one from the cross compiler's folder must not be mixed with it.
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", "qemu-aarch64-static"),
    )
}

//! libcritic installed by cargo-c, and the example built against it.

use std::path::Path;
use std::process::Command;

use crate::{cargo, run};

/// The last release that this project's Rust compiles.
const CARGO_C: &str = "0.10.24+cargo-0.98.0";

/// Installs cargo-c below the build folder where it is not there, installs the library with it, and
/// compiles `examples/c/critique.c` by pkg-config alone.
pub fn check() -> Result<(), String> {
    let tools = Path::new("target/tools");
    let capi = tools.join("bin/cargo-capi");
    if !capi.exists() {
        // Needs OpenSSL's headers: apt-get install libssl-dev.
        run(cargo(&["install", "cargo-c", "--version", CARGO_C, "--locked", "--root"]).arg(tools))?;
    }
    let prefix = std::env::current_dir().map_err(|error| error.to_string())?.join("target/cinstall");
    if prefix.exists() {
        std::fs::remove_dir_all(&prefix).map_err(|error| format!("{}: {error}", prefix.display()))?;
    }
    run(Command::new(&capi)
        .args(["capi", "install", "--release", "--locked", "-p", "critic-ffi", "--libdir", "lib", "--prefix"])
        .arg(&prefix))?;
    for file in ["include/critic.h", "include/critic.hpp", "lib/libcritic.so.0", "lib/libcritic.a"] {
        if !prefix.join(file).exists() {
            return Err(format!("cargo-c did not install {file}"));
        }
    }
    let flags = Command::new("pkg-config")
        .args(["--cflags", "--libs", "critic"])
        .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
        .output()
        .map_err(|error| format!("pkg-config: {error}"))?;
    let flags = String::from_utf8_lossy(&flags.stdout).into_owned();
    let program = prefix.join("critique");
    run(Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "examples/c/critique.c", "-o"])
        .arg(&program)
        .args(flags.split_whitespace())
        .arg(format!("-Wl,-rpath,{}", prefix.join("lib").display())))?;
    let usage = Command::new(&program).output().map_err(|error| format!("{}: {error}", program.display()))?;
    match usage.status.code() {
        Some(_) => Ok(()),
        None => Err(format!("the example died: {}", usage.status)),
    }
}

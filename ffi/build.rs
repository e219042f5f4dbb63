//! Gives the shared library its name for the loader. What is exported is up to rustc, which
//! writes a version script of the `#[no_mangle]` functions and makes all else local.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The ABI's generation, not the release: it changes when old programs would break.
    let generation = 0;
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("macos") => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libcritic.{generation}.dylib");
        }
        Ok("windows") => {}
        _ => println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcritic.so.{generation}"),
    }
}

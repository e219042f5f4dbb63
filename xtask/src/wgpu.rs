//! Training on WebGPU against training on the CPU, on a software Vulkan where there is no GPU.

use std::path::Path;

use crate::{cargo, run};

/// What brings a Vulkan without a GPU.
const PACKAGES: &str = "Debian's mesa-vulkan-drivers and libvulkan1";

/// Ten steps of a small model on both. Other features of burn rebuild most of it, so they have a build folder of
/// their own. `CRITIC_TEST_DEVICE` names another device than the software one (`wgpu`, `vulkan`, `cuda`).
pub fn check() -> Result<(), String> {
    let drivers = Path::new("/usr/share/vulkan/icd.d");
    if std::env::var_os("CRITIC_TEST_DEVICE").is_none() && !drivers.exists() {
        return Err(format!("no Vulkan driver is installed: {PACKAGES} bring one that needs no GPU"));
    }
    run(cargo(&["test", "-p", "critic-trainer", "--features", "wgpu", "--test", "devices", "--", "--nocapture"])
        .env("CARGO_TARGET_DIR", "target/wgpu"))
}

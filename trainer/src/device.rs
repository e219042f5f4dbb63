//! Devices by name: what burn can compute on here, and how to get the rest.

#[cfg(feature = "wgpu")]
use burn::tensor::DeviceKind;
use burn::tensor::{DType, Device};

use crate::error::{Error, Result};

/// What matrices are multiplied in. All else, the adapter and log-probabilities included, is f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16, where the device computes in it.
    BF16,
}

impl Precision {
    /// `f32` or `bf16`, checked against what `device` computes in.
    pub fn parse(name: &str, device: &Device) -> Result<Self> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" if device.supports_dtype(DType::BF16) => Ok(Self::BF16),
            "bf16" => Err(Error::Device(format!("{device:?} does not compute in bf16; use f32"))),
            other => Err(Error::Device(format!("unknown precision {other:?}, expected f32 or bf16"))),
        }
    }

    /// burn's name.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::BF16 => DType::BF16,
        }
    }
}

/// A family of devices and the cargo feature that brings it.
const FAMILIES: [(&str, bool); 4] = [
    ("flex", cfg!(feature = "flex")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("cuda", cfg!(feature = "cuda")),
];

/// The device called `name`: `flex` (the CPU), `wgpu`, `vulkan` or `cuda`. An index may follow
/// (`cuda:1`); for the graphics interfaces it counts discrete GPUs, and `cpu` and
/// `integrated` are the others. Without one, the best is taken.
pub fn open(name: &str) -> Result<Device> {
    let (family, place) = name.split_once(':').map_or((name, None), |(family, place)| (family, Some(place)));
    match FAMILIES.iter().find(|(known, _)| *known == family) {
        None => return Err(unknown(name, "is not a device")),
        Some((_, false)) => {
            return Err(Error::Device(format!(
                "this program was built without {family}; {}; for {family}: cargo install critic-trainer --features {family}",
                listing()
            )));
        }
        Some((_, true)) => {}
    }
    match (family, place) {
        #[cfg(feature = "flex")]
        ("flex", None) => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        ("wgpu", place) => present(name, Device::wgpu(kind(name, place)?)),
        #[cfg(feature = "vulkan")]
        ("vulkan", place) => present(name, Device::vulkan(kind(name, place)?)),
        #[cfg(feature = "cuda")]
        ("cuda", place) => {
            let index = place.unwrap_or("0").parse::<usize>().map_err(|_| unknown(name, "has no such index"))?;
            let found = Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec();
            if index >= found.len() {
                return Err(unknown(name, "is not here"));
            }
            Ok(Device::cuda(index))
        }
        _ => Err(unknown(name, "is not a device")),
    }
}

/// Whether `device` is this machine's processor.
pub fn is_cpu(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    let is_cpu = *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    let is_cpu = {
        _ = device;
        false
    };
    is_cpu
}

/// Names that [`open`] takes in this build and on this machine.
pub fn available() -> Vec<String> {
    // Of these, there is one at most.
    let local = FAMILIES.iter().filter(|(family, present)| *present && *family != "cuda");
    #[allow(unused_mut, reason = "without CUDA there is nothing to add")]
    let mut names: Vec<String> = local.map(|(family, _)| (*family).to_owned()).collect();
    #[cfg(feature = "cuda")]
    names.extend((0..Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec().len()).map(|i| format!("cuda:{i}")));
    names
}

/// Families that this build does not have.
pub fn missing() -> Vec<&'static str> {
    FAMILIES.iter().filter(|(_, present)| !present).map(|(family, _)| *family).collect()
}

#[cfg(feature = "wgpu")]
fn kind(name: &str, place: Option<&str>) -> Result<DeviceKind> {
    Ok(match place {
        None => DeviceKind::DefaultDevice,
        Some("cpu") => DeviceKind::Cpu,
        Some("integrated") => DeviceKind::IntegratedGpu(0),
        Some(index) => DeviceKind::DiscreteGpu(index.parse().map_err(|_| unknown(name, "has no such index"))?),
    })
}

/// Graphics devices are looked for when they are first used: use it here, where an error can
/// still say what to do. The interface reports a missing adapter by a panic.
#[cfg(feature = "wgpu")]
fn present(name: &str, device: Device) -> Result<Device> {
    let probe = device.clone();
    std::panic::catch_unwind(move || burn::tensor::Tensor::<1>::zeros([1], &probe).into_data())
        .map_err(|_| unknown(name, "is not here"))?;
    Ok(device)
}

fn unknown(name: &str, why: &str) -> Error {
    Error::Device(format!("device {name:?} {why}; {}", listing()))
}

fn listing() -> String {
    match available() {
        names if names.is_empty() => "this program was built without any device".to_owned(),
        names => format!("here are {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_lists_what_is_there() {
        let message = |name: &str| open(name).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message("tpu").contains("flex"), "{}", message("tpu"));
        assert!(message("flex:1").contains("here are"));
        if !cfg!(feature = "cuda") {
            assert!(message("cuda:1").contains("--features cuda"), "{}", message("cuda:1"));
        }
    }
}

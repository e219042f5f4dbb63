//! Named f32 matrices in safetensors, for checkpoints and adapters.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

use crate::error::{Error, Result};

/// Matrices on the host by name: shape `[rows, columns]` and values.
pub type Matrices = BTreeMap<String, ([usize; 2], Vec<f32>)>;

/// The values of `tensors`, in f32.
pub fn to_host(tensors: impl IntoIterator<Item = (String, Tensor<2>)>) -> Matrices {
    let read = |(name, tensor): (String, Tensor<2>)| {
        let shape = tensor.dims();
        let values = tensor.into_data().convert_dtype(burn::tensor::DType::F32).try_to_vec();
        (name, (shape, values.expect("converted to f32")))
    };
    tensors.into_iter().map(read).collect()
}

/// Matrix `name` on `device`; `path` is where `matrices` came from.
pub fn take(matrices: &mut Matrices, name: &str, shape: [usize; 2], device: &Device, path: &Path) -> Result<Tensor<2>> {
    match matrices.remove(name) {
        None => Err(Error::corrupt(path, format!("tensor {name} is missing"))),
        Some((found, _)) if found != shape => {
            Err(Error::corrupt(path, format!("tensor {name} has shape {found:?}, expected {shape:?}")))
        }
        Some((_, values)) => Ok(Tensor::from_data(TensorData::new(values, shape), device)),
    }
}

/// The bytes of a safetensors file.
pub fn encode(matrices: &Matrices) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> =
        matrices.values().map(|(_, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = matrices.iter().zip(&bytes).map(|((name, (shape, _)), bytes)| {
        (name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).expect("the shape has as many values"))
    });
    serialize(views, None).expect("names are unique and shapes fit")
}

/// What [`encode`] wrote; `path` is where `bytes` came from.
pub fn decode(bytes: &[u8], path: &Path) -> Result<Matrices> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| Error::corrupt(path, error.to_string()))?;
    file.iter()
        .map(|(name, view)| match (view.dtype(), view.shape()) {
            (Dtype::F32, &[rows, columns]) => {
                let word = |word: &[u8]| f32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                Ok((name.to_owned(), ([rows, columns], view.data().chunks_exact(4).map(word).collect())))
            }
            (dtype, shape) => {
                Err(Error::corrupt(path, format!("tensor {name} is {dtype:?} {shape:?}, expected F32 [rows, columns]")))
            }
        })
        .collect()
}

//! Dropout of an adapter's inputs, whose masks are a function of what they are for.

use burn::tensor::{Device, Tensor, TensorData};
use critic::adapter::Target;

use super::tree::Tree;
use crate::random::Random;

/// The masks of one group in one step. A row's mask depends on its branch and position, so a
/// group that is differentiated in parts drops the same inputs as a whole one.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Share of inputs that are dropped.
    pub rate: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Step.
    pub step: u64,
    /// Group within the step.
    pub group: u64,
}

impl Dropout {
    /// What inputs are multiplied by: 0, or 1/(1 − rate). `[rows, width]`
    pub fn mask(&self, tree: &Tree, layer: usize, target: Target, width: usize, device: &Device) -> Tensor<2> {
        let kept = (1.0 / (1.0 - self.rate)) as f32;
        // One word holds four draws of sixteen bits.
        let threshold = (self.rate * 65536.0).round() as u64;
        let mut values = Vec::with_capacity(tree.rows() * width.next_multiple_of(4));
        for (&position, &branch) in tree.positions.iter().zip(&tree.branches) {
            let place = [self.step, self.group, layer as u64, target as u64, branch as u64, position as u64];
            let mut random = Random::new(self.seed, "dropout", &place);
            let end = values.len() + width;
            while values.len() < end {
                let bits = random.bits();
                values.extend((0..4).map(|i| if (bits >> (16 * i) & 0xffff) < threshold { 0.0 } else { kept }));
            }
            values.truncate(end);
        }
        Tensor::from_data(TensorData::new(values, [tree.rows(), width]), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_the_rate_and_keep_the_mean() {
        let tree = Tree::trunk(0, &[0; 64]);
        let dropout = Dropout { rate: 0.25, seed: 1, step: 2, group: 3 };
        let values = |dropout: &Dropout, tree: &Tree| {
            dropout.mask(tree, 4, Target::Up, 102, &Device::flex()).into_data().try_to_vec::<f32>().expect("f32")
        };
        let mask = values(&dropout, &tree);
        assert_eq!(mask.len(), 64 * 102);
        let mean = mask.iter().sum::<f32>() / mask.len() as f32;
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        assert_eq!(mask, values(&dropout, &tree));
        assert_ne!(mask, values(&Dropout { step: 3, ..dropout }, &tree));
        assert_eq!(mask[10 * 102..], values(&dropout, &Tree::trunk(10, &[0; 54])));
    }
}

//! A text that branches: what the critiques of a group share is there once.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Rows of tokens, each at a position of its own text. A row sees what stands before it in the
/// trunk and in its own branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Texts of one length that stand side by side and do not see one another; 1 but for
    /// [`Tree::side_by_side`].
    pub texts: usize,
    /// `[rows]`
    pub tokens: Vec<u32>,
    /// `[rows]`: tokens before it in its text.
    pub positions: Vec<usize>,
    /// `[rows]`: 0 is the trunk.
    pub branches: Vec<usize>,
}

impl Tree {
    /// A text without branches, which begins at position `start`.
    pub fn trunk(start: usize, tokens: &[u32]) -> Self {
        let mut tree = Self::empty();
        tree.extend(start, 0, tokens);
        tree
    }

    /// Texts of `length` tokens each, one after another in `tokens`: what is trained from nothing,
    /// where no two texts begin alike.
    ///
    /// # Panics
    /// Where `tokens` is not a whole number of texts.
    pub fn side_by_side(tokens: &[u32], length: usize) -> Self {
        assert!(length > 0 && tokens.len().is_multiple_of(length), "whole texts");
        let mut tree = Self::empty();
        tokens.chunks(length).for_each(|text| tree.extend(0, 0, text));
        tree.texts = tokens.len() / length;
        tree
    }

    fn empty() -> Self {
        Self { texts: 1, tokens: Vec::new(), positions: Vec::new(), branches: Vec::new() }
    }

    /// Appends a branch that goes on at position `start`.
    pub fn branch(&mut self, start: usize, branch: usize, tokens: &[u32]) {
        assert!(branch > 0, "0 is the trunk");
        self.extend(start, branch, tokens);
    }

    fn extend(&mut self, start: usize, branch: usize, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.positions.extend(start..start + tokens.len());
        self.branches.extend(std::iter::repeat_n(branch, tokens.len()));
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Rows of one text.
    pub fn length(&self) -> usize {
        self.rows() / self.texts.max(1)
    }

    /// What is added to scores, `[1, length, 1, cached + length]`, the same for every text: 0 where a
    /// row sees a key, and a number whose exponential is 0 elsewhere. Keys are `cached` positions
    /// from 0 on, then the text's own rows.
    pub fn mask(&self, cached: usize, window: usize, device: &Device) -> Tensor<4> {
        /// Far below any score, and far from overflow when a score is added.
        const UNSEEN: f32 = -1e30;
        let (rows, keys) = (self.length(), cached + self.length());
        let mut mask = vec![UNSEEN; rows * keys];
        for (row, mask) in mask.chunks_exact_mut(keys).enumerate() {
            let (position, branch) = (self.positions[row], self.branches[row]);
            let first = (position + 1).saturating_sub(window);
            mask[first.min(cached)..cached].fill(0.0);
            for key in 0..=row {
                if (self.branches[key] == 0 || self.branches[key] == branch) && self.positions[key] >= first {
                    mask[cached + key] = 0.0;
                }
            }
        }
        Tensor::from_data(TensorData::new(mask, [1, rows, 1, keys]), device)
    }
}

/// The tree of a group, and where in it critiques are predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupTree {
    /// The trunk, and a branch for each critique, without the token that ends it: nothing
    /// follows that.
    pub tree: Tree,
    /// Rows whose hidden states predict the targets, critique after critique. `[targets]`
    pub predictors: Vec<usize>,
    /// The critiques' tokens, the ends included. `[targets]`
    pub targets: Vec<u32>,
    /// Targets of each critique. `[critiques]`
    pub lengths: Vec<usize>,
}

impl GroupTree {
    /// The tree of `critiques` after `trunk`, which begins at position `start`. Critiques are
    /// numbered from `first`: a part of a group has the branches that it has in the whole.
    pub fn new(start: usize, trunk: &[u32], first: usize, critiques: &[Vec<u32>]) -> Self {
        let mut tree = Tree::trunk(start, trunk);
        let mut predictors = Vec::new();
        let end = start + trunk.len();
        for (index, critique) in (first..).zip(critiques) {
            let rows = tree.rows();
            if let Some((_, inputs)) = critique.split_last() {
                predictors.push(trunk.len() - 1);
                predictors.extend(rows..rows + inputs.len());
                tree.branch(end, index + 1, inputs);
            }
        }
        let lengths = critiques.iter().map(Vec::len).collect();
        Self { tree, predictors, targets: critiques.concat(), lengths }
    }

    /// `rows` of targets summed for each critique. `[critiques]`
    pub fn sums(&self, rows: &[f32]) -> Vec<f64> {
        let mut rows = rows.iter();
        self.lengths.iter().map(|&length| rows.by_ref().take(length).map(|&row| f64::from(row)).sum()).collect()
    }

    /// A value for each critique, repeated for its targets. `[targets]`
    pub fn spread(&self, values: &[f64]) -> Vec<f32> {
        let each = self.lengths.iter().zip(values);
        each.flat_map(|(&length, &value)| std::iter::repeat_n(value as f32, length)).collect()
    }
}

/// Row numbers or tokens as burn wants them.
pub(super) fn indices(values: impl IntoIterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.into_iter().map(|value| value as i32).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_see_the_trunk_and_their_own_branch() {
        let group = GroupTree::new(3, &[10, 11], 0, &[vec![20, 21, 9], vec![30, 9]]);
        assert_eq!(group.tree.tokens, [10, 11, 20, 21, 30]);
        assert_eq!(group.tree.positions, [3, 4, 5, 6, 5]);
        assert_eq!(group.predictors, [1, 2, 3, 1, 4]);
        assert_eq!(group.targets, [20, 21, 9, 30, 9]);
        let seen = |window: usize| -> Vec<String> {
            let mask = group.tree.mask(3, window, &Device::flex()).into_data().try_to_vec::<f32>().expect("f32");
            mask.chunks(8).map(|row| row.iter().map(|&m| if m == 0.0 { '1' } else { '0' }).collect()).collect()
        };
        assert_eq!(seen(usize::MAX), ["11110000", "11111000", "11111100", "11111110", "11111001"]);
        assert_eq!(seen(3), ["01110000", "00111000", "00011100", "00001110", "00011001"]);
    }

    #[test]
    fn sums_and_spreads_follow_the_critiques() {
        let group = GroupTree::new(0, &[1], 0, &[vec![2, 3], vec![4]]);
        assert_eq!(group.sums(&[1.0, 2.0, 4.0]), [3.0, 4.0]);
        assert_eq!(group.spread(&[0.5, -1.0]), [0.5, 0.5, -1.0]);
    }
}

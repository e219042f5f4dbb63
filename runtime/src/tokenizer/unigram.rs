//! Unigram language model: the segmentation of one word whose scores have the highest sum,
//! by Viterbi's algorithm (Kudo 2018, arXiv 1804.10959).

use super::hash::{BytesHash, NONE};
use super::spec::TokenizerSpec;
use super::tables::Tables;

/// An unknown character scores this much less than the worst token, as in SentencePiece.
const UNKNOWN_PENALTY: f64 = 10.0;
/// Longer tokens are not found, so that time stays linear in the text: real vocabularies end
/// far below.
pub(super) const MAX_PIECE: usize = 512;

/// The best segmentation that ends at one byte.
#[derive(Clone, Copy)]
struct Path {
    score: f64,
    start: usize,
    /// [`NONE`] for an unknown character.
    id: u32,
}

/// Buffers of one call, and what is known of the scores.
pub(super) struct Unigram {
    paths: Vec<Option<Path>>,
    tokens: Vec<(u32, usize)>,
    unknown_score: f64,
}

impl Unigram {
    pub(super) fn new(tables: &Tables) -> Self {
        let lowest = tables.scores().iter().copied().fold(f32::INFINITY, f32::min);
        Self { paths: Vec::new(), tokens: Vec::new(), unknown_score: f64::from(lowest) - UNKNOWN_PENALTY }
    }

    /// Appends the tokens of `word` to `out`.
    pub(super) fn encode(&mut self, tables: &Tables, spec: &TokenizerSpec, word: &str, out: &mut Vec<u32>) {
        let bytes = word.as_bytes();
        let longest = tables.longest().min(MAX_PIECE);
        self.paths.clear();
        self.paths.resize(bytes.len() + 1, None);
        self.paths[0] = Some(Path { score: 0.0, start: 0, id: NONE });
        for (start, character) in word.char_indices() {
            let Some(so_far) = self.paths[start].map(|path| path.score) else { continue };
            let first = start + character.len_utf8();
            let mut single = false;
            let mut hash = BytesHash::new();
            for end in start + 1..=bytes.len().min(start + longest) {
                hash = hash.extend(&bytes[end - 1..end]);
                if !word.is_char_boundary(end) {
                    continue;
                }
                let Some(id) = tables.find_hashed(hash.finish(), &bytes[start..end]) else { continue };
                single |= end == first;
                let score = so_far + f64::from(tables.scores().get(id as usize).copied().unwrap_or(0.0));
                self.offer(end, Path { score, start, id });
            }
            if !single {
                self.offer(first, Path { score: so_far + self.unknown_score, start, id: NONE });
            }
        }
        self.tokens.clear();
        let mut end = bytes.len();
        while end > 0 {
            let Some(Some(path)) = self.paths.get(end).copied() else { break };
            self.tokens.push((path.id, path.start));
            end = path.start;
        }
        self.write(tables, spec, bytes, out);
    }

    fn offer(&mut self, end: usize, path: Path) {
        let best = &mut self.paths[end];
        if best.is_none_or(|best| path.score > best.score) {
            *best = Some(path);
        }
    }

    /// The path is backwards; unknown characters become bytes or the unknown token.
    fn write(&self, tables: &Tables, spec: &TokenizerSpec, bytes: &[u8], out: &mut Vec<u32>) {
        let mut after_unknown = false;
        for (index, &(id, start)) in self.tokens.iter().enumerate().rev() {
            if id != NONE {
                out.push(id);
                after_unknown = false;
                continue;
            }
            let end = index.checked_sub(1).map_or(bytes.len(), |next| self.tokens[next].1);
            let piece = &bytes[start..end];
            if spec.byte_fallback && piece.iter().all(|&byte| tables.byte(byte).is_some()) {
                out.extend(piece.iter().filter_map(|&byte| tables.byte(byte)));
            } else if let Some(unknown) = spec.unknown
                && !after_unknown
            {
                out.push(unknown);
                after_unknown = true;
            }
        }
    }
}

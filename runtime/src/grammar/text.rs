//! The inside of a JSON string that the model writes freely: valid UTF-8 in canonical form.

/// How a string may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Most bytes, escapes included.
    pub longest: u16,
    /// One line of running text: not empty, no line breaks, no two spaces in a row.
    pub line: bool,
}

/// A string as far as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    rules: Rules,
    /// Bytes so far.
    len: u16,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between characters.
    Whole,
    /// The same, after a space.
    Space,
    /// After a backslash.
    Escape,
    /// Inside a character: bytes to come, and the range of the next one.
    Inside { left: u8, from: u8, to: u8 },
}

impl Text {
    /// An empty string.
    pub fn new(rules: Rules) -> Self {
        // A line does not begin with a space.
        Self { rules, len: 0, state: if rules.line { State::Space } else { State::Whole } }
    }

    /// The string with one more byte, if that may follow.
    pub fn follow(self, byte: u8) -> Option<Self> {
        let Rules { longest, line } = self.rules;
        let (state, needed) = match (self.state, byte) {
            (State::Inside { left, from, to }, _) => {
                let next =
                    if left == 1 { State::Whole } else { State::Inside { left: left - 1, from: 0x80, to: 0xbf } };
                (from..=to).contains(&byte).then_some((next, 0))?
            }
            (State::Escape, b'"' | b'\\') => (State::Whole, 0),
            (State::Escape, b'n' | b'r' | b't') if !line => (State::Whole, 0),
            (State::Escape, _) => return None,
            (_, b'\\') => (State::Escape, 2),
            (State::Space, b' ') if line => return None,
            (_, b' ') => (State::Space, 1),
            (_, b'"' | ..0x20 | 0x7f) => return None,
            (_, 0x21..0x7f) => (State::Whole, 1),
            _ => {
                let (left, from, to) = lead(byte)?;
                (State::Inside { left, from, to }, 1 + u16::from(left))
            }
        };
        (self.len + needed <= longest).then_some(Self { rules: self.rules, len: self.len + needed, state })
    }

    /// Whether the string may end here.
    pub fn may_end(self) -> bool {
        !self.is_missing() && matches!(self.state, State::Whole | State::Space)
    }

    /// Whether it still has to say something.
    pub fn is_missing(self) -> bool {
        self.rules.line && self.len == 0
    }

    /// Whether a character is not whole.
    pub fn is_inside(self) -> bool {
        matches!(self.state, State::Inside { .. })
    }

    /// Bytes that have to come before it may end.
    pub fn rest(self) -> usize {
        match self.state {
            State::Whole | State::Space => usize::from(self.is_missing()),
            State::Escape => 1,
            State::Inside { left, .. } => left.into(),
        }
    }

    /// Whether every plain piece ([`is_plain`]) may follow that has at most `longest` bytes.
    pub fn takes_plain(self, longest: usize) -> bool {
        self.state == State::Whole && usize::from(self.len) + longest <= usize::from(self.rules.longest)
    }
}

/// Whether `piece` may stand after any whole character, and leaves one behind it.
pub fn is_plain(piece: &[u8]) -> bool {
    let whole = Text { rules: Rules { longest: u16::MAX, line: true }, len: 1, state: State::Whole };
    let end = piece.iter().try_fold(whole, |text, &byte| text.follow(byte));
    end.is_some_and(|text| text.state == State::Whole)
}

/// Bytes that follow a lead byte, and the range of the first of them (Unicode 16, table 3-7),
/// less the control characters U+0080 to U+009F.
fn lead(byte: u8) -> Option<(u8, u8, u8)> {
    Some(match byte {
        0xc2 => (1, 0xa0, 0xbf),
        0xc3..=0xdf => (1, 0x80, 0xbf),
        0xe0 => (2, 0xa0, 0xbf),
        0xed => (2, 0x80, 0x9f),
        0xe1..=0xef => (2, 0x80, 0xbf),
        0xf0 => (3, 0x90, 0xbf),
        0xf1..=0xf3 => (3, 0x80, 0xbf),
        0xf4 => (3, 0x80, 0x8f),
        _ => return None,
    })
}

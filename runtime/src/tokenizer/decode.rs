//! Tokens back to text, whole or as they come.

use super::Tokenizer;

/// Turns tokens to text as they come. Bytes of a character that is not complete yet are held
/// back; what can never become one is shown as U+FFFD.
pub struct Detokenizer<'a> {
    tokenizer: &'a Tokenizer,
    pending: Vec<u8>,
    text: String,
    at_start: bool,
}

impl<'a> Detokenizer<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, pending: Vec::new(), text: String::new(), at_start: true }
    }

    /// The text that `id` completes; empty for control tokens. Allocates nothing once its
    /// buffers have grown to the longest token.
    pub fn push(&mut self, id: u32) -> &str {
        self.text.clear();
        if !self.tokenizer.is_control(id) {
            let mut piece = self.tokenizer.piece(id);
            if self.at_start && !piece.is_empty() {
                self.at_start = false;
                if self.tokenizer.spec().strip_first_space {
                    piece = piece.strip_prefix(b" ").unwrap_or(piece);
                }
            }
            self.pending.extend_from_slice(piece);
        }
        self.complete();
        &self.text
    }

    /// What was held back, as it cannot be completed any more.
    pub fn flush(&mut self) -> &str {
        self.text.clear();
        self.complete();
        if !self.pending.is_empty() {
            self.text.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
        &self.text
    }

    /// Moves all that is decided from `pending` to `text`.
    fn complete(&mut self) {
        let mut done = 0;
        loop {
            let rest = &self.pending[done..];
            let (valid, invalid) = match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.text.push_str(text);
                    done = self.pending.len();
                    break;
                }
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            self.text.push_str(std::str::from_utf8(&rest[..valid]).unwrap_or_default());
            done += valid;
            match invalid {
                Some(length) => {
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    done += length;
                }
                None => break,
            }
        }
        self.pending.drain(..done);
    }
}

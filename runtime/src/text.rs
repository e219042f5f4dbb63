//! Text as it is generated: whole characters only, cut before a stop string.

/// Collects the bytes of tokens and hands out text that is final.
///
/// Held back are the bytes of an unfinished character, and whatever may turn out to be the
/// start of a stop string. Bytes that can never become UTF-8 are replaced by U+FFFD.
#[derive(Debug, Default)]
pub struct TextStream {
    stops: Vec<String>,
    bytes: Vec<u8>,
    text: String,
    emitted: usize,
    stopped: bool,
}

impl TextStream {
    /// A stream that ends before the first of `stops`; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), ..Self::default() }
    }

    /// Adds a token's bytes; returns text that is new and final.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        if !self.stopped {
            self.bytes.extend_from_slice(bytes);
            self.decode(false);
        }
        self.emit(false)
    }

    /// Nothing more will come: the rest of the text.
    pub fn finish(&mut self) -> &str {
        if !self.stopped {
            self.decode(true);
        }
        self.emit(true)
    }

    /// Whether a stop string was met.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// All text so far, held-back parts included.
    pub fn into_text(mut self) -> String {
        self.finish();
        self.text
    }

    /// Moves whole characters from bytes to text, and looks for stop strings in what is new.
    fn decode(&mut self, last: bool) {
        let from = self.text.len();
        let mut rest = self.bytes.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.text.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, broken) = rest.split_at(error.valid_up_to());
                    self.text.push_str(std::str::from_utf8(valid).expect("just validated"));
                    rest = match error.error_len() {
                        None if !last => {
                            rest = broken;
                            break;
                        }
                        None => &[],
                        Some(len) => &broken[len..],
                    };
                    self.text.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
        let kept = rest.len();
        self.bytes.drain(..self.bytes.len() - kept);
        // A stop string that ends in the new text may begin before it.
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let mut start = from.saturating_sub(longest).max(self.emitted);
        while !self.text.is_char_boundary(start) {
            start += 1;
        }
        let found = self.stops.iter().filter_map(|stop| self.text[start..].find(stop.as_str())).min();
        if let Some(at) = found {
            self.text.truncate(start + at);
            self.bytes.clear();
            self.stopped = true;
        }
    }

    fn emit(&mut self, last: bool) -> &str {
        let held = if last || self.stopped { 0 } else { self.possible_stop() };
        let from = self.emitted;
        self.emitted = self.text.len() - held;
        &self.text[from..self.emitted]
    }

    /// Length of the longest end of the text that begins a stop string.
    fn possible_stop(&self) -> usize {
        let fresh = &self.text[self.emitted..];
        let begins = |stop: &String| {
            (1..stop.len().min(fresh.len() + 1))
                .rev()
                .find(|&n| stop.is_char_boundary(n) && fresh.ends_with(&stop[..n]))
        };
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(stops: &[&str], parts: &[&[u8]]) -> (Vec<String>, String) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut stream = TextStream::new(&stops);
        let mut out: Vec<String> = parts.iter().map(|part| stream.push(part).to_owned()).collect();
        out.push(stream.finish().to_owned());
        let all = out.concat();
        assert_eq!(all, stream.into_text(), "what was emitted is the text");
        (out, all)
    }

    #[test]
    fn characters_come_whole() {
        let smile = "🙂".as_bytes();
        let (out, _) = stream(&[], &[b"a", &smile[..2], &smile[2..], b"b"]);
        assert_eq!(out, ["a", "", "🙂", "b", ""]);
    }

    #[test]
    fn broken_bytes_are_replaced() {
        assert_eq!(stream(&[], &[b"a\xff", b"b", b"\xf0\x9f"]).1, "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn stop_strings_are_cut_off_wherever_they_begin() {
        let (out, all) = stream(&["END", "\n\n"], &[b"one E", b"N two EN", b"D three"]);
        assert_eq!(out, ["one ", "EN two ", "", ""]);
        assert_eq!(all, "one EN two ");
        assert_eq!(stream(&["é"], &["caf".as_bytes(), &"é".as_bytes()[..1], &"é".as_bytes()[1..], b"x"]).1, "caf");
        assert_eq!(stream(&["aab"], &[b"aa", b"aab"]).1, "aa");
        assert_eq!(stream(&[""], &[b"x"]).1, "x");
    }
}

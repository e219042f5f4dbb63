//! Guesses at the next tokens of a text that repeats another: a refinement is mostly its draft.
//!
//! Guesses are evaluated together with the newest token and kept as far as the sampler chooses
//! the same (arXiv 2211.17192, with a lookup in place of a draft model). A token's logits do
//! not depend on what is computed beside it and a draw only on its position, so the text is
//! what it would be without guesses; only how long it takes depends on them.
//!
//! Where the text leaves the source, its place there is found again: by the longest end of the
//! text that stands in a source, or by taking the new token for a replacement of the old one.
//!
//! Not here: evaluation and choice (see [`crate::session`]).

use std::collections::VecDeque;

/// What one more token in a batch is taken to cost, in units of a batch of one: `critic bench
/// --batch 1,8` shows what it does cost on a machine. It decides on time alone, not on texts.
const TOKEN_COST: f32 = 0.1;
/// Most guesses at once: the costs of a batch grow in proportion beyond this.
const MOST: usize = 48;
/// Longest end of the text that is compared when its place is looked for.
const SUFFIX: usize = 16;
/// How many tokens ahead of its old place one equal token is evidence enough.
const NEAR: usize = 8;
/// Unmatched tokens after which no replacement is assumed any more.
const REPLACED: usize = 3;
/// How fast old acceptances lose their weight, for each verification.
const DECAY: f32 = 0.85;

/// Follows a text through its sources.
#[derive(Clone, Debug)]
pub(crate) struct Speculator {
    /// The draft with the token that ended it, and other texts that may be repeated.
    sources: Vec<Vec<u32>>,
    /// The last tokens of the text.
    recent: VecDeque<u32>,
    /// Source and index of the next guess.
    next: Option<(usize, usize)>,
    /// Tokens since then that were as in the source.
    matched: usize,
    /// Where in the first source the text was when it last agreed with it.
    home: usize,
    /// Tokens in a row that agreed with nothing.
    strayed: usize,
    /// Accepted and refused guesses, by how well the place is known.
    seen: [(f32, f32); 4],
    /// Whether a place that is only assumed is guessed from.
    bold: bool,
    /// How well the place of the last guesses was known.
    asked: usize,
}

impl Speculator {
    /// For a text that may quote `sources` here and there.
    pub(crate) fn quoting(sources: Vec<Vec<u32>>) -> Self {
        Self { next: None, matched: 0, bold: false, ..Self::repeating(sources) }
    }

    /// For a text that may repeat `sources`, the first above all, from its start on.
    pub(crate) fn repeating(sources: Vec<Vec<u32>>) -> Self {
        let next = sources.first().filter(|source| !source.is_empty()).map(|_| (0, 0));
        Self {
            sources,
            recent: VecDeque::with_capacity(SUFFIX),
            next,
            // A refinement that begins like its draft is the rule.
            matched: 2,
            home: 0,
            strayed: 0,
            // Assumed at first; the text at hand soon outweighs it.
            seen: [(1.5, 1.0), (1.5, 1.0), (3.0, 0.6), (6.0, 0.3)],
            bold: true,
            asked: 0,
        }
    }

    /// Guesses at the next tokens, at most `most`.
    pub(crate) fn guess(&mut self, most: usize) -> &[u32] {
        let Some((source, index)) = self.next else { return &[] };
        self.asked = self.class();
        let (accepted, refused) = self.seen[self.asked];
        let count = best_count(accepted / (accepted + refused)).min(most);
        let rest = &self.sources[source][index..];
        &rest[..count.min(rest.len())]
    }

    /// Of the last guesses, `guessed` in number, the first `accepted` were chosen.
    pub(crate) fn verified(&mut self, guessed: usize, accepted: usize) {
        if guessed > 0 {
            let (yes, no) = &mut self.seen[self.asked];
            *yes = *yes * DECAY + accepted as f32;
            *no = *no * DECAY + if accepted < guessed { 1.0 } else { 0.0 };
        }
    }

    /// The text goes on with `token`.
    pub(crate) fn take(&mut self, token: u32) {
        if self.recent.len() == SUFFIX {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
        let expected = self.next.filter(|&(source, index)| self.sources[source].get(index) == Some(&token));
        match expected {
            Some((source, index)) => {
                self.matched += 1;
                self.strayed = 0;
                self.settle(source, index + 1);
            }
            None => self.find(),
        }
    }

    /// Looks for the text's place after a token that was not expected.
    fn find(&mut self) {
        self.strayed += 1;
        let home = self.home;
        let distance = |index: usize| if index >= home { index - home } else { 2 * (home - index) };
        // Longest first, then the draft before other sources, then the nearest place.
        let best = (0..self.sources.len())
            .flat_map(|source| (1..self.sources[source].len()).map(move |index| (source, index)))
            .map(|(source, index)| (self.suffix(source, index), source, index))
            .filter(|&(length, ..)| length > 0)
            .max_by_key(|&(length, source, index)| {
                use std::cmp::Reverse;
                (length, Reverse(source), Reverse(if source == 0 { distance(index) } else { 0 }))
            });
        let near = |index: usize| index > home && index <= home + NEAR;
        self.matched = 0;
        self.next = match best {
            Some((length, source, index)) if length > 1 || (self.bold && source == 0 && near(index)) => {
                self.matched = length;
                self.strayed = 0;
                self.settle(source, index);
                return;
            }
            _ if !self.bold => None,
            // The n-th strange token stands in place of the n-th from here on.
            _ if self.strayed <= REPLACED => Some((0, home + self.strayed)),
            Some((_, source, index)) => Some((source, index)),
            None => None,
        };
        self.next = self.next.filter(|&(source, index)| index < self.sources.get(source).map_or(0, Vec::len));
    }

    /// The next guess is at `index` of `source`.
    fn settle(&mut self, source: usize, index: usize) {
        if source == 0 {
            self.home = index;
        }
        self.next = (index < self.sources[source].len()).then_some((source, index));
    }

    /// How many tokens before `index` of a source are those at the end of the text.
    fn suffix(&self, source: usize, index: usize) -> usize {
        let before = self.sources[source][..index].iter().rev();
        before.zip(self.recent.iter().rev()).take_while(|(a, b)| a == b).count()
    }

    /// How well the place is known: from a mere assumption to four tokens and more.
    fn class(&self) -> usize {
        match self.matched {
            0 => 0,
            1 => 1,
            2..=3 => 2,
            _ => 3,
        }
    }
}

/// The number of guesses that brings most tokens for their cost, if each is right with
/// probability `p` given that those before it were: (1 − pⁿ⁺¹)/(1 − p) tokens for 1 + n·c.
fn best_count(p: f32) -> usize {
    let (mut best, mut best_rate) = (0, 1.0);
    let (mut expected, mut power) = (1.0, 1.0);
    for count in 1..=MOST {
        power *= p;
        expected += power;
        let rate = expected / (1.0 + TOKEN_COST * count as f32);
        if rate > best_rate {
            (best, best_rate) = (count, rate);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `text` as a session would, and returns how many evaluations that took.
    fn evaluations(sources: &[&[u32]], text: &[u32]) -> usize {
        let mut speculator = Speculator::repeating(sources.iter().map(|s| s.to_vec()).collect());
        let (mut at, mut count) = (0, 0);
        while at < text.len() {
            let guess = speculator.guess(text.len() - at - 1).to_vec();
            let (guessed, accepted) =
                (guess.len(), guess.iter().zip(&text[at..]).take_while(|(guess, token)| guess == token).count());
            speculator.verified(guessed, accepted);
            text[at..=at + accepted].iter().for_each(|&token| speculator.take(token));
            at += accepted + 1;
            count += 1;
        }
        count
    }

    fn draft() -> Vec<u32> {
        (0..120).map(|i| i * 37 % 101).collect()
    }

    #[test]
    fn a_repeated_text_takes_few_evaluations() {
        assert!(evaluations(&[&draft()], &draft()) <= 8);
    }

    #[test]
    fn edits_are_survived() {
        let draft = draft();
        let replaced = [&draft[..50], &[1000], &draft[51..]].concat();
        let twice = [&draft[..50], &[1000, 1001], &draft[52..]].concat();
        let inserted = [&draft[..50], &[1000, 1001, 1002], &draft[50..]].concat();
        let deleted = [&draft[..50], &draft[54..]].concat();
        let moved = [&draft[60..], &draft[..60]].concat();
        for (edit, text) in [
            ("one token", replaced),
            ("two tokens", twice),
            ("insertion", inserted),
            ("deletion", deleted),
            ("move", moved),
        ] {
            let count = evaluations(&[&draft], &text);
            assert!(count <= 18, "{edit}: {count} evaluations of {} tokens", text.len());
        }
    }

    #[test]
    fn other_sources_are_found() {
        let critique: Vec<u32> = (500..540).collect();
        let text = [&draft()[..40], &critique[5..35], &draft()[40..]].concat();
        assert!(evaluations(&[&draft(), &critique], &text) <= 25);
    }

    #[test]
    fn an_unrelated_text_is_hardly_guessed_at() {
        let mut speculator = Speculator::repeating(vec![draft()]);
        let mut guesses = 0;
        for token in 2000..2200 {
            let guessed = speculator.guess(100).len();
            guesses += guessed;
            speculator.verified(guessed, 0);
            speculator.take(token);
        }
        assert!(guesses < 30, "{guesses}");
    }

    #[test]
    fn a_quotation_is_recognised() {
        let mut speculator = Speculator::quoting(vec![draft()]);
        assert!(speculator.guess(9).is_empty());
        for token in [900, 901, draft()[30]] {
            speculator.take(token);
            assert!(speculator.guess(9).is_empty(), "one token is no quotation");
        }
        speculator.take(draft()[31]);
        assert!(draft()[32..].starts_with(speculator.guess(9)) && !speculator.guess(9).is_empty());
        speculator.take(902);
        assert!(speculator.guess(9).is_empty());
    }

    #[test]
    fn nothing_is_guessed_from_nothing() {
        for sources in [vec![], vec![vec![]], vec![vec![], vec![]]] {
            let mut speculator = Speculator::repeating(sources);
            assert!(speculator.guess(9).is_empty());
            speculator.verified(0, 0);
            speculator.take(1);
            assert!(speculator.guess(9).is_empty());
        }
        assert!(Speculator::repeating(vec![vec![1, 2]]).guess(0).is_empty());
    }

    #[test]
    fn the_count_grows_with_acceptance() {
        assert_eq!(best_count(0.0), 0);
        let counts = [0.3, 0.6, 0.9, 0.97, 1.0].map(best_count);
        assert!(counts.is_sorted() && counts[0] >= 1 && counts[4] == MOST, "{counts:?}");
    }
}

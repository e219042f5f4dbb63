//! How long a person waits for the first finding about a file, with a model that is open: about a
//! new one, and about one of which a line was changed.

use std::fmt;
use std::path::Path;
use std::time::Instant;

use critic::{Request, Session};
use critic_lsp::language::Language;
use critic_lsp::project::Project;
use critic_lsp::review::{Review, go_on};
use serde::Serialize;

use super::bench::{median, ms};
use crate::failure::Failure;
use crate::text::read_file;

/// Medians, in milliseconds.
#[derive(Serialize)]
pub struct FirstFinding {
    lines: usize,
    /// Parts that are critiqued one by one; only the first one's finding is waited for.
    parts: usize,
    /// Whether there was a finding; otherwise the times are until the critique said so.
    found: bool,
    /// Nothing of it was evaluated before.
    new_ms: f64,
    /// A line was changed nine tenths down.
    edited_near_end_ms: f64,
    /// A line was changed half-way down.
    edited_half_way_ms: f64,
    /// Tokens that were not evaluated again, of how many, after these two.
    reused_near_end: (usize, usize),
    reused_half_way: (usize, usize),
}

/// Times the first part of `file`.
pub fn first_finding(session: &mut Session, file: &Path, repeat: u32) -> Result<FirstFinding, Failure> {
    let text = read_file(file)?;
    let base = Request { max_tokens: 256, ..Request::default() };
    let review = Review::new(&Project::default(), Language::of_path(file), &base);
    let (mut new, mut late, mut half) = (Vec::new(), Vec::new(), Vec::new());
    let mut found = true;
    let (mut reused_late, mut reused_half) = ((0, 0), (0, 0));
    for turn in 0..repeat {
        session.reset();
        let (time, any, _) = once(session, &review, &text)?;
        new.push(time);
        found &= any;
        let (time, _, reused) = once(session, &review, &edited(&text, 9, turn))?;
        late.push(time);
        reused_late = reused;
        // From the text as it was, not from the other edit.
        once(session, &review, &text)?;
        let (time, _, reused) = once(session, &review, &edited(&text, 5, turn))?;
        half.push(time);
        reused_half = reused;
    }
    Ok(FirstFinding {
        lines: text.lines().count(),
        parts: review.pieces(session, &text).len(),
        found,
        new_ms: median(&mut new),
        edited_near_end_ms: median(&mut late),
        edited_half_way_ms: median(&mut half),
        reused_near_end: reused_late,
        reused_half_way: reused_half,
    })
}

/// `text` with more on the line that is so many tenths down.
fn edited(text: &str, tenths: usize, turn: u32) -> String {
    let at = text.lines().count() * tenths / 10;
    let change = |(index, line): (usize, &str)| match index == at {
        true => format!("{line} {turn}\n"),
        false => format!("{line}\n"),
    };
    text.lines().enumerate().map(change).collect()
}

/// Time to the first finding, whether there was one, and tokens reused of those read.
fn once(session: &mut Session, review: &Review, text: &str) -> Result<(f64, bool, (usize, usize)), Failure> {
    session.take_timings();
    let started = Instant::now();
    let mut first = None;
    let pieces = review.pieces(session, text);
    let piece = pieces.first().ok_or_else(|| Failure::Failed("the file has no text".into()))?;
    review.piece(session, text, piece, &mut go_on, &mut |_| {
        first.get_or_insert_with(|| ms(started));
    })?;
    let timings = session.take_timings();
    Ok((first.unwrap_or_else(|| ms(started)), first.is_some(), (timings.reused_tokens, timings.prompt_tokens)))
}

impl fmt::Display for FirstFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.found { "first finding" } else { "no finding  " };
        write!(
            f,
            "{what} {:>8.0} ms about {} new lines, {:.0} ms after an edit near their end ({} of {} tokens reused), {:.0} ms \
             after one half-way ({} of {})",
            self.new_ms,
            self.lines,
            self.edited_near_end_ms,
            self.reused_near_end.0,
            self.reused_near_end.1,
            self.edited_half_way_ms,
            self.reused_half_way.0,
            self.reused_half_way.1
        )
    }
}

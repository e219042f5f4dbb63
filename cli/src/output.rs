//! Standard output: text as it comes, or one JSON object.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::ops::ControlFlow;

use critic::critique::Candidate;
use critic::{Critique, Finding, Phase, Progress, Round, Session, Timings, Verdict};
use serde::Serialize;

use crate::failure::Failure;
use crate::progress::Bar;

/// The answer of `critique`, `refine` and `improve`. What does not apply is null.
#[derive(Serialize)]
pub struct LoopAnswer<'a> {
    pub verdict: Verdict,
    pub critique: &'a str,
    pub findings: &'a [Finding],
    pub refinement: Option<&'a str>,
    pub accepted: Option<bool>,
    /// Whether no text was cut off at the limit of tokens.
    pub complete: bool,
    pub utility_advantage: Option<f32>,
    pub candidates: &'a [Candidate],
    pub rounds: Option<&'a [Round]>,
    pub timings: Timings,
}

impl<'a> LoopAnswer<'a> {
    /// What a critique alone answers.
    pub fn of(critique: &'a Critique, timings: Timings) -> Self {
        Self {
            verdict: critique.verdict,
            critique: &critique.text,
            findings: &critique.findings,
            refinement: None,
            accepted: None,
            complete: critique.complete,
            utility_advantage: critique.utility_advantage,
            candidates: &critique.candidates,
            rounds: None,
            timings,
        }
    }
}

/// Prints one JSON object.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::Failed(error.to_string()))?;
    line(&text)
}

/// Prints one line, or several.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(write_failure)
}

fn write_failure(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::ClosedPipe,
        _ => Failure::Failed(format!("standard output: {error}")),
    }
}

/// Why nothing is made of a critique.
pub fn not_acted_on(critique: &Critique) -> &'static str {
    match critique.verdict {
        Verdict::Keep => "nothing needs to change: the draft stays",
        Verdict::Revise => "the critique's utility is too low: the draft stays",
    }
}

/// Whether a text that was just cut off had all of the context.
pub fn is_full(session: &Session) -> bool {
    // The last token that was chosen is not evaluated.
    session.sequence().len() + 1 >= session.context_tokens()
}

/// Where a text is streamed to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// It is the answer.
    Stdout,
    /// It leads to the answer.
    Stderr,
}

/// Text as it is generated, with a progress bar while the prompt is read.
pub struct Stream {
    quiet: bool,
    bar: Bar,
    /// Round and part that have their heading.
    headed: Option<(usize, bool)>,
    /// What the last text was written to, and whether it ended its line.
    open_line: Option<To>,
    /// A failed write: the call that streams is cancelled, and this is the reason.
    failure: Option<Failure>,
}

impl Stream {
    /// `quiet`: nothing but the bar is shown.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, bar: Bar::tokens("reading"), headed: None, open_line: None, failure: None }
    }

    /// Shows progress of a generation; its text goes to `to`.
    pub fn show(&mut self, progress: Progress, to: To) -> ControlFlow<()> {
        match progress {
            Progress::Prefill { done, total } => {
                // The bar would wipe out a line that text stands on.
                self.end_line();
                self.bar.set(done as u64, Some(total as u64));
                ControlFlow::Continue(())
            }
            Progress::Text(text) => {
                self.bar.clear();
                self.text(text, to)
            }
        }
    }

    /// The same for a part of the loop, under its heading.
    pub fn show_event(&mut self, event: critic::critique::Event, to: To) -> ControlFlow<()> {
        let part = match event.phase {
            Phase::Critique => "critique",
            Phase::Refine => "refinement",
            // These only read.
            Phase::Read | Phase::Judge => return self.show(event.progress, To::Stderr),
        };
        let key = (event.round, event.phase == Phase::Refine);
        if matches!(event.progress, Progress::Text(_)) && self.headed != Some(key) {
            self.headed = Some(key);
            self.bar.clear();
            match event.round {
                0 => self.heading(part),
                round => self.heading(&format!("{part}, round {}", round + 1)),
            }
        }
        self.show(event.progress, to)
    }

    /// A line of its own on standard error.
    pub fn heading(&mut self, text: &str) {
        if !self.quiet {
            self.end_line();
            let gap = if io::stderr().is_terminal() { "\n" } else { "" };
            // Nobody need read it.
            _ = writeln!(io::stderr(), "{gap}── {text}");
        }
    }

    /// Says what a critique is estimated to gain, where there is an estimate.
    pub fn utility_advantage(&mut self, critique: &Critique) {
        if let Some(advantage) = critique.utility_advantage {
            self.end_line();
            // Nobody need read it.
            _ = writeln!(io::stderr(), "utility advantage {advantage:+.4}");
        }
    }

    /// Says that a text was cut off, at `limit` tokens or, where it is `full`, by the context.
    pub fn cut(&mut self, what: &str, limit: usize, full: bool) {
        self.end_line();
        let why = match full {
            true => "where the context ends: shorten the texts, or use a longer context".to_owned(),
            false => format!("at {limit} tokens: raise --max-tokens"),
        };
        // Nobody need read it.
        _ = writeln!(io::stderr(), "the {what} was cut {why}");
    }

    /// Writes text at once.
    pub fn text(&mut self, text: &str, to: To) -> ControlFlow<()> {
        if self.quiet || text.is_empty() {
            return ControlFlow::Continue(());
        }
        let written = match to {
            To::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
            // Nobody need read it.
            To::Stderr => io::stderr().write_all(text.as_bytes()).or(Ok(())),
        };
        self.open_line = (!text.ends_with('\n')).then_some(to);
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failure = Some(write_failure(error));
                ControlFlow::Break(())
            }
        }
    }

    /// Ends the last text's line.
    pub fn end_line(&mut self) {
        if let Some(to) = self.open_line.take() {
            _ = self.text("\n", to);
        }
    }

    /// The result of the call that streamed: a failed write goes before the cancellation that
    /// it caused.
    pub fn finish<T>(&mut self, result: critic::Result<T>) -> Result<T, Failure> {
        self.bar.clear();
        self.end_line();
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => result.map_err(Failure::from),
        }
    }
}

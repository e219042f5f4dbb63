//! What a person sees of long work: a bar on a terminal, and elsewhere a line now and then.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Least time between two lines where there is no terminal.
const QUIET: Duration = Duration::from_secs(10);

/// One phase of the work, with its rate and the time that is left.
pub struct Phase {
    bar: ProgressBar,
    label: String,
    unit: &'static str,
    terminal: bool,
    /// What was done when the phase began: it does not count for the rate.
    first: u64,
    begun: Instant,
    said: Option<Instant>,
}

impl Phase {
    /// `total` of `unit`, of which `first` are done.
    pub fn new(label: impl Into<String>, unit: &'static str, first: u64, total: u64) -> Self {
        let terminal = stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let label = label.into();
        let bar = ProgressBar::with_draw_target(Some(total), target).with_prefix(label.clone());
        let template = format!("{{prefix}} {{bar:24}} {{pos}}/{{len}} {unit}  {{wide_msg}}");
        bar.set_style(ProgressStyle::with_template(&template).expect("a template of ours"));
        bar.set_position(first);
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar, label, unit, terminal, first, begun: Instant::now(), said: None }
    }

    /// Shows that `done` are done, and `words` about them.
    pub fn set(&mut self, done: u64, words: &str) {
        let total = self.bar.length().unwrap_or(done);
        let left = match done.saturating_sub(self.first) {
            0 => String::new(),
            new => {
                let each = self.begun.elapsed().as_secs_f64() / new as f64;
                format!("{} left", duration(each * total.saturating_sub(done) as f64))
            }
        };
        let words = [words, &left].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ");
        if self.terminal {
            self.bar.set_position(done);
            self.bar.set_message(words);
        } else if done == total || self.said.is_none_or(|said| said.elapsed() >= QUIET) {
            self.said = Some(Instant::now());
            eprintln!("{} {done}/{total} {}  {words}", self.label, self.unit);
        }
    }

    /// Says something that stays.
    pub fn say(&self, line: &str) {
        if self.terminal { self.bar.println(line) } else { eprintln!("{line}") }
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `75` seconds as `1 min 15 s`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

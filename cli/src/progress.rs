//! Progress bars: on standard error, and only where a person looks at it.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use critic_import::pull::PullEvent;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that appears with the first progress, and vanishes when it is done or dropped.
pub struct Bar {
    bar: Option<ProgressBar>,
    label: &'static str,
    template: &'static str,
}

impl Bar {
    /// Counts bytes.
    pub fn bytes(label: &'static str) -> Self {
        Self { bar: None, label, template: "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}" }
    }

    /// Counts tokens.
    pub fn tokens(label: &'static str) -> Self {
        Self { bar: None, label, template: "{msg} {wide_bar} {pos}/{len} tokens" }
    }

    /// Moves it; without a total it only shows that something goes on.
    pub fn set(&mut self, done: u64, total: Option<u64>) {
        if total.is_some_and(|total| done >= total) {
            return self.clear();
        }
        let (label, template) = (self.label, self.template);
        let bar = self.bar.get_or_insert_with(|| {
            let target =
                if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
            let bar = ProgressBar::with_draw_target(total, target).with_message(label);
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    }

    /// Makes room for text.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Shows a pull.
pub struct PullProgress {
    download: Bar,
    convert: Bar,
}

impl PullProgress {
    /// Nothing is shown yet.
    pub fn new() -> Self {
        Self { download: Bar::bytes("fetching"), convert: Bar::bytes("converting") }
    }

    /// Shows one event.
    pub fn show(&mut self, event: PullEvent) {
        match event {
            PullEvent::Note(text) => {
                self.download.clear();
                _ = writeln!(stderr(), "{text}");
            }
            PullEvent::Download(done, total) => self.download.set(done, total),
            PullEvent::Convert(done, total) => {
                self.download.clear();
                self.convert.set(done, Some(total));
            }
        }
    }
}

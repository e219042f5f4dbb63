//! Ctrl-C and SIGTERM: the first one asks to stop, so that a checkpoint is written; the second ends
//! the process.

use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the first signal.
static STOP: AtomicBool = AtomicBool::new(false);

/// As a shell reports a process that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

/// Takes the signals over, and returns what the first one sets.
pub fn install() -> &'static AtomicBool {
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            exit(i32::from(INTERRUPTED));
        }
        eprintln!(
            "\nstopping after this step, with a checkpoint; once more stops at once, and loses the steps since the last one"
        );
    };
    // Without a handler a signal ends the process: checkpoints are whole all the same.
    _ = ctrlc::set_handler(handler);
    &STOP
}

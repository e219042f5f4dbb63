//! Ctrl-C: the first one cancels what is running, so that it can clean up after itself; one
//! more, or one while nothing is running that could be cancelled, ends the process.

use std::ops::ControlFlow;
use std::process::exit;
use std::sync::Mutex;

use critic::CancelToken;

/// What Ctrl-C cancels.
static RUNNING: Mutex<Option<CancelToken>> = Mutex::new(None);

/// As a shell reports a process that the signal ended.
const INTERRUPTED: i32 = 130;

/// Takes over Ctrl-C for the whole process.
pub fn install() {
    let handler = || match &*RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        Some(token) if !token.is_cancelled() => token.cancel(),
        _ => exit(INTERRUPTED),
    };
    // Without a handler Ctrl-C ends the process, which will do.
    _ = ctrlc::set_handler(handler);
}

/// From now on Ctrl-C cancels `token`.
pub fn cancels(token: CancelToken) {
    *RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(token);
}

/// A token for work that asks now and then.
pub struct Interruptible(CancelToken);

impl Interruptible {
    /// From now on Ctrl-C cancels this.
    pub fn begin() -> Self {
        let token = CancelToken::default();
        cancels(token.clone());
        Self(token)
    }

    /// `Break` after Ctrl-C.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.0.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Drop for Interruptible {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    }
}

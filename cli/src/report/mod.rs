//! Findings for people and for machines: compiler-style text, annotations, SARIF.

pub mod annotations;
pub mod sarif;
pub mod terminal;

use critic::{Finding, Severity};
use critic_lsp::position::Lines;

/// A text and what was found in it.
pub struct Reviewed {
    /// As it was named on the command line.
    pub name: String,
    pub text: String,
    pub findings: Vec<Finding>,
    /// Whether no critique was cut off.
    pub complete: bool,
}

/// Line and column of a byte, from 1, in characters.
fn place(lines: &Lines, text: &str, at: usize) -> (usize, usize) {
    let position = lines.position(text, at, critic_lsp::position::Encoding::Utf32);
    (position.line as usize + 1, position.character as usize + 1)
}

fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

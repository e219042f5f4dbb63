//! Workflow commands, which CI systems show beside the lines of a change.

use critic::Severity;
use critic_lsp::position::Lines;

use super::{Reviewed, place};

/// One command for each finding.
pub fn lines(reviewed: &Reviewed) -> String {
    let lines = Lines::new(&reviewed.text);
    let mut out = String::new();
    for finding in &reviewed.findings {
        let (line, column) = place(&lines, &reviewed.text, finding.start);
        let (end_line, end_column) = place(&lines, &reviewed.text, finding.end);
        let command = match finding.severity {
            Severity::Note => "notice",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let file = property(&reviewed.name);
        let message = match &finding.replacement {
            Some(replacement) => format!("{}\nbetter: {replacement}", finding.message),
            None => finding.message.clone(),
        };
        out += &format!(
            "::{command} file={file},line={line},endLine={end_line},col={column},endColumn={end_column}::{}\n",
            data(&message)
        );
    }
    out
}

/// Text after the second `::`.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property's value.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_end_a_command() {
        let finding = critic::Finding {
            start: 2,
            end: 6,
            quote: "👍".into(),
            message: "100%\n::error::no".into(),
            replacement: None,
            severity: Severity::Note,
        };
        let reviewed =
            Reviewed { name: "a,b:c".into(), text: "é👍".into(), findings: vec![finding], complete: true };
        assert_eq!(
            lines(&reviewed),
            "::notice file=a%2Cb%3Ac,line=1,endLine=1,col=2,endColumn=3::100%25%0A::error::no\n"
        );
    }
}

//! SARIF 2.1.0 (OASIS), which code hosts and editors read.

use critic::{Finding, Severity};
use critic_lsp::position::Lines;
use serde_json::{Value, json};

use super::{Reviewed, name, place};

/// One log of one run.
pub fn log(all: &[Reviewed]) -> Value {
    let results: Vec<Value> = all.iter().flat_map(results).collect();
    let complete = all.iter().all(|reviewed| reviewed.complete);
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "critic",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": [{
                    "id": "critique",
                    "shortDescription": { "text": "A language model on this machine finds fault with this." },
                    "defaultConfiguration": { "level": "warning" }
                }]
            }},
            "columnKind": "unicodeCodePoints",
            "invocations": [{ "executionSuccessful": complete }],
            "artifacts": all.iter().map(|reviewed| json!({ "location": location(reviewed) })).collect::<Vec<_>>(),
            "results": results
        }]
    })
}

fn results(reviewed: &Reviewed) -> Vec<Value> {
    let lines = Lines::new(&reviewed.text);
    let result = |finding: &Finding| {
        let region = region(&lines, &reviewed.text, finding);
        let mut shown = region.clone();
        shown["snippet"] = json!({ "text": finding.quote });
        let mut result = json!({
            "ruleId": "critique",
            "ruleIndex": 0,
            "level": match finding.severity { Severity::Note => "note", other => name(other) },
            "message": { "text": finding.message },
            "locations": [{ "physicalLocation": { "artifactLocation": location(reviewed), "region": shown } }]
        });
        if let Some(replacement) = &finding.replacement {
            result["fixes"] = json!([{
                "description": { "text": "Replace the quoted words" },
                "artifactChanges": [{
                    "artifactLocation": location(reviewed),
                    "replacements": [{ "deletedRegion": region, "insertedContent": { "text": replacement } }]
                }]
            }]);
        }
        result
    };
    reviewed.findings.iter().map(result).collect()
}

fn region(lines: &Lines, text: &str, finding: &Finding) -> Value {
    let (line, column) = place(lines, text, finding.start);
    let (end_line, end_column) = place(lines, text, finding.end);
    json!({ "startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column })
}

/// A file's name as a relative reference.
fn location(reviewed: &Reviewed) -> Value {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let uri: String = reviewed
        .name
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    json!({ "uri": uri })
}

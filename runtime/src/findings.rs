//! Findings: what a structured critique's list means, and the refinement that its replacements
//! are.
//!
//! Not here: how a model is kept to the form of the list ([`crate::grammar`]).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::grammar::Draft;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A remark.
    Note,
    /// Probably wrong.
    Warning,
    /// Wrong.
    Error,
}

/// One problem in the draft, at an exact place of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Byte offset of its start in the draft's UTF-8.
    pub start: usize,
    /// Byte offset of its end.
    pub end: usize,
    /// The draft's text there.
    pub quote: String,
    /// What is wrong.
    pub message: String,
    /// What should stand there instead, where the fix is local.
    pub replacement: Option<String>,
    /// How bad it is.
    pub severity: Severity,
}

/// A finding as a critic says it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    quote: String,
    /// Which of several places that read alike, from 1.
    #[serde(default = "first")]
    occurrence: u32,
    message: String,
    severity: Severity,
    #[serde(default)]
    replacement: Option<String>,
}

fn first() -> u32 {
    1
}

/// The findings of a list about `draft`, as a structured critique says them: each with its
/// exact range, none with the range of an earlier one.
///
/// Occurrences are counted where a quote begins and ends at a word's edge; a quote that never
/// does is looked for as it stands.
pub fn parse(list: &str, draft: &str) -> Result<Vec<Finding>> {
    place(serde_json::from_str(list).map_err(|error| Error::invalid(format!("findings: {error}")))?, draft)
}

/// The findings that are whole already, of a list that is still being written.
pub fn parse_partial(list: &str, draft: &str) -> Vec<Finding> {
    let mut ends: Vec<usize> = list.match_indices('}').map(|(at, _)| at + 1).collect();
    while let Some(end) = ends.pop() {
        // A brace in a string ends nothing that parses.
        if let Ok(said) = serde_json::from_str(&format!("{}]", &list[..end])) {
            return place(said, draft).unwrap_or_default();
        }
    }
    Vec::new()
}

fn place(said: Vec<Said>, text: &str) -> Result<Vec<Finding>> {
    let mut findings: Vec<Finding> = Vec::new();
    let draft = if said.is_empty() { None } else { Some(Draft::new(text)) };
    for (index, said) in said.into_iter().enumerate() {
        let missing = || Error::invalid(format!("findings: the quote of finding {} is not in the draft", index + 1));
        let draft = draft.as_ref().ok_or_else(missing)?;
        let start = occurrence(draft, text, &said.quote, said.occurrence).ok_or_else(missing)?;
        let end = start + said.quote.len();
        if findings.iter().any(|finding| finding.start == start && finding.end == end) {
            continue;
        }
        let replacement = said.replacement.filter(|replacement| *replacement != said.quote);
        let (message, severity) = (said.message.trim().to_owned(), said.severity);
        findings.push(Finding { start, end, quote: said.quote, message, replacement, severity });
    }
    Ok(findings)
}

/// Where the quote of this number begins.
fn occurrence(draft: &Draft, text: &str, quote: &str, number: u32) -> Option<usize> {
    if quote.is_empty() {
        return None;
    }
    let at_words = draft.find(quote).and_then(|span| draft.occurrence(span, number));
    at_words.or_else(|| text.match_indices(quote).nth((number as usize).checked_sub(1)?).map(|(at, _)| at))
}

/// Which findings' replacements are put in place together: of those that overlap, the graver
/// one, or else the one that was said first. In the order of the text.
pub fn applicable(findings: &[Finding]) -> Vec<&Finding> {
    let mut order: Vec<&Finding> = findings.iter().filter(|finding| finding.replacement.is_some()).collect();
    // Stable: equals stay in the order in which they were said.
    order.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut taken: Vec<&Finding> = Vec::new();
    for finding in order {
        if taken.iter().all(|other| finding.end <= other.start || other.end <= finding.start) {
            taken.push(finding);
        }
    }
    taken.sort_by_key(|finding| finding.start);
    taken
}

/// `draft` with the replacements of [`applicable`] findings; nothing outside their quotes
/// changes. `None` where there are none, or a finding is about another draft.
pub fn apply(draft: &str, findings: &[Finding]) -> Option<String> {
    let applicable = applicable(findings);
    if applicable.is_empty() {
        return None;
    }
    let mut text = String::with_capacity(draft.len());
    let mut done = 0;
    for finding in applicable {
        if draft.get(finding.start..finding.end)? != finding.quote {
            return None;
        }
        text.push_str(&draft[done..finding.start]);
        text.push_str(finding.replacement.as_deref()?);
        done = finding.end;
    }
    text.push_str(&draft[done..]);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAFT: &str = "The the cat sat, and the cat slept.";

    fn list(json: &str) -> Vec<Finding> {
        parse(json, DRAFT).unwrap()
    }

    #[test]
    fn occurrences_are_told_apart() {
        let said =
            |number: &str| format!(r#"[{{"quote":"the cat","occurrence":{number},"message":"m","severity":"note"}}]"#);
        assert_eq!(list(&said("1"))[0].start, 4);
        assert_eq!(list(&said("2"))[0].start, 21);
        assert!(parse(&said("3"), DRAFT).is_err());
        assert!(parse(&said("0"), DRAFT).is_err());
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let check = |json: &str| assert!(parse(json, DRAFT).is_err(), "{json}");
        check("");
        check("{}");
        check(r#"[{"quote":"a dog","message":"m","severity":"note"}]"#);
        check(r#"[{"quote":"","message":"m","severity":"note"}]"#);
        check(r#"[{"quote":"cat","message":"m","severity":"fatal"}]"#);
        check(r#"[{"quote":"cat","message":"m","severity":"note","more":1}]"#);
        assert!(list("[]").is_empty());
    }

    #[test]
    fn a_list_in_the_making_has_its_whole_findings() {
        let whole =
            r#"[{"quote":"The the","message":"twice }] of","severity":"error","replacement":"The"},{"quote":"sat","#;
        let count = |len: usize| parse_partial(&whole[..len], DRAFT).len();
        assert_eq!(count(whole.len()), 1);
        assert_eq!(count(40), 0);
        assert_eq!(count(0), 0);
    }

    #[test]
    fn replacements_change_nothing_else() {
        let json = r#"[{"quote":"cat sat","message":"m","severity":"note","replacement":"dog sat"},
            {"quote":"sat, and","message":"m","severity":"error","replacement":"sat; then"},
            {"quote":"The the","message":"m","severity":"warning","replacement":"The"},
            {"quote":"slept","message":"m","severity":"error"},
            {"quote":"The the","message":"again","severity":"error","replacement":"Some"}]"#;
        let findings = list(json);
        assert_eq!(findings.len(), 4, "the second finding about a range is dropped");
        assert_eq!(apply(DRAFT, &findings).unwrap(), "The cat sat; then the cat slept.");
        assert_eq!(apply("Another draft.", &findings), None);
        assert_eq!(apply(DRAFT, &[]), None);
    }
}

//! The data file: JSONL, one draft with its critiques a line, read one line at a time.
//!
//! What is wrong is said with line and field, and ends the reading: training on what happens to
//! be readable would hide it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// Longest line that is read, in bytes: a file that is no JSONL must not fill the memory.
pub const MAX_LINE_BYTES: usize = 64 << 20;
/// Most critiques of one draft: their log-probabilities are held at once.
pub const MAX_CRITIQUES: usize = 1024;

/// A draft and what was said about it: one line of the file, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredDraft {
    /// Its line in the file, from 1.
    pub line: usize,
    /// Its name, unique in the file.
    pub id: String,
    /// Category; empty means `general`.
    pub task: String,
    /// What was asked.
    pub prompt: String,
    /// The draft.
    pub response: String,
    /// At least one.
    pub critiques: Vec<ScoredCritique>,
}

/// A critique and what it is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredCritique {
    /// The text.
    pub text: String,
    /// Critique utility, in \[0, 1\].
    pub cu: f64,
    /// Share of judgements in which the critique itself was preferred, in \[0, 1\]; all
    /// critiques of a draft have it, or none.
    pub preferred: Option<f64>,
}

#[derive(Deserialize)]
struct Line {
    id: String,
    #[serde(default)]
    task: String,
    prompt: String,
    response: String,
    critiques: Vec<CritiqueField>,
}

#[derive(Deserialize)]
struct CritiqueField {
    text: String,
    #[serde(default)]
    cu: Option<f64>,
    #[serde(default)]
    preferred: Option<f64>,
    #[serde(default)]
    refinements: Vec<RefinementField>,
}

#[derive(Deserialize)]
struct RefinementField {
    #[serde(default)]
    preferences: Vec<f64>,
}

/// A fault within a line: field and reason.
type Fault = (String, String);
type Checked<T> = std::result::Result<T, Fault>;

/// The drafts of a data file, in its order. Ends after the first error.
pub struct DataFile<R = BufReader<File>> {
    path: PathBuf,
    input: R,
    /// Lines read so far.
    line: usize,
    ids: HashSet<String>,
    ended: bool,
}

impl DataFile {
    /// Opens the data file at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::new(path, BufReader::new(File::open(path).map_err(Error::io(path))?)))
    }
}

impl<R: BufRead> DataFile<R> {
    /// Reads `input`; errors call it `path`.
    pub fn new(path: &Path, input: R) -> Self {
        Self { path: path.to_owned(), input, line: 0, ids: HashSet::new(), ended: false }
    }

    fn fault(&self, (field, why): Fault) -> Error {
        Error::Data { file: self.path.clone(), line: self.line.max(1), field, why }
    }

    /// The next line's bytes; none at the end.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let count = self.input.by_ref().take(limit).read_until(b'\n', &mut bytes).map_err(Error::io(&self.path))?;
        if count == 0 {
            return Ok(None);
        }
        self.line += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        } else if bytes.len() > MAX_LINE_BYTES {
            let why = format!("longer than {MAX_LINE_BYTES} bytes: a line holds one draft and its critiques");
            return Err(self.fault(("line".into(), why)));
        }
        Ok(Some(bytes))
    }

    fn next_draft(&mut self) -> Result<Option<ScoredDraft>> {
        loop {
            let Some(bytes) = self.next_line()? else {
                let why = "no drafts in the file, expected one a line";
                return if self.ids.is_empty() { Err(self.fault(("file".into(), why.into()))) } else { Ok(None) };
            };
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let draft = parse(&bytes, self.line).map_err(|fault| self.fault(fault))?;
            if !self.ids.insert(draft.id.clone()) {
                let why = format!("{:?} is the id of an earlier line, too", draft.id);
                return Err(self.fault(("id".into(), why)));
            }
            return Ok(Some(draft));
        }
    }
}

impl<R: BufRead> Iterator for DataFile<R> {
    type Item = Result<ScoredDraft>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_draft().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

fn parse(bytes: &[u8], line: usize) -> Checked<ScoredDraft> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ("line".to_owned(), format!("not UTF-8 from byte {} on", error.valid_up_to())))?;
    // serde would take a list of the fields, too.
    if !text.trim_start().starts_with('{') {
        return Err(("line".into(), "expected a JSON object".into()));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed: Line = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        (if field == "." { "line".to_owned() } else { field }, reason(error.inner()))
    })?;
    json.end().map_err(|error| ("line".to_owned(), reason(&error)))?;
    let Line { id, task, prompt, response, critiques } = parsed;
    if id.is_empty() {
        return Err(("id".into(), "empty, expected a name that is unique in the file".into()));
    }
    if critiques.is_empty() || critiques.len() > MAX_CRITIQUES {
        return Err(("critiques".into(), format!("{} of them, expected 1 to {MAX_CRITIQUES}", critiques.len())));
    }
    let judged = critiques.iter().filter(|critique| critique.preferred.is_some()).count();
    let all = judged == critiques.len();
    let critiques = critiques.into_iter().enumerate().map(|(at, critique)| {
        let field = format!("critiques[{at}]");
        if judged > 0 && !all && critique.preferred.is_none() {
            return Err((format!("{field}.preferred"), "missing, but other critiques of the draft have it".into()));
        }
        check(critique, &field)
    });
    Ok(ScoredDraft { line, id, task, prompt, response, critiques: critiques.collect::<Checked<_>>()? })
}

fn check(critique: CritiqueField, field: &str) -> Checked<ScoredCritique> {
    let CritiqueField { text, cu, preferred, refinements } = critique;
    let cu = match cu {
        Some(cu) => share(cu, format!("{field}.cu"))?,
        None => utility(&refinements, field)?,
    };
    let preferred = preferred.map(|value| share(value, format!("{field}.preferred"))).transpose()?;
    Ok(ScoredCritique { text, cu, preferred })
}

/// CU as the mean over refinements of the mean of their preferences: 1 where the refinement was
/// preferred to the draft, ½ for a tie, 0 where the draft was. Two judgements that contradict
/// each other thus make a tie.
fn utility(refinements: &[RefinementField], field: &str) -> Checked<f64> {
    if refinements.is_empty() {
        return Err((format!("{field}.cu"), "missing, and there are no refinements to compute it from".into()));
    }
    let mut sum = 0.0;
    for (at, RefinementField { preferences }) in refinements.iter().enumerate() {
        let field = format!("{field}.refinements[{at}].preferences");
        if preferences.is_empty() {
            return Err((field, "missing or empty, and the critique has no cu".into()));
        }
        let values = preferences.iter().enumerate().map(|(at, &value)| share(value, format!("{field}[{at}]")));
        sum += values.sum::<Checked<f64>>()? / preferences.len() as f64;
    }
    Ok(sum / refinements.len() as f64)
}

fn share(value: f64, field: String) -> Checked<f64> {
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err((field, format!("{value}, expected 0 to 1"))) }
}

/// serde's words, with the column and without its line, which counts from where it began.
fn reason(error: &serde_json::Error) -> String {
    /// Wrong values are quoted, and may be as long as the line.
    const LONGEST: usize = 200;
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    let shown: String = what.chars().take(LONGEST).collect();
    let dots = if shown.len() < what.len() { "…" } else { "" };
    format!("{shown}{dots} (column {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Vec<ScoredDraft>> {
        DataFile::new(Path::new("data.jsonl"), text.as_ref()).collect()
    }

    fn refused(text: impl AsRef<[u8]>, line: usize, field: &str, part: &str) {
        match read(text) {
            Err(Error::Data { file, line: at, field: name, why }) => {
                assert_eq!((file.to_str(), at, name.as_str()), (Some("data.jsonl"), line, field), "{why}");
                assert!(why.contains(part), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }

    const GOOD: &str =
        r#"{"id": "a", "task": "math", "prompt": "1+1", "response": "3", "critiques": [{"text": "no", "cu": 1}]}"#;

    fn with_critiques(critiques: &str) -> String {
        format!(r#"{{"id": "b", "prompt": "p", "response": "r", "critiques": {critiques}}}"#)
    }

    #[test]
    fn lines_become_drafts() {
        let text =
            format!("{GOOD}\r\n\n{}", with_critiques(r#"[{"text": "x", "cu": 0.25, "preferred": 0.5, "note": 1}]"#));
        let drafts = read(text).unwrap();
        assert_eq!(drafts.len(), 2);
        assert_eq!((drafts[0].line, drafts[0].task.as_str(), drafts[0].critiques[0].cu), (1, "math", 1.0));
        assert_eq!((drafts[1].line, drafts[1].task.as_str(), drafts[1].critiques[0].preferred), (3, "", Some(0.5)));
    }

    #[test]
    fn utility_is_the_mean_of_preferences() {
        let refinements =
            r#"[{"text": "x", "refinements": [{"text": "y", "preferences": [1, 0]}, {"preferences": [1]}]}]"#;
        assert_eq!(read(with_critiques(refinements)).unwrap()[0].critiques[0].cu, 0.75);
    }

    #[test]
    fn faults_are_named_by_line_and_field() {
        let second = |critiques: &str| format!("{GOOD}\n{}\n", with_critiques(critiques));
        refused(second(r#"[{"text": "x"}]"#), 2, "critiques[0].cu", "missing");
        refused(second(r#"[{"text": "x", "cu": 0.5}, {"text": "y", "cu": 1.5}]"#), 2, "critiques[1].cu", "1.5");
        refused(second(r#"[{"text": "x", "cu": -0.1}]"#), 2, "critiques[0].cu", "expected 0 to 1");
        refused(second(r#"[{"text": "x", "cu": "high"}]"#), 2, "critiques[0].cu", "string");
        refused(second(r#"[{"text": "x", "cu": 1e999}]"#), 2, "critiques[0].cu", "out of range");
        refused(second(r#"[{"cu": 0.5}]"#), 2, "critiques[0]", "missing field `text`");
        refused(second("[]"), 2, "critiques", "0 of them");
        refused(
            second(r#"[{"text": "x", "refinements": [{"text": "y"}]}]"#),
            2,
            "critiques[0].refinements[0].preferences",
            "missing",
        );
        let out_of_range = r#"[{"text": "x", "refinements": [{"preferences": [1, 2]}]}]"#;
        refused(second(out_of_range), 2, "critiques[0].refinements[0].preferences[1]", "2");
        let half_judged = r#"[{"text": "x", "cu": 1, "preferred": 1}, {"text": "y", "cu": 0}]"#;
        refused(second(half_judged), 2, "critiques[1].preferred", "missing");
        refused(format!("{GOOD}\n{GOOD}"), 2, "id", "\"a\"");
        refused(GOOD.replace("\"a\"", "\"\""), 1, "id", "empty");
        refused(format!("{GOOD} {GOOD}"), 1, "line", "trailing");
        refused(&GOOD[..40], 1, "prompt", "EOF");
        refused("[1]", 1, "line", "expected a JSON object");
        refused("{} x", 1, "line", "missing field `id`");
        refused("", 1, "file", "no drafts");
        refused("\n \n", 2, "file", "no drafts");
        refused(b"{\"id\": \"\xff\"}", 1, "line", "not UTF-8 from byte 8");
    }

    #[test]
    fn long_values_are_not_quoted_whole() {
        let text = with_critiques(&format!(r#"[{{"text": "x", "cu": "{}"}}]"#, "z".repeat(10_000)));
        let Err(error) = read(text) else { panic!() };
        assert!(error.to_string().len() < 400, "{error}");
    }

    /// Reads nothing but spaces, as many as asked for.
    struct Endless(usize);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = buffer.len().min(self.0);
            buffer[..count].fill(b' ');
            self.0 -= count;
            Ok(count)
        }
    }

    #[test]
    fn a_line_beyond_the_limit_is_refused_before_it_is_held() {
        let input = BufReader::new(Endless(100_000_000));
        let mut file = DataFile::new(Path::new("data.jsonl"), input);
        let error = file.next().unwrap().unwrap_err();
        assert!(error.to_string().contains("longer than 67108864 bytes"), "{error}");
        assert!(file.next().is_none(), "nothing is read behind an error");
    }

    #[test]
    fn nested_lists_do_not_overflow_the_stack() {
        refused("[".repeat(1 << 20), 1, "line", "");
        assert!(read(format!(r#"{{"id": "a", "note": {}"#, "[".repeat(1 << 20))).is_err());
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            _ = read(bytes);
        }

        #[test]
        fn damage_never_panics(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let mut bytes = GOOD.as_bytes().to_vec();
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(drafts) = read(bytes) {
                prop_assert!(drafts.iter().all(|d| d.critiques.iter().all(|c| (0.0..=1.0).contains(&c.cu))));
            }
        }
    }
}

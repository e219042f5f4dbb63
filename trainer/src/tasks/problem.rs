//! A problem: what is asked, and how an answer to it is checked.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Task;
use super::constraint::Constraint;
use crate::error::{Error, Result};
use crate::files;

/// One line of a problem file. Only `prompt` is required of an imported one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// Name, unique in the file; an imported problem without one is called after its line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Category: the name of a [`Task`], or another that the prompts know and no verifier does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub task: String,
    /// What is asked.
    pub prompt: String,
    /// The right answer, or a good one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Python statements, each of which fails by raising; for code.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<String>,
    /// What an answer has to be like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// From 1; 0 where nobody said.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub difficulty: u32,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Longest line of a problem file, in bytes.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Reads the problems at `path`. `task` is that of lines which name none.
pub fn read_problems(path: &Path, task: &str) -> Result<Vec<Problem>> {
    let mut input = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let mut problems: Vec<Problem> = Vec::new();
    let mut ids = HashSet::new();
    for number in 1.. {
        let mut bytes = Vec::new();
        let count = input.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes).map_err(Error::io(path))?;
        if count == 0 {
            break;
        }
        let fault = |field: &str, why: String| Error::Data {
            file: path.to_owned(),
            line: number,
            field: field.to_owned(),
            why,
        };
        if count as u64 > MAX_LINE_BYTES {
            return Err(fault("line", format!("longer than {MAX_LINE_BYTES} bytes: a line holds one problem")));
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(fault("line", "expected a JSON object".into()));
        }
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let parsed: std::result::Result<Problem, _> = serde_path_to_error::deserialize(&mut json);
        let mut problem = parsed.map_err(|error| {
            let field = error.path().to_string();
            fault(if field == "." { "line" } else { &field }, reason(error.inner()))
        })?;
        json.end().map_err(|error| fault("line", reason(&error)))?;
        if problem.prompt.trim().is_empty() {
            return Err(fault("prompt", "empty, expected what is asked".into()));
        }
        if problem.id.is_empty() {
            problem.id = format!("line-{number:06}");
        }
        if problem.task.is_empty() {
            task.clone_into(&mut problem.task);
        }
        if Task::parse(&problem.task) == Some(Task::Code) && problem.tests.iter().any(|test| test.trim().is_empty()) {
            return Err(fault("tests", "an empty one, expected a Python statement".into()));
        }
        for (at, constraint) in problem.constraints.iter().enumerate() {
            constraint.validate().map_err(|why| fault(&format!("constraints[{at}]"), why))?;
        }
        if !ids.insert(problem.id.clone()) {
            return Err(fault("id", format!("{:?} is the id of an earlier line, too", problem.id)));
        }
        problems.push(problem);
    }
    if problems.is_empty() {
        let why = "no problems in the file, expected one a line".into();
        return Err(Error::Data { file: path.to_owned(), line: 1, field: "file".into(), why });
    }
    Ok(problems)
}

/// Writes what [`read_problems`] reads.
pub fn write_problems(path: &Path, problems: &[Problem]) -> Result<()> {
    files::write_lines(path, problems)
}

/// serde's words without its line, which counts from where it began.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    let shown: String = what.chars().take(200).collect();
    format!("{shown} (column {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Problem>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("problems.jsonl");
        std::fs::write(&path, text).unwrap();
        read_problems(&path, "qa")
    }

    #[test]
    fn a_prompt_is_enough() {
        let found =
            read("{\"prompt\": \"Who?\"}\n\n{\"prompt\": \"1+1\", \"task\": \"math\", \"reference\": \"2\"}").unwrap();
        assert_eq!((found[0].id.as_str(), found[0].task.as_str()), ("line-000001", "qa"));
        assert_eq!((found[1].id.as_str(), found[1].reference.as_deref()), ("line-000003", Some("2")));
    }

    #[test]
    fn faults_are_named_by_line_and_field() {
        let refused = |text: &str, line: &str, part: &str| {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(line) && message.contains(part), "{message}");
        };
        refused("{\"prompt\": \"a\"}\n{\"prompt\": 7}", "line 2, prompt:", "expected a string");
        refused("{\"task\": \"qa\"}", "line 1", "missing field `prompt`");
        refused("{\"prompt\": \" \"}", "line 1, prompt:", "empty");
        refused("{\"prompt\": \"a\", \"tests\": [1]}", "line 1, tests[0]:", "expected a string");
        refused("{\"prompt\": \"a\", \"constraints\": [{\"kind\": \"rhymes\"}]}", "constraints[0]", "rhymes");
        refused(
            "{\"prompt\": \"a\", \"id\": \"x\"}\n{\"prompt\": \"b\", \"id\": \"x\"}",
            "line 2, id:",
            "earlier line",
        );
        refused("[1]", "line 1, line:", "expected a JSON object");
        refused("", "line 1, file:", "no problems");
        refused("{\"prompt\": \"a\"", "line 1", "EOF");
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        let problems: Vec<Problem> = Task::ALL
            .into_iter()
            .flat_map(|task| (0..3).map(move |i| task.generate(1, i, super::super::Part::Train)))
            .collect();
        write_problems(&path, &problems).unwrap();
        assert_eq!(read_problems(&path, "").unwrap(), problems);
    }
}

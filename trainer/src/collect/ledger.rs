//! What is done, on disk: every text that was written, one line each, synced before it counts.
//!
//! `ledger.jsonl` only grows. A line that a crash cut off is no line, and is removed when the ledger is
//! opened. The same item may occur again where a failure was tried anew: the last one counts.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::author::Answer;
use super::author::Written;
use crate::error::{Error, Result};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Id of the problem.
    pub problem: String,
    /// Which text of it: `draft`, `critique/2`, `refinement/2/1`, `judgement/2/1/swapped/0`.
    pub item: String,
    /// The text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Tokens of the text.
    #[serde(default)]
    pub tokens: usize,
    /// Whether it came to its end.
    #[serde(default)]
    pub complete: bool,
}

impl Entry {
    /// A line for `answer`.
    pub fn new(problem: &str, item: &str, answer: Answer) -> Self {
        let (problem, item) = (problem.to_owned(), item.to_owned());
        match answer {
            Ok(Written { text, tokens, complete }) => {
                Self { problem, item, text: Some(text), failure: None, tokens, complete }
            }
            Err(failure) => Self { problem, item, text: None, failure: Some(failure), tokens: 0, complete: false },
        }
    }

    /// What it says.
    pub fn answer(&self) -> Answer {
        match (&self.text, &self.failure) {
            (Some(text), _) => Ok(Written { text: text.clone(), tokens: self.tokens, complete: self.complete }),
            (None, failure) => Err(failure.clone().unwrap_or_default()),
        }
    }
}

/// The open file, and all its lines by problem and item.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    len: u64,
    entries: HashMap<String, HashMap<String, Entry>>,
}

impl Ledger {
    /// Opens or makes the ledger at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let (mut len, mut entries) = (0, HashMap::new());
        if path.exists() {
            let mut input = BufReader::new(File::open(path).map_err(Error::io(path))?);
            let mut line = Vec::new();
            for number in 1.. {
                line.clear();
                let count = input.read_until(b'\n', &mut line).map_err(Error::io(path))?;
                if line.last() != Some(&b'\n') {
                    break;
                }
                let entry: Entry = serde_json::from_slice(&line).map_err(|error| Error::Data {
                    file: path.to_owned(),
                    line: number,
                    field: "line".into(),
                    why: format!("{error}; a ledger is written by this program alone"),
                })?;
                insert(&mut entries, entry);
                len += count as u64;
            }
        }
        let file = File::options().create(true).append(true).open(path).map_err(Error::io(path))?;
        if file.metadata().map_err(Error::io(path))?.len() != len {
            file.set_len(len).map_err(Error::io(path))?;
        }
        if let Some(folder) = path.parent().filter(|_| cfg!(unix)) {
            // The file's name has to last, too.
            fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder))?;
        }
        Ok(Self { path: path.to_owned(), file, len, entries })
    }

    /// Adds lines and waits until they are on the disk. On failure the file is as it was.
    pub fn append(&mut self, new: Vec<Entry>) -> Result<()> {
        let mut bytes = Vec::new();
        for entry in &new {
            serde_json::to_writer(&mut bytes, entry).expect("an entry is JSON");
            bytes.push(b'\n');
        }
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Making a file shorter needs no room.
            _ = self.file.set_len(self.len);
            _ = self.file.seek(SeekFrom::End(0));
            return Err(Error::io(&self.path)(error));
        }
        self.len += bytes.len() as u64;
        new.into_iter().for_each(|entry| insert(&mut self.entries, entry));
        Ok(())
    }

    /// What was written for an item of a problem.
    pub fn get(&self, problem: &str, item: &str) -> Option<&Entry> {
        self.entries.get(problem)?.get(item)
    }

    /// Items that have a text, and items that failed.
    pub fn counts(&self) -> (usize, usize) {
        let all = || self.entries.values().flat_map(HashMap::values);
        let failed = all().filter(|entry| entry.text.is_none()).count();
        (all().count() - failed, failed)
    }

    /// Tokens of all texts.
    pub fn tokens(&self) -> u64 {
        self.entries.values().flat_map(HashMap::values).map(|entry| entry.tokens as u64).sum()
    }

    /// Failures and how often each occurred, the most frequent first.
    pub fn failures(&self) -> Vec<(String, usize)> {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let failures = self.entries.values().flat_map(HashMap::values).filter_map(|entry| entry.failure.as_deref());
        failures.for_each(|failure| *counts.entry(failure).or_default() += 1);
        let mut counts: Vec<_> = counts.into_iter().map(|(failure, count)| (failure.to_owned(), count)).collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        counts
    }
}

fn insert(entries: &mut HashMap<String, HashMap<String, Entry>>, entry: Entry) {
    entries.entry(entry.problem.clone()).or_default().insert(entry.item.clone(), entry);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn entry(item: &str, text: &str) -> Entry {
        Entry::new("p", item, Ok(Written { text: text.into(), tokens: 2, complete: true }))
    }

    #[test]
    fn lines_are_kept_and_torn_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.append(vec![entry("draft", "a"), entry("critique/0", "b\nc")]).unwrap();
        ledger.append(vec![Entry::new("p", "critique/1", Err("no answer".into()))]).unwrap();
        drop(ledger);
        let whole = fs::read(&path).unwrap();
        // Whatever the byte at which the machine went down.
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut ledger = Ledger::open(&path).unwrap();
            let lines = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
            let (done, failed) = ledger.counts();
            assert_eq!(done + failed, lines);
            ledger.append(vec![entry("again", "d")]).unwrap();
            drop(ledger);
            let ledger = Ledger::open(&path).unwrap();
            assert_eq!(ledger.get("p", "again").unwrap().text.as_deref(), Some("d"));
            assert_eq!(ledger.get("p", "critique/0").is_some(), lines >= 2);
        }
    }

    #[test]
    fn the_last_of_an_item_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.append(vec![Entry::new("p", "draft", Err("busy".into())), entry("critique/0", "x")]).unwrap();
        assert_eq!((ledger.counts(), ledger.failures()), ((1, 1), vec![("busy".to_owned(), 1)]));
        ledger.append(vec![entry("draft", "a")]).unwrap();
        assert_eq!((ledger.counts(), ledger.tokens()), ((2, 0), 4));
        assert_eq!(Ledger::open(&path).unwrap().counts(), (2, 0));
    }

    #[test]
    fn a_damaged_ledger_is_not_guessed_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        fs::write(&path, "{\"problem\": \"p\"}\n").unwrap();
        let message = Ledger::open(&path).unwrap_err().to_string();
        assert!(message.contains("ledger.jsonl, line 1") && message.contains("missing field `item`"), "{message}");
    }

    /// Appends until the file system below `folder` is full.
    pub(crate) fn ledger_on_a_full_disk(folder: &Path) {
        let path = folder.join("ledger.jsonl");
        let mut ledger = Ledger::open(&path).unwrap();
        let mut written = 0;
        let error = loop {
            match ledger.append(vec![entry(&format!("critique/{written}"), &"x".repeat(100))]) {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
            assert!(written < 100_000, "the disk is never full");
        };
        assert!(error.to_string().contains("make room and resume the run"), "{error}");
        assert_eq!(ledger.counts().0, written);
        drop(ledger);
        assert_eq!(Ledger::open(&path).unwrap().counts().0, written);
        fs::remove_file(&path).unwrap();
    }
}

//! Text from arguments, files and standard input: UTF-8, or an error that says where not.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Largest text that is read: more than any context holds.
const MAX_BYTES: u64 = 256 << 20;

/// A text given as `--X TEXT` or as `--X-file FILE`.
pub struct Source<'a> {
    /// The flag without its dashes.
    pub flag: &'static str,
    /// Value of `--X`; `-` is standard input.
    pub text: &'a Option<OsString>,
    /// Value of `--X-file`; `-` is standard input.
    pub file: &'a Option<PathBuf>,
}

impl Source<'_> {
    fn is_stdin(&self) -> bool {
        self.text.as_ref().is_some_and(|text| text == "-")
            || self.file.as_ref().is_some_and(|file| file == Path::new("-"))
    }

    /// The text, if there is one.
    fn read(&self) -> Result<Option<String>, Failure> {
        let flag = self.flag;
        if self.is_stdin() {
            return bytes(io::stdin().lock(), Path::new("standard input"))
                .and_then(|b| utf8(b, "standard input"))
                .map(Some);
        }
        if let Some(path) = self.file {
            let file = File::open(path).map_err(|error| Failure::file(path, error))?;
            return utf8(bytes(file, path)?, &path.display().to_string()).map(Some);
        }
        self.text.as_ref().map(|text| utf8(text.as_encoded_bytes().to_vec(), &format!("--{flag}"))).transpose()
    }
}

/// Reads all of `sources`; standard input can be only one of them.
pub fn read_all<const N: usize>(sources: [Source; N]) -> Result<[Option<String>; N], Failure> {
    let from_stdin: Vec<_> = sources.iter().filter(|source| source.is_stdin()).map(|source| source.flag).collect();
    if from_stdin.len() > 1 {
        return Err(Failure::Usage(format!(
            "--{} cannot both be standard input: give one of them as a file",
            from_stdin.join(" and --")
        )));
    }
    let mut texts = [const { None }; N];
    for (text, source) in texts.iter_mut().zip(sources) {
        *text = source.read()?;
    }
    Ok(texts)
}

/// A text that has to be there.
pub fn required(text: Option<String>, flag: &str) -> Result<String, Failure> {
    text.ok_or_else(|| Failure::Usage(format!("--{flag} is missing: give --{flag} TEXT or --{flag}-file FILE")))
}

/// A whole text file.
pub fn read_file(path: &Path) -> Result<String, Failure> {
    let file = if path == Path::new("-") { None } else { Some(path.to_owned()) };
    let stdin = file.is_none().then(|| OsString::from("-"));
    let source = Source { flag: "file", text: &stdin, file: &file };
    Ok(source.read()?.unwrap_or_default())
}

fn bytes(from: impl Read, path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| Failure::file(path, error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure::file(path, format!("longer than the {MAX_BYTES} bytes that are read")));
    }
    Ok(bytes)
}

fn utf8(bytes: Vec<u8>, place: &str) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::Failed(format!("{place}: not UTF-8 at byte {at}\nconvert the text to UTF-8 first"))
    })
}

//! `.critic.toml`: what a project asks of its texts.
//!
//! It comes with the project, from whoever wrote that: it can change what a critic is told, and
//! nothing else, no path, no model, no command.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::language::Language;

/// Largest file that is read.
const MAX_BYTES: u64 = 64 << 10;
/// Name of the file.
pub const FILE: &str = ".critic.toml";

/// A project's instructions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// For all languages that have none of their own.
    instruction: Option<String>,
    /// By the identifier that editors use.
    #[serde(default)]
    languages: BTreeMap<String, Own>,
}

/// What holds for one language.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    instruction: Option<String>,
    /// Category of the critic's prompts.
    task: Option<String>,
}

impl Project {
    /// Reads the nearest file in `folder` or above it; the default where there is none.
    pub fn find(folder: &Path) -> Result<Self, String> {
        match folder.ancestors().map(|folder| folder.join(FILE)).find(|file| file.is_file()) {
            Some(file) => Self::read(&file),
            None => Ok(Self::default()),
        }
    }

    fn read(file: &PathBuf) -> Result<Self, String> {
        let named = |why: String| format!("{}: {why}", file.display());
        let length = fs::metadata(file).map_err(|error| named(error.to_string()))?.len();
        if length > MAX_BYTES {
            return Err(named(format!("{length} bytes, expected at most {MAX_BYTES}")));
        }
        let text = fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
            named(format!("line {line}: {}", error.message()))
        })
    }

    /// What is asked of a text in `language`.
    pub fn instruction(&self, language: &Language) -> String {
        let own = self.languages.get(language.id).and_then(|own| own.instruction.as_ref());
        own.or(self.instruction.as_ref()).cloned().unwrap_or_else(|| language.instruction())
    }

    /// The category of a text in `language`.
    pub fn task(&self, language: &Language) -> String {
        let own = self.languages.get(language.id).and_then(|own| own.task.clone());
        own.unwrap_or_else(|| language.task().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let rust = Language::of_id("rust");
        assert_eq!(Project::find(&inner).unwrap().task(rust), "code");
        fs::write(folder.path().join(FILE), "instruction = \"be brief\"\n[languages.rust]\ntask = \"math\"\n").unwrap();
        let project = Project::find(&inner).unwrap();
        assert_eq!((project.instruction(rust).as_str(), project.task(rust).as_str()), ("be brief", "math"));
        fs::write(folder.path().join("a").join(FILE), "[languages.rust]\ninstruction = \"no panics\"\n").unwrap();
        assert_eq!(Project::find(&inner).unwrap().instruction(rust), "no panics");
    }

    #[test]
    fn mistakes_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let check = |text: &str, expected: &str| {
            fs::write(folder.path().join(FILE), text).unwrap();
            let error = Project::find(folder.path()).unwrap_err();
            assert!(error.contains(expected) && error.contains(FILE), "{error}");
        };
        check("model = \"/etc/passwd\"", "unknown field `model`");
        check("instruction = 1", "invalid type");
        check(&"#".repeat(100_000), "100000 bytes, expected at most 65536");
    }
}

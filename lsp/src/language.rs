//! Which languages are known: by file name and by the identifier that editors use.

use std::path::Path;

/// A language of programs or of people.
#[derive(Debug, PartialEq, Eq)]
pub struct Language {
    /// What editors call it.
    pub id: &'static str,
    /// What people call it.
    pub name: &'static str,
    /// Endings of file names, without the dot.
    endings: &'static [&'static str],
    /// Whether it is read by people alone.
    pub prose: bool,
}

const fn code(id: &'static str, name: &'static str, endings: &'static [&'static str]) -> Language {
    Language { id, name, endings, prose: false }
}

const fn prose(id: &'static str, name: &'static str, endings: &'static [&'static str]) -> Language {
    Language { id, name, endings, prose: true }
}

/// Text of which nothing is known.
pub static PLAIN: Language = prose("plaintext", "text", &["txt", "text"]);

static LANGUAGES: [Language; 30] = [
    code("c", "C", &["c", "h"]),
    code("cpp", "C++", &["cpp", "cc", "cxx", "hpp", "hh", "hxx"]),
    code("csharp", "C#", &["cs"]),
    code("css", "CSS", &["css"]),
    code("dart", "Dart", &["dart"]),
    code("elisp", "Emacs Lisp", &["el"]),
    code("go", "Go", &["go"]),
    code("haskell", "Haskell", &["hs"]),
    code("html", "HTML", &["html", "htm"]),
    code("java", "Java", &["java"]),
    code("javascript", "JavaScript", &["js", "mjs", "cjs", "jsx"]),
    code("json", "JSON", &["json"]),
    code("kotlin", "Kotlin", &["kt", "kts"]),
    code("lua", "Lua", &["lua"]),
    code("perl", "Perl", &["pl", "pm"]),
    code("php", "PHP", &["php"]),
    code("python", "Python", &["py", "pyi"]),
    code("ruby", "Ruby", &["rb"]),
    code("rust", "Rust", &["rs"]),
    code("scala", "Scala", &["scala"]),
    code("shellscript", "shell", &["sh", "bash", "zsh"]),
    code("sql", "SQL", &["sql"]),
    code("swift", "Swift", &["swift"]),
    code("toml", "TOML", &["toml"]),
    code("typescript", "TypeScript", &["ts", "tsx", "mts"]),
    code("yaml", "YAML", &["yaml", "yml"]),
    code("zig", "Zig", &["zig"]),
    prose("markdown", "Markdown", &["md", "markdown"]),
    prose("latex", "LaTeX", &["tex"]),
    prose("gitcommit", "commit message", &[]),
];

impl Language {
    /// The language that an editor calls `id`.
    pub fn of_id(id: &str) -> &'static Language {
        let alias = match id {
            "sh" => "shellscript",
            "javascriptreact" => "javascript",
            "typescriptreact" => "typescript",
            "emacs-lisp" => "elisp",
            "tex" => "latex",
            other => other,
        };
        LANGUAGES.iter().find(|language| language.id == alias).unwrap_or(&PLAIN)
    }

    /// The language of a file, by its name.
    pub fn of_path(path: &Path) -> &'static Language {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
        LANGUAGES.iter().find(|language| language.endings.contains(&ending.as_str())).unwrap_or(&PLAIN)
    }

    /// What is asked of whoever writes a part of a file, where a project says nothing else.
    pub fn instruction(&self) -> String {
        match self.prose {
            true => "Write a text that is clear and correct: no mistakes in spelling, grammar or facts.".to_owned(),
            false => format!("Write {} code that is correct, safe and easy to read.", self.name),
        }
    }

    /// The category of a critic's prompts.
    pub fn task(&self) -> &'static str {
        if self.prose { "general" } else { "code" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_found() {
        assert_eq!(Language::of_path("src/Main.RS".as_ref()).id, "rust");
        assert_eq!(Language::of_path("README".as_ref()).id, "plaintext");
        assert_eq!(Language::of_id("typescriptreact").name, "TypeScript");
        assert_eq!(Language::of_id("klingon").id, "plaintext");
    }
}

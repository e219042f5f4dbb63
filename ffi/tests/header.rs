//! `include/critic.h` is what cbindgen makes of `src/`.
//!
//! To write it anew after a change: `CRITIC_WRITE_HEADER=1 cargo test -p critic-ffi --test header`.
//!
//! cbindgen puts all types before all functions. A header that is read from top to bottom
//! wants each type beside the functions that use it: so each module of `src/` goes through
//! cbindgen by itself, and becomes a section. `src/preamble.h` stands before them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules in the header's order, with the names of their sections.
const SECTIONS: [(&str, &str); 9] = [
    ("version", "Version"),
    ("status", "Status"),
    ("text", "Text"),
    ("result", "Results"),
    ("model", "Models"),
    ("session", "Sessions"),
    ("event", "Events"),
    ("request", "Requests"),
    ("run", "Work"),
];

/// C that no Rust stands for, after the section's types.
const TEXT_OF: &str = "\
/* A string that ends in NUL, as a text. NULL is the empty text. */
CRITIC_INLINE critic_text critic_text_of(const char *string) {
  critic_text text;
  text.data = string;
  text.len = string == NULL ? 0 : strlen(string);
  return text;
}
";

#[test]
fn header_is_up_to_date() {
    let path = root().join("include/critic.h");
    let header = header();
    if std::env::var_os("CRITIC_WRITE_HEADER").is_some() {
        fs::write(&path, &header).expect("the header is written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == header,
        "include/critic.h is not what ffi/src makes it: CRITIC_WRITE_HEADER=1 cargo test -p critic-ffi --test header"
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn header() -> String {
    let mut out = fs::read_to_string(root().join("ffi/src/preamble.h")).expect("the preamble");
    for (module, title) in SECTIONS {
        let section = section(module);
        let rule = "-".repeat(74 - title.len());
        _ = write!(out, "\n/* ---- {title} {rule} */\n\n{}", section.trim_start());
        if module == "text" {
            _ = write!(out, "\n{TEXT_OF}");
        }
        for name in sized_structs(&section) {
            _ = write!(
                out,
                "\n/* All zero, with its size. */\nCRITIC_INLINE {name} {name}_default(void) {{\n  {name} value;\n  \
                 memset(&value, 0, sizeof value);\n  value.struct_size = sizeof value;\n  return value;\n}}\n"
            );
        }
    }
    out + "\n#ifdef __cplusplus\n}\n#endif\n\n#endif /* CRITIC_H */\n"
}

fn section(module: &str) -> String {
    let crate_dir = root().join("ffi");
    let mut config = cbindgen::Config::from_file(crate_dir.join("cbindgen.toml")).expect("cbindgen.toml");
    let source = crate_dir.join(format!("src/{module}.rs"));
    // cbindgen leaves out what no function of the same module uses.
    config.export.include = types(&fs::read_to_string(&source).expect("a module"));
    let bindings = cbindgen::Builder::new().with_config(config).with_src(source).generate().expect("C bindings");
    let mut bytes = Vec::new();
    bindings.write(&mut bytes);
    let text = String::from_utf8(bytes).expect("UTF-8");
    tidy(&text)
}

/// Names of a module's public types.
fn types(source: &str) -> Vec<String> {
    let public = source.lines().filter_map(|line| {
        ["pub struct ", "pub enum ", "pub type "].iter().find_map(|prefix| line.strip_prefix(prefix))
    });
    public.map(|rest| rest.chars().take_while(|&c| c == '_' || c.is_ascii_alphanumeric()).collect()).collect()
}

/// As somebody would have written it: comments of one line on one line, and enumerations as
/// constants beside a type of known size, in C and C++ of any version.
fn tidy(text: &str) -> String {
    const IF: &str = "#if __STDC_VERSION__ >= 202311L";
    const END: &str = "#endif // __STDC_VERSION__ >= 202311L";
    let lines: Vec<&str> = text.lines().collect();
    let mut out: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(&line) = lines.get(at) {
        let indent = &line[..line.len() - line.trim_start().len()];
        let one_line = lines.get(at + 2).is_some_and(|line| line.trim() == "*/");
        if line.trim() == "/**" && one_line {
            let words = lines[at + 1].trim().trim_start_matches('*').trim();
            out.push(format!("{indent}/* {words} */"));
            at += 3;
        } else if line.starts_with("enum ") && lines[at + 1] == IF {
            let name = line.trim_start_matches("enum ").trim();
            let integer = lines[at + 2].trim().trim_start_matches(':').trim();
            assert!(lines[at + 3] == END && lines[at + 4].trim() == "{", "cbindgen's form of enums changed");
            out.push(format!("typedef {integer} {name};\nenum {{"));
            at += 5;
        } else if line.starts_with("CRITIC_API") || line.starts_with("typedef ") && line.contains("(*") {
            let end = at + lines[at..].iter().position(|line| line.ends_with(';')).expect("a function's end");
            let words: Vec<&str> = lines[at..=end].iter().flat_map(|line| line.split_whitespace()).collect();
            // C++ and our typedefs need no tags.
            out.push(wrapped(&words.join(" ").replace("struct critic_", "critic_")));
            at = end + 1;
        } else if line == IF {
            at += lines[at..].iter().position(|line| *line == END).expect("cbindgen's form of enums changed") + 1;
        } else {
            // No tool reads these comments: C's own form will do.
            let squeezed = line.is_empty() && out.last().is_none_or(String::is_empty);
            if !squeezed {
                out.push(line.replacen("/**", "/*", 1));
            }
            at += 1;
        }
    }
    out.join("\n").trim_end().to_owned() + "\n"
}

/// A declaration in lines of at most 96 characters.
fn wrapped(declaration: &str) -> String {
    let mut lines = vec![String::new()];
    for part in declaration.split_inclusive(", ") {
        let line = lines.last_mut().expect("there is one");
        if line.len() + part.trim_end().len() > 96 {
            lines.push(format!("    {part}"));
        } else {
            line.push_str(part);
        }
    }
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

/// Structs that begin with their size.
fn sized_structs(section: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = section.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("typedef struct ").and_then(|rest| rest.strip_suffix(" {")) {
            let body: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with('}')).collect();
            // Events are made by the library alone.
            if body.iter().any(|line| line.trim() == "size_t struct_size;") && name != "critic_event" {
                found.push(name.to_owned());
            }
        }
    }
    found
}

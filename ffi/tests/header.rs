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
static inline critic_text critic_text_of(const char *string) {
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
        let rule = "-".repeat(88 - title.len());
        _ = write!(out, "\n/* ---- {title} {rule} */\n\n{}", section.trim_start());
        if module == "text" {
            _ = write!(out, "\n{TEXT_OF}");
        }
        for name in sized_structs(&section) {
            _ = write!(
                out,
                "\n/* All zero, with its size. */\nstatic inline {name} {name}_default(void) {{\n  {name} value;\n  \
                 memset(&value, 0, sizeof value);\n  value.struct_size = sizeof value;\n  return value;\n}}\n"
            );
        }
    }
    out + "\n#ifdef __cplusplus\n}\n#endif\n\n#endif /* CRITIC_H */\n"
}

fn section(module: &str) -> String {
    let crate_dir = root().join("ffi");
    let config = cbindgen::Config::from_file(crate_dir.join("cbindgen.toml")).expect("cbindgen.toml");
    let source = crate_dir.join(format!("src/{module}.rs"));
    let bindings = cbindgen::Builder::new().with_config(config).with_src(source).generate().expect("C bindings");
    let mut bytes = Vec::new();
    bindings.write(&mut bytes);
    let text = String::from_utf8(bytes).expect("UTF-8");
    // One line for a comment of one line.
    let mut out = String::new();
    let lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    while at < lines.len() {
        let indent = &lines[at][..lines[at].len() - lines[at].trim_start().len()];
        if lines[at].trim() == "/**" && lines.get(at + 2).is_some_and(|line| line.trim() == "*/") {
            let words = lines[at + 1].trim().trim_start_matches('*').trim();
            _ = writeln!(out, "{indent}/* {words} */");
            at += 3;
        } else {
            // No tool reads these comments: C's own form will do.
            _ = writeln!(out, "{}", lines[at].replacen("/**", "/*", 1));
            at += 1;
        }
    }
    out
}

/// Structs that begin with their size.
fn sized_structs(section: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = section.lines();
    while let Some(line) = lines.next() {
        if line == "typedef struct {" || line.starts_with("typedef struct ") && line.ends_with('{') {
            let body: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with('}')).collect();
            let name = body_name(section, &body);
            // Events are made by the library alone.
            if body.iter().any(|line| line.trim() == "size_t struct_size;") && name != "critic_event" {
                found.push(name);
            }
        }
    }
    found
}

/// The name behind the closing brace of the struct with this body.
fn body_name(section: &str, body: &[&str]) -> String {
    let body = body.join("\n");
    let after = section.find(&body).expect("taken from there") + body.len();
    let close = section[after..].trim_start().trim_start_matches('}').trim_start();
    close[..close.find(';').expect("a type's end")].to_owned()
}

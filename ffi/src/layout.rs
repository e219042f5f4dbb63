//! Sizes and offsets are the same in Rust and in C.

use std::fmt::Write;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use crate::event::critic_event;
use crate::model::{critic_model_info, critic_model_options};
use crate::request::{critic_message, critic_request};
use crate::result::{critic_candidate, critic_finding, critic_round, critic_timings};
use crate::session::{critic_session_info, critic_session_options};
use crate::status::critic_error;
use crate::text::critic_text;

macro_rules! layouts {
    ($($name:ident { $($field:ident)* })*) => {
        [$((stringify!($name), size_of::<$name>(), vec![$((stringify!($field), offset_of!($name, $field))),*])),*]
    };
}

#[test]
fn structs_are_laid_out_as_in_c() {
    let layouts = layouts! {
        critic_text { data len }
        critic_error { status message }
        critic_model_options { struct_size memory reserved log log_userdata adapter_path adapter }
        critic_model_info {
            struct_size file_bytes private_bytes context_tokens vocabulary format_version has_adapter name family
            licence kernel
        }
        critic_session_options {
            struct_size context_tokens threads kernel adapter reserved prefix_cache prefix_cache_bytes
        }
        critic_session_info { struct_size cache_bytes context_tokens cached_tokens threads reserved kernel }
        critic_event { struct_size phase round done_tokens total_tokens text }
        critic_message { role content }
        critic_request {
            struct_size task prompt response critique max_tokens candidates rounds top_k temperature top_p min_p
            repetition_penalty seed stops stop_count flags reserved on_event actor accept userdata
        }
        critic_finding { struct_size start end severity has_replacement quote message replacement }
        critic_candidate { struct_size critique verdict has_utility_advantage utility_advantage reserved }
        critic_round { struct_size critique refinement accepted reserved }
        critic_timings { struct_size prompt_tokens reused_tokens generated_tokens prefill_ms decode_ms }
    };
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include");
    let header = std::fs::read_to_string(include.join("critic.h")).expect("the header");
    let declarations = without_comments(&header);
    let mut source = "#include <critic.h>\n".to_owned();
    for (name, size, fields) in &layouts {
        _ = writeln!(source, "_Static_assert(sizeof({name}) == {size}, \"{name}\");");
        for (field, offset) in fields {
            _ = writeln!(source, "_Static_assert(offsetof({name}, {field}) == {offset}, \"{name}.{field}\");");
        }
        let declared = declarations.split_once(&format!("typedef struct {name} {{")).expect(name).1;
        let declared = declared.split_once(&format!("}} {name};")).expect(name).0.matches(';').count();
        assert_eq!(declared, fields.len(), "{name}: all fields are checked");
    }
    let structs = declarations.lines().filter(|line| line.starts_with("typedef struct ") && line.ends_with('{'));
    assert_eq!(structs.count(), layouts.len(), "all structs are checked");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("layout.c");
    std::fs::write(&file, source).expect("a program");
    for compiler in ["gcc", "clang"] {
        let mut command = Command::new(compiler);
        command.args(["-std=c11", "-Werror", "-fsyntax-only", "-I"]).arg(&include).arg(&file);
        let output = command.output().unwrap_or_else(|_| panic!("{compiler} is missing: apt-get install {compiler}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn without_comments(mut source: &str) -> String {
    let mut out = String::new();
    while let Some((before, rest)) = source.split_once("/*") {
        out.push_str(before);
        source = rest.split_once("*/").map_or("", |(_, after)| after);
    }
    out + source
}

//! `critic convert`

use std::fmt::Write;
use std::sync::Arc;

use critic_import::{AdapterPart, ConvertOptions, TemplateState, read_peft, read_prompts};

use crate::args::ConvertArgs;
use crate::failure::Failure;
use crate::model::convert_file;
use crate::output::{json, line};

pub fn run(args: &ConvertArgs) -> Result<(), Failure> {
    let prompts = args.prompts.as_deref().map(read_prompts).transpose()?;
    let adapter = args.adapter.as_deref().map(read_peft).transpose()?;
    let part = |adapter| AdapterPart { adapter: Arc::new(adapter), merge: args.merge, force: args.force };
    let options =
        ConvertOptions { quant: args.quant.into(), prompts, adapter: adapter.map(part), ..ConvertOptions::default() };
    let report = convert_file(&args.source, &args.output, &options)?;
    if args.json {
        return json(&report);
    }
    let mut out = String::new();
    _ = writeln!(
        out,
        "read     {} ({}, {} tensors, {} bytes)",
        args.source.display(),
        report.read.format,
        report.read.tensors,
        report.read.bytes
    );
    let formats: Vec<_> = report.written.formats.iter().map(|(format, count)| format!("{count} {format}")).collect();
    _ = writeln!(out, "written  {} ({} bytes: {})", args.output.display(), report.written.bytes, formats.join(", "));
    _ = writeln!(
        out,
        "chat     {}",
        match &report.template {
            TemplateState::None => "the source has no template",
            TemplateState::Compiled => "the template was compiled, and gives what it gave",
            TemplateState::Kept => "the template was taken over",
            TemplateState::Refused(_) => "the template could not be compiled",
        }
    );
    match report.lost.as_slice() {
        [] => out.push_str("lost     nothing"),
        lost => out.push_str(&lost.iter().map(|what| format!("lost     {what}")).collect::<Vec<_>>().join("\n")),
    }
    line(&out)
}

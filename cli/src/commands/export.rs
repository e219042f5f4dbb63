//! `critic export`

use critic::ModelFile;
use critic_import::export_gguf;

use crate::args::ExportArgs;
use crate::failure::Failure;
use crate::model::resolve;
use crate::output::{json, line};

pub fn run(args: &ExportArgs) -> Result<(), Failure> {
    let file = ModelFile::open(&resolve(&args.model)?)?;
    let report = export_gguf(&file, &args.gguf)?;
    if args.json {
        return json(&report);
    }
    let mut out = format!("written  {} ({} tensors, {} bytes)", args.gguf.display(), report.tensors, report.bytes);
    for what in &report.lost {
        out += &format!("\nlost     {what}");
    }
    line(&out)
}

//! `critic critique`: of a draft, or of files.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::Path;

use critic::{Precision, Request, Session, Severity};
use critic_lsp::language::Language;
use critic_lsp::project::Project;
use critic_lsp::review::Review;

use crate::args::CritiqueArgs;
use crate::failure::Failure;
use crate::output::{LoopAnswer, Stream, To, is_full, json, line};
use crate::report::{Reviewed, annotations, sarif, terminal};
use crate::text::{Source, read_file};

pub fn run(args: &CritiqueArgs) -> Result<(), Failure> {
    if args.files.is_empty() { draft(args) } else { files(args) }
}

fn draft(args: &CritiqueArgs) -> Result<(), Failure> {
    let request = &args.request;
    let (mut asked, _) = request.request(Source { flag: "", text: &None, file: &None })?;
    // These show places, which only a structured critique has.
    asked.structured |= args.sarif || args.annotations || args.fail_on.is_some();
    let model = request.model.open()?;
    let mut session = request.model.session(&model, Precision::Fast)?;
    // What streams is the first candidate, which need not be the one that is chosen.
    let streams = asked.candidates == 1 && !asked.structured;
    let mut stream = Stream::new(request.json || !streams);
    let result = session.critique(&asked, &mut |event| stream.show(event.progress, To::Stdout));
    let critique = stream.finish(result)?;
    if !critique.complete {
        stream.cut("critique", asked.max_tokens, is_full(&session));
    }
    if request.json {
        json(&LoopAnswer::of(&critique, session.take_timings()))?;
    } else if !asked.structured {
        stream.utility_advantage(&critique);
        if !streams {
            line(&critique.text)?;
        }
    }
    let name = request.response_file.as_ref().map_or("draft".to_owned(), |file| file.display().to_string());
    let (findings, complete) = (critique.findings, critique.complete);
    let reviewed = [Reviewed { name, text: asked.response, findings, complete }];
    if asked.structured && !request.json {
        show(args, &reviewed[0])?;
        finish(args, &reviewed)?;
    }
    gate(args, &reviewed)
}

fn files(args: &CritiqueArgs) -> Result<(), Failure> {
    let sampling = args.request.sampling.sampling()?;
    let texts = args.files.iter().map(|file| read_file(file)).collect::<Result<Vec<_>, _>>()?;
    let base = Request {
        sampling,
        max_tokens: args.request.sampling.max_tokens,
        candidates: args.request.candidates as usize,
        ..Request::default()
    };
    let model = args.request.model.open()?;
    let mut session = args.request.model.session(&model, Precision::Fast)?;
    let mut all = Vec::new();
    for (file, text) in args.files.iter().zip(texts) {
        let reviewed = review(args, &mut session, file, text, &base)?;
        if !args.request.json {
            show(args, &reviewed)?;
        }
        all.push(reviewed);
    }
    if args.request.json {
        for reviewed in &all {
            let Reviewed { name, findings, complete, .. } = reviewed;
            json(&serde_json::json!({ "file": name, "findings": findings, "complete": complete }))?;
        }
    }
    finish(args, &all)?;
    gate(args, &all)
}

fn review(
    args: &CritiqueArgs,
    session: &mut Session,
    file: &Path,
    text: String,
    base: &Request,
) -> Result<Reviewed, Failure> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let project = Project::find(&folder).map_err(Failure::Failed)?;
    let mut review = Review::new(&project, Language::of_path(file), base);
    if let Some(prompt) = &args.request.prompt {
        review.request.prompt = prompt.to_string_lossy().into_owned();
    }
    let mut stream = Stream::new(true);
    let result = review.whole(session, &text, &mut |event| stream.show(event.progress, To::Stderr));
    let (findings, complete) = stream.finish(result)?;
    let name = file.display().to_string();
    if !complete {
        _ = writeln!(stderr(), "{name}: a critique was cut at {} tokens: raise --max-tokens", base.max_tokens);
    }
    Ok(Reviewed { name, text, findings, complete })
}

/// Prints what was found in one text, unless it is printed at the end.
fn show(args: &CritiqueArgs, reviewed: &Reviewed) -> Result<(), Failure> {
    let text = match (args.sarif, args.annotations) {
        (true, _) => return Ok(()),
        (_, true) => annotations::lines(reviewed),
        _ => terminal::text(reviewed, stdout().is_terminal()),
    };
    if text.is_empty() { Ok(()) } else { line(text.trim_end_matches('\n')) }
}

fn finish(args: &CritiqueArgs, all: &[Reviewed]) -> Result<(), Failure> {
    if args.sarif {
        json(&sarif::log(all))?;
    }
    let count: usize = all.iter().map(|reviewed| reviewed.findings.len()).sum();
    let what = if count == 1 { "finding" } else { "findings" };
    // Nobody need read it.
    _ = writeln!(stderr(), "{count} {what}");
    Ok(())
}

/// Fails where something was found that is grave enough.
fn gate(args: &CritiqueArgs, all: &[Reviewed]) -> Result<(), Failure> {
    let Some(least) = args.fail_on.map(Severity::from) else { return Ok(()) };
    let grave = all.iter().flat_map(|reviewed| &reviewed.findings).any(|finding| finding.severity >= least);
    if grave { Err(Failure::Findings) } else { Ok(()) }
}

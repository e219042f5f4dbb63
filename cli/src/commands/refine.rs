//! `critic refine`: the answer is the refinement; the critique that leads to it goes to
//! standard error.

use critic::{Critique, Host, Phase, Precision, Verdict};

use crate::args::RefineArgs;
use crate::failure::Failure;
use crate::output::{LoopAnswer, Stream, To, is_full, json, line};
use crate::text::Source;

pub fn run(args: &RefineArgs) -> Result<(), Failure> {
    let given = Source { flag: "critique", text: &args.critique, file: &args.critique_file };
    let (request, given) = args.request.request(given)?;
    let model = args.request.model.open()?;
    let mut session = args.request.model.session(&model, Precision::Fast)?;
    let mut stream = Stream::new(args.request.json);
    let mut on_event = |event: critic::Event| {
        let to = if event.phase == Phase::Refine { To::Stdout } else { To::Stderr };
        stream.show_event(event, to)
    };
    let critique = match given {
        Some(text) => Ok(Critique::given(&text, &model)),
        None => session.critique(&request, &mut on_event),
    };
    let result = critique.and_then(|critique| {
        let refinement = session.refine(&request, &critique, &mut Host::default(), &mut on_event)?;
        Ok((critique, refinement))
    });
    let (critique, refinement) = stream.finish(result)?;
    if !critique.complete {
        stream.cut("critique", request.max_tokens, false);
    }
    if !refinement.complete {
        stream.cut("refinement", request.max_tokens, is_full(&session));
    }
    let keep = critique.verdict == Verdict::Keep;
    if args.request.json {
        let refined = (!keep).then_some(refinement.text.as_str());
        let answer = LoopAnswer::of(&critique, session.take_timings());
        let complete = critique.complete && refinement.complete;
        return json(&LoopAnswer { refinement: refined, accepted: Some(refinement.accepted), complete, ..answer });
    }
    if keep {
        stream.heading("nothing needs to change: the draft stays");
        return line(&refinement.text);
    }
    let judged = if refinement.accepted { "preferred to the draft" } else { "not preferred to the draft" };
    stream.heading(judged);
    Ok(())
}

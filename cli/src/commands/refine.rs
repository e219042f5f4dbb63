//! `critic refine`: the answer is the refinement; the critique that leads to it goes to
//! standard error.

use critic::{Host, Phase, Precision};

use crate::args::RefineArgs;
use crate::failure::Failure;
use crate::output::{LoopAnswer, Stream, To, is_full, json, line, not_acted_on};
use crate::text::Source;

pub fn run(args: &RefineArgs) -> Result<(), Failure> {
    let given = Source { flag: "critique", text: &args.critique, file: &args.critique_file };
    let (mut request, given) = args.request.request(given)?;
    request.structured |= args.apply;
    request.apply = args.apply;
    let model = args.request.model.open()?;
    let mut session = args.request.model.session(&model, Precision::Fast)?;
    let mut stream = Stream::new(args.request.json);
    let mut on_event = |event: critic::Event| {
        let to = if event.phase == Phase::Refine { To::Stdout } else { To::Stderr };
        stream.show_event(event, to)
    };
    let critique = match given {
        Some(text) => session.given_critique(&request, &text, &mut on_event),
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
    let acted_on = critique.acted_on(&model);
    if args.request.json {
        let refined = acted_on.then_some(refinement.text.as_str());
        let answer = LoopAnswer::of(&critique, session.take_timings());
        let complete = critique.complete && refinement.complete;
        return json(&LoopAnswer { refinement: refined, accepted: Some(refinement.accepted), complete, ..answer });
    }
    stream.utility_advantage(&critique);
    if !acted_on {
        stream.heading(not_acted_on(&critique));
        return line(&refinement.text);
    }
    if args.apply {
        // Nothing of it was streamed.
        return line(refinement.text.trim_end_matches('\n'));
    }
    let judged = if refinement.accepted { "preferred to the draft" } else { "not preferred to the draft" };
    stream.heading(judged);
    Ok(())
}

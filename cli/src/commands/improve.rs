//! `critic improve`: the answer is the better of draft and refinement. On a terminal all of
//! the loop is shown as it is written; elsewhere standard output gets the answer alone.

use std::io::{IsTerminal, stdout};

use critic::{Host, Phase, Precision};

use crate::args::ImproveArgs;
use crate::failure::Failure;
use crate::output::{LoopAnswer, Stream, To, is_full, json, line};
use crate::text::Source;

pub fn run(args: &ImproveArgs) -> Result<(), Failure> {
    let apply = args.apply;
    let args = &args.request;
    let (mut request, _) = args.request(Source { flag: "", text: &None, file: &None })?;
    request.structured |= apply;
    request.apply = apply;
    let model = args.model.open()?;
    let mut session = args.model.session(&model, Precision::Fast)?;
    let mut stream = Stream::new(args.json);
    let watched = stdout().is_terminal() && !apply;
    let result = session.improve(&request, &mut Host::default(), &mut |event| {
        let answer = watched && event.phase == Phase::Refine;
        stream.show_event(event, if answer { To::Stdout } else { To::Stderr })
    });
    let improvement = stream.finish(result)?;
    let last = improvement.rounds.last();
    if !improvement.critique.complete {
        stream.cut("critique", request.max_tokens, false);
    }
    // One that was cut off ends the loop.
    let refined = last.is_none_or(|round| round.complete);
    if !refined {
        stream.cut("refinement", request.max_tokens, is_full(&session));
    }
    if args.json {
        let refinement = match improvement.accepted {
            true => Some(improvement.text.as_str()),
            false => last.and_then(|round| round.refinement.as_deref()),
        };
        let answer = LoopAnswer::of(&improvement.critique, session.take_timings());
        let (accepted, rounds) = (Some(improvement.accepted), Some(improvement.rounds.as_slice()));
        let complete = improvement.critique.complete && refined;
        return json(&LoopAnswer { refinement, accepted, complete, rounds, ..answer });
    }
    stream.utility_advantage(&improvement.critique);
    // What was written last is the answer only if it was taken.
    let shown = watched && last.is_some_and(|round| round.accepted);
    stream.heading(match (improvement.accepted, shown) {
        (_, true) => "accepted: preferred to the draft",
        (true, false) => "accepted before; the last refinement is not",
        (false, _) => "the draft stays",
    });
    if shown { Ok(()) } else { line(&improvement.text) }
}

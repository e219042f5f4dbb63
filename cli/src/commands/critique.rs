//! `critic critique`

use critic::Precision;

use crate::args::LoopArgs;
use crate::failure::Failure;
use crate::output::{LoopAnswer, Stream, To, is_full, json, line};
use crate::text::Source;

pub fn run(args: &LoopArgs) -> Result<(), Failure> {
    let (request, _) = args.request(Source { flag: "", text: &None, file: &None })?;
    let model = args.model.open()?;
    let mut session = args.model.session(&model, Precision::Fast)?;
    // What streams is the first candidate, which need not be the one that is chosen.
    let streams = request.candidates == 1;
    let mut stream = Stream::new(args.json || !streams);
    let result = session.critique(&request, &mut |event| stream.show(event.progress, To::Stdout));
    let critique = stream.finish(result)?;
    if !critique.complete {
        stream.cut("critique", request.max_tokens, is_full(&session));
    }
    if args.json {
        return json(&LoopAnswer::of(&critique, session.take_timings()));
    }
    stream.utility_advantage(&critique);
    if streams { Ok(()) } else { line(&critique.text) }
}

//! `critic demo`: the loop on a built-in example.

use std::ops::ControlFlow;

use critic::{Bytes, Host, Model, Phase, Precision, Request};
use critic_import::pull::{DEFAULT_MODEL, Name};

use crate::args::DemoArgs;
use crate::failure::Failure;
use crate::model::pull_model;
use crate::output::{Stream, To, line};

const TASK: &str = "general";
// Something that the smallest model can do, so that there is a refinement worth reading.
const PROMPT: &str = "Write a product description for a steel water bottle that keeps drinks cold for 24 hours.";
const DRAFT: &str = "this bottle is good. it is made of steel. it keep drinks cold for 24 hour.";

/// A critic of step-by-step arithmetic, trained by this project from nothing: see `models/`.
const TINY: &[u8] = include_bytes!("../../../models/tiny.critic");
/// Each step's value modulo 10; the second one of the draft is wrong, and the third goes on from it.
const TINY_PROMPTS: [(&str, &str); 3] = [("7+8-1+1+1", "5323"), ("3+9+4-5+8", "2619"), ("6-7+2+2+5", "9127")];

/// The demo of the model that is in the program.
fn tiny(args: &DemoArgs) -> Result<(), Failure> {
    let model = Model::from_bytes(Bytes::copy(TINY))?;
    let mut session = args.model.session(&model, Precision::Fast)?;
    line("Running values modulo 10, step by step; a critique writes its own values until one differs (!).")?;
    for (prompt, draft) in TINY_PROMPTS {
        let request = Request {
            task: "steps".into(),
            prompt: prompt.into(),
            response: draft.into(),
            max_tokens: 16,
            ..Request::default()
        };
        let found = session.improve(&request, &mut Host::default(), &mut |_| ControlFlow::Continue(()))?;
        let advantage =
            found.critique.utility_advantage.map_or(String::new(), |a| format!("   utility advantage {a:+.2}"));
        line(&format!("\ntask:     {prompt}\ndraft:    {draft}\ncritique: {}{advantage}", found.critique.text))?;
        line(&format!("result:   {}{}", found.text, if found.accepted { "" } else { "   (the draft stays)" }))?;
    }
    Ok(())
}

pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    if args.tiny {
        return tiny(args);
    }
    let mut model_args = args.model.clone();
    if model_args.model.is_none() {
        model_args.model = Some(pull_model(&DEFAULT_MODEL.parse::<Name>()?, args.offline)?);
    }
    let model = model_args.open()?;
    let mut session = model_args.session(&model, Precision::Fast)?;
    let request = Request {
        task: TASK.into(),
        prompt: PROMPT.into(),
        response: DRAFT.into(),
        max_tokens: 256,
        ..Request::default()
    };
    line(&format!("task:  {PROMPT}\n\ndraft: {DRAFT}"))?;
    let mut stream = Stream::new(false);
    let mut part = None;
    let result = session.improve(&request, &mut Host::default(), &mut |event| {
        let heading = match event.phase {
            Phase::Critique => "critique",
            Phase::Refine => "refinement",
            Phase::Read | Phase::Judge => return stream.show(event.progress, To::Stderr),
        };
        if matches!(event.progress, critic::Progress::Text(_)) && part.replace(event.phase) != Some(event.phase) {
            stream.end_line();
            if stream.text(&format!("\n{heading}:\n"), To::Stdout).is_break() {
                return ControlFlow::Break(());
            }
        }
        stream.show(event.progress, To::Stdout)
    });
    let improvement = stream.finish(result)?;
    let verdict = match improvement.rounds.last() {
        Some(round) if round.accepted => "accepted: the model prefers the refinement to the draft, in both orders",
        Some(round) if !round.complete => "not accepted: the refinement was cut off, so the draft would stay",
        Some(round) if round.refinement.is_some() => {
            "not accepted: the model does not prefer the refinement in both orders, so the draft would stay"
        }
        _ => "the model finds nothing to change, so the draft stays",
    };
    let timings = session.take_timings();
    let rate = |tokens: usize, ms: f64| if ms > 0.0 { tokens as f64 * 1e3 / ms } else { 0.0 };
    let read = timings.prompt_tokens - timings.reused_tokens;
    line(&format!(
        "\n{verdict}\nread {:.0} tokens/s, wrote {:.0} tokens/s, {} of {} prompt tokens reused, on {} with {} threads\n\
         {} parameters are few: this model shows the way, a larger or trained one gives better advice",
        rate(read, timings.prefill_ms),
        rate(timings.generated_tokens, timings.decode_ms),
        timings.reused_tokens,
        timings.prompt_tokens,
        session.kernel().name(),
        session.threads(),
        millions(model.weights().parameters()),
    ))
}

fn millions(parameters: u64) -> String {
    format!("{} million", parameters / 1_000_000)
}

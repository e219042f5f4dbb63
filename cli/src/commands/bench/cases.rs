//! The loop on given conversations: the critique and the refinement are forced, so that the work
//! does not depend on what the model would have said; or the model writes them.

use std::fmt;
use std::ops::ControlFlow::Continue;
use std::path::Path;
use std::time::Instant;

use critic::{Critique, Forced, Host, Request, Session, Verdict};
use serde::{Deserialize, Serialize};

use super::{median, ms};
use crate::failure::Failure;
use crate::text::read_file;

/// One conversation with all its texts given.
#[derive(Deserialize)]
pub struct Case {
    name: String,
    kind: String,
    #[serde(default)]
    task: String,
    prompt: String,
    draft: String,
    critique: String,
    refinement: String,
}

#[derive(Serialize)]
pub struct CaseAnswer {
    name: String,
    kind: String,
    /// Tokens of the task, the draft and the instructions.
    prompt_tokens: usize,
    critique_tokens: usize,
    refinement_tokens: usize,
    /// Tokens of both that had been guessed.
    guessed_tokens: usize,
    prefill_ms: f64,
    critique_ms: f64,
    refinement_ms: f64,
    /// All of it, with the refinement written whatever the critique says.
    ms: f64,
    /// The same where a critique that asks for no change ends it.
    gated_ms: f64,
    /// The tokens that each text follows, for a program that is to be given the same.
    critique_prompt: Vec<u32>,
    refinement_prompt: Vec<u32>,
    /// Of the latter, how many follow the critique.
    after_critique: usize,
    /// Both texts, as they were written.
    critique: String,
    refinement: String,
}

impl fmt::Display for CaseAnswer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { name, kind, prompt_tokens, critique_tokens, refinement_tokens, guessed_tokens, .. } = self;
        write!(
            f,
            "{name} ({kind}): {:.0} ms = {:.0} to read {prompt_tokens} + {:.0} for a critique of {critique_tokens} \
             + {:.0} for a refinement of {refinement_tokens} tokens; {guessed_tokens} guessed; {:.0} ms with the gate",
            self.ms, self.prefill_ms, self.critique_ms, self.refinement_ms, self.gated_ms
        )
    }
}

pub fn read(path: &Path) -> Result<Vec<Case>, Failure> {
    let text = read_file(path)?;
    serde_json::from_str(&text).map_err(|error| Failure::file(path, format!("not a list of cases: {error}")))
}

/// Medians of `repeat` rounds, in each of which every case takes its turn. The texts are the cases' own, or, where
/// `free` says how many tokens they may have, the model's.
pub fn measure(
    session: &mut Session,
    cases: &[Case],
    free: Option<u32>,
    repeat: u32,
) -> Result<Vec<CaseAnswer>, Failure> {
    let mut rounds: Vec<Vec<CaseAnswer>> = cases.iter().map(|_| Vec::new()).collect();
    for _ in 0..repeat {
        for (case, answers) in cases.iter().zip(&mut rounds) {
            answers.push(run(session, case, free)?);
        }
    }
    let merge = |mut answers: Vec<CaseAnswer>| {
        let middle = |field: fn(&CaseAnswer) -> f64| median(&mut answers.iter().map(field).collect::<Vec<_>>());
        let (prefill_ms, critique_ms) = (middle(|a| a.prefill_ms), middle(|a| a.critique_ms));
        let (refinement_ms, ms, gated_ms) = (middle(|a| a.refinement_ms), middle(|a| a.ms), middle(|a| a.gated_ms));
        CaseAnswer { prefill_ms, critique_ms, refinement_ms, ms, gated_ms, ..answers.swap_remove(0) }
    };
    Ok(rounds.into_iter().map(merge).collect())
}

fn run(session: &mut Session, case: &Case, free: Option<u32>) -> Result<CaseAnswer, Failure> {
    let request = Request {
        task: case.task.clone(),
        prompt: case.prompt.clone(),
        response: case.draft.clone(),
        max_tokens: free.unwrap_or(0) as usize,
        forced: match free {
            Some(_) => None,
            None => Some(Forced { critique: case.critique.clone(), refinement: case.refinement.clone() }),
        },
        ..Request::default()
    };
    // Who judges the refinement is another question than what it costs to write it.
    let mut accept = |_: &str, _: &str| Ok(true);

    session.reset();
    session.take_timings();
    let started = Instant::now();
    let mut critique = session.critique(&request, &mut |_| Continue(()))?;
    let first = session.take_timings();
    critique.verdict = Verdict::Revise;
    critique.utility_advantage = None;
    let mut host = Host { accept: Some(&mut accept), ..Host::default() };
    let refinement = session.refine(&request, &critique, &mut host, &mut |_| Continue(()))?;
    let ms_all = ms(started);
    let second = session.take_timings();
    // A benchmark that wrote something else would measure something else.
    let given = (case.critique.trim(), case.refinement.trim());
    if free.is_none() && (critique.text.trim(), refinement.text.trim()) != given {
        return Err(Failure::Failed(format!("case {}: the texts were not written as given", case.name)));
    }

    let refinement_prompt = critic::refine::conversation(session.model(), &request, &critique)?.tokens().to_vec();
    let critique_prompt = critic::critique::conversation(session.model(), &request)?.tokens().to_vec();
    let wordless = Critique::given("", session.model());
    let wordless = critic::refine::conversation(session.model(), &request, &wordless)?.tokens().len();
    let said = critique.text.clone();

    session.reset();
    let started = Instant::now();
    let mut critique = session.critique(&request, &mut |_| Continue(()))?;
    if free.is_none() {
        // The given texts are not in the words that tell this model's gate what they say.
        critique.verdict = if case.kind == "keep" { Verdict::Keep } else { Verdict::Revise };
        critique.utility_advantage = None;
    }
    let mut host = Host { accept: Some(&mut accept), ..Host::default() };
    session.refine(&request, &critique, &mut host, &mut |_| Continue(()))?;
    let gated_ms = ms(started);

    Ok(CaseAnswer {
        name: case.name.clone(),
        kind: case.kind.clone(),
        prompt_tokens: first.prompt_tokens + second.prompt_tokens - second.reused_tokens,
        critique_tokens: first.generated_tokens,
        refinement_tokens: second.generated_tokens,
        guessed_tokens: first.guessed_tokens + second.guessed_tokens,
        prefill_ms: first.prefill_ms + second.prefill_ms,
        critique_ms: first.decode_ms,
        refinement_ms: second.decode_ms,
        ms: ms_all,
        gated_ms,
        after_critique: wordless - critique_prompt.len(),
        critique_prompt,
        refinement_prompt,
        critique: said,
        refinement: refinement.text,
    })
}

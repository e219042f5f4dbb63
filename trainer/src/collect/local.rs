//! An author that is a model file on this machine.
//!
//! Texts are decoded as one batch, and those that begin alike (the critiques of a draft, the
//! refinements of a critique) share the evaluation of that beginning. The runtime promises that a text
//! does not depend on its neighbours, so neither batches nor an interruption change what is written.

use std::ops::ControlFlow::Continue;
use std::path::Path;
use std::sync::{Arc, Mutex};

use critic::adapter::NEVER;
use critic::chat::Conversation;
use critic::critique::{Context, Critique, Request};
use critic::session::{BatchPrompt, log_probability};
use critic::tokenizer::Special;
use critic::transformer::Logits;
use critic::{GenerateOptions, Model, Sampling, Session, SessionOptions, Stop};
use serde_json::json;

use super::author::{Ask, Author, OnAnswers, Part, Written};
use super::say;
use crate::error::{Error, Result};
use crate::files;
use crate::objective::utility_advantage;
use crate::tasks::Problem;

/// A model and a session.
pub struct Local {
    model: Arc<Model>,
    session: Mutex<Session>,
    /// Most texts that are decoded as one batch.
    batch: usize,
    record: serde_json::Value,
}

/// How a local author works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalOptions {
    /// Most texts that are decoded as one batch; each takes a KV cache of its own.
    pub batch: usize,
    /// Threads; 0 is one for each core.
    pub threads: usize,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self { batch: 32, threads: 0 }
    }
}

impl Local {
    /// Opens the model file at `path`, and an adapter for it where one is given.
    pub fn open(path: &Path, adapter: Option<&Path>, options: LocalOptions) -> Result<Self> {
        let model = match adapter {
            None => Model::open(path)?,
            Some(adapter) => Model::open_with_adapter(path, adapter)?,
        };
        let mut record = json!({ "model": files::sha256(path)? });
        if let Some(adapter) = adapter {
            record["adapter"] = files::sha256(adapter)?.into();
        }
        let session = Session::new(&model, &SessionOptions { threads: options.threads, ..Default::default() })?;
        Ok(Self { model, session: Mutex::new(session), batch: options.batch.max(1), record })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    fn session(&self) -> std::sync::MutexGuard<'_, Session> {
        // A session that a panic interrupted truncates its cache to what it knows.
        self.session.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The tokens that the text follows, and from which of them on the adapter acts.
    fn prompt(&self, session: &Session, ask: &Ask) -> Result<(Vec<u32>, usize)> {
        let model = &*self.model;
        let chat = || Conversation::new(model.chat(), model.tokenizer(), model.prompts().system.as_deref());
        Ok(match ask.part {
            Part::Draft => {
                let mut chat = chat();
                chat.user(&ask.problem.prompt);
                chat.open_assistant();
                (chat.tokens().to_vec(), NEVER)
            }
            Part::Critique { draft } => {
                let context = Context::new(model, &request(model, ask.problem, draft))?;
                let adapted_from = session.critique_adapted_from(&context);
                (context.tokens, adapted_from)
            }
            Part::Refinement { draft, critique } => {
                let critique = Critique::given(critique, model);
                let request = request(model, ask.problem, draft);
                (critic::refine::conversation(model, &request, &critique)?.tokens().to_vec(), NEVER)
            }
            Part::Judgement { .. } | Part::CritiqueJudgement { .. } => {
                let mut chat = chat();
                chat.user(&say::question(model.prompts(), ask));
                chat.open_assistant();
                (chat.tokens().to_vec(), NEVER)
            }
        })
    }

    /// Which of the letters A and B the model finds likelier.
    fn letter(&self, session: &mut Session, tokens: &[u32]) -> Result<Written> {
        let letters = ["A", "B"].map(|letter| self.model.tokenizer().encode(letter, Special::Text));
        let [Some(&a), Some(&b)] = [letters[0].first(), letters[1].first()] else {
            return Err(Error::invalid("the judge's tokenizer has no letters"));
        };
        let kernel = session.kernel();
        let mut text = "A";
        session.prefill_from(tokens, NEVER, Logits::Last, &mut |_| Continue(()), &mut |_, logits| {
            if log_probability(kernel, logits, b) > log_probability(kernel, logits, a) {
                text = "B";
            }
        })?;
        Ok(Written { text: text.into(), tokens: 1, complete: true })
    }
}

/// The request of the runtime's loop. A task that the model's prompts do not know is `general`.
fn request(model: &Model, problem: &Problem, draft: &str) -> Request {
    let known = model.prompts().tasks.contains_key(&problem.task);
    Request {
        task: if known { problem.task.clone() } else { String::new() },
        prompt: problem.prompt.clone(),
        response: draft.to_owned(),
        ..Request::default()
    }
}

impl Author for Local {
    fn describe(&self) -> serde_json::Value {
        self.record.clone()
    }

    fn write(&self, asks: &[Ask], done: &mut OnAnswers) -> Result<()> {
        let mut session = self.session();
        let mut start = 0;
        while start < asks.len() {
            let first = &asks[start];
            // A batch has one way of sampling.
            let alike = |ask: &&Ask| ask.temperature == first.temperature && ask.max_tokens == first.max_tokens;
            let count = asks[start..].iter().take(self.batch).take_while(alike).count();
            let batch = &asks[start..start + count];
            let mut answers = Vec::with_capacity(count);
            let (mut places, mut prompts) = (Vec::new(), Vec::new());
            for (place, ask) in (start..).zip(batch) {
                let (tokens, adapted_from) = self.prompt(&session, ask)?;
                if tokens.len() + 1 > session.context_tokens() {
                    let (found, limit) = (tokens.len(), session.context_tokens());
                    answers.push((place, Err(format!("{found} tokens of prompt, the context holds {limit}"))));
                } else if matches!(ask.part, Part::Judgement { .. } | Part::CritiqueJudgement { .. }) {
                    answers.push((place, Ok(self.letter(&mut session, &tokens)?)));
                } else {
                    places.push(place);
                    prompts.push((tokens, adapted_from, ask.seed));
                }
            }
            let sampling = Sampling { temperature: first.temperature, ..Sampling::default() };
            let options = GenerateOptions { sampling, max_tokens: first.max_tokens, ..GenerateOptions::default() };
            let prompts: Vec<BatchPrompt> = prompts
                .iter()
                .map(|(tokens, adapted_from, seed)| BatchPrompt {
                    tokens,
                    adapted_from: *adapted_from,
                    seed: *seed,
                    candidate: 0,
                })
                .collect();
            let written = session.generate_batch(&prompts, &options, &mut |_| Continue(()))?;
            answers.extend(places.into_iter().zip(written).map(|(place, generation)| {
                let text = generation.text.trim_matches('\n').to_owned();
                let (tokens, complete) = (generation.tokens.len(), generation.stop != Stop::Length);
                (place, Ok(Written { text, tokens, complete }))
            }));
            done(answers)?;
            start += count;
        }
        Ok(())
    }

    fn advantages(&self, problem: &Problem, draft: &str, critiques: &[&str]) -> Result<Option<Vec<f64>>> {
        let mut session = self.session();
        let Some(beta) = session.adapter().map(|adapter| f64::from(adapter.spec.beta)).filter(|&beta| beta > 0.0)
        else {
            return Ok(None);
        };
        let keep = self.model.prompts().keep.clone();
        let texts: Vec<&str> = critiques.iter().copied().chain([keep.as_str()]).collect();
        let scores = session.critique_scores(&request(&self.model, problem, draft), &texts, &mut |_| Continue(()))?;
        let (keep, critiques) = scores.split_last().expect("keep is the last");
        let keep = keep.log_ratio();
        Ok(Some(critiques.iter().map(|score| utility_advantage(score.log_ratio(), keep, beta)).collect()))
    }

    fn threshold(&self) -> f64 {
        self.model.adapter().map_or(0.0, |adapter| f64::from(adapter.spec.threshold))
    }
}

//! Critiques: one growing chat of task prompt, draft, and what is wrong with the draft.

use std::ops::ControlFlow;

use serde::Serialize;

use crate::adapter::NEVER;
use crate::chat::Conversation;
use crate::error::{Error, Result};
use crate::file::TaskPrompts;
use crate::findings::{self, Finding};
use crate::grammar::FindingGrammar;
use crate::kv::Sequence;
use crate::model::Model;
use crate::sampler::Sampling;
use crate::session::{GenerateOptions, Generation, OnProgress, Progress, Repeats, Session, Stop};
use crate::tokenizer::Special;
use crate::transformer::Logits;

/// What is criticised, and how.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Category: `dialog`, `summarization`, `qa`, `math`, `code`, `general`, or another that
    /// the model's prompts name. Empty means `general`.
    pub task: String,
    /// What was asked.
    pub prompt: String,
    /// The draft.
    pub response: String,
    /// How tokens are chosen. With several candidates, temperature 0 would give each the
    /// same text: [`Request::CANDIDATE_TEMPERATURE`] is used instead.
    pub sampling: Sampling,
    /// Most tokens of each text; 0 is as many as the context holds.
    pub max_tokens: usize,
    /// Critiques to write and choose from; 0 means 1.
    pub candidates: usize,
    /// Rounds of critique and refinement in [`Session::improve`]; 0 means 1.
    pub rounds: usize,
    /// Whether a critique is a list of findings, in the form of [`crate::grammar`].
    pub structured: bool,
    /// Whether the refinement is the draft with the findings' replacements, which costs no
    /// decoding, instead of a text that the model writes.
    pub apply: bool,
    /// Texts that are written instead of the model's own, token by token, as if it had chosen
    /// them: to measure what given texts cost.
    pub forced: Option<Forced>,
}

/// Both texts of the loop, given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forced {
    /// What is wrong.
    pub critique: String,
    /// The better draft.
    pub refinement: String,
}

impl Request {
    /// Temperature of several candidates, where none was asked for.
    pub const CANDIDATE_TEMPERATURE: f32 = 0.8;
    /// Most candidates: each has a KV cache of its own.
    pub const MAX_CANDIDATES: usize = 64;
    /// Most rounds.
    pub const MAX_ROUNDS: usize = 64;

    /// Checks ranges, and returns the task's prompts.
    pub(crate) fn validate<'m>(&self, model: &'m Model) -> Result<&'m TaskPrompts> {
        self.sampling.validate()?;
        for (name, value, most) in
            [("candidates", self.candidates, Self::MAX_CANDIDATES), ("rounds", self.rounds, Self::MAX_ROUNDS)]
        {
            if value > most {
                return Err(Error::invalid(format!("{name} is {value}, expected at most {most}")));
            }
        }
        if self.apply && !self.structured {
            return Err(Error::invalid("replacements can be applied only where the critique is structured"));
        }
        let tasks = &model.prompts().tasks;
        let task = if self.task.is_empty() { "general" } else { &self.task };
        tasks.get(task).ok_or_else(|| {
            let known: Vec<_> = tasks.keys().map(String::as_str).collect();
            Error::invalid(format!("unknown task {task:?}; this model knows {}", known.join(", ")))
        })
    }

    /// What asks for the critique.
    pub(crate) fn instruction<'p>(&self, prompts: &'p TaskPrompts) -> &'p str {
        if self.structured { prompts.findings() } else { &prompts.critique }
    }

    /// How a critique says that nothing needs to change.
    fn keep<'m>(&self, model: &'m Model) -> &'m str {
        if self.structured { "[]" } else { &model.prompts().keep }
    }

    /// An instruction with what was asked in place of `{prompt}`.
    pub(crate) fn say(&self, instruction: &str) -> String {
        instruction.replace("{prompt}", &self.prompt)
    }

    pub(crate) fn generation(&self) -> GenerateOptions {
        GenerateOptions { sampling: self.sampling.clone(), max_tokens: self.max_tokens, ..Default::default() }
    }
}

/// Whether the draft needs a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Something is wrong.
    Revise,
    /// Nothing needs to change.
    Keep,
}

/// One of several critiques.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// The text.
    pub critique: String,
    /// Its verdict.
    pub verdict: Verdict,
    /// Estimate of what it gains over *keep*, see [`Critique::utility_advantage`].
    pub utility_advantage: Option<f32>,
}

/// What is wrong with a draft.
#[derive(Clone, Debug, PartialEq)]
pub struct Critique {
    /// The text.
    pub text: String,
    /// Whether the draft needs a change.
    pub verdict: Verdict,
    /// Exact places; empty unless the critique was structured.
    pub findings: Vec<Finding>,
    /// Whether the model ended it: false where the limit of tokens cut it off.
    pub complete: bool,
    /// Estimate of what it gains over *keep*, which leaves the draft as it is: A(c) = β·[r(c) −
    /// r(keep)] with r = ln p(c) with the adapter − ln p(c) without it. `None` where there is no
    /// adapter, or one with β = 0.
    pub utility_advantage: Option<f32>,
    /// All critiques that it was chosen from, itself included.
    pub candidates: Vec<Candidate>,
    /// Its tokens as sampled; empty where the text was given.
    pub(crate) tokens: Vec<u32>,
}

impl Critique {
    /// A critique that somebody else wrote, without an estimate of its utility
    /// (see [`Session::given_critique`]).
    pub fn given(text: &str, model: &Model) -> Self {
        Self {
            text: text.to_owned(),
            verdict: verdict(text, &model.prompts().keep),
            findings: Vec::new(),
            complete: true,
            utility_advantage: None,
            candidates: Vec::new(),
            tokens: Vec::new(),
        }
    }

    /// Whether a refinement is written from it: something is wrong, and its utility advantage,
    /// where there is one, is above the adapter's threshold.
    pub fn acted_on(&self, model: &Model) -> bool {
        let threshold = model.adapter().map_or(f32::NEG_INFINITY, |adapter| adapter.spec.threshold);
        self.verdict == Verdict::Revise && self.utility_advantage.is_none_or(|advantage| advantage > threshold)
    }
}

/// How likely a critique is: natural log-probabilities of its tokens and the one that ends it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CritiqueScore {
    /// With the adapter.
    pub log_policy: f64,
    /// Without it.
    pub log_reference: f64,
}

impl CritiqueScore {
    /// ln of policy over reference.
    pub fn log_ratio(&self) -> f64 {
        self.log_policy - self.log_reference
    }
}

/// Which text is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The task and the draft are read.
    Read,
    /// The critique is written.
    Critique,
    /// The refinement is written.
    Refine,
    /// Draft and refinement are compared.
    Judge,
}

/// Something that happened during a call.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// In which part of the loop.
    pub phase: Phase,
    /// In which round, from 0.
    pub round: usize,
    /// What happened.
    pub progress: Progress<'a>,
}

/// Receives [`Event`]s; `Break` cancels the call.
pub type OnEvent<'a> = dyn FnMut(Event) -> ControlFlow<()> + 'a;

/// *keep* if `critique` begins with the phrase, letter case and surrounding marks aside.
pub fn verdict(critique: &str, keep: &str) -> Verdict {
    let bare = |text: &str| text.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    let (said, phrase) = (bare(critique), bare(keep));
    let keeps = if phrase.is_empty() {
        // A phrase of marks alone (a model may say "." for keep) has to be the whole critique.
        !keep.trim().is_empty() && critique.trim() == keep.trim()
    } else {
        said.strip_prefix(&phrase).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    };
    if keeps { Verdict::Keep } else { Verdict::Revise }
}

/// The chat up to the point where the critique begins.
pub fn conversation<'m>(model: &'m Model, request: &Request) -> Result<Conversation<'m>> {
    Ok(until_critique(model, request, request.validate(model)?).0)
}

/// The same for a request that was checked, and where the critique instruction begins in it.
pub(crate) fn until_critique<'m>(
    model: &'m Model,
    request: &Request,
    prompts: &TaskPrompts,
) -> (Conversation<'m>, usize) {
    let mut chat = Conversation::new(model.chat(), model.tokenizer(), model.prompts().system.as_deref());
    chat.user(&request.prompt);
    chat.open_draft(&request.response);
    let invocation;
    match &prompts.critique_turn {
        Some(parts) => {
            invocation = chat.tokens().len();
            chat.parts(parts);
        }
        None => {
            chat.close_draft();
            invocation = chat.tokens().len();
            chat.user(&request.say(request.instruction(prompts)));
            chat.open_assistant();
        }
    }
    // A turn of no tokens would leave an activated adapter nothing to act on: it takes the last.
    let invocation = invocation.min(chat.tokens().len().saturating_sub(1));
    (chat, invocation)
}

/// The tokens that a critique follows: what a critic is trained on and is scored by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Prompt, draft and critique instruction, up to where the critique begins.
    pub tokens: Vec<u32>,
    /// Index of the first token of the critique instruction, the markup of its turn included.
    /// An activated adapter acts from there on.
    pub invocation: usize,
}

impl Context {
    /// The context of a critique of `request`'s response.
    pub fn new(model: &Model, request: &Request) -> Result<Self> {
        let (mut chat, invocation) = until_critique(model, request, request.validate(model)?);
        Ok(Self { tokens: chat.tokens().to_vec(), invocation })
    }

    /// `critique` as the model says it after this context, with the token that ends it.
    pub fn target(&self, model: &Model, critique: &str) -> Vec<u32> {
        let tokenizer = model.tokenizer();
        let at_start = match self.tokens.last() {
            None => true,
            Some(&last) => tokenizer.is_control(last) && tokenizer.prefixes_after_control(),
        };
        let mut tokens = Vec::new();
        tokenizer.encode_into(critique, Special::Text, at_start, &mut tokens);
        tokens.extend(model.end_of_turn());
        tokens
    }
}

impl Session {
    /// Says what is wrong with a draft.
    pub fn critique(&mut self, request: &Request, on_event: &mut OnEvent) -> Result<Critique> {
        self.critique_in_round(request, 0, on_event)
    }

    pub(crate) fn critique_in_round(
        &mut self,
        request: &Request,
        round: usize,
        on_event: &mut OnEvent,
    ) -> Result<Critique> {
        let model = self.model().clone();
        let prompts = request.validate(&model)?;
        let (mut chat, invocation) = until_critique(&model, request, prompts);
        let context = Context { tokens: chat.tokens().to_vec(), invocation };
        let count = request.candidates.max(1);
        let mut options = request.generation();
        if request.structured {
            options.grammar = Some(FindingGrammar::new(&model, &request.response)?);
        }
        // What is wrong is said by quoting it.
        options.repeats = Repeats::Quotes(vec![model.tokenizer().encode(&request.response, Special::Text)]);
        // For a choice between candidates, or an estimate of the utility.
        options.logprob = count > 1 || self.beta().is_some();
        options.forced = request.forced.as_ref().map(|forced| context.target(&model, &forced.critique));
        if count > 1 && options.sampling.temperature == 0.0 {
            options.sampling.temperature = Request::CANDIDATE_TEMPERATURE;
        }
        let mut report = |progress: Progress| {
            let phase = if matches!(progress, Progress::Text(_)) { Phase::Critique } else { Phase::Read };
            on_event(Event { phase, round, progress })
        };
        let adapted_from = self.critique_adapted_from(&context);
        let written = self.generate_candidates(&context.tokens, adapted_from, count, &options, &mut report)?;
        let mut lists = match request.structured {
            true => written.iter().map(|(g, _)| findings::parse(&g.text, &request.response)).collect::<Result<_>>()?,
            false => vec![Vec::new(); count],
        };
        let keep = |(index, (generation, _)): (usize, &(Generation, Sequence))| match request.structured {
            true if lists[index].is_empty() => Verdict::Keep,
            true => Verdict::Revise,
            false => verdict(&generation.text, request.keep(&model)),
        };
        let verdicts: Vec<Verdict> = written.iter().enumerate().map(keep).collect();
        let (generations, mut sequences): (Vec<_>, Vec<_>) = written.into_iter().unzip();
        let mut advantages = vec![None; count];
        let best = match self.beta() {
            None if count == 1 => 0,
            None => {
                let sum = |g: &Generation| (g.logprob.expect("asked for above"), g.tokens.len());
                choose(&generations.iter().map(sum).collect::<Vec<_>>(), &verdicts)
            }
            Some(beta) => {
                let texts = generations.iter().map(|g| {
                    let tokens = g.tokens.iter().copied().chain(g.end).collect();
                    Text { tokens, log_policy: g.logprob }
                });
                let judged = self.advantages(&context, texts.collect(), request.keep(&model), beta, &mut report)?;
                // The refinement goes on from what the base model read.
                (advantages, sequences) = judged.into_iter().map(|(a, sequence)| (Some(a), sequence)).unzip();
                highest(&advantages)
            }
        };
        let candidate = |i: usize| Candidate {
            critique: generations[i].text.trim().to_owned(),
            verdict: verdicts[i],
            utility_advantage: advantages[i],
        };
        let candidates: Vec<_> = (0..count).map(candidate).collect();
        let Candidate { critique: text, verdict, utility_advantage } = candidates[best].clone();
        drop(self.replace_sequence(sequences.swap_remove(best)));
        let complete = generations[best].stop != Stop::Length;
        let tokens = generations[best].tokens.clone();
        let findings = lists.swap_remove(best);
        Ok(Critique { text, verdict, findings, complete, utility_advantage, candidates, tokens })
    }

    /// A critique that somebody else wrote, with an estimate of its utility where the model has
    /// an adapter for that.
    pub fn given_critique(&mut self, request: &Request, text: &str, on_event: &mut OnEvent) -> Result<Critique> {
        let model = self.model().clone();
        let mut critique = Critique::given(text, &model);
        if request.structured {
            critique.findings = findings::parse(text, &request.response)?;
            critique.verdict = if critique.findings.is_empty() { Verdict::Keep } else { Verdict::Revise };
        }
        if let Some(beta) = self.beta() {
            let context = Context::new(&model, request)?;
            let text = Text { tokens: context.target(&model, text), log_policy: None };
            let mut report = |progress: Progress| on_event(Event { phase: Phase::Read, round: 0, progress });
            self.prefill_policy(&context, &mut report)?;
            let (advantage, sequence) =
                self.advantages(&context, vec![text], request.keep(&model), beta, &mut report)?.remove(0);
            critique.utility_advantage = Some(advantage);
            drop(self.replace_sequence(sequence));
        }
        Ok(critique)
    }

    /// How likely each of `critiques` is with the adapter and without it.
    pub fn critique_scores(
        &mut self,
        request: &Request,
        critiques: &[&str],
        on_event: &mut OnEvent,
    ) -> Result<Vec<CritiqueScore>> {
        if self.adapter().is_none() {
            return Err(Error::invalid("a critique is scored against the base model: this needs an adapter"));
        }
        let model = self.model().clone();
        let context = Context::new(&model, request)?;
        let text = |text: &&str| Text { tokens: context.target(&model, text), log_policy: None };
        let mut report = |progress: Progress| on_event(Event { phase: Phase::Read, round: 0, progress });
        self.prefill_policy(&context, &mut report)?;
        let scores = self.scores(&context, critiques.iter().map(text).collect(), &mut report)?;
        Ok(scores.into_iter().map(|(score, _)| score).collect())
    }

    /// From which token of a critique's context on the adapter acts: an activated one from the
    /// critique instruction on.
    pub fn critique_adapted_from(&self, context: &Context) -> usize {
        match self.adapter() {
            None => NEVER,
            Some(adapter) if adapter.spec.invocation_tokens.is_empty() => 0,
            Some(_) => context.invocation,
        }
    }

    /// β of the utility advantage, where there is one.
    fn beta(&self) -> Option<f64> {
        self.adapter().map(|adapter| f64::from(adapter.spec.beta)).filter(|&beta| beta != 0.0)
    }

    fn prefill_policy(&mut self, context: &Context, on_progress: &mut OnProgress) -> Result<()> {
        let adapted_from = self.critique_adapted_from(context);
        self.prefill_from(&context.tokens, adapted_from, Logits::None, on_progress, &mut |_, _| {})
    }

    /// The utility advantage of each text, and its sequence under the base model.
    fn advantages(
        &mut self,
        context: &Context,
        mut texts: Vec<Text>,
        keep: &str,
        beta: f64,
        on_progress: &mut OnProgress,
    ) -> Result<Vec<(f32, Sequence)>> {
        let model = self.model().clone();
        texts.push(Text { tokens: context.target(&model, keep), log_policy: None });
        let mut scores = self.scores(context, texts, on_progress)?;
        let (keep, _) = scores.pop().expect("keep is the last");
        let advantage = |score: CritiqueScore| (beta * (score.log_ratio() - keep.log_ratio())) as f32;
        Ok(scores.into_iter().map(|(score, sequence)| (advantage(score), sequence)).collect())
    }

    /// Scores each text, as one batch, after the adapted context that the session holds, and
    /// returns it with its sequence under the base model, less its last token. The session
    /// then holds the base model's context.
    fn scores(
        &mut self,
        context: &Context,
        texts: Vec<Text>,
        on_progress: &mut OnProgress,
    ) -> Result<Vec<(CritiqueScore, Sequence)>> {
        let policy = self.sequence().fork();
        self.prefill_from(&context.tokens, NEVER, Logits::None, on_progress, &mut |_, _| {})?;
        let reference = self.sequence().fork();
        let unknown = texts.iter().filter(|text| text.log_policy.is_none());
        let runs: Vec<(&Sequence, &[u32])> = texts
            .iter()
            .map(|text| (&reference, &text.tokens[..]))
            .chain(unknown.map(|text| (&policy, &text.tokens[..])))
            .collect();
        let mut references = self.score_forks(&runs)?;
        let mut policies = references.split_off(texts.len()).into_iter().map(|(sum, _)| sum);
        let score = |(text, (log_reference, sequence)): (&Text, (f64, Sequence))| {
            let log_policy = text.log_policy.or_else(|| policies.next()).expect("one for each that was unknown");
            (CritiqueScore { log_policy, log_reference }, sequence)
        };
        Ok(texts.iter().zip(references).map(score).collect())
    }
}

/// A critique as tokens, with the one that ends it.
struct Text {
    tokens: Vec<u32>,
    /// Σ ln p with the adapter, where sampling gave it.
    log_policy: Option<f64>,
}

/// The first of the highest.
fn highest(advantages: &[Option<f32>]) -> usize {
    let value = |i: &usize| advantages[*i].unwrap_or(f32::NEG_INFINITY);
    (0..advantages.len()).max_by(|a, b| value(a).total_cmp(&value(b)).then(b.cmp(a))).unwrap_or(0)
}

/// Without a utility advantage: the verdict of the majority (*revise* in a tie), and among
/// its critiques the one that the model finds likeliest for each token.
fn choose(candidates: &[(f64, usize)], verdicts: &[Verdict]) -> usize {
    let keeps = verdicts.iter().filter(|&&v| v == Verdict::Keep).count();
    let majority = if keeps * 2 > verdicts.len() { Verdict::Keep } else { Verdict::Revise };
    let mean = |i: usize| candidates[i].0 / (candidates[i].1 + 1) as f64;
    (0..candidates.len())
        .filter(|&i| verdicts[i] == majority || keeps == verdicts.len())
        .max_by(|&a, &b| mean(a).total_cmp(&mean(b)).then(b.cmp(&a)))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let check = |text: &str, expected| assert_eq!(verdict(text, "No changes needed"), expected, "{text:?}");
        check("No changes needed.", Verdict::Keep);
        check("  \"NO CHANGES NEEDED\" - it is fine.", Verdict::Keep);
        check("**No changes needed**", Verdict::Keep);
        check("No changes neededness", Verdict::Revise);
        check("There are no changes needed", Verdict::Revise);
        check("", Verdict::Revise);
        assert_eq!(verdict("anything", ""), Verdict::Revise);
        assert_eq!(verdict(".", "."), Verdict::Keep);
        assert_eq!(verdict("1=2!.", "."), Verdict::Revise);
    }

    #[test]
    fn candidates_are_chosen_by_majority_and_likelihood() {
        use Verdict::{Keep, Revise};
        assert_eq!(choose(&[(-5.0, 4), (-2.0, 4), (-1.0, 1)], &[Revise, Revise, Keep]), 1);
        assert_eq!(choose(&[(-5.0, 4), (-2.0, 4), (-1.0, 0)], &[Revise, Keep, Keep]), 1);
        assert_eq!(choose(&[(-5.0, 4), (-5.0, 4)], &[Revise, Keep]), 0);
        assert_eq!(choose(&[(-5.0, 4)], &[Keep]), 0);
    }
}

//! A session: threads, scratch memory and a KV cache, for one caller at a time.
//!
//! Whatever is evaluated stays in the cache until it is displaced, so that a call whose
//! tokens begin like the last one's pays only for the difference.
//!
//! Not here: what is said (see [`crate::critique`]), how tokens are chosen.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::adapter::{Adapter, NEVER};
use crate::branch::Branch;
use crate::error::{Error, Result};
use crate::grammar::{FindingGrammar, TokenSet};
use crate::kernels::Kernel;
use crate::kernels::rows::LogSumExp;
use crate::kv::{Precision, Sequence};
use crate::map::try_zeroed;
use crate::model::Model;
use crate::prefix::{LEAST, PrefixCache, identity};
use crate::sampler::{Sampler, Sampling};
use crate::transformer::{Engine, Logits, OnLogits, Run};

/// How a session computes. Zero and `None` mean the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionOptions {
    /// Most tokens held at once; 0 is the model's own limit. Memory is taken as it is used.
    pub context_tokens: usize,
    /// Threads, the caller's included; 0 is one for each core. More than there are cores
    /// are not made.
    pub threads: usize,
    /// Instruction set; `None` is the fastest one.
    pub kernel: Option<Kernel>,
    /// Fast, or all in f32 as a yardstick.
    pub precision: Precision,
    /// What is done with the model's adapter.
    pub adapter: AdapterUse,
}

/// What a session does with its model's adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterUse {
    /// Uses it, if the model has one.
    #[default]
    Auto,
    /// The base weights alone.
    Off,
    /// Uses it, and refuses a model without one.
    On,
}

/// Stops a session's call from any thread. Clones stop the same session.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// The call in progress, or else the next one, returns [`Error::Cancelled`] soon.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Forgets a cancellation that met no call.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether a cancellation waits to be seen.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where the time went. Adds up over a call's parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Timings {
    /// Tokens of prompts, reused ones included.
    pub prompt_tokens: usize,
    /// Those of them that were in the cache.
    pub reused_tokens: usize,
    /// Tokens chosen one by one.
    pub generated_tokens: usize,
    /// Those of them that had been guessed, and so cost no evaluation of their own.
    #[serde(skip)]
    pub guessed_tokens: usize,
    /// Time for evaluating prompts, in milliseconds.
    pub prefill_ms: f64,
    /// Time for generating, in milliseconds.
    pub decode_ms: f64,
}

impl std::ops::AddAssign for Timings {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.reused_tokens += other.reused_tokens;
        self.generated_tokens += other.generated_tokens;
        self.guessed_tokens += other.guessed_tokens;
        self.prefill_ms += other.prefill_ms;
        self.decode_ms += other.decode_ms;
    }
}

/// What to generate.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens; 0 is as many as the context holds.
    pub max_tokens: usize,
    /// Texts that end the generation; they are not part of it.
    pub stop: Vec<String>,
    /// The form that the text must have. Where the limit of tokens, not the model, brought it to
    /// its end, this is [`Stop::Length`].
    pub grammar: Option<Arc<FindingGrammar>>,
    /// Texts that this one may repeat: guesses from them are evaluated several at a time. The
    /// text is the same with and without; only the time differs.
    pub repeats: Repeats,
    /// Tokens that are taken instead of those that are chosen, up to the one that ends the text:
    /// to measure what a given text costs.
    pub forced: Option<Vec<u32>>,
    /// Whether the text's log-probability is wanted. Without it, what a grammar forces or rules out needs
    /// no logits.
    pub logprob: bool,
}

/// What a text may repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Repeats {
    /// Nothing that is known: tokens are evaluated one by one.
    #[default]
    Nothing,
    /// Parts of these texts.
    Quotes(Vec<Vec<u32>>),
    /// The first of these from its start on, with the token that ended it, but for some edits;
    /// and parts of the others.
    Draft(Vec<Vec<u32>>),
}

/// A prompt among others of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchPrompt<'a> {
    /// What is continued.
    pub tokens: &'a [u32],
    /// Index of the first token on which the adapter acts; [`NEVER`] is the base model.
    pub adapted_from: usize,
    /// Key of its draws, in place of the sampling's.
    pub seed: u64,
    /// Tells apart continuations that share a seed.
    pub candidate: usize,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended it.
    End,
    /// A stop string was met.
    Text,
    /// The limit of tokens, or the context's.
    Length,
}

/// A generated text.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The text.
    pub text: String,
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// The token that ended it, where the model did.
    pub end: Option<u32>,
    /// Σ log p of its tokens and of the one that ended it, natural, by the model itself:
    /// before temperature, truncation and grammar. `None` where it was not wanted.
    pub logprob: Option<f64>,
    /// Why it ended.
    pub stop: Stop,
}

/// Progress of a long call.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// Prompt tokens evaluated so far, of how many.
    Prefill {
        /// Evaluated, reused ones included.
        done: usize,
        /// In all.
        total: usize,
    },
    /// New text of the only, or the first, candidate.
    Text(&'a str),
}

/// Receives [`Progress`]; `Break` cancels the call.
pub type OnProgress<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// One caller's state.
pub struct Session {
    model: Arc<Model>,
    engine: Engine,
    context: usize,
    /// Whether the model has an adapter and it is used.
    adapter: bool,
    /// What was evaluated last.
    sequence: Sequence,
    sampler: Sampler,
    cancel: CancelToken,
    /// Where prefixes are left, and the identity of this session's.
    prefixes: Option<(PrefixCache, u64)>,
    pub(crate) timings: Timings,
}

impl Session {
    /// Threads and memory for one caller.
    pub fn new(model: &Arc<Model>, options: &SessionOptions) -> Result<Self> {
        let limit = model.config().context;
        if options.context_tokens > limit {
            return Err(Error::invalid(format!(
                "a context of {} tokens: the model allows {limit}",
                options.context_tokens
            )));
        }
        if options.adapter == AdapterUse::On && model.adapter().is_none() {
            return Err(Error::unsupported("the model has no adapter"));
        }
        let kernel = options.kernel.unwrap_or_else(Kernel::best);
        let engine = Engine::new(model.config(), kernel, options.threads, options.precision)?;
        Ok(Self {
            model: Arc::clone(model),
            sequence: engine.sequence(),
            engine,
            adapter: options.adapter != AdapterUse::Off && model.adapter().is_some(),
            context: if options.context_tokens == 0 { limit } else { options.context_tokens },
            sampler: Sampler::default(),
            cancel: CancelToken::default(),
            prefixes: None,
            timings: Timings::default(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The model's adapter, unless the session does without it.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.model.adapter().filter(|_| self.adapter)
    }

    /// Index of the first token of `tokens` on which the adapter acts, where nothing but the
    /// tokens says so ([`Adapter::acts_from`]).
    pub fn adapted_from(&self, tokens: &[u32]) -> usize {
        self.adapter().map_or(NEVER, |adapter| adapter.acts_from(tokens))
    }

    /// Most tokens that the session holds at once.
    pub fn context_tokens(&self) -> usize {
        self.context
    }

    /// The instruction set in use.
    pub fn kernel(&self) -> Kernel {
        self.engine.kernel()
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.engine.threads()
    }

    /// How activations, keys and values are held.
    pub fn precision(&self) -> Precision {
        self.engine.precision()
    }

    /// Bytes of KV cache that `tokens` tokens take.
    pub fn cache_bytes(&self, tokens: usize) -> usize {
        self.engine.cache_bytes(tokens)
    }

    /// Stops this session's calls from any thread.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// Has prompts begin, where `cache` has more of them than the session itself, with keys and values
    /// that are mapped from its files; and leaves there those of prompts of which 256 tokens or more had to
    /// be evaluated, as far as the base model did it. `None`, the default: nothing is read or written. That
    /// a prefix could not be written is no error: it is not there next time. Nobody may truncate the files
    /// while a session lives.
    pub fn set_prefix_cache(&mut self, cache: Option<PrefixCache>) {
        self.prefixes = cache.map(|cache| (cache, identity(&self.model, &self.sequence.layout())));
    }

    /// Forgets what was evaluated.
    pub fn reset(&mut self) {
        self.sequence.truncate(0);
    }

    /// Time and tokens of all calls since the last one of this.
    pub fn take_timings(&mut self) -> Timings {
        std::mem::take(&mut self.timings)
    }

    /// `text` as tokens, with a beginning-of-sequence token where the model asks for one.
    pub fn tokenize(&self, text: &str, special: crate::tokenizer::Special) -> Vec<u32> {
        self.model.tokenize(text, special)
    }

    /// Continues `prompt`. An activated adapter acts from the last occurrence of its invocation
    /// tokens in the prompt on, or not at all.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        on_progress: &mut OnProgress,
    ) -> Result<Generation> {
        self.generate_from(prompt, self.adapted_from(prompt), options, on_progress)
    }

    /// The same with the adapter acting from token `adapted_from` on.
    pub(crate) fn generate_from(
        &mut self,
        prompt: &[u32],
        adapted_from: usize,
        options: &GenerateOptions,
        on_progress: &mut OnProgress,
    ) -> Result<Generation> {
        let mut all = self.generate_candidates(prompt, adapted_from, 1, options, on_progress)?;
        let (generation, sequence) = all.remove(0);
        self.sequence = sequence;
        Ok(generation)
    }

    /// `count` continuations of one prompt, decoded as one batch, each with the sequence that
    /// holds it. Candidate i is the same however many there are.
    pub(crate) fn generate_candidates(
        &mut self,
        prompt: &[u32],
        adapted_from: usize,
        count: usize,
        options: &GenerateOptions,
        on_progress: &mut OnProgress,
    ) -> Result<Vec<(Generation, Sequence)>> {
        options.sampling.validate()?;
        let mut first = try_zeroed::<f32>(self.model.config().vocab_size)?;
        let first_logits = &mut |_: usize, logits: &[f32]| first.copy_from_slice(logits);
        self.prefill_from(prompt, adapted_from, Logits::Last, on_progress, first_logits)?;
        let started = Instant::now();
        let max_tokens = self.budget(prompt.len(), options)?;
        let new = |candidate| Branch::new(&self.sequence, options, candidate, max_tokens);
        let mut branches: Vec<Branch> = (0..count).map(new).collect();
        for branch in &mut branches {
            self.advance(branch, &first);
        }
        self.finish_branches(&mut branches, started, on_progress)?;
        Ok(branches.into_iter().map(Branch::finish).collect())
    }

    /// Continuations of several prompts, decoded as one batch: each is what the prompt alone would
    /// give. Prompts that follow one another share the evaluation of what they begin with alike.
    pub fn generate_batch(
        &mut self,
        prompts: &[BatchPrompt],
        options: &GenerateOptions,
        on_progress: &mut OnProgress,
    ) -> Result<Vec<Generation>> {
        options.sampling.validate()?;
        let mut first = try_zeroed::<f32>(self.model.config().vocab_size)?;
        let mut branches = Vec::with_capacity(prompts.len());
        let mut previous: Option<&BatchPrompt> = None;
        for prompt in prompts {
            // Candidates of one prompt differ in what is drawn alone.
            if previous.is_none_or(|p| p.tokens != prompt.tokens || p.adapted_from != prompt.adapted_from) {
                let first_logits = &mut |_: usize, logits: &[f32]| first.copy_from_slice(logits);
                self.prefill_from(prompt.tokens, prompt.adapted_from, Logits::Last, on_progress, first_logits)?;
            }
            previous = Some(prompt);
            let max_tokens = self.budget(prompt.tokens.len(), options)?;
            let mut branch = Branch::new(&self.sequence, options, prompt.candidate, max_tokens);
            branch.sampling.seed = prompt.seed;
            self.advance(&mut branch, &first);
            branches.push(branch);
        }
        self.finish_branches(&mut branches, Instant::now(), on_progress)?;
        Ok(branches.into_iter().map(|branch| branch.finish().0).collect())
    }

    /// Most tokens that may follow `prompt` evaluated ones.
    fn budget(&self, prompt: usize, options: &GenerateOptions) -> Result<usize> {
        let room = self.context - prompt;
        let max_tokens = if options.max_tokens == 0 { room } else { options.max_tokens.min(room) };
        match options.grammar.as_ref().map(|grammar| grammar.least_tokens()).filter(|&needed| needed > max_tokens) {
            None => Ok(max_tokens),
            Some(needed) if (1..needed).contains(&options.max_tokens) => Err(Error::invalid(format!(
                "max_tokens is {}, expected at least {needed} for findings",
                options.max_tokens
            ))),
            Some(needed) => Err(Error::ContextFull { needed: prompt + needed, available: self.context }),
        }
    }

    /// Decodes until every branch has ended.
    fn finish_branches(
        &mut self,
        branches: &mut [Branch],
        started: Instant,
        on_progress: &mut OnProgress,
    ) -> Result<()> {
        loop {
            if let Some(text) = branches.first_mut().and_then(|branch| branch.fresh.take())
                && !text.is_empty()
                && on_progress(Progress::Text(&text)).is_break()
            {
                return Err(Error::Cancelled);
            }
            let open: Vec<usize> = (0..branches.len()).filter(|&i| branches[i].stop.is_none()).collect();
            if open.is_empty() {
                break;
            }
            self.step(branches, &open)?;
        }
        self.timings.generated_tokens += branches.iter().map(|b| b.tokens().len()).sum::<usize>();
        self.timings.guessed_tokens += branches.iter().map(|b| b.guessed).sum::<usize>();
        self.timings.decode_ms += started.elapsed().as_secs_f64() * 1e3;
        Ok(())
    }

    /// Evaluates what is new of each open branch, and guesses at what follows, as one batch, and
    /// chooses the next tokens: one, and one for each guess that was right.
    fn step(&mut self, branches: &mut [Branch], open: &[usize]) -> Result<()> {
        let model = Arc::clone(&self.model);
        let inputs: Vec<Vec<u32>> = open.iter().map(|&i| branches[i].input()).collect();
        let pending: Vec<usize> = open.iter().map(|&i| branches[i].unread).collect();
        let needed: Vec<Option<TokenSet>> = open.iter().map(|&i| branches[i].needed()).collect();
        let mut sequences: Vec<Sequence> =
            open.iter().map(|&i| std::mem::replace(&mut branches[i].sequence, self.engine.sequence())).collect();
        let mut runs: Vec<Run> = sequences
            .iter_mut()
            .enumerate()
            .map(|(at, sequence)| {
                let (adapted, tokens) = (sequence.adapted_from() != NEVER, &inputs[at][..]);
                // Each of several tokens predicts the next, which is guessed, or forced.
                let alone = tokens.len() == 1 || (tokens.len() == pending[at] && branches[open[at]].logprob.is_none());
                let logits = match &needed[at] {
                    _ if !alone => Logits::All,
                    None => Logits::Last,
                    Some(tokens) => Logits::LastOf(tokens),
                };
                Run { sequence, tokens, logits, adapted }
            })
            .collect();
        let (engine, sampler) = (&mut self.engine, &mut self.sampler);
        let kernel = engine.kernel();
        // How many guesses of each branch were right, and whether one was wrong.
        let mut right = vec![(0, false); open.len()];
        let result = engine.forward(model.weights(), &mut runs, &self.cancel.0, &mut |run, index, logits| {
            let (branch, tokens) = (&mut branches[open[run]], &inputs[run]);
            if index + 1 < pending[run] {
                branch.add(Some(log_probability(kernel, logits, tokens[index + 1])));
                return;
            }
            let (right, over) = &mut right[run];
            if *over || branch.stop.is_some() {
                return;
            }
            branch.unread = 0;
            let (token, logprob) = branch.choose(logits, kernel, sampler);
            branch.take(token, logprob, &model);
            if tokens.get(index + 1) == Some(&token) {
                // It is evaluated already.
                branch.unread = 0;
                *right += 1;
            } else {
                *over = true;
            }
        });
        drop(runs);
        for (at, (&i, mut sequence)) in open.iter().zip(sequences).enumerate() {
            let branch = &mut branches[i];
            // Without the guesses that were wrong, and what followed them.
            sequence.truncate(branch.context.len() - branch.unread);
            branch.sequence = sequence;
            branch.guessed += right[at].0;
            if let Some(speculator) = &mut branch.speculator {
                speculator.verified(inputs[at].len() - pending[at], right[at].0);
            }
        }
        self.seen(result)
    }

    /// Chooses a branch's first token.
    fn advance(&mut self, branch: &mut Branch, logits: &[f32]) {
        let (token, logprob) = branch.choose(logits, self.engine.kernel(), &mut self.sampler);
        let model = Arc::clone(&self.model);
        branch.take(token, logprob, &model);
    }

    /// Brings the session's sequence to hold exactly `tokens`, evaluating what it lacks;
    /// `on_logits` gets (index in `tokens`, logits) of those that `logits` names. With
    /// [`Logits::All`] nothing is reused. The adapter acts as in [`Session::generate`].
    pub fn prefill(
        &mut self,
        tokens: &[u32],
        logits: Logits,
        on_progress: &mut OnProgress,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.prefill_from(tokens, self.adapted_from(tokens), logits, on_progress, on_logits)
    }

    /// The same with the adapter acting from token `adapted_from` on;
    /// [`NEVER`] is the base model.
    pub fn prefill_from(
        &mut self,
        tokens: &[u32],
        adapted_from: usize,
        logits: Logits,
        on_progress: &mut OnProgress,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        /// Tokens between two reports: often enough for a progress bar, rarely enough for speed.
        const REPORT: usize = 512;
        if tokens.is_empty() {
            return Err(Error::invalid("no tokens: the text is empty"));
        }
        if tokens.len() > self.context {
            return Err(Error::ContextFull { needed: tokens.len(), available: self.context });
        }
        self.check_cancelled()?;
        let started = Instant::now();
        let mut known = self.sequence.common_prefix(tokens, adapted_from);
        let base = &tokens[..adapted_from.min(tokens.len())];
        if let Some((cache, identity)) = &self.prefixes
            && logits != Logits::All
            && base.len() >= known + LEAST
            && let Some(found) = cache.load(*identity, base, known, &mut self.sequence)
        {
            known = found;
        }
        // The last token is evaluated again for its logits.
        let reused = match logits {
            Logits::All => 0,
            Logits::Last | Logits::LastOf(_) => known.min(tokens.len() - 1),
            Logits::None => known,
        };
        self.sequence.truncate(reused);
        let model = Arc::clone(&self.model);
        let mut done = reused;
        while done < tokens.len() {
            if on_progress(Progress::Prefill { done, total: tokens.len() }).is_break() {
                return Err(Error::Cancelled);
            }
            let adapted = done >= adapted_from;
            let limit = if adapted { tokens.len() } else { adapted_from.min(tokens.len()) };
            let end = (done + REPORT).min(limit);
            let wanted = if logits != Logits::All && end < tokens.len() { Logits::None } else { logits };
            let mut runs = [Run { sequence: &mut self.sequence, tokens: &tokens[done..end], logits: wanted, adapted }];
            let sink: &mut OnLogits = &mut |_, index, row| on_logits(done + index, row);
            let result = self.engine.forward(model.weights(), &mut runs, &self.cancel.0, sink);
            self.seen(result)?;
            done = end;
        }
        if let Some((cache, identity)) = &self.prefixes
            && base.len() >= reused + LEAST
        {
            _ = cache.store(*identity, &self.sequence);
        }
        self.timings.prompt_tokens += tokens.len();
        self.timings.reused_tokens += reused;
        self.timings.prefill_ms += started.elapsed().as_secs_f64() * 1e3;
        match on_progress(Progress::Prefill { done, total: tokens.len() }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }

    /// Natural log-probability of each token after the first, given those before it.
    pub fn score(&mut self, tokens: &[u32], on_progress: &mut OnProgress) -> Result<Vec<f64>> {
        let kernel = self.engine.kernel();
        let mut logprobs = Vec::with_capacity(tokens.len());
        self.prefill(tokens, Logits::All, on_progress, &mut |index, logits| {
            if let Some(&next) = tokens.get(index + 1) {
                logprobs.push(log_probability(kernel, logits, next));
            }
        })?;
        Ok(logprobs)
    }

    /// Σ log p of each text after a common context, natural, the adapter acting or not as it did
    /// on that context. All are evaluated as one batch; each comes with the sequence that holds
    /// it but for its last token.
    pub(crate) fn score_forks(&mut self, texts: &[(&Sequence, &[u32])]) -> Result<Vec<(f64, Sequence)>> {
        let started = Instant::now();
        let model = Arc::clone(&self.model);
        // The context's last token predicts the first of the text: it is evaluated again.
        let inputs: Vec<Vec<u32>> = texts
            .iter()
            .map(|(context, text)| {
                let last = context.tokens().last().copied().into_iter();
                last.chain(text.iter().copied().take(text.len().saturating_sub(1))).collect()
            })
            .collect();
        let longest = texts.iter().zip(&inputs).map(|((context, _), input)| context.len() + input.len() - 1).max();
        if let Some(needed) = longest.filter(|&needed| needed > self.context) {
            return Err(Error::ContextFull { needed, available: self.context });
        }
        self.check_cancelled()?;
        let mut scores: Vec<(f64, Sequence)> = texts
            .iter()
            .map(|(context, _)| {
                let mut fork = context.fork();
                fork.truncate(context.len() - 1);
                (0.0, fork)
            })
            .collect();
        let mut sums = vec![0.0; texts.len()];
        let mut runs: Vec<Run> = scores
            .iter_mut()
            .zip(texts.iter().zip(&inputs))
            .map(|((_, sequence), ((context, _), tokens))| {
                let adapted = context.adapted_from() != NEVER;
                Run { sequence, tokens, logits: Logits::All, adapted }
            })
            .collect();
        let kernel = self.engine.kernel();
        let result = self.engine.forward(model.weights(), &mut runs, &self.cancel.0, &mut |run, index, logits| {
            if let Some(&token) = texts[run].1.get(index) {
                sums[run] += log_probability(kernel, logits, token);
            }
        });
        drop(runs);
        self.seen(result)?;
        self.timings.prompt_tokens += inputs.iter().map(Vec::len).sum::<usize>();
        self.timings.prefill_ms += started.elapsed().as_secs_f64() * 1e3;
        scores.iter_mut().zip(sums).for_each(|(score, sum)| score.0 = sum);
        Ok(scores)
    }

    /// The session's sequence; what was evaluated last.
    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    pub(crate) fn replace_sequence(&mut self, sequence: Sequence) -> Sequence {
        std::mem::replace(&mut self.sequence, sequence)
    }

    /// A cancellation is over once a call has seen it.
    fn seen<T>(&self, result: Result<T>) -> Result<T> {
        if matches!(result, Err(Error::Cancelled)) {
            self.cancel.reset();
        }
        result
    }

    fn check_cancelled(&self) -> Result<()> {
        let cancelled = self.cancel.is_cancelled();
        self.seen(if cancelled { Err(Error::Cancelled) } else { Ok(()) })
    }
}

/// `ln p(token)` under `logits`.
pub fn log_probability(kernel: Kernel, logits: &[f32], token: u32) -> f64 {
    f64::from(logits[token as usize]) - kernel.run(LogSumExp { x: logits })
}

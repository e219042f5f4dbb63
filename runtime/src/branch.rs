//! One text in the making: what is written, what is chosen next, and why it ends.
//!
//! Not here: evaluation, and that several are evaluated as one batch (see [`crate::session`]).

use crate::grammar::{Cursor, TokenSet};
use crate::kernels::Kernel;
use crate::kv::Sequence;
use crate::model::Model;
use crate::sampler::{Sampler, Sampling};
use crate::session::{GenerateOptions, Generation, Repeats, Stop, log_probability};
use crate::speculate::Speculator;
use crate::text::TextStream;

impl Repeats {
    fn speculator(&self) -> Option<Speculator> {
        match self {
            Repeats::Nothing => None,
            Repeats::Quotes(texts) => Some(Speculator::quoting(texts.clone())),
            Repeats::Draft(texts) => Some(Speculator::repeating(texts.clone())),
        }
    }
}

/// One continuation in the making.
pub(crate) struct Branch {
    pub sampling: Sampling,
    /// Tells apart continuations that share a seed.
    candidate: u64,
    max_tokens: usize,
    /// Tokens that are taken instead of those that are chosen.
    forced: Option<Vec<u32>>,
    pub sequence: Sequence,
    stream: TextStream,
    /// Prompt and generated tokens.
    pub context: Vec<u32>,
    /// Length of the prompt in `context`.
    prompt: usize,
    /// Σ log p so far, where it is wanted.
    pub logprob: Option<f64>,
    end: Option<u32>,
    pub stop: Option<Stop>,
    /// Text since the last report.
    pub fresh: Option<String>,
    /// Where the text is in the form that it must have.
    cursor: Option<Cursor>,
    /// Tokens that are not evaluated yet: the last one that was chosen, and forced ones.
    pub unread: usize,
    pub speculator: Option<Speculator>,
    /// Tokens that had been guessed.
    pub guessed: usize,
}

impl Branch {
    pub fn new(prefix: &Sequence, options: &GenerateOptions, candidate: usize, max_tokens: usize) -> Self {
        Self {
            sampling: options.sampling.clone(),
            candidate: candidate as u64,
            max_tokens,
            forced: options.forced.clone(),
            sequence: prefix.fork(),
            stream: TextStream::new(&options.stop),
            context: prefix.tokens().to_vec(),
            prompt: prefix.len(),
            logprob: options.logprob.then_some(0.0),
            end: None,
            stop: None,
            fresh: None,
            cursor: options.grammar.as_ref().map(Cursor::new),
            unread: 0,
            // What a grammar forces is evaluated together anyway.
            speculator: options.repeats.speculator().filter(|_| options.grammar.is_none()),
            guessed: 0,
        }
    }

    /// Tokens that are to be evaluated next: those that stand fast, and guesses.
    pub fn input(&mut self) -> Vec<u32> {
        let pending = &self.context[self.context.len() - self.unread..];
        // The last token of all is not evaluated any more.
        let room = (self.max_tokens - self.tokens().len()).saturating_sub(1);
        let guesses = self.speculator.as_mut().map_or(&[][..], |speculator| speculator.guess(room));
        [pending, guesses].concat()
    }

    /// Tokens generated so far.
    pub fn tokens(&self) -> &[u32] {
        &self.context[self.prompt..]
    }

    /// The tokens by whose logits alone the next one is chosen, where a grammar leaves but some, and no
    /// log-probability, to which all others belong, is wanted.
    pub fn needed(&mut self) -> Option<TokenSet> {
        let left = self.left();
        self.cursor.as_mut().filter(|_| self.logprob.is_none()).map(|cursor| cursor.needed(left))
    }

    /// How many tokens may still come.
    fn left(&self) -> usize {
        self.max_tokens - self.tokens().len()
    }

    /// The next token, and its log-probability where that is wanted. The one place where a token is chosen.
    pub fn choose(&mut self, logits: &[f32], kernel: Kernel, sampler: &mut Sampler) -> (u32, Option<f64>) {
        let (left, at) = (self.left(), self.tokens().len());
        let (sampling, context, candidate) = (&self.sampling, &self.context, self.candidate);
        let token = match &mut self.cursor {
            None => sampler.choose(logits, sampling, context, candidate, None),
            Some(cursor) => match cursor.forced() {
                Some(token) => token,
                None => {
                    let token = sampler.choose(logits, sampling, context, candidate, Some(cursor.allowed(left)));
                    cursor.chosen(token, logits);
                    token
                }
            },
        };
        let token = self.forced.as_ref().and_then(|forced| forced.get(at).copied()).unwrap_or(token);
        (token, self.logprob.map(|_| log_probability(kernel, logits, token)))
    }

    pub fn take(&mut self, token: u32, logprob: Option<f64>, model: &Model) {
        let max_tokens = self.max_tokens;
        if max_tokens == 0 {
            self.stop = Some(Stop::Length);
            return;
        }
        self.add(logprob);
        let tokenizer = model.tokenizer();
        if tokenizer.is_end(token) {
            self.stop = Some(Stop::End);
            self.end = Some(token);
        } else {
            self.say(token, model);
            // What stands fast after it is evaluated together with it.
            while let Some(forced) = self.cursor.as_ref().filter(|cursor| !cursor.is_done()).and_then(Cursor::forced) {
                self.say(forced, model);
            }
            let full = self.tokens().len() >= max_tokens;
            // What ends the text after its form is at its end: chosen only for its log-probability.
            let end = self.cursor.as_ref().filter(|cursor| cursor.is_done()).map(Cursor::forced);
            let chosen = self.logprob.is_some() || self.stream.stopped();
            if end.is_some_and(|end| full || end.is_none() || !chosen) {
                self.stop = Some(Stop::End);
                self.end = end.flatten().filter(|_| !full);
            } else if self.stream.stopped() {
                self.stop = Some(Stop::Text);
            } else if full {
                self.stop = Some(Stop::Length);
            }
        }
        if self.stop.is_some() {
            let rest = self.stream.finish().to_owned();
            self.fresh = Some(self.fresh.take().unwrap_or_default() + &rest);
        }
    }

    /// Adds the log-probability of a token that was taken.
    pub fn add(&mut self, logprob: Option<f64>) {
        self.logprob = self.logprob.zip(logprob).map(|(sum, logprob)| sum + logprob);
    }

    /// Appends a token to the text.
    fn say(&mut self, token: u32, model: &Model) {
        let tokenizer = model.tokenizer();
        self.context.push(token);
        self.unread += 1;
        if let Some(speculator) = &mut self.speculator {
            speculator.take(token);
        }
        if let Some(cursor) = &mut self.cursor {
            cursor.take(token);
        }
        let bytes = if tokenizer.is_control(token) { &[][..] } else { tokenizer.piece(token) };
        let text = self.stream.push(bytes).to_owned();
        self.fresh = Some(self.fresh.take().unwrap_or_default() + &text);
    }

    pub fn finish(self) -> (Generation, Sequence) {
        let cut = self.cursor.as_ref().is_some_and(Cursor::is_cut);
        let stop = self.stop.filter(|_| !cut).unwrap_or(Stop::Length);
        let tokens = self.tokens().to_vec();
        let (text, logprob, end) = (self.stream.into_text(), self.logprob, self.end);
        (Generation { text, tokens, end, logprob, stop }, self.sequence)
    }
}

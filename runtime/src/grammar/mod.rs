//! Constrained decoding: whatever a model would like to say, it says a valid list of findings,
//! each of which quotes the draft, and comes to its end within its budget of tokens.
//!
//! A [`FindingGrammar`] is made for one draft. It indexes the draft so that a quote can be
//! followed byte by byte ([`draft`]), and has a machine that takes the bytes of exactly the valid
//! lists ([`machine`]), whose free strings are checked by [`text`]. The vocabulary in the order
//! of its bytes ([`tokens`]) gives the tokens that the machine takes. A [`Cursor`] is one list in
//! the making: the session asks it which tokens are forced, which are allowed, and tells it
//! which one was taken.
//!
//! Bytes, not tokens, are what the grammar speaks of: a quote's words may be cut into tokens in
//! any way. Not here: what a list means (see [`crate::findings`]), and how tokens are chosen.

mod draft;
mod machine;
mod text;
mod tokens;

use std::sync::Arc;

pub use draft::{DISTINCT, Draft, LONG, LONGEST};
pub use machine::MOST_FINDINGS;
pub use tokens::{TokenSet, TokenTable};

use crate::error::{Error, Result};
use crate::model::Model;
use machine::{Machine, Place, Skeleton, State};

/// The most bytes of a message in the list's JSON.
pub const LONGEST_MESSAGE: usize = machine::MESSAGE.longest as usize;

/// What all drafts of a model share.
pub(crate) struct Vocabulary {
    tokens: TokenTable,
    skeleton: Option<Skeleton>,
    /// Whether every byte that goes on with a character is a token.
    inside: bool,
}

impl Vocabulary {
    pub(crate) fn new(model: &Model) -> Self {
        let tokens = TokenTable::new(model);
        let skeleton = Skeleton::new(&tokens, model);
        let inside = (0x80..=0xbf).all(|byte| tokens.has_byte(byte));
        Self { tokens, skeleton, inside }
    }
}

/// All lists of findings about one draft.
pub struct FindingGrammar {
    model: Arc<Model>,
    draft: Draft,
}

impl FindingGrammar {
    /// The grammar of findings about `draft`. Fails where the model's vocabulary has no tokens
    /// for single bytes that lists or this draft need.
    pub fn new(model: &Arc<Model>, draft: &str) -> Result<Arc<Self>> {
        let vocabulary = model.vocabulary();
        let lacks = |what: &str| Error::unsupported(format!("findings: the vocabulary has no token for {what}"));
        if vocabulary.skeleton.is_none() {
            return Err(lacks("some byte of ASCII"));
        }
        if let Some(byte) = draft.bytes().find(|&byte| byte >= 0x20 && !vocabulary.tokens.has_byte(byte)) {
            return Err(lacks(&format!("byte {byte:#04x} alone, and the draft has it")));
        }
        // Places are u32, and far below that by any context.
        if u32::try_from(draft.len()).is_err() {
            return Err(Error::invalid(format!("a draft of {} bytes", draft.len())));
        }
        Ok(Arc::new(Self { model: Arc::clone(model), draft: Draft::new(draft) }))
    }

    /// The draft.
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// The least number of tokens that a list takes.
    pub fn least_tokens(&self) -> usize {
        self.machine(&[]).cost(State::START).unwrap_or(usize::MAX)
    }

    fn machine<'a>(&'a self, seen: &'a [(u32, u16)]) -> Machine<'a> {
        let vocabulary = self.model.vocabulary();
        let skeleton = vocabulary.skeleton.as_ref().expect("looked at in new");
        Machine { draft: &self.draft, seen, skeleton, inside: vocabulary.inside }
    }
}

impl std::fmt::Debug for FindingGrammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The draft is a person's words.
        f.debug_struct("FindingGrammar").field("draft_bytes", &self.draft.text().len()).finish()
    }
}

/// One list in the making.
pub struct Cursor {
    grammar: Arc<FindingGrammar>,
    state: State,
    /// Quotes of the findings so far: place and length.
    seen: Vec<(u32, u16)>,
    /// With how many tokens left `allowed` and `barred` were found; `None` since the list went on.
    looked: Option<usize>,
    allowed: TokenSet,
    /// Tokens that the grammar would take, but not the budget.
    barred: Vec<u32>,
    cut: bool,
}

impl Cursor {
    /// Before the list.
    pub fn new(grammar: &Arc<FindingGrammar>) -> Self {
        Self {
            grammar: Arc::clone(grammar),
            state: State::START,
            seen: Vec::new(),
            looked: None,
            allowed: TokenSet::default(),
            barred: Vec::new(),
            cut: false,
        }
    }

    /// Whether the list is at its end.
    pub fn is_done(&self) -> bool {
        self.state.place == Place::Done
    }

    /// Whether the budget, and not the model, ended the list.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// The token that has to come next, where all of its text stands fast: after the list, the
    /// one that ends what the model says.
    pub fn forced(&self) -> Option<u32> {
        match self.state.place {
            Place::Done => self.grammar.model.end_of_turn(),
            Place::Fixed(segment, at) => Some(self.grammar.machine(&self.seen).skeleton.token(segment, at)),
            _ => None,
        }
    }

    /// The tokens of which one may come next if no more than `left` are to come. There is one
    /// always, unless the list is done, if there was room at the beginning
    /// ([`FindingGrammar::least_tokens`]) and each token since then was an allowed or a forced one.
    pub fn allowed(&mut self, left: usize) -> &TokenSet {
        if self.looked != Some(left) {
            self.look(left);
        }
        &self.allowed
    }

    /// The tokens whose logits [`Sampler::choose`](crate::sampler::Sampler::choose) among the allowed
    /// ones, and [`Cursor::chosen`], look at.
    pub fn needed(&mut self, left: usize) -> TokenSet {
        let mut needed = self.allowed(left).clone();
        self.barred.iter().for_each(|&id| needed.insert(id));
        needed
    }

    /// Finds what may come next.
    fn look(&mut self, left: usize) {
        self.looked = Some(left);
        let grammar = &*self.grammar;
        let tokens = &grammar.model.vocabulary().tokens;
        let machine = grammar.machine(&self.seen);
        let spare = left.saturating_sub(1);
        let (allowed, barred) = (&mut self.allowed, &mut self.barred);
        barred.clear();
        let state = self.state;
        let cheap = machine.cost(state).is_some_and(|cost| cost <= spare);
        let plain = cheap && machine.takes_plain(state, tokens.longest_plain());
        if plain {
            allowed.clone_from(tokens.plain());
        } else {
            allowed.clear(tokens.vocab());
        }
        let follow = |state: State, byte: u8| machine.follow(state, byte);
        tokens.walk(&grammar.model, state, !plain, follow, |id, after| match machine.cost(after) {
            Some(cost) if cost <= spare => allowed.insert(id),
            Some(_) => barred.push(id),
            None => {}
        });
    }

    /// Notes what was chosen: whether the model would have liked a token better that the budget
    /// forbade. `logits` are those that it was chosen by.
    pub fn chosen(&mut self, token: u32, logits: &[f32]) {
        let logit = |id: u32| logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        self.cut |= self.barred.iter().any(|&id| logit(id) > logit(token));
    }

    /// Goes on behind `token`, which was forced or allowed.
    pub fn take(&mut self, token: u32) {
        self.looked = None;
        let grammar = Arc::clone(&self.grammar);
        let mut found = Vec::new();
        let machine = grammar.machine(&self.seen);
        let piece = grammar.model.tokenizer().piece(token);
        for &byte in piece {
            let Some(next) = machine.follow(self.state, byte) else {
                debug_assert!(false, "token {token} was neither forced nor allowed");
                break;
            };
            let was_quote = matches!(self.state.place, Place::Quote(..) | Place::Occurrence(..));
            if was_quote && matches!(next.place, Place::Fixed(machine::Segment::Message, _)) {
                found.push(next.quote);
            }
            self.state = next;
        }
        self.seen.extend(found);
    }
}

#[cfg(test)]
mod tests;

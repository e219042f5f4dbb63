//! Conversations as tokens: the chat template applied, with text kept apart from control.
//!
//! Not here: the template language. Templates are compiled to [`ChatTemplate`] at import.

use crate::error::{Error, Result};
use crate::file::{Affixes, ChatTemplate, Part};
use crate::tokenizer::{Special, Tokenizer};

impl ChatTemplate {
    /// For models without a template: headings in plain text.
    pub fn plain() -> Self {
        let turn = |name: &str| Affixes {
            prefix: vec![Part::Text(format!("{name}:\n"))],
            suffix: vec![Part::Text("\n\n".to_owned())],
        };
        Self {
            system: None,
            system_separator: "\n\n".to_owned(),
            user: turn("User"),
            assistant: turn("Assistant"),
            ..Self::default()
        }
    }

    /// Every control part must be a token of the vocabulary.
    pub(crate) fn validate(&self, tokenizer: &Tokenizer) -> Result<()> {
        let affixes = self.system.iter().chain([&self.user, &self.assistant]);
        let parts = affixes.flat_map(|a| a.prefix.iter().chain(&a.suffix));
        for part in parts.chain(&self.start).chain(self.generation.iter().flatten()) {
            if let Part::Control(id) = part
                && *id as usize >= tokenizer.vocab_size()
            {
                return Err(Error::corrupt(format!("chat template: control token {id} is outside the vocabulary")));
            }
        }
        Ok(())
    }
}

/// A chat that grows, message by message, as tokens.
///
/// Text is collected until a control token or the end of a message's turn forces it to be
/// tokenized, so that a prefix, the content and a suffix meet as they do in the template.
#[derive(Clone)]
pub struct Conversation<'a> {
    template: &'a ChatTemplate,
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    text: String,
    /// System text that waits for the first user message.
    system: Option<String>,
}

impl<'a> Conversation<'a> {
    /// Begins with the system message `system`, or the template's own default.
    pub fn new(template: &'a ChatTemplate, tokenizer: &'a Tokenizer, system: Option<&str>) -> Self {
        let mut this = Self { template, tokenizer, tokens: Vec::new(), text: String::new(), system: None };
        this.parts(&template.start);
        if this.tokens.is_empty() && this.text.is_empty() {
            this.tokens.extend(tokenizer.add_bos());
        }
        if let Some(system) = system.or(template.default_system.as_deref()) {
            match &template.system {
                Some(affixes) => this.message(affixes, system),
                None => this.system = Some(system.to_owned()),
            }
        }
        this
    }

    /// A whole user message.
    pub fn user(&mut self, content: &str) {
        let template = self.template;
        match self.system.take() {
            Some(system) => {
                let content =
                    format!("{}{}{}", self.trimmed(&system), template.system_separator, self.trimmed(content));
                self.message(&template.user, &content);
            }
            None => self.message(&template.user, content),
        }
    }

    /// A whole message of the model's.
    pub fn assistant(&mut self, content: &str) {
        self.open_draft(content);
        self.close_draft();
    }

    /// A message of the model's whose end is still open: the draft.
    pub fn open_draft(&mut self, content: &str) {
        self.parts(&self.template.assistant.prefix);
        self.text.push_str(self.trimmed(content));
    }

    /// Ends what [`Conversation::open_draft`] began.
    pub fn close_draft(&mut self) {
        self.parts(&self.template.assistant.suffix);
    }

    /// The prompt for the model to speak. Follow with [`Conversation::generated`].
    pub fn open_assistant(&mut self) {
        match &self.template.generation {
            Some(parts) => self.parts(parts),
            None => self.parts(&self.template.assistant.prefix),
        }
    }

    /// What the model said after [`Conversation::open_assistant`], token by token as sampled,
    /// without the token that ended it, and the end of its message.
    pub fn generated(&mut self, tokens: &[u32]) {
        self.said(tokens);
        self.close_draft();
    }

    /// The same without the end of the message.
    pub fn said(&mut self, tokens: &[u32]) {
        self.flush();
        self.tokens.extend_from_slice(tokens);
    }

    /// Parts of a template that are no message.
    pub fn parts(&mut self, parts: &[Part]) {
        for part in parts {
            match part {
                Part::Text(text) => self.text.push_str(text),
                Part::Control(id) => {
                    self.flush();
                    self.tokens.push(*id);
                }
            }
        }
    }

    /// Text as it stands.
    pub fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// All tokens so far.
    pub fn tokens(&mut self) -> &[u32] {
        self.flush();
        &self.tokens
    }

    fn message(&mut self, affixes: &Affixes, content: &str) {
        self.parts(&affixes.prefix);
        self.text.push_str(self.trimmed(content));
        self.parts(&affixes.suffix);
    }

    fn trimmed<'t>(&self, content: &'t str) -> &'t str {
        if self.template.trim { content.trim() } else { content }
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            let at_start = match self.tokens.last() {
                None => true,
                Some(&last) => self.tokenizer.is_control(last) && self.tokenizer.prefixes_after_control(),
            };
            self.tokenizer.encode_into(&self.text, Special::Text, at_start, &mut self.tokens);
            self.text.clear();
        }
    }
}

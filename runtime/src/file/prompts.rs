//! The default prompts: what a model without its own is told.
//!
//! One question and a short answer, because small models follow one clear instruction better
//! than five: each sentence more made their critiques worse. After a critique, a small model
//! tends to write the critique once more; to be asked again for what was asked for at first
//! brings it back. It is left out where that is long as a rule: a text to summarize, or code.

use super::metadata::{Part, Prompts, TaskPrompts};
use crate::error::{Error, Result};

impl Prompts {
    /// There must be a task, and every control part must be a token of the vocabulary.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        if self.tasks.is_empty() {
            return Err(Error::corrupt("prompts: tasks is empty, expected one task or more"));
        }
        for (task, prompts) in &self.tasks {
            for (name, turn) in [("critique_turn", &prompts.critique_turn), ("refine_turn", &prompts.refine_turn)] {
                for part in turn.iter().flatten() {
                    if let Part::Control(id) = part
                        && *id as usize >= vocab_size
                    {
                        return Err(Error::corrupt(format!(
                            "prompts: tasks.{task}.{name}: control token {id} is outside the vocabulary of {vocab_size}"
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}

impl TaskPrompts {
    /// Asks for findings where a model's own prompts do not. The form is shown by one example,
    /// because a small model that reads a description of it writes about that, and any model
    /// is held to it anyhow.
    pub const FINDINGS: &str = concat!(
        "List the mistakes in this. For each one quote the wrong words, say what is wrong with them, and give better ",
        "words. Example: [{\"quote\":\"two apple\",\"message\":\"The plural needs an s.\",\"severity\":\"warning\",",
        "\"replacement\":\"two apples\"}]. Severity is error, warning or note. If nothing needs to change, say only: []",
    );

    /// What asks for a structured critique.
    pub fn findings(&self) -> &str {
        self.findings.as_deref().unwrap_or(Self::FINDINGS)
    }
}

impl Default for Prompts {
    fn default() -> Self {
        let tasks = [
            ("general", "text", "", AGAIN),
            ("dialog", "reply", "", AGAIN),
            ("summarization", "summary", " Compare it with the source.", ""),
            ("qa", "answer", " Check every fact.", AGAIN),
            ("math", "solution", " Work each step out again.", AGAIN),
            ("code", "code", " Look for bugs, and for cases that it does not handle.", ""),
        ];
        let tasks = tasks.into_iter().map(|(task, what, how, again)| {
            let critique = format!(
                "What is wrong with this {what}, and how can it be better?{how} Answer in two or three sentences. \
                 Do not rewrite it. If nothing needs to change, say only: {KEEP}."
            );
            let refine = format!(
                "Now write a better {what}: fix these problems, and keep what is right. Give only the {what}.{again}"
            );
            let judge = "Which of the two answers to the request is better, A or B? Say only the letter.".to_owned();
            (
                task.to_owned(),
                TaskPrompts { critique, refine, judge, findings: None, critique_turn: None, refine_turn: None },
            )
        });
        Self { system: None, keep: KEEP.to_owned(), tasks: tasks.collect() }
    }
}

const KEEP: &str = "No changes needed";

/// What was asked, once more.
const AGAIN: &str = "\n\n{prompt}";

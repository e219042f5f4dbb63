//! The default prompts: what a model without its own is told. Short, because small models
//! follow one clear instruction better than five.

use super::metadata::{Prompts, TaskPrompts};

impl Default for Prompts {
    fn default() -> Self {
        let tasks = [
            ("general", "the answer above", "mistakes, missing parts and unclear wording"),
            (
                "dialog",
                "your reply above",
                "wrong or missing information, a wrong tone, and parts of the question left open",
            ),
            (
                "summarization",
                "the summary above",
                "facts that differ from the source, important points left out, and needless words",
            ),
            ("qa", "the answer above", "wrong facts, and anything that the question asks for and the answer lacks"),
            ("math", "the solution above", "the first step that is wrong, by working each step out again"),
            ("code", "the code above", "bugs, cases that it does not handle, and differences from what was asked"),
        ];
        let tasks = tasks.into_iter().map(|(task, what, look_for)| {
            let critique = format!(
                "Review {what}. Look for {look_for}. List each problem and say how to fix it, in a few short \
                 sentences. Do not rewrite it. If nothing needs to change, say only: No changes needed."
            );
            let refine = format!(
                "Now rewrite {what} so that every problem in your review is fixed. Keep all that was right as it is. \
                 Give only the rewritten text, without comments."
            );
            let judge = "Which of the two answers to the request is better, A or B? Say only the letter.".to_owned();
            (task.to_owned(), TaskPrompts { critique, refine, judge, critique_turn: None, refine_turn: None })
        });
        Self { system: None, keep: "No changes needed".to_owned(), tasks: tasks.collect() }
    }
}

//! What authors are told: the runtime's prompts as chat messages and questions.

use critic::file::{Prompts, TaskPrompts};
use critic::{Message, Role};

use super::author::{Ask, Part};

/// The prompts of a task, or of `general` where there are none of its own.
fn task<'p>(prompts: &'p Prompts, name: &str) -> Option<&'p TaskPrompts> {
    prompts.tasks.get(name).or_else(|| prompts.tasks.get("general"))
}

/// The instruction `text` with what was asked in place of `{prompt}`.
fn instruction(text: &str, ask: &Ask) -> String {
    text.replace("{prompt}", &ask.problem.prompt)
}

/// The question that a judge is asked.
pub fn question(prompts: &Prompts, ask: &Ask) -> String {
    /// For prompts that have no judge's question.
    const ANSWERS: &str = "Which of the two answers to the request is better, A or B? Say only the letter.";
    let prompt = &ask.problem.prompt;
    match ask.part {
        Part::Judgement { first, second } => {
            let asked = task(prompts, &ask.problem.task).map_or("", |task| &task.judge);
            let asked = if asked.is_empty() { ANSWERS } else { asked };
            format!("{prompt}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}\n\n{asked}")
        }
        Part::CritiqueJudgement { draft, first, second } => format!(
            "{prompt}\n\nAnswer:\n{draft}\n\nCritique A:\n{first}\n\nCritique B:\n{second}\n\nWhich of the two \
             critiques of the answer is better, A or B? Say only the letter."
        ),
        _ => String::new(),
    }
}

/// The conversation that the text goes on from: the one that the runtime has, as messages.
pub fn messages(prompts: &Prompts, ask: &Ask) -> Vec<Message> {
    let message = |role, content: String| Message { role, content };
    let mut said: Vec<Message> = prompts.system.iter().map(|text| message(Role::System, text.clone())).collect();
    let told = task(prompts, &ask.problem.task);
    let (critique, refine) = told.map_or(("", ""), |told| (told.critique.as_str(), told.refine.as_str()));
    let prompt = || message(Role::User, ask.problem.prompt.clone());
    match ask.part {
        Part::Draft => said.push(prompt()),
        Part::Critique { draft } => said.extend([
            prompt(),
            message(Role::Assistant, draft.to_owned()),
            message(Role::User, instruction(critique, ask)),
        ]),
        Part::Refinement { draft, critique: text } => said.extend([
            prompt(),
            message(Role::Assistant, draft.to_owned()),
            message(Role::User, instruction(critique, ask)),
            message(Role::Assistant, text.to_owned()),
            message(Role::User, instruction(refine, ask)),
        ]),
        Part::Judgement { .. } | Part::CritiqueJudgement { .. } => {
            said.push(message(Role::User, question(prompts, ask)));
        }
    }
    said
}

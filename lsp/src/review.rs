//! A review: the findings about a whole text, of any length, piece by piece.

use std::ops::{ControlFlow, Range};

use critic::critique::OnEvent;
use critic::{Critique, Event, Finding, Progress, Request, Result, Session, findings};

use crate::language::Language;
use crate::project::Project;
use crate::split::pieces;

/// Most tokens of the draft in one critique, where nothing else is said: small models lose
/// their way in more, and an edit makes less of it stale.
pub const PART_TOKENS: usize = 1536;
/// Room for instructions and markup.
const MARKUP_TOKENS: usize = 256;

/// How texts of one kind are reviewed.
#[derive(Clone, Debug)]
pub struct Review {
    /// What holds for all pieces; the response is filled in.
    pub request: Request,
    /// Of the text.
    pub language: &'static Language,
    /// Most tokens of a piece.
    pub part_tokens: usize,
}

impl Review {
    /// As a project asks for it. `base` says how tokens are chosen, and how many at most.
    pub fn new(project: &Project, language: &'static Language, base: &Request) -> Self {
        let (prompt, task) = (project.instruction(language), project.task(language));
        Self { request: Request { prompt, task, structured: true, ..base.clone() }, language, part_tokens: PART_TOKENS }
    }

    /// The pieces that are critiqued one by one.
    pub fn pieces(&self, session: &Session, text: &str) -> Vec<Range<usize>> {
        let context = session.context_tokens();
        let instruction = session.model().tokenizer().encode(&self.request.prompt, critic::tokenizer::Special::Text);
        let written = if self.request.max_tokens == 0 { context / 4 } else { self.request.max_tokens.min(context / 2) };
        let room = context.saturating_sub(written + 2 * instruction.len() + MARKUP_TOKENS);
        let most = room.min(self.part_tokens).max(16);
        let tokenizer = session.model().tokenizer();
        pieces(text, self.language, |piece| {
            // A token has a byte at least; what has many times as many bytes is not tokenized.
            piece.len() <= 16 * most && tokenizer.encode(piece, critic::tokenizer::Special::Text).len() <= most
        })
    }

    /// The request for one piece.
    pub fn request(&self, piece: &str) -> Request {
        Request { response: piece.to_owned(), ..self.request.clone() }
    }

    /// Critiques one piece; `on_event` gets progress, `on_finding` each finding as soon as it is
    /// said, with offsets in `text`.
    pub fn piece(
        &self,
        session: &mut Session,
        text: &str,
        piece: &Range<usize>,
        on_event: &mut OnEvent,
        on_finding: &mut dyn FnMut(Finding),
    ) -> Result<Critique> {
        let request = self.request(&text[piece.clone()]);
        let (mut said, mut known) = (String::new(), 0);
        let streams = request.candidates <= 1;
        let mut critique = session.critique(&request, &mut |event: Event| {
            if let Progress::Text(fresh) = event.progress
                && streams
            {
                said.push_str(fresh);
                if fresh.contains('}') {
                    let found = findings::parse_partial(&said, &request.response);
                    found.iter().skip(known).for_each(|finding| on_finding(moved(finding.clone(), piece.start)));
                    known = known.max(found.len());
                }
            }
            on_event(event)
        })?;
        critique.findings = critique.findings.into_iter().map(|finding| moved(finding, piece.start)).collect();
        critique.findings.iter().skip(known).for_each(|finding| on_finding(finding.clone()));
        Ok(critique)
    }

    /// The findings about all of `text`, and whether none was cut off.
    pub fn whole(&self, session: &mut Session, text: &str, on_event: &mut OnEvent) -> Result<(Vec<Finding>, bool)> {
        let (mut all, mut complete) = (Vec::new(), true);
        for piece in self.pieces(session, text) {
            let critique = self.piece(session, text, &piece, on_event, &mut |_| {})?;
            complete &= critique.complete;
            all.extend(critique.findings);
        }
        Ok((all, complete))
    }
}

/// A finding about a piece that begins at `offset`, as one about the whole.
pub fn moved(finding: Finding, offset: usize) -> Finding {
    Finding { start: finding.start + offset, end: finding.end + offset, ..finding }
}

/// Never stops anything.
pub fn go_on(_: Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

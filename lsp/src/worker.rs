//! The thread that thinks: it owns the model and its session, and takes one job after the other,
//! while the server goes on to answer.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use critic::{
    CancelToken, Error, Event, Finding, Host, Model, Phase, Progress, Request, Session, SessionOptions, Verdict,
};
use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::project::Project;
use crate::review::{Review, moved};
use crate::settings::Settings;

/// Opens a model by its file or name, or says how to get one.
pub type Opener = Box<dyn Fn(Option<&str>) -> Result<Arc<Model>, String> + Send>;

/// Pieces whose findings are kept, so that only what changed is critiqued again.
const KEPT: usize = 256;

/// Something to think about.
pub struct Job {
    /// Tells jobs apart.
    pub id: u64,
    /// What is wanted.
    pub work: Work,
    /// The document's text.
    pub text: String,
    /// The part that is meant.
    pub range: Range<usize>,
    /// Of the document.
    pub language: &'static crate::language::Language,
    /// Where instructions for it are looked for.
    pub folder: Option<std::path::PathBuf>,
    /// What the person set.
    pub settings: Settings,
}

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Findings.
    Critique,
    /// A better text.
    Refine,
}

/// What came of a job.
pub enum Outcome {
    /// Findings, at places in the document.
    Findings {
        /// In the order of the text.
        findings: Vec<Finding>,
        /// Whether no critique was cut off.
        complete: bool,
    },
    /// A better text.
    Refinement {
        /// What should stand in the part.
        text: String,
        /// What was wrong.
        critique: String,
        /// Whether the model prefers it.
        accepted: bool,
    },
    /// It was cancelled.
    Cancelled,
    /// It could not be done.
    Failed(String),
}

/// What the worker tells of a job.
pub enum Report {
    /// How far it is.
    Progress {
        /// Whose.
        job: u64,
        /// In which part of the loop.
        phase: &'static str,
        /// Tokens that were read or written.
        done: usize,
        /// Of how many, where that is known.
        total: Option<usize>,
    },
    /// New text.
    Text {
        /// Whose.
        job: u64,
        /// In which part of the loop.
        phase: &'static str,
        /// The text.
        text: String,
    },
    /// One of the findings, as soon as it is said.
    Finding {
        /// Whose.
        job: u64,
        /// At a place in the document.
        finding: Finding,
    },
    /// The end.
    Done {
        /// Whose.
        job: u64,
        /// What came of it.
        outcome: Outcome,
    },
}

/// The worker, as the server sees it.
pub struct Worker {
    jobs: Option<Sender<(Job, Arc<AtomicBool>)>>,
    /// What it tells.
    pub reports: Receiver<Report>,
    current: Arc<Mutex<Current>>,
    thread: Option<JoinHandle<()>>,
}

/// The job in progress, and what stops its session.
#[derive(Default)]
struct Current(Option<(u64, CancelToken)>);

impl Worker {
    /// Starts the thread.
    pub fn start(open: Opener) -> Self {
        let (jobs, inbox) = unbounded::<(Job, Arc<AtomicBool>)>();
        let (reports, outbox) = unbounded();
        let current = Arc::new(Mutex::new(Current::default()));
        let mut desk = Desk { open, opened: None, kept: VecDeque::new(), current: Arc::clone(&current), reports };
        let thread = std::thread::Builder::new()
            .name("critic-worker".into())
            .spawn(move || {
                for (job, cancelled) in inbox {
                    desk.take(job, &cancelled);
                }
            })
            .expect("a thread can be started");
        Self { jobs: Some(jobs), reports: outbox, current, thread: Some(thread) }
    }

    /// Hands over a job; the flag cancels it (see [`Worker::cancel`]).
    pub fn hand(&self, job: Job) -> Arc<AtomicBool> {
        let cancelled = Arc::new(AtomicBool::new(false));
        if let Some(jobs) = &self.jobs {
            // A worker that is gone reports nothing, and the server ends soon.
            _ = jobs.send((job, Arc::clone(&cancelled)));
        }
        cancelled
    }

    /// Cancels a job, begun or not. Returns at once.
    pub fn cancel(&self, job: u64, cancelled: &AtomicBool) {
        cancelled.store(true, Ordering::Relaxed);
        if let Some((id, token)) = &lock(&self.current).0
            && *id == job
        {
            token.cancel();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some((_, token)) = &lock(&self.current).0 {
            token.cancel();
        }
        if let Some(thread) = self.thread.take() {
            // A panic in it was reported as a failed job.
            _ = thread.join();
        }
    }
}

fn lock(current: &Mutex<Current>) -> std::sync::MutexGuard<'_, Current> {
    current.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What the thread has in front of it.
struct Desk {
    open: Opener,
    /// The session, and the model and threads that it was opened for.
    opened: Option<(Session, Option<String>, usize)>,
    /// Findings of pieces, with places in the piece: the newest last.
    kept: VecDeque<(Key, Vec<Finding>)>,
    current: Arc<Mutex<Current>>,
    reports: Sender<Report>,
}

/// All that a piece's findings depend on.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    piece: String,
    prompt: String,
    task: String,
    max_tokens: usize,
}

impl Desk {
    fn take(&mut self, job: Job, cancelled: &AtomicBool) {
        let id = job.id;
        let outcome = if cancelled.load(Ordering::Relaxed) {
            Outcome::Cancelled
        } else {
            let done = catch_unwind(AssertUnwindSafe(|| self.work(&job, cancelled)));
            // After a panic the session may be in any state.
            let done = done.unwrap_or_else(|_| {
                self.opened = None;
                Err("a defect: the work was given up".to_owned())
            });
            done.unwrap_or_else(Outcome::Failed)
        };
        lock(&self.current).0 = None;
        _ = self.reports.send(Report::Done { job: id, outcome });
    }

    fn work(&mut self, job: &Job, cancelled: &AtomicBool) -> Result<Outcome, String> {
        let project = job.folder.as_deref().map_or(Ok(Project::default()), Project::find)?;
        let base = Request { max_tokens: job.settings.max_tokens, ..Request::default() };
        let mut review = Review::new(&project, job.language, &base);
        review.part_tokens = job.settings.part_tokens;
        let mut session = self.session(&job.settings)?;
        {
            let mut current = lock(&self.current);
            let token = session.cancel_token();
            token.reset();
            current.0 = Some((job.id, token));
        }
        let result = match job.work {
            Work::Critique => self.critique(&mut session, job, &review, cancelled),
            Work::Refine => self.refine(&mut session, job, &review, cancelled),
        };
        lock(&self.current).0 = None;
        session.cancel_token().reset();
        self.opened = Some((session, job.settings.model.clone(), job.settings.threads));
        match result {
            Ok(outcome) => Ok(outcome),
            Err(Error::Cancelled) => Ok(Outcome::Cancelled),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The session for these settings: the one that is there, or a new one.
    fn session(&mut self, settings: &Settings) -> Result<Session, String> {
        if let Some((session, model, threads)) = self.opened.take()
            && (&model, threads) == (&settings.model, settings.threads)
        {
            return Ok(session);
        }
        self.kept.clear();
        let model = (self.open)(settings.model.as_deref())?;
        let options = SessionOptions { threads: settings.threads, ..Default::default() };
        Session::new(&model, &options).map_err(|error| error.to_string())
    }

    fn critique(
        &mut self,
        session: &mut Session,
        job: &Job,
        review: &Review,
        cancelled: &AtomicBool,
    ) -> critic::Result<Outcome> {
        let part = &job.text[job.range.clone()];
        let (mut all, mut complete) = (Vec::new(), true);
        for piece in review.pieces(session, part) {
            let text = &part[piece.clone()];
            let request = &review.request;
            let key = Key {
                piece: text.to_owned(),
                prompt: request.prompt.clone(),
                task: request.task.clone(),
                max_tokens: request.max_tokens,
            };
            let known = self.kept.iter().position(|(kept, _)| *kept == key);
            let offset = job.range.start;
            let found = match known.and_then(|at| self.kept.remove(at)) {
                Some((_, found)) => {
                    for finding in &found {
                        let finding = moved(finding.clone(), offset + piece.start);
                        _ = self.reports.send(Report::Finding { job: job.id, finding });
                    }
                    found
                }
                None => {
                    let mut teller = Teller::new(job.id, &self.reports, cancelled);
                    let mut on_finding = |finding: Finding| {
                        _ = self.reports.send(Report::Finding { job: job.id, finding: moved(finding, offset) });
                    };
                    let critique =
                        review.piece(session, part, &piece, &mut |event| teller.event(event), &mut on_finding)?;
                    complete &= critique.complete;
                    let back = |f: Finding| Finding { start: f.start - piece.start, end: f.end - piece.start, ..f };
                    critique.findings.into_iter().map(back).collect()
                }
            };
            all.extend(found.iter().map(|finding| moved(finding.clone(), offset + piece.start)));
            self.kept.push_back((key, found));
            if self.kept.len() > KEPT {
                self.kept.pop_front();
            }
        }
        all.sort_by_key(|finding| (finding.start, finding.end));
        Ok(Outcome::Findings { findings: all, complete })
    }

    fn refine(
        &mut self,
        session: &mut Session,
        job: &Job,
        review: &Review,
        cancelled: &AtomicBool,
    ) -> critic::Result<Outcome> {
        let part = &job.text[job.range.clone()];
        let (mut text, mut critiques, mut accepted) = (part.to_owned(), Vec::new(), false);
        // From the last to the first, so that places stay what they are.
        for piece in review.pieces(session, part).into_iter().rev() {
            let draft = &part[piece.clone()];
            // A refinement is about as long as its draft, which the limit for critiques is not for.
            let request = Request { structured: false, ..review.request(draft) };
            let longer = Request { max_tokens: request.max_tokens.max(draft.len()), ..request.clone() };
            let mut teller = Teller::new(job.id, &self.reports, cancelled);
            let critique = session.critique(&request, &mut |event| teller.event(event))?;
            let mut host = Host::default();
            let refinement = session.refine(&longer, &critique, &mut host, &mut |event| teller.event(event))?;
            if critique.verdict == Verdict::Revise && refinement.complete {
                let ending = &draft[draft.trim_end().len()..];
                let body = code(&refinement.text, review.language.prose);
                text.replace_range(piece, &(body.trim_end().to_owned() + ending));
                accepted |= refinement.accepted;
            }
            critiques.push(critique.text);
        }
        critiques.reverse();
        Ok(Outcome::Refinement { text, critique: critiques.join("\n\n"), accepted })
    }
}

/// The code in an answer that has a fence around it.
fn code(text: &str, prose: bool) -> &str {
    let Some(from) = text.find("```").filter(|_| !prose) else { return text };
    let Some(line) = text[from..].find('\n') else { return text };
    let body = &text[from + line + 1..];
    body.find("```").map_or(body, |end| &body[..end])
}

/// Turns a session's events into reports, and asks whether the job is still wanted.
struct Teller<'a> {
    job: u64,
    reports: &'a Sender<Report>,
    cancelled: &'a AtomicBool,
    written: usize,
    phase: Phase,
}

impl<'a> Teller<'a> {
    fn new(job: u64, reports: &'a Sender<Report>, cancelled: &'a AtomicBool) -> Self {
        Self { job, reports, cancelled, written: 0, phase: Phase::Read }
    }

    fn event(&mut self, event: Event) -> ControlFlow<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        let phase = match event.phase {
            Phase::Read => "reading",
            Phase::Critique => "critique",
            Phase::Refine => "refinement",
            Phase::Judge => "judging",
        };
        if event.phase != self.phase {
            (self.phase, self.written) = (event.phase, 0);
        }
        let job = self.job;
        match event.progress {
            Progress::Prefill { done, total } => {
                _ = self.reports.send(Report::Progress { job, phase, done, total: Some(total) });
            }
            Progress::Text(text) => {
                self.written += 1;
                _ = self.reports.send(Report::Progress { job, phase, done: self.written, total: None });
                _ = self.reports.send(Report::Text { job, phase, text: text.to_owned() });
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn fences_around_code_go() {
        assert_eq!(code("Here:\n```rust\nfn a() {}\n```\nDone.", false), "fn a() {}\n");
        assert_eq!(code("```\nx", false), "x");
        assert_eq!(code("no fence", false), "no fence");
        assert_eq!(code("```\nx\n```", true), "```\nx\n```");
        assert_eq!(code("```", false), "```");
    }
}

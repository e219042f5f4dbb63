//! Jobs of the worker, as the server keeps them: whose they are, how far they are, what came of
//! them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use critic::Finding;
use lsp_server::{ErrorCode, RequestId};
use lsp_types::ProgressToken;
use serde_json::{Value, json};

use crate::document::{self, Refinement};
use crate::edits;
use crate::server::{Asked, Server};
use crate::worker::{Job, Outcome, Report, Work};

/// A job that was handed over.
pub(crate) struct Running {
    /// Key of its document.
    pub document: String,
    /// The request that waits for it.
    pub request: Option<RequestId>,
    /// What its progress is called.
    pub token: Option<ProgressToken>,
    work: Work,
    range: Range<usize>,
    cancelled: Arc<AtomicBool>,
    /// Findings so far.
    found: Vec<Finding>,
    /// What was last said of its progress.
    told: (&'static str, usize),
}

impl Server {
    /// Hands a job over. It takes the place of an earlier one of its kind about its document.
    pub fn begin(
        &mut self,
        key: &str,
        work: Work,
        range: Range<usize>,
        request: Option<RequestId>,
        token: Option<ProgressToken>,
    ) -> Result<(), String> {
        let newer = Some((ErrorCode::ServerCancelled, "asked again"));
        self.cancel_jobs(|job| job.document == key && job.work == work, newer);
        let Some((_, document)) = self.documents.get(key) else { return Err("no such document is open".to_owned()) };
        let most = self.settings.max_length;
        if range.len() > most {
            return Err(format!("{} bytes, and critic.maxLength is {most}: select a part", range.len()));
        }
        self.last_job += 1;
        let id = self.last_job;
        let folder = document::path(key).and_then(|path| path.parent().map(Into::into));
        let job = Job {
            id,
            work,
            text: document.text.clone(),
            range: range.clone(),
            language: document.language,
            folder,
            settings: self.settings.clone(),
        };
        let cancelled = self.worker.hand(job);
        let token = token.or_else(|| self.client.progress.then(|| ProgressToken::String(format!("critic/{id}"))));
        if let Some(token) = &token {
            if *token == ProgressToken::String(format!("critic/{id}")) {
                self.ask("window/workDoneProgress/create", json!({ "token": token }), Asked::Whatever);
            }
            let title = if work == Work::Critique { "Critique" } else { "Refinement" };
            self.progress(token, json!({ "kind": "begin", "title": title, "cancellable": true }));
        }
        let told = ("", 0);
        let running =
            Running { document: key.to_owned(), request, token, work, range, cancelled, found: Vec::new(), told };
        self.jobs.insert(id, running);
        Ok(())
    }

    /// Cancels jobs, and answers the requests that wait for them, now: a session may need a
    /// moment to stop.
    pub fn cancel_jobs(&mut self, which: impl Fn(&Running) -> bool, answer: Option<(ErrorCode, &str)>) {
        let ids: Vec<u64> = self.jobs.iter().filter(|(_, job)| which(job)).map(|(&id, _)| id).collect();
        for id in ids {
            let Some(job) = self.jobs.remove(&id) else { continue };
            self.worker.cancel(id, &job.cancelled);
            if let Some((code, why)) = answer {
                if let Some(request) = job.request {
                    self.fail(request, code, why);
                }
                if let Some(token) = &job.token {
                    self.progress(token, json!({ "kind": "end", "message": why }));
                }
            }
        }
    }

    fn progress(&mut self, token: &ProgressToken, value: Value) {
        self.notify("$/progress", json!({ "token": token, "value": value }));
    }

    /// Takes what the worker tells. What it tells of a job that was cancelled is passed over.
    pub fn report(&mut self, report: Report) {
        match report {
            Report::Progress { job, phase, done, total } => self.tell(job, phase, done, total),
            Report::Text { job, phase, text } => {
                if let Some(job) = self.jobs.get(&job).filter(|_| self.settings.stream) {
                    let params = json!({ "uri": job.document, "phase": phase, "text": text });
                    self.notify("critic/stream", params);
                }
            }
            Report::Finding { job, finding } => {
                let Some(job) = self.jobs.get_mut(&job) else { return };
                job.found.push(finding);
                let (key, range, found) = (job.document.clone(), job.range.clone(), job.found.clone());
                self.show(&key, &range, found);
            }
            Report::Done { job, outcome } => {
                if let Some(job) = self.jobs.remove(&job) {
                    self.done(job, outcome);
                }
            }
        }
    }

    fn show(&mut self, key: &str, range: &Range<usize>, found: Vec<Finding>) {
        if let Some((_, document)) = self.documents.get_mut(key) {
            document.set_findings(range, found);
            self.publish(key);
        }
    }

    fn tell(&mut self, job: u64, phase: &'static str, done: usize, total: Option<usize>) {
        /// Tokens between two lines of progress.
        const STEP: usize = 8;
        let Some(job) = self.jobs.get_mut(&job) else { return };
        let Some(token) = job.token.clone() else { return };
        let (last_phase, last) = job.told;
        if phase == last_phase && done < last + STEP && done >= last && total.is_none() {
            return;
        }
        job.told = (phase, done);
        let value = match total {
            Some(total) => {
                let percentage = 100 * done / total.max(1);
                json!({ "kind": "report", "message": format!("{phase}: {done} of {total} tokens"), "percentage": percentage })
            }
            None => json!({ "kind": "report", "message": format!("{phase}: {done} tokens") }),
        };
        self.progress(&token, value);
    }

    fn done(&mut self, job: Running, outcome: Outcome) {
        let message = match &outcome {
            Outcome::Findings { findings, .. } => match findings.len() {
                0 => "nothing needs to change".to_owned(),
                1 => "1 finding".to_owned(),
                count => format!("{count} findings"),
            },
            Outcome::Refinement { .. } => "a refinement is ready".to_owned(),
            Outcome::Cancelled => "cancelled".to_owned(),
            Outcome::Failed(why) => why.clone(),
        };
        if let Some(token) = &job.token {
            self.progress(token, json!({ "kind": "end", "message": message }));
        }
        match outcome {
            Outcome::Findings { findings, complete } => {
                self.show(&job.document, &job.range, findings.clone());
                let Some((_, document)) = self.documents.get(&job.document) else { return };
                let places: Vec<Value> = findings
                    .iter()
                    .map(|finding| {
                        let range = finding.start..finding.end;
                        let range = document.lines.positions(&document.text, range, self.encoding);
                        json!({
                            "range": range,
                            "quote": finding.quote,
                            "message": finding.message,
                            "severity": finding.severity,
                            "replacement": finding.replacement
                        })
                    })
                    .collect();
                if let Some(id) = job.request {
                    self.answer(id, json!({ "findings": places, "complete": complete }));
                }
            }
            Outcome::Refinement { text, critique, accepted } => {
                self.last_job += 1;
                let id = self.last_job;
                let encoding = self.encoding;
                let Some((_, document)) = self.documents.get_mut(&job.document) else { return };
                let edits = edits::minimal(document, job.range.clone(), &text, encoding);
                let range = document.lines.positions(&document.text, job.range.clone(), encoding);
                let answer = json!({
                    "id": id,
                    "uri": job.document,
                    "range": range,
                    "original": document.text[job.range.clone()],
                    "refinement": text,
                    "critique": critique,
                    "accepted": accepted,
                    "changed": !edits.is_empty(),
                    "version": document.version
                });
                document.refinement = Some(Refinement { id, range: job.range, text, accepted });
                match job.request {
                    Some(id) => self.answer(id, answer),
                    None => {
                        let message = "A refinement is ready: take it with the action “Apply refinement”.";
                        self.notify("window/showMessage", json!({ "type": 3, "message": message }));
                    }
                }
            }
            Outcome::Cancelled => {
                if let Some(id) = job.request {
                    self.fail(id, ErrorCode::RequestCanceled, "cancelled");
                }
            }
            Outcome::Failed(why) => {
                if let Some(id) = job.request {
                    self.fail(id, ErrorCode::RequestFailed, &why);
                }
                self.show_error(&why);
            }
        }
    }
}

//! An author behind an OpenAI-compatible endpoint: vLLM, llama-server, Ollama, a hosted service.
//!
//! One kind of request is made, a chat completion. What there is to do is to be patient: requests in flight
//! up to a limit, a deadline for each, and for what passes by itself (busy, restarting, a connection that
//! hangs) another attempt after a delay that grows and is drawn, or that the server names.
//!
//! The key is known to this file alone. It is in no record, no error and no `Debug`.

use std::fmt;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use critic::file::Prompts;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ureq::http::{Response, header};
use ureq::{Agent, Body};

use super::author::{Answer, Ask, Author, OnAnswers, Written};
use super::say;
use crate::error::{Error, Result};
use crate::random::Random;

/// A key that shows itself to nobody.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps `key`.
    pub fn new(key: String) -> Self {
        Self(key)
    }

    /// `text` without the key, should a server have sent it back.
    fn removed_from(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(&self.0, "[key]") }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("[key]")
    }
}

/// Where an author is, and how patient one is with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointOptions {
    /// Base address, `http://127.0.0.1:8080/v1`.
    pub url: String,
    /// Name of the model there.
    pub model: String,
    /// Most requests in flight.
    #[serde(default = "in_flight")]
    pub in_flight: usize,
    /// Seconds until a request is given up.
    #[serde(default = "timeout")]
    pub timeout: f64,
    /// Attempts of a request.
    #[serde(default = "attempts")]
    pub attempts: u32,
    /// Seconds before the second attempt; each further one waits twice as long, up to a minute.
    #[serde(default = "delay")]
    pub delay: f64,
}

fn in_flight() -> usize {
    8
}
fn timeout() -> f64 {
    300.0
}
fn attempts() -> u32 {
    10
}
fn delay() -> f64 {
    0.5
}

/// Longest wait between two attempts, unless the server asks for more.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// Longest wait that a server can ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);
/// Most bytes of an answer.
const MAX_ANSWER: u64 = 16 << 20;
/// Items that may fail before any succeeded: then it is not the items.
const HOPELESS: usize = 3;

/// An endpoint.
pub struct Endpoint {
    options: EndpointOptions,
    prompts: Prompts,
    key: Option<Secret>,
    agent: Agent,
    /// Before which nobody asks: what the server said last.
    not_before: Mutex<Instant>,
    succeeded: AtomicUsize,
    failed: AtomicUsize,
    stop: Stop,
}

/// Says whether to stop: looked at while an endpoint is waited for.
pub type Stop = Arc<dyn Fn() -> bool + Send + Sync>;

/// How an attempt went wrong.
enum Fault {
    /// It may go better next time, perhaps not before this has passed.
    Transient(String, Option<Duration>),
    /// This item will never work.
    Item(String),
    /// Nothing will.
    Fatal(String),
}

impl Endpoint {
    /// An author at `options.url` that is told `prompts`. `stop` ends its waiting.
    pub fn new(options: EndpointOptions, prompts: Prompts, key: Option<Secret>, stop: Stop) -> Result<Self> {
        let bad = |why: &str| Err(Error::invalid(format!("endpoint: {why}")));
        let Some(rest) = options.url.strip_prefix("http://").or_else(|| options.url.strip_prefix("https://")) else {
            return bad("url: expected an address that begins with http:// or https://");
        };
        if rest.split('/').next().is_some_and(|host| host.contains('@')) || rest.contains('?') {
            return bad("url: keys do not belong into it; name an environment variable instead");
        }
        if options.in_flight == 0 || options.attempts == 0 {
            return bad("in_flight and attempts are at least 1");
        }
        if !(options.timeout > 0.0 && options.timeout < 1e6 && options.delay >= 0.0 && options.delay < 1e6) {
            return bad("timeout and delay are seconds");
        }
        let agent = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs_f64(options.timeout)))
            .http_status_as_error(false)
            .max_redirects(0)
            // One for each worker is kept open.
            .max_idle_connections_per_host(options.in_flight)
            .user_agent(concat!("critic-train/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: Agent::new_with_config(agent),
            options,
            prompts,
            key,
            not_before: Mutex::new(Instant::now()),
            succeeded: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            stop,
        })
    }

    fn fail(&self, why: &str) -> Error {
        Error::invalid(format!(
            "endpoint {}: {why}; what is done is kept, and resuming goes on from there",
            self.options.url
        ))
    }

    /// A text, after as many attempts as it takes.
    fn answer(&self, ask: &Ask, abandoned: &AtomicBool) -> Result<Answer> {
        let mut random = Random::new(ask.seed, "jitter", &[]);
        let mut last = String::new();
        for attempt in 0..self.options.attempts {
            self.wait(abandoned)?;
            match self.attempt(ask) {
                Ok(written) => {
                    self.succeeded.fetch_add(1, Ordering::Relaxed);
                    return Ok(Ok(written));
                }
                Err(Fault::Fatal(why)) => return Err(self.fail(&why)),
                Err(Fault::Item(why)) => return self.item_failed(why),
                Err(Fault::Transient(why, after)) => {
                    last = why;
                    if attempt + 1 < self.options.attempts {
                        self.delay(attempt, after, &mut random, abandoned)?;
                    }
                }
            }
        }
        if last.starts_with(GARBAGE) {
            return self.item_failed(last);
        }
        Err(self.fail(&format!("no answer in {} attempts: {last}", self.options.attempts)))
    }

    /// A failure that is recorded, unless nothing has ever worked.
    fn item_failed(&self, why: String) -> Result<Answer> {
        let failed = self.failed.fetch_add(1, Ordering::Relaxed) + 1;
        if failed >= HOPELESS && self.succeeded.load(Ordering::Relaxed) == 0 {
            return Err(self.fail(&format!("{failed} requests failed and none succeeded: {why}")));
        }
        Ok(Err(why))
    }

    /// Waits until the server is ready to be asked.
    fn wait(&self, abandoned: &AtomicBool) -> Result<()> {
        loop {
            let until = *self.not_before.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match until.checked_duration_since(Instant::now()) {
                None | Some(Duration::ZERO) => return self.stopped(abandoned),
                Some(left) => self.sleep(left, abandoned)?,
            }
        }
    }

    fn stopped(&self, abandoned: &AtomicBool) -> Result<()> {
        let stopped = (self.stop)() || abandoned.load(Ordering::Relaxed);
        if stopped { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn sleep(&self, time: Duration, abandoned: &AtomicBool) -> Result<()> {
        /// Between two looks whether to stop.
        const LOOK: Duration = Duration::from_millis(100);
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.stopped(abandoned)?;
            std::thread::sleep(left.min(LOOK));
        }
        Ok(())
    }

    /// Waits before the next attempt: as long as the server says, and then so does everybody; or twice as
    /// long as the last time, half of it drawn, so that those who failed together do not come together.
    fn delay(&self, attempt: u32, after: Option<Duration>, random: &mut Random, abandoned: &AtomicBool) -> Result<()> {
        if let Some(after) = after {
            let until = Instant::now() + after.min(LONGEST_RETRY_AFTER);
            let mut not_before = self.not_before.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            *not_before = until.max(*not_before);
            return Ok(());
        }
        let full = self.options.delay * f64::from(2u32.saturating_pow(attempt.min(20)));
        let full = full.min(LONGEST_DELAY.as_secs_f64());
        self.sleep(Duration::from_secs_f64(full * (0.5 + 0.5 * random.uniform())), abandoned)
    }

    fn attempt(&self, ask: &Ask) -> std::result::Result<Written, Fault> {
        let body = json!({
            "model": self.options.model,
            "messages": say::messages(&self.prompts, ask),
            "temperature": ask.temperature,
            "max_tokens": ask.max_tokens,
            // Some servers refuse numbers beyond 31 bits.
            "seed": ask.seed & 0x7fff_ffff,
            "stream": false,
        });
        let mut request = self.agent.post(format!("{}/chat/completions", self.options.url.trim_end_matches('/')));
        request = request.header(header::CONTENT_TYPE, "application/json");
        if let Some(Secret(key)) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let transient = |why: String| Fault::Transient(self.clean(&why), None);
        let response = request.send(body.to_string()).map_err(|error| transient(error.to_string()))?;
        let (status, after) = (response.status(), retry_after(&response));
        let mut bytes = Vec::new();
        let read = response.into_body().into_reader().take(MAX_ANSWER).read_to_end(&mut bytes);
        read.map_err(|error| transient(format!("the answer broke off: {error}")))?;
        let text = self.clean(&String::from_utf8_lossy(&bytes));
        let said = excerpt(&text);
        match status.as_u16() {
            200 => parse(&text),
            408 | 409 | 425 | 429 | 500 | 502 | 503 | 504 | 529 => {
                Err(Fault::Transient(format!("status {status}: {said}"), after))
            }
            401 | 403 => {
                Err(Fault::Fatal(format!("status {status}: {said}; is the key right, and its variable named?")))
            }
            404 | 405 => Err(Fault::Fatal(format!(
                "status {status}: {said}; it has no chat completions there, or no model {:?}; url is to end before \
                 /chat/completions",
                self.options.model
            ))),
            300..=399 => {
                Err(Fault::Fatal(format!("status {status}: it points elsewhere, and keys are not carried on")))
            }
            _ => Err(Fault::Item(format!("status {status}: {said}"))),
        }
    }

    fn clean(&self, text: &str) -> String {
        self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.removed_from(text))
    }
}

/// What answers that are not what they should be begin with.
const GARBAGE: &str = "not a chat completion";

/// The text in an answer.
fn parse(text: &str) -> std::result::Result<Written, Fault> {
    let garbage = |why: &str| Fault::Transient(format!("{GARBAGE}: {why}: {}", excerpt(text)), None);
    let value: Value = serde_json::from_str(text).map_err(|_| garbage("no JSON"))?;
    let Some(choice) = value.pointer("/choices/0") else {
        return Err(garbage("choices[0] is missing"));
    };
    let Some(content) = choice.pointer("/message/content").and_then(Value::as_str) else {
        return Err(garbage("choices[0].message.content is no text"));
    };
    let tokens = value.pointer("/usage/completion_tokens").and_then(Value::as_u64).unwrap_or(0);
    let complete = choice.get("finish_reason").and_then(Value::as_str) != Some("length");
    Ok(Written { text: content.trim_matches('\n').to_owned(), tokens: tokens as usize, complete })
}

/// How long a server asks to wait: in seconds, or until a date.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().to_owned();
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..1e6).contains(&seconds) => Some(Duration::from_secs_f64(seconds)),
        Ok(_) => None,
        Err(_) => httpdate::parse_http_date(&text).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

/// The beginning of a text, in one line.
fn excerpt(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(160).collect()
}

impl Author for Endpoint {
    fn describe(&self) -> Value {
        // Where it is served may change from one day to the next.
        json!({ "served": self.options.model })
    }

    fn write(&self, asks: &[Ask], done: &mut OnAnswers) -> Result<()> {
        let next = AtomicUsize::new(0);
        let abandoned = AtomicBool::new(false);
        let (sender, receiver) = mpsc::channel::<(usize, Result<Answer>)>();
        std::thread::scope(|scope| {
            for _ in 0..self.options.in_flight.min(asks.len()) {
                let (sender, next, abandoned) = (sender.clone(), &next, &abandoned);
                scope.spawn(move || {
                    while !abandoned.load(Ordering::Relaxed) {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(ask) = asks.get(at) else { break };
                        let answer = self.answer(ask, abandoned);
                        let over = answer.is_err();
                        if sender.send((at, answer)).is_err() || over {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            let mut outcome = Ok(());
            // Until the last worker has left: what comes in after a failure is paid for, and is kept.
            while let Ok(first) = receiver.recv() {
                let mut answers = Vec::new();
                let mut take = |(at, answer): (usize, Result<Answer>)| match answer {
                    Ok(answer) => answers.push((at, answer)),
                    // The first reason is the one; others were asked to leave because of it.
                    Err(error) if outcome.is_ok() => {
                        abandoned.store(true, Ordering::Relaxed);
                        outcome = Err(error);
                    }
                    Err(_) => {}
                };
                take(first);
                while let Ok(more) = receiver.try_recv() {
                    take(more);
                }
                if !answers.is_empty()
                    && let Err(error) = done(answers)
                {
                    abandoned.store(true, Ordering::Relaxed);
                    // A disk that is full says why nothing more is kept.
                    if outcome.is_ok() {
                        outcome = Err(error);
                    }
                }
            }
            outcome
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> EndpointOptions {
        EndpointOptions { url: url.into(), model: "m".into(), in_flight: 1, timeout: 1.0, attempts: 1, delay: 0.0 }
    }

    #[test]
    fn addresses_with_keys_are_refused() {
        let new = |url: &str| Endpoint::new(options(url), Prompts::default(), None, Arc::new(|| false)).map(|_| ());
        new("http://127.0.0.1:8080/v1").unwrap();
        for url in ["http://key@host/v1", "https://host/v1?key=x", "ftp://host", "host"] {
            assert!(new(url).is_err(), "{url}");
        }
    }

    #[test]
    fn keys_are_shown_to_nobody() {
        let key = Secret::new("sk-very-secret".into());
        assert_eq!(format!("{key:?}"), "[key]");
        assert_eq!(key.removed_from("bad key sk-very-secret!"), "bad key [key]!");
        let endpoint =
            Endpoint::new(options("http://127.0.0.1:1/v1"), Prompts::default(), Some(key), Arc::new(|| false)).unwrap();
        assert!(!endpoint.describe().to_string().contains("secret"));
    }

    #[test]
    fn answers_in_other_dialects_are_told_apart() {
        let refused = |text: &str, part: &str| match parse(text) {
            Err(Fault::Transient(why, None)) => assert!(why.contains(part), "{why}"),
            _ => panic!("{text}"),
        };
        refused("<html>", "no JSON");
        refused("{\"response\": \"x\", \"done\": true}", "choices[0] is missing");
        refused("{\"choices\": [{\"text\": \"x\"}]}", "choices[0].message.content is no text");
        refused("{\"choices\": [{\"message\": {\"content\": null}}]}", "is no text");
        let good = "{\"choices\": [{\"message\": {\"content\": \"x\\n\"}, \"finish_reason\": \"length\"}], \"usage\": {\"completion_tokens\": 7}}";
        match parse(good) {
            Ok(found) => assert_eq!(found, Written { text: "x".into(), tokens: 7, complete: false }),
            Err(_) => panic!("it is one"),
        }
    }
}

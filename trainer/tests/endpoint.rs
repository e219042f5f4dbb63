//! Collection from endpoints that misbehave: a server on this machine that fails as it is told.

mod server;

use std::ops::ControlFlow::Continue;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use critic::file::Prompts;
use critic_trainer::collect::{
    Cast, CollectOptions, CritiqueJudge, Endpoint, EndpointOptions, Filter, Ledger, Secret, Summary, collect,
};
use critic_trainer::tasks::{Problem, Task, Verifier};
use critic_trainer::{Error, Result};
use server::{Reply, Server};

const KEY: &str = "sk-do-not-tell";

fn endpoint(server: &Server, attempts: u32) -> Endpoint {
    let options =
        EndpointOptions { url: server.url(), model: "m".into(), in_flight: 8, timeout: 0.5, attempts, delay: 0.001 };
    Endpoint::new(options, Prompts::default(), Some(Secret::new(KEY.into())), Arc::new(|| false)).unwrap()
}

fn problems(count: u64) -> Vec<Problem> {
    // Nobody but a judge knows better answers to these.
    let open = |problem: Problem| Problem { constraints: Vec::new(), ..problem };
    (0..count).map(|index| open(Task::Dialog.generate(1, index, critic_trainer::tasks::Part::Train))).collect()
}

fn options() -> CollectOptions {
    CollectOptions {
        seed: 5,
        critiques: 2,
        refinements: 2,
        draft_temperature: 1.0,
        critique_temperature: 1.0,
        refinement_temperature: 1.0,
        max_tokens: 64,
        problems_per_batch: 4,
        judge_retries: 2,
        critique_judge: CritiqueJudge::Judge,
    }
}

fn run(folder: &Path, author: &Endpoint, count: u64) -> Result<Summary> {
    let prompts = Prompts::default();
    let verifier = Verifier::default();
    let cast = Cast { actor: author, critic: author, judge: Some(author), verifier: &verifier, keep: &prompts.keep };
    let stop = AtomicBool::new(false);
    collect(folder, &problems(count), cast, &options(), Filter { keep_flat: true }, &stop, &mut |_| Continue(()))
}

fn scored(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("scored.jsonl")).unwrap()
}

/// What a whole collection of `count` problems from a server in good health looks like.
fn undisturbed(count: u64) -> String {
    let server = Server::start(|_, _| Reply::Answer);
    let folder = tempfile::tempdir().unwrap();
    let summary = run(folder.path(), &endpoint(&server, 3), count).unwrap();
    assert_eq!((summary.groups.kept, summary.failures.len()), (count as usize, 0), "{summary:?}");
    assert!(summary.orders_agree.is_some());
    scored(folder.path())
}

#[test]
fn faults_that_pass_change_nothing() {
    let expected = undisturbed(6);
    // Of the first attempts of a request, most fail, each in a way of its own.
    let server = Server::start(|number, attempt| match (attempt, number % 7) {
        (0, 0) => Reply::Status(429, Some("0")),
        (0, 1) => Reply::Status(500, Some("0.001")),
        (0, 2) => Reply::Status(503, None),
        (0, 3) => Reply::Raw("<html>Bad gateway</html>"),
        (0, 4) => Reply::Hang,
        (0, 5) => Reply::Close,
        (1, 2) => Reply::Raw("{\"choices\": []}"),
        (1, 4) => Reply::Status(429, Some("Thu, 01 Jan 1970 00:00:00 GMT")),
        _ => Reply::Answer,
    });
    let folder = tempfile::tempdir().unwrap();
    let summary = run(folder.path(), &endpoint(&server, 8), 6).unwrap();
    assert!(summary.failures.is_empty(), "{summary:?}");
    assert_eq!(scored(folder.path()), expected);
    assert!(server.most_at_once() > 1 && server.most_at_once() <= 8, "{} at once", server.most_at_once());
    assert!(server.keys().iter().all(|key| key == &format!("Bearer {KEY}")));
    // The key went to the server, and nowhere else.
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(KEY), "{}", path.display());
    }
}

#[test]
fn a_server_that_goes_away_loses_nothing() {
    let expected = undisturbed(4);
    let folder = tempfile::tempdir().unwrap();
    let mut done = 0;
    // It lives for a few answers each time.
    for life in 0..40 {
        let left = Arc::new(std::sync::atomic::AtomicI64::new(9));
        let server = Server::start({
            let left = Arc::clone(&left);
            move |_, _| if left.fetch_sub(1, Ordering::Relaxed) > 0 { Reply::Answer } else { Reply::Close }
        });
        let outcome = run(folder.path(), &endpoint(&server, 2), 4);
        let now = Ledger::open(&folder.path().join("ledger.jsonl")).unwrap().counts().0;
        assert!(now > done || outcome.is_ok(), "life {life}: {now} after {done}");
        done = now;
        match outcome {
            Ok(_) => {
                assert_eq!(scored(folder.path()), expected);
                return;
            }
            Err(error) => assert!(error.to_string().contains("resuming goes on from there"), "{error}"),
        }
    }
    panic!("it never ends");
}

#[test]
fn nothing_is_asked_twice() {
    let server = Server::start(|_, _| Reply::Answer);
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &endpoint(&server, 1), 3).unwrap();
    let asked = server.requests();
    run(folder.path(), &endpoint(&server, 1), 3).unwrap();
    assert_eq!(server.requests(), asked);
    // Another collection in the same folder is refused before anything is asked.
    let error = run(folder.path(), &endpoint(&server, 1), 4).unwrap_err().to_string();
    assert!(error.contains("was begun otherwise: problems is"), "{error}");
    assert_eq!(server.requests(), asked);
}

#[test]
fn what_never_works_is_said_at_once() {
    let refused = |reply: fn(usize, usize) -> Reply, part: &str| {
        let server = Server::start(reply);
        let folder = tempfile::tempdir().unwrap();
        let error = run(folder.path(), &endpoint(&server, 2), 4).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(&server.url()), "{error}");
        assert!(!error.contains(KEY), "{error}");
        assert!(server.requests() < 40, "{} requests", server.requests());
    };
    refused(|_, _| Reply::Echo(401), "is the key right");
    refused(|_, _| Reply::Status(404, None), "no chat completions there");
    refused(|_, _| Reply::Status(302, None), "points elsewhere");
    // The dialect of another interface.
    refused(|_, _| Reply::Raw("{\"response\": \"x\", \"done\": true}"), "choices[0] is missing");
    refused(|_, _| Reply::Status(400, None), "none succeeded");
}

#[test]
fn an_item_that_fails_is_recorded_with_its_reason() {
    // Request 7 is refused the first time, whatever it is.
    let server = Server::start(
        |number, attempt| if number == 7 && attempt == 0 { Reply::Status(400, None) } else { Reply::Answer },
    );
    let folder = tempfile::tempdir().unwrap();
    let summary = run(folder.path(), &endpoint(&server, 2), 4).unwrap();
    assert_eq!(summary.failures.iter().map(|failure| failure.1).sum::<usize>(), 1, "{summary:?}");
    assert!(summary.failures[0].0.contains("status 400"), "{summary:?}");
    // Asked anew, it may work; all else stays.
    let asked = server.requests();
    let summary = run(folder.path(), &endpoint(&server, 2), 4).unwrap();
    assert!(summary.failures.is_empty(), "{summary:?}");
    assert!(server.requests() - asked < 30, "{}", server.requests() - asked);
}

#[test]
fn a_judge_that_talks_nonsense_is_not_guessed_at() {
    let server = Server::start(|_, _| Reply::Nonsense);
    let folder = tempfile::tempdir().unwrap();
    let summary = run(folder.path(), &endpoint(&server, 1), 3).unwrap();
    // Texts are written, but no refinement has a preference, and no critique a utility.
    assert_eq!((summary.groups.kept, summary.groups.few), (0, 3), "{summary:?}");
    assert_eq!(summary.mean_cu, None);
    // Every judgement was asked for three times: twelve refinements and three pairs of critiques, in both orders.
    assert_eq!(summary.progress.nonsense, 3 * 2 * (12 + 3));
}

#[test]
fn an_empty_data_set_is_an_error() {
    let server = Server::start(|_, _| Reply::Answer);
    let folder = tempfile::tempdir().unwrap();
    let error = run(folder.path(), &endpoint(&server, 1), 0).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert_eq!(server.requests(), 0);
}

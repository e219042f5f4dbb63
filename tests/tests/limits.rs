//! Texts that the limit of tokens cut off: they say so, and are never taken for finished.

use std::ops::ControlFlow::Continue;

use critic::{Critique, Host, Request, Session, SessionOptions};
use critic_import::Quant;
use critic_tests::small;

fn session() -> Session {
    let options = SessionOptions { threads: 1, ..SessionOptions::default() };
    Session::new(&small("llama-gqa-tied", Quant::Keep), &options).unwrap()
}

fn request() -> Request {
    Request { prompt: "a".into(), response: "b".into(), max_tokens: 4, ..Request::default() }
}

#[test]
fn a_refinement_that_was_cut_off_is_not_accepted() {
    let mut session = session();
    let critique = session.critique(&request(), &mut |_| Continue(())).unwrap();
    assert!(!critique.complete);
    let given = Critique::given("Too short.", session.model());
    assert!(given.complete);
    let mut asked = 0;
    let mut accept = |_: &str, _: &str| {
        asked += 1;
        Ok(true)
    };
    let mut host = Host { accept: Some(&mut accept), ..Host::default() };
    let refinement = session.refine(&request(), &given, &mut host, &mut |_| Continue(())).unwrap();
    assert!(!refinement.complete && !refinement.accepted && !refinement.text.is_empty());
    let improvement = session.improve(&Request { rounds: 3, ..request() }, &mut host, &mut |_| Continue(())).unwrap();
    assert_eq!((improvement.text.as_str(), improvement.accepted, improvement.rounds.len()), ("b", false, 1));
    assert!(!improvement.rounds[0].complete);
    assert_eq!(asked, 0, "nobody is asked about half a text");
}

#[test]
fn what_comes_to_its_end_is_complete() {
    let mut session = session();
    let critique = Critique::given("Too short.", session.model());
    let mut actor =
        |_: &[critic::refine::Message], _: &mut dyn FnMut(&str) -> std::ops::ControlFlow<()>| Ok("c".to_owned());
    let mut accept = |_: &str, _: &str| Ok(true);
    let mut host = Host { actor: Some(&mut actor), accept: Some(&mut accept) };
    let refinement = session.refine(&request(), &critique, &mut host, &mut |_| Continue(())).unwrap();
    assert!(refinement.complete && refinement.accepted);
    let keep = Critique::given("No changes needed.", session.model());
    let kept = session.refine(&request(), &keep, &mut Host::default(), &mut |_| Continue(())).unwrap();
    assert!(kept.complete && !kept.accepted);
}

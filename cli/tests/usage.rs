//! Wrong usage, and everything else that needs no model: exit code 2 or 1, and a message
//! that says what and where.

mod support;

use support::{Place, critic};

#[test]
fn wrong_usage_is_exit_code_2() {
    let place = Place::new();
    let check = |args: &[&str], named: &str| {
        let output = place.run(args);
        output.check(2, named);
        assert!(output.stdout.is_empty(), "{args:?}");
    };
    check(&[], "Usage");
    check(&["criticise"], "criticise");
    check(&["critique", "--prompt", "a"], "--response is missing");
    check(&["critique", "--response", "a"], "--prompt is missing");
    check(&["critique", "--prompt", "a", "--prompt-file", "b"], "--prompt-file");
    check(&["critique", "--prompt-file", "-", "--response", "-"], "standard input");
    check(&["critique", "--prompt", "a", "--response", "b", "--temperature", "-1"], "temperature is -1");
    check(&["critique", "--prompt", "a", "--response", "b", "--top-p", "1.5"], "top_p is 1.5");
    check(&["critique", "--prompt", "a", "--response", "b", "--min-p", "nan"], "min_p is NaN");
    check(&["critique", "--prompt", "a", "--response", "b", "--rounds", "0"], "--rounds");
    check(&["critique", "--prompt", "a", "--response", "b", "--candidates", "65"], "--candidates");
    check(&["critique", "--prompt", "a", "--response", "b", "--threads", "0"], "--threads");
    check(&["generate"], "--prompt is missing");
    check(&["tokenize"], "--text is missing");
    check(&["convert", "a"], "--output");
    check(&["convert", "a", "-o", "b", "--quant", "q3"], "q3");
    check(&["export", "a"], "--gguf");
    check(&["kl", "--text-file", "a", "--chunk", "1"], "--chunk");
    check(&["pull", "no-such-model"], "no-such-model");
    check(&["pull", "hf:owner/repository/weights.bin"], "hf:OWNER/REPO/FILE.gguf");
    check(&["pull", "hf:owner/../x.gguf"], "hf:OWNER/REPO/FILE.gguf");
}

#[test]
fn help_and_version_are_answers() {
    let place = Place::new();
    place.run(&["--version"]).check(0, "");
    let help = place.run(&["--help"]);
    help.check(0, "");
    for command in ["critique", "refine", "improve", "demo", "convert", "export", "info", "pull", "generate"] {
        assert!(help.stdout.contains(command), "{command}");
        place.run(&[command, "--help"]).check(0, "");
    }
}

#[test]
fn a_model_that_is_not_there() {
    let place = Place::new();
    let words = ["critique", "--prompt", "a", "--response", "b"];
    place.run(&words).check(1, "critic pull smollm2-135m");
    place.run(&[&words[..], &["--model", "smollm2-135m"]].concat()).check(1, "critic pull smollm2-135m");
    place.run(&[&words[..], &["--model", "absent.critic"]].concat()).check(1, "absent.critic");
    place.run(&["info", "."]).check(1, "critic convert");
    place.run(&["convert", "absent.gguf", "-o", "out.critic"]).check(1, "absent.gguf");
    place.run(&["export", "absent", "--gguf", "out.gguf"]).check(1, "absent");
    place.run(&["demo", "--offline"]).check(1, "offline");
    assert_eq!(place.files(), [""; 0], "nothing was written");
}

#[test]
fn text_that_is_not_utf8_is_named_with_its_place() {
    let place = Place::new();
    place.write("latin1.txt", b"caf\xe9 au lait");
    let words = ["critique", "--response", "b", "--prompt-file"];
    let output = place.run(&[&words[..], &["latin1.txt"]].concat());
    output.check(1, "latin1.txt: not UTF-8 at byte 3");
    place.run(&[&words[..], &["absent.txt"]].concat()).check(1, "absent.txt");
    let output = place.run_with_input(&["tokenize", "--text", "-"], b"\xff");
    output.check(1, "standard input: not UTF-8 at byte 0");
}

#[cfg(unix)]
#[test]
fn arguments_that_are_not_utf8_are_named_with_their_flag() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let mut command = critic(&place);
    command.args(["tokenize", "--text"]).arg(std::ffi::OsStr::from_bytes(b"ab\xc3"));
    support::Output::of(command.output().expect("critic runs")).check(1, "--text: not UTF-8 at byte 2");
}

//! What each command answers, on a small model.

mod support;

use critic_tests::adapters::RandomAdapter;
use serde_json::Value;
use support::{Place, tiny, tiny_folder};

#[track_caller]
fn json(place: &Place, args: &[&str]) -> Value {
    let output = place.run(args);
    output.check(0, "");
    assert_eq!(output.stdout.lines().count(), 1, "{}", output.stdout);
    serde_json::from_str(&output.stdout).expect("JSON")
}

#[track_caller]
fn check_keys(value: &Value, keys: &[&str]) {
    let found: Vec<_> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut expected = keys.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn the_tiny_demo_finds_errors_and_leaves_what_is_right() {
    let place = Place::new();
    let shown = place.run(&["demo", "--tiny"]);
    shown.check(0, "");
    let lines: Vec<&str> = shown.stdout.lines().collect();
    let after =
        |what: &str| -> Vec<&str> { lines.iter().filter_map(|line| line.strip_prefix(what)).map(str::trim).collect() };
    let (drafts, critiques, results) = (after("draft:"), after("critique:"), after("result:"));
    assert!(drafts.len() >= 3 && critiques.len() == drafts.len() && results.len() == drafts.len(), "{lines:?}");
    // Its own values until one differs: 7+8 ends in 5, and 5-1 is 4, not 3.
    assert!(drafts[0] == "5323" && critiques[0].starts_with("5=4!") && results[0].starts_with("54"), "{lines:?}");
    assert!(results.iter().zip(&drafts).any(|(result, draft)| result.starts_with(draft)), "{lines:?}");
}

#[test]
fn the_loop_in_json() {
    let place = Place::new();
    tiny(&place);
    let keys = [
        "verdict",
        "critique",
        "findings",
        "refinement",
        "accepted",
        "complete",
        "utility_advantage",
        "candidates",
        "rounds",
        "timings",
    ];
    let words = ["-m", "tiny.critic", "--prompt", "a", "--response", "b", "--max-tokens", "8", "--json"];
    let critique = json(&place, &[&["critique"], &words[..]].concat());
    check_keys(&critique, &keys);
    assert!(critique["refinement"].is_null() && critique["accepted"].is_null() && critique["rounds"].is_null());
    assert_eq!(critique["findings"], Value::Array(vec![]));
    check_keys(&critique["candidates"][0], &["critique", "verdict", "utility_advantage"]);
    let timings = ["prompt_tokens", "reused_tokens", "generated_tokens", "prefill_ms", "decode_ms"];
    check_keys(&critique["timings"], &timings);

    let refine = json(&place, &[&["refine", "--critique", "Too short."], &words[..]].concat());
    check_keys(&refine, &keys);
    assert_eq!((&refine["critique"], refine["accepted"].is_boolean()), (&Value::from("Too short."), true));
    let kept = json(&place, &[&["refine", "--critique", "No changes needed."], &words[..]].concat());
    assert_eq!((&kept["verdict"], &kept["refinement"]), (&Value::from("keep"), &Value::Null));

    let improve = json(&place, &[&["improve", "--rounds", "2", "--candidates", "3"], &words[..]].concat());
    check_keys(&improve, &keys);
    assert_eq!(improve["candidates"].as_array().map(Vec::len), Some(3));
    check_keys(&improve["rounds"][0], &["critique", "refinement", "accepted", "complete"]);
}

#[test]
fn texts_that_were_cut_do_not_look_finished() {
    let place = Place::new();
    tiny(&place);
    let words = ["-m", "tiny.critic", "--prompt", "a", "--response", "b", "--max-tokens", "8"];
    let said = |what: &str| format!("the {what} was cut at 8 tokens: raise --max-tokens");
    place.run(&[&["critique"], &words[..]].concat()).check(0, &said("critique"));
    place.run(&[&["refine", "--critique", "Too short."], &words[..]].concat()).check(0, &said("refinement"));
    let improve = place.run(&[&["improve"], &words[..]].concat());
    improve.check(0, &said("critique"));
    improve.check(0, &said("refinement"));
    assert_eq!(improve.stdout, "b\n");
    let refine = json(&place, &[&["refine", "--critique", "Too short.", "--json"], &words[..]].concat());
    assert_eq!((&refine["accepted"], &refine["complete"]), (&false.into(), &false.into()));
    let words = ["-m", "tiny.critic", "--prompt", "a", "--response", "b", "--max-tokens", "0"];
    place.run(&[&["critique"], &words[..]].concat()).check(0, "the critique was cut where the context ends");
}

#[test]
fn prompts_are_shown_edited_and_written() {
    let place = Place::new();
    let source = tiny(&place);
    let shown = place.run(&["info", "tiny.critic", "--prompts"]);
    shown.check(0, "");
    assert_eq!(
        serde_json::from_str::<Value>(&shown.stdout).unwrap(),
        json(&place, &["info", "tiny.critic", "--json"])["prompts"]
    );
    let mut prompts: Value = serde_json::from_str(&shown.stdout).unwrap();
    prompts["keep"] = "Perfect".into();
    let mut task = prompts["tasks"]["general"].clone();
    task["critique"] = "Is this a sonnet?".into();
    prompts["tasks"]["poetry"] = task;
    place.write("prompts.json", prompts.to_string().as_bytes());
    place.run(&["convert", &source.to_string_lossy(), "-o", "poet.critic", "--prompts", "prompts.json"]).check(0, "");
    let poet = json(&place, &["info", "poet.critic", "--json"]);
    assert_eq!(poet["prompts"], prompts);
    assert!(poet["tasks"].as_array().unwrap().contains(&"poetry".into()));

    place.write("prompts.json", br#"{"keep": 3, "tasks": {}}"#);
    let convert = ["convert", "tiny.critic", "-o", "none.critic", "--prompts", "prompts.json"];
    place.run(&convert).check(1, "prompts.json: prompts: keep: invalid type: integer `3`");
    place.write("prompts.json", br#"{"keep": "Fine", "tasks": {}}"#);
    place.run(&convert).check(1, "tasks is empty");
    assert!(!place.path("none.critic").exists());
}

#[test]
fn kept_drafts_are_the_answer() {
    let place = Place::new();
    tiny(&place);
    let words =
        ["refine", "-m", "tiny.critic", "--prompt", "a", "--response", "- b", "--critique", "No changes needed"];
    assert_eq!(place.run(&words).stdout, "- b\n");
}

#[test]
fn generated_text_is_the_same_in_every_way() {
    let place = Place::new();
    tiny(&place);
    let words = ["generate", "-m", "tiny.critic", "--max-tokens", "12", "--temperature", "1", "--seed", "3"];
    let answer = json(&place, &[&words[..], &["--prompt", "one two", "--json"]].concat());
    check_keys(&answer, &["text", "tokens", "prompt_tokens", "timings"]);
    let plain = place.run(&[&words[..], &["--prompt", "one two", "--threads", "1"]].concat());
    assert_eq!(plain.stdout.trim_end_matches('\n'), answer["text"].as_str().expect("text").trim_end_matches('\n'));
    place.write("prompt.txt", b"one two");
    for input in [["--prompt-file", "prompt.txt"], ["--prompt-file", "-"], ["--prompt", "-"]] {
        let output = place.run_with_input(&[&words[..], &input].concat(), b"one two");
        assert_eq!(output.stdout, plain.stdout, "{input:?}: {}", output.stderr);
    }
}

#[test]
fn a_gguf_file_is_converted_once() {
    let place = Place::new();
    tiny(&place);
    place.run(&["export", "tiny.critic", "--gguf", "tiny.gguf"]).check(0, "");
    let words = ["tokenize", "-m", "tiny.gguf", "--text", "one two", "--json"];
    let first = place.run(&words);
    first.check(0, "converting tiny.gguf");
    let second = place.run(&words);
    assert_eq!((second.stdout, second.stderr), (first.stdout, String::new()));
}

#[test]
fn an_adapter_is_used_shown_and_switched_off() {
    let place = Place::new();
    let config = critic_tests::open(&tiny(&place)).config().clone();
    place.write("adapter.critic", &RandomAdapter::gate(&config));
    let with = ["-m", "tiny.critic", "--adapter", "adapter.critic"];
    let words = ["--prompt", "a", "--response", "b", "--max-tokens", "8"];
    let info = json(&place, &[&["info"], &with[..], &["--json"]].concat());
    let adapter = &info["adapter"];
    assert_eq!((&adapter["rank"], &adapter["tensors"]), (&16.into(), &(14 * config.layers).into()));
    assert_eq!(info["fingerprint"].as_str().map(str::len), Some(16));
    place.run(&[&["info"], &with[..]].concat()).check(0, "");

    // The threshold is out of reach: a critique is made, and nothing of it.
    let improved = json(&place, &[&["improve"], &with[..], &words, &["--json", "--candidates", "2"]].concat());
    assert!(improved["utility_advantage"].is_number() && improved["candidates"][1]["utility_advantage"].is_number());
    assert_eq!((&improved["accepted"], &improved["refinement"]), (&Value::Bool(false), &Value::Null));
    place.run(&[&["critique"], &with[..], &words].concat()).check(0, "utility advantage ");
    let refined = place.run(&[&["refine", "--critique", "Too short."], &with[..], &words].concat());
    refined.check(0, "utility is too low");
    assert_eq!(refined.stdout, "b\n");
    let off = ["-m", "tiny.critic", "--no-adapter"];
    let plain = json(&place, &[&["critique"], &off[..], &words, &["--json"]].concat());
    assert!(plain["utility_advantage"].is_null());

    let score = |model: &[&str]| json(&place, &[&["score", "--text", "a b c", "--json"], model].concat());
    assert_eq!(score(&["-m", "tiny.critic"])["logprobs"], score(&off)["logprobs"]);
    assert_ne!(score(&with)["logprobs"], score(&off)["logprobs"]);
    place.run(&[&["critique", "--no-adapter"], &with[..], &words].concat()).check(2, "cannot be used with");
    let none = ["critique", "-m", "tiny.critic", "--adapter", "tiny.critic"];
    place.run(&[&none[..], &words].concat()).check(1, "tiny.critic: holds no adapter");
    place.run(&[&["critique", "-m", "adapter.critic"], &words[..]].concat()).check(1, "is no model");
}

#[test]
fn measurements() {
    let place = Place::new();
    tiny(&place);
    let text = "one two three four five six seven eight nine ten ".repeat(4);
    let score = json(&place, &["score", "-m", "tiny.critic", "--text", &text, "--json"]);
    check_keys(&score, &["tokens", "logprobs", "perplexity"]);
    let len = |key: &str| score[key].as_array().expect("an array").len();
    assert_eq!(len("tokens"), len("logprobs") + 1);

    place.write("text.txt", text.as_bytes());
    let kl = json(&place, &["kl", "-m", "tiny.critic", "--text-file", "text.txt", "--chunk", "16", "--json"]);
    check_keys(&kl, &["mean_kl", "same_top", "tokens"]);
    // Weights in f32 are computed in f32 on either path; keys and values are not.
    assert!(kl["mean_kl"].as_f64().is_some_and(|kl| (0.0..0.01).contains(&kl)), "{kl}");

    let case = r#"[{"name": "n", "kind": "k", "prompt": "a", "draft": "b", "critique": "c d", "refinement": "e"}]"#;
    place.write("cases.json", case.as_bytes());
    let words = ["--prompt-tokens", "16", "--gen-tokens", "4", "--repeat", "2", "--cases", "cases.json", "--json"];
    let command = ["bench", "-m", "tiny.critic", "--kernel", "scalar", "--threads", "1", "--batch", "1,3", "--limits"];
    let bench = json(&place, &[&command[..], &words[..]].concat());
    check_keys(
        &bench,
        &[
            "kernel",
            "threads",
            "adapter",
            "prefill_tokens_per_second",
            "decode_tokens_per_second",
            "open_ms",
            "first_token_ms",
            "resident_bytes",
            "private_bytes",
            "model_bytes",
            "batches",
            "limits",
            "cases",
        ],
    );
    assert_eq!((&bench["kernel"], &bench["threads"]), (&Value::from("scalar"), &Value::from(1)));
    assert_eq!((&bench["batches"][1]["tokens"], &bench["cases"][0]["name"]), (&Value::from(3), &Value::from("n")));
}

#[test]
fn logits_are_those_of_the_reference() {
    let place = Place::new();
    tiny(&place);
    let reference = std::fs::read(tiny_folder().join("expected.safetensors")).expect("the reference");
    let reference = safetensors::SafeTensors::deserialize(&reference).expect("safetensors");
    let ids = reference.tensor("input_ids").expect("ids");
    let ids: Vec<u64> = match ids.dtype() {
        safetensors::Dtype::I64 => {
            ids.data().chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
        }
        _ => ids.data().chunks_exact(4).map(|b| u64::from(u32::from_le_bytes(b.try_into().unwrap()))).collect(),
    };
    place.write("ids.json", serde_json::to_string(&ids).expect("JSON").as_bytes());
    let words = ["logits", "-m", "tiny.critic", "--tokens-file", "ids.json", "-o", "logits.safetensors"];
    place.run(&words).check(0, "");
    let written = std::fs::read(place.path("logits.safetensors")).expect("the logits");
    let written = safetensors::SafeTensors::deserialize(&written).expect("safetensors");
    let floats = |data: &[u8]| -> Vec<f32> {
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
    };
    let found = written.tensor("logits").expect("logits");
    assert_eq!(found.shape()[0], ids.len());
    let (found, expected) = (floats(found.data()), floats(reference.tensor("logits").expect("logits").data()));
    assert_eq!(found.len(), expected.len());
    let mean = expected.iter().sum::<f32>() / expected.len() as f32;
    let deviation = (expected.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / expected.len() as f32).sqrt();
    let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-3 * deviation, "{worst} of {deviation}");
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_ends_quietly() {
    use std::process::Stdio;
    let place = Place::new();
    tiny(&place);
    let mut command = support::critic(&place);
    command.args(["generate", "-m", "tiny.critic", "--prompt", "a", "--max-tokens", "100"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("critic runs");
    drop(child.stdout.take());
    let output = support::Output::of(child.wait_with_output().expect("it ends"));
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
}

//! `critic-train` as a person meets it: killed, stopped, gone on with, and fed with nonsense.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{hf, scored};
use critic_trainer::random::Random;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_critic-train"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Twelve steps on a small model, with a checkpoint after every second.
fn train(run: &Path, data: &Path) -> Command {
    let mut command = program();
    command.arg("train").arg("--model").arg(hf("llama-gqa-tied")).arg("--data").arg(data).arg("--run").arg(run);
    command.args(["--steps", "12", "--groups-per-step", "2", "--lora", "4", "--dropout", "0.1", "--warmup", "2"]);
    command.args([
        "--learning-rate",
        "0.005",
        "--held-out",
        "0.25",
        "--evaluate-every",
        "3",
        "--checkpoint-every",
        "2",
    ]);
    command
}

fn end(child: Child) -> Output {
    child.wait_with_output().expect("ended")
}

fn run(command: &mut Command) -> Output {
    end(command.spawn().expect("starts"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn done(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, said(output));
}

fn refused(command: &mut Command, parts: &[&str]) {
    let output = run(command);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(parts.iter().all(|part| said(&output).contains(part)), "{parts:?}: {}", said(&output));
}

/// What a run made, times aside.
fn result(run: &Path) -> (Vec<u8>, Vec<(u64, f64, f64)>, Vec<u8>) {
    let read = |path: PathBuf| std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (steps, _) = critic_trainer::run::measured(run).expect("metrics");
    let steps = steps.iter().map(|step| (step.step, step.loss, step.gradient_norm)).collect();
    (read(run.join("adapter/adapter_model.safetensors")), steps, read(run.join("evaluations.jsonl")))
}

#[test]
fn a_run_that_is_killed_at_twenty_moments_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = scored(folder.path(), 12);
    let whole = folder.path().join("whole");
    let begun = Instant::now();
    done(&run(&mut train(&whole, &data)));
    // A run that nobody disturbs takes this long: moments are spread over all of it.
    let span = begun.elapsed();

    let killed = folder.path().join("killed");
    let mut random = Random::new(20, "kills", &[]);
    let mut moments = Vec::new();
    for _ in 0..20 {
        let mut child = train(&killed, &data).spawn().expect("starts");
        let moment = span.mul_f64(random.uniform());
        // Waiting is the point: the moment is random, and nothing is asserted about it.
        std::thread::sleep(moment);
        child.kill().expect("ours");
        end(child);
        moments.push(Duration::as_millis(&moment));
    }
    done(&run(&mut train(&killed, &data)));
    println!("killed after {moments:?} ms of {} ms", span.as_millis());
    let (whole, killed_result) = (result(&whole), result(&killed));
    assert_eq!(whole.1, killed_result.1);
    assert_eq!(whole.2, killed_result.2);
    assert!(whole.0 == killed_result.0, "the weights differ");
    let left =
        std::fs::read_dir(killed).expect("a folder").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    assert_eq!(left.filter(|name| name.starts_with(".unfinished")).count(), 0);
}

#[cfg(unix)]
#[test]
fn a_run_that_is_asked_to_stop_leaves_a_checkpoint_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = scored(folder.path(), 12);
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    done(&run(&mut train(&whole, &data)));
    let mut child = train(&stopped, &data).spawn().expect("starts");
    // Steps are journalled as they are made: the signal comes after the first.
    let journal = stopped.join("metrics.jsonl");
    let begun = || std::fs::read_to_string(&journal).is_ok_and(|text| text.contains('\n'));
    while !begun() && child.try_wait().expect("ours").is_none() {
        std::thread::yield_now();
    }
    assert!(begun(), "it ended before its first step: {}", said(&end(child)));
    if child.try_wait().expect("ours").is_none() {
        let signal = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
        assert!(signal.success());
    }
    let output = end(child);
    if output.status.code() == Some(130) {
        let step = critic_trainer::run::measured(&stopped).expect("metrics").0.last().expect("a step").step;
        assert!(stopped.join(format!("checkpoints/step-{step:06}")).is_dir(), "{}", said(&output));
        assert!(said(&output).contains("go on with: critic-train resume"), "{}", said(&output));
    } else {
        done(&output);
    }
    done(&run(program().arg("resume").arg(&stopped)));
    assert_eq!(result(&whole).1, result(&stopped).1);
    assert!(result(&whole).0 == result(&stopped).0, "the weights differ");
}

#[test]
fn what_a_run_leaves_is_what_the_next_step_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = scored(folder.path(), 12);
    let first = folder.path().join("first");
    let output = run(&mut train(&first, &data));
    done(&output);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), first.join("adapter").display().to_string());
    assert!(said(&output).contains("training 12/12 steps") && said(&output).contains("held out"), "{}", said(&output));
    let page = std::fs::read_to_string(first.join("report.html")).expect("a report");
    assert!(page.contains("Predicted advantage against measured utility") && page.contains("<svg"));

    // Training goes on from an adapter; its reference is the base.
    let second = folder.path().join("second");
    done(&run(train(&second, &data).arg("--init").arg(first.join("adapter"))));
    let step = |run: &Path| critic_trainer::run::measured(run).expect("metrics").0[0].clone();
    assert!(step(&first).kl == 0.0 && step(&second).kl > 0.0, "{:?} {:?}", step(&first), step(&second));

    let model = folder.path().join("critic.critic");
    let (gguf, adapter) = (folder.path().join("critic.gguf"), folder.path().join("adapter.critic"));
    let lora = folder.path().join("lora.gguf");
    let mut export = program();
    export.arg("export").arg(&first).arg("-o").arg(&model).arg("--gguf").arg(&gguf);
    export.arg("--adapter").arg(&adapter).arg("--adapter-gguf").arg(&lora);
    done(&run(&mut export));
    let opened = critic_tests::open(&model);
    let spec = &opened.adapter().expect("an adapter").spec;
    let evaluation = critic_trainer::run::measured(&first).expect("metrics").1.pop().expect("an evaluation");
    assert_eq!((spec.beta, spec.threshold), (0.1, evaluation.threshold as f32));
    assert!(critic_import::gguf::Gguf::parse(&std::fs::read(&gguf).expect("written")).is_ok());
    assert!(critic_import::gguf::Gguf::parse(&std::fs::read(&lora).expect("written")).is_ok());
    refused(program().arg("export").arg(&first).arg("--merge").arg("-o").arg(&model), &["activated"]);
}

#[test]
fn bad_input_is_named_and_nothing_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let good = scored(folder.path(), 6);
    let text = std::fs::read_to_string(&good).expect("just written");

    let bad = at("bad.jsonl");
    std::fs::write(&bad, text.replacen("\"cu\":0.5", "\"cu\":\"half\"", 1)).expect("written");
    refused(&mut train(&at("a"), &bad), &["bad.jsonl, line 1, critiques[1].cu"]);
    std::fs::write(&bad, format!("{}{{\"id\": \"x\", \n", text)).expect("written");
    refused(&mut train(&at("a"), &bad), &["bad.jsonl, line 7"]);
    std::fs::write(&bad, "").expect("written");
    refused(&mut train(&at("a"), &bad), &["bad.jsonl", "no drafts"]);
    refused(train(&at("b"), &good).args(["--max-tokens", "4"]), &["longer than 4 tokens"]);
    refused(train(&at("c"), &good).args(["--device", "abacus"]), &["abacus", "here are flex"]);
    if !cfg!(feature = "cuda") {
        refused(train(&at("c"), &good).args(["--device", "cuda"]), &["built without cuda", "--features cuda"]);
    }
    refused(train(&at("c"), &good).args(["--precision", "f8"]), &["\"f8\"", "f32 or bf16"]);
    refused(train(&at("d"), &at("nowhere.jsonl")).args(["--beta", "1"]), &["nowhere.jsonl"]);
    refused(train(&at("e"), &good).args(["--beta", "0"]), &["beta is 0"]);
    refused(train(&at("f"), &good).args(["--memory", "1"]), &["limit is 1 MB"]);
    refused(program().arg("resume").arg(at("nothing")), &["run.json"]);

    // An adapter for another model.
    let run_directory = at("run");
    done(&run(&mut train(&run_directory, &good)));
    let mut other = program();
    other.arg("train").arg("--model").arg(hf("qwen3-qknorm")).arg("--data").arg(&good).arg("--run").arg(at("g"));
    other.args(["--lora", "4", "--init"]).arg(run_directory.join("adapter"));
    refused(&mut other, &["adapter", "trained for"]);
    // A run that was begun otherwise.
    refused(train(&run_directory, &good).args(["--seed", "9"]), &["options.train.seed is 0 there, and 9 now"]);
    // A loss that is no number: what was made until then is kept.
    let run_directory = at("h");
    refused(
        train(&run_directory, &good).args(["--learning-rate", "1e30", "--max-norm", "0"]),
        &["not finite", "group d"],
    );
    assert!(run_directory.join("checkpoints").exists() || !run_directory.join("adapter").exists());
}

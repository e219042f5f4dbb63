//! KL divergence from f32 and what it costs: each precision of this program, and llama.cpp by its own `llama-perplexity`.
//!
//! The text and the way are the same on both sides: chunks of 512 tokens, natural logarithms, the second half of each chunk
//! (llama-perplexity begins one token later). llama.cpp is compared with the same weights in f16, this program with its
//! exact path.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{Sides, bench, figure, median, requantized};
use crate::run as run_command;

const TEXT: &str = "tests/data/kl-text.txt";

pub fn run(sides: &Sides) -> Result<String, String> {
    let &Sides { ref program, ref gguf, ref ours, threads, repeat } = sides;
    let mut out = format!(
        "Mean KL divergence in nats, share of positions with the same likeliest token; rates in tokens/s with {threads} \
         threads, medians of {repeat} rounds, all ways in turn.\n\n\
         | | KL divergence | same token | prefill of 512 | batch of 8 | decode |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n"
    );
    let ways: [(&str, &[&str]); 2] = [("critic", &[]), ("critic `--fine`", &["--fine"])];
    let mut rates = ways.map(|_| [const { Vec::new() }; 3]);
    for round in 0..repeat {
        eprintln!("precisions, round {} of {repeat}", round + 1);
        for ((_, flags), rates) in ways.iter().zip(&mut rates) {
            let answer = bench(ours, threads, 512, super::WRITTEN, 0, &[flags, &["--batch", "8"][..]].concat())?;
            rates[0].push(figure(&answer, "prefill_tokens_per_second")?);
            rates[1].push(8e3 / answer["batches"][0]["ms"].as_f64().ok_or("bench gives no batch")?);
            rates[2].push(figure(&answer, "decode_tokens_per_second")?);
        }
    }
    for ((name, flags), rates) in ways.iter().zip(&mut rates) {
        let output = Command::new("target/release/critic")
            .args(["kl", "--json", "--text-file", TEXT, "--model"])
            .arg(ours)
            .args(*flags)
            .output()
            .map_err(|error| error.to_string())?;
        let answer: Value =
            serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let [prefill, eight, decode] = rates.each_mut().map(|values| median(values));
        out += &format!(
            "| {name} | {:.6} | {:.1} % | {prefill:.0} | {eight:.0} | {decode:.0} |\n",
            figure(&answer, "mean_kl")?,
            100.0 * figure(&answer, "same_top")?
        );
    }
    for (name, file) in [("llama.cpp, same file", gguf.to_owned()), ("llama.cpp, Q4_0", requantized(gguf, "Q4_0")?)] {
        let (kl, same) = peer(program, gguf, &file, threads)?;
        out += &format!("| {name} | {kl:.6} | {same:.1} % | | | |\n");
    }
    Ok(out + "\n")
}

/// What llama-perplexity says of `file`.
fn peer(server: &Path, gguf: &Path, file: &Path, threads: usize) -> Result<(f64, f64), String> {
    let program = server.with_file_name("llama-perplexity");
    let base = Path::new("target/fixtures/perplexity-f16.bin");
    let command = |model: &Path, base: &Path| {
        let mut command = Command::new(&program);
        command.env("LD_LIBRARY_PATH", program.parent().unwrap_or(Path::new("."))).arg("--model").arg(model);
        command.args(["--file", TEXT, "--ctx-size", "512", "--threads", &threads.to_string()]);
        command.arg("--kl-divergence-base").arg(base);
        command
    };
    if !base.exists() {
        // Under its name only when it is whole.
        let part = base.with_extension("part");
        run_command(&mut command(&requantized(gguf, "F16")?, &part))?;
        std::fs::rename(&part, base).map_err(|error| format!("{}: {error}", base.display()))?;
    }
    let output = command(file, base).arg("--kl-divergence").output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let after = |key: &str| {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(key))?;
        line.split_whitespace().find_map(|word| word.parse::<f64>().ok())
    };
    match (after("Mean    KLD:"), after("Same top p:")) {
        (Some(kl), Some(same)) => Ok((kl, same)),
        _ => Err(format!("llama-perplexity gives no divergence: {text}")),
    }
}

//! Python programs that this project's results are checked against, and the packages that they need.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers::{median, models};
use crate::{cargo, run};

/// Versions that the checks were made with; they take several GB.
const PACKAGES: [&str; 3] = ["torch==2.15.0", "transformers==5.24.0", "peft==0.21.2"];

/// Makes a virtual environment below the build folder, once, with PyTorch and PEFT.
fn python() -> Result<PathBuf, String> {
    let folder = Path::new("target/python");
    let program = folder.join("bin/python");
    let ready = folder.join("ready");
    if !ready.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        run(Command::new(&program).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
        std::fs::write(&ready, PACKAGES.join("\n")).map_err(|error| format!("{}: {error}", ready.display()))?;
    }
    Ok(program)
}

/// PEFT loads adapters that were trained here, and computes the same log-probabilities.
pub fn check_peft() -> Result<(), String> {
    let python = python()?;
    let folder = Path::new("target/peft");
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    run(cargo(&["run", "-p", "critic-trainer", "--example", "peft_values", "--"]).arg(folder))?;
    run(Command::new(python).arg("trainer/tests/check_peft.py").arg(folder.join("values.json")))
}

/// One training step here and in PyTorch, alternately; medians.
pub fn bench_step(rounds: usize) -> Result<(), String> {
    let python = python()?;
    run(&mut cargo(&["build", "--release", "--workspace", "--example", "rco_step"]))?;
    let model = models()?.1;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(seconds(Command::new("target/release/examples/rco_step").arg(&model))?);
        theirs.push(seconds(Command::new(&python).arg("benches/pytorch_step.py"))?);
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    println!(
        "An RCO step with an adapter of rank 16 on SmolLM2-135M: 4 critiques of 80 tokens, prefix of 200, instruction of \
         20; medians of {rounds} rounds of 5 steps.\n\n\
         | | seconds a step | |\n| --- | ---: | ---: |\n\
         | critic-train, prefix computed once | {ours:.2} | {:.2} times as fast |\n\
         | PyTorch, prompt computed for each critique | {theirs:.2} | 1 |",
        theirs / ours
    );
    Ok(())
}

fn seconds(command: &mut Command) -> Result<f64, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().last().and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    found
        .and_then(|json| json["seconds"].as_f64())
        .ok_or_else(|| format!("{command:?} printed no seconds: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

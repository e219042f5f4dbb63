//! Prints the values of every objective for groups of critiques given as logits:
//! `cargo run -p critic-trainer --example objective_values -- FILE`.
//!
//! FILE has the form of tests/data/objective.json, and so has what is printed: beta, cu, and
//! for each sequence its tokens, prompt_len, policy_logits and reference_logits are read, the
//! rest is computed. It lets another implementation be compared with this one.

mod values;

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: objective_values FILE");
        return ExitCode::from(2);
    };
    let answer = std::fs::read(&path).map_err(|error| error.to_string()).and_then(|bytes| {
        let file: values::File = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        file.check()?;
        serde_json::to_string(&file.computed()).map_err(|error| error.to_string())
    });
    match answer {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("error: {path}: {why}");
            ExitCode::FAILURE
        }
    }
}

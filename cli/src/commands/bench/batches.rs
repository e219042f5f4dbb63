//! What several tokens cost together: as one text, which verification of guesses does, and as
//! so many texts, which candidates are.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use critic::adapter::NEVER;
use critic::transformer::{Engine, Logits, Run};
use critic::{Model, Session};
use serde::Serialize;

use super::{arbitrary_tokens, median, ms};
use crate::failure::Failure;

#[derive(Serialize)]
pub struct Batch {
    pub tokens: usize,
    /// Of this many tokens that go on with one text, all with their logits.
    pub ms: f64,
    /// Of as many texts with a common beginning, a token each.
    pub candidates_ms: f64,
}

/// Measures batches of `sizes` after `context`, each `repeat` times and more.
pub fn measure(
    model: &Arc<Model>,
    session: &Session,
    context: &[u32],
    sizes: &[u32],
    repeat: u32,
) -> Result<Vec<Batch>, Failure> {
    /// Passes between two looks at the clock's median: one pass is a few milliseconds.
    const PASSES: u32 = 5;
    let adapted = session.adapter().is_some();
    let mut engine = Engine::new(model.config(), session.kernel(), session.threads(), session.precision())?;
    let forward = |engine: &mut Engine, runs: &mut [Run]| {
        engine.forward(model.weights(), runs, &AtomicBool::new(false), &mut |_, _, logits| {
            std::hint::black_box(logits);
        })
    };
    let most = sizes.iter().copied().max().unwrap_or(0) as usize;
    let tokens = arbitrary_tokens(model, most.max(1));
    let mut prefix = engine.sequence();
    debug_assert!(prefix.adapted_from() == NEVER);
    // At least one token, so that there is something to go on from.
    let context = if context.is_empty() { &tokens[..1] } else { context };
    forward(&mut engine, &mut [Run { sequence: &mut prefix, tokens: context, logits: Logits::None, adapted }])?;
    let mut times = vec![(Vec::new(), Vec::new()); sizes.len()];
    // Sizes take turns, so that a busy moment of the machine does not fall on one alone.
    for _ in 0..repeat * PASSES {
        for (&size, (as_one, as_many)) in sizes.iter().zip(&mut times) {
            let size = size as usize;
            let mut one = prefix.fork();
            // The copy of the shared page is not part of it.
            forward(
                &mut engine,
                &mut [Run { sequence: &mut one, tokens: &tokens[..1], logits: Logits::None, adapted }],
            )?;
            let started = std::time::Instant::now();
            let tokens = &tokens[..size];
            forward(&mut engine, &mut [Run { sequence: &mut one, tokens, logits: Logits::All, adapted }])?;
            as_one.push(ms(started));
            drop(one);
            let mut many: Vec<_> = (0..size).map(|_| prefix.fork()).collect();
            for logits in [Logits::None, Logits::Last] {
                let mut runs: Vec<Run> = many
                    .iter_mut()
                    .zip(tokens.chunks(1))
                    .map(|(sequence, tokens)| Run { sequence, tokens, logits, adapted })
                    .collect();
                let started = std::time::Instant::now();
                forward(&mut engine, &mut runs)?;
                if logits == Logits::Last {
                    as_many.push(ms(started));
                }
            }
        }
    }
    let batch = |(&size, (as_one, as_many)): (&u32, &mut (Vec<f64>, Vec<f64>))| Batch {
        tokens: size as usize,
        ms: median(as_one),
        candidates_ms: median(as_many),
    };
    Ok(sizes.iter().zip(&mut times).map(batch).collect())
}

//! How far the fast path is from the exact one: KL divergence on a text.

use serde::Serialize;

use crate::error::Result;
use crate::kernels::Kernel;
use crate::kernels::rows::LogSumExp;
use crate::sampler::argmax;
use crate::session::{OnProgress, Session};
use crate::transformer::Logits;

/// Divergence of one way to compute from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Divergence {
    /// Mean KL(exact ‖ fast), natural.
    pub mean_kl: f64,
    /// Share of positions where both have the same likeliest token.
    pub same_top: f64,
    /// Positions compared.
    pub tokens: usize,
    /// Perplexity of the fast path over that of the exact one, on the same positions.
    pub perplexity_ratio: f64,
}

/// Compares `fast` with `exact`, two sessions of one model, on `tokens` in chunks of `chunk`:
/// over the second half of each whole chunk, where the context is long enough to matter.
pub fn divergence(
    exact: &mut Session,
    fast: &mut Session,
    tokens: &[u32],
    chunk: usize,
    on_progress: &mut OnProgress,
) -> Result<Divergence> {
    if chunk < 2 || tokens.len() < chunk {
        return Err(crate::Error::invalid(format!("{} tokens are fewer than one chunk of {chunk}", tokens.len())));
    }
    let kernel = exact.kernel();
    let (mut kl, mut same, mut count, mut surprise) = (0.0, 0usize, 0usize, 0.0);
    for (index, chunk) in tokens.chunks_exact(chunk).enumerate() {
        let half = chunk.len() / 2;
        let mut rows: Vec<Vec<f32>> = Vec::with_capacity(chunk.len() - half);
        exact.prefill(chunk, Logits::All, &mut |_| std::ops::ControlFlow::Continue(()), &mut |at, logits| {
            if at >= half {
                rows.push(logits.to_vec());
            }
        })?;
        fast.prefill(chunk, Logits::All, &mut |_| std::ops::ControlFlow::Continue(()), &mut |at, logits| {
            let Some(exact) = at.checked_sub(half).map(|at| &rows[at]) else { return };
            kl += kl_divergence(kernel, exact, logits);
            same += usize::from(argmax(exact) == argmax(logits));
            count += 1;
            if let Some(&next) = chunk.get(at + 1) {
                surprise += crate::session::log_probability(kernel, exact, next)
                    - crate::session::log_probability(kernel, logits, next);
            }
        })?;
        let done = (index + 1) * chunk.len();
        if on_progress(crate::session::Progress::Prefill { done, total: tokens.len() }).is_break() {
            return Err(crate::Error::Cancelled);
        }
    }
    let n = count as f64;
    let predicted = n - (tokens.len() / chunk) as f64;
    Ok(Divergence {
        mean_kl: kl / n,
        same_top: same as f64 / n,
        tokens: count,
        perplexity_ratio: (surprise / predicted).exp(),
    })
}

/// Σ p·(ln p − ln q) in f64.
fn kl_divergence(kernel: Kernel, p: &[f32], q: &[f32]) -> f64 {
    let [zp, zq] = [p, q].map(|x| kernel.run(LogSumExp { x }));
    let terms = p.iter().zip(q).map(|(&p, &q)| {
        let (p, q) = (f64::from(p) - zp, f64::from(q) - zq);
        p.exp() * (p - q)
    });
    terms.sum()
}

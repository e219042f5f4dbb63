//! Every objective's values for groups of critiques that are given as logits.

use critic_trainer::objective::{
    Normalizer, Objective, ScoredGroup, log_normalizer, predicted_utility, utility_advantage,
};
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
pub struct File {
    #[serde(default)]
    pub note: String,
    pub groups: Vec<Group>,
}

/// Fields with a default are results.
#[derive(Deserialize, Serialize)]
pub struct Group {
    pub beta: f64,
    pub cu: Vec<f64>,
    pub sequences: Vec<Sequence>,
    #[serde(default)]
    pub logp_policy: Vec<f64>,
    #[serde(default)]
    pub logp_reference: Vec<f64>,
    #[serde(default)]
    pub log_z: f64,
    #[serde(default)]
    pub residual: Vec<f64>,
    #[serde(default)]
    pub rco_loss: f64,
    #[serde(default)]
    pub grad_logp_policy: Vec<f64>,
    #[serde(default)]
    pub predicted_utility: Vec<f64>,
    #[serde(default)]
    pub centred: Centred,
    /// Over the first sequence, taken as *keep*.
    #[serde(default)]
    pub utility_advantage: Vec<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cu_dpo: Option<Pair>,
    #[serde(default)]
    pub sft_best: Best,
}

#[derive(Clone, Deserialize, Serialize)]
pub struct Sequence {
    /// `[time]`; `logits[t]` predicts `tokens[t]`.
    pub tokens: Vec<usize>,
    /// Rows that do not count.
    pub prompt_len: usize,
    /// `[time, vocabulary]`.
    pub policy_logits: Vec<Vec<f64>>,
    /// `[time, vocabulary]`.
    pub reference_logits: Vec<Vec<f64>>,
    /// `[time, vocabulary]`: ∂(RCO loss)/∂logits.
    #[serde(default)]
    pub grad_policy_logits: Vec<Vec<f64>>,
}

#[derive(Default, Deserialize, Serialize)]
pub struct Centred {
    pub loss: f64,
    pub grad_logp_policy: Vec<f64>,
}

#[derive(Deserialize, Serialize)]
pub struct Pair {
    pub chosen: usize,
    pub rejected: usize,
    pub loss: f64,
}

#[derive(Default, Deserialize, Serialize)]
pub struct Best {
    pub chosen: usize,
    pub nll_per_token: f64,
}

impl File {
    /// Whether the shapes agree.
    pub fn check(&self) -> Result<(), String> {
        for (at, group) in self.groups.iter().enumerate() {
            if group.cu.is_empty() || group.cu.len() != group.sequences.len() || group.beta <= 0.0 {
                return Err(format!("groups[{at}]: expected a positive beta, and a cu for each of its sequences"));
            }
            for (which, sequence) in group.sequences.iter().enumerate() {
                let fits = |logits: &[Vec<f64>]| {
                    logits.len() == sequence.tokens.len()
                        && logits.iter().zip(&sequence.tokens).all(|(row, &token)| token < row.len())
                };
                if !fits(&sequence.policy_logits) || !fits(&sequence.reference_logits) {
                    return Err(format!("groups[{at}].sequences[{which}]: logits do not fit the tokens"));
                }
            }
        }
        Ok(())
    }

    /// The same groups with every result computed anew.
    pub fn computed(&self) -> File {
        File { note: self.note.clone(), groups: self.groups.iter().map(Group::computed).collect() }
    }
}

impl Group {
    fn computed(&self) -> Group {
        let score = |logits: fn(&Sequence) -> &Vec<Vec<f64>>| -> Vec<f64> {
            self.sequences.iter().map(|sequence| sequence.log_probability(logits(sequence))).collect()
        };
        let (beta, utilities) = (self.beta, self.cu.clone());
        let scored = ScoredGroup {
            log_policy: score(|sequence| &sequence.policy_logits),
            log_reference: score(|sequence| &sequence.reference_logits),
            lengths: self.sequences.iter().map(|s| s.tokens.len().saturating_sub(s.prompt_len)).collect(),
            utilities: utilities.clone(),
            preferred: None,
        };
        let ratios = scored.log_ratios();
        let log_z = log_normalizer(&utilities, beta);
        let rco = Objective::Rco { beta, normalizer: Normalizer::Estimated }.evaluate(&scored);
        let rco = rco.expect("a group of critiques has a value");
        let centred = Objective::Rco { beta, normalizer: Normalizer::Centred }.evaluate(&scored);
        let sft = Objective::Sft.evaluate(&scored).expect("a group of critiques has a best one");
        let lowest = |gradient: &[f64]| (0..gradient.len()).min_by(|&a, &b| gradient[a].total_cmp(&gradient[b]));
        let highest = |gradient: &[f64]| (0..gradient.len()).max_by(|&a, &b| gradient[a].total_cmp(&gradient[b]));
        let sequences = self.sequences.iter().zip(&rco.gradient);
        Group {
            beta,
            residual: rco.gradient.iter().map(|gradient| gradient * utilities.len() as f64).collect(),
            rco_loss: rco.loss,
            sequences: sequences.map(|(sequence, &gradient)| sequence.with_gradient(gradient)).collect(),
            grad_logp_policy: rco.gradient,
            log_z,
            predicted_utility: ratios.iter().map(|&ratio| predicted_utility(ratio, log_z, beta)).collect(),
            utility_advantage: ratios.iter().map(|&ratio| utility_advantage(ratio, ratios[0], beta)).collect(),
            centred: centred.map_or_else(
                || Centred { loss: 0.0, grad_logp_policy: vec![0.0; utilities.len()] },
                |found| Centred { loss: found.loss, grad_logp_policy: found.gradient },
            ),
            cu_dpo: Objective::CuDpo { beta }.evaluate(&scored).map(|found| Pair {
                chosen: lowest(&found.gradient).unwrap_or_default(),
                rejected: highest(&found.gradient).unwrap_or_default(),
                loss: found.loss,
            }),
            sft_best: Best { chosen: lowest(&sft.gradient).unwrap_or_default(), nll_per_token: sft.loss },
            logp_policy: scored.log_policy,
            logp_reference: scored.log_reference,
            cu: utilities,
        }
    }
}

impl Sequence {
    /// log p of the tokens behind the prompt.
    fn log_probability(&self, logits: &[Vec<f64>]) -> f64 {
        let rows = logits.iter().zip(&self.tokens).skip(self.prompt_len);
        rows.map(|(row, &token)| row[token] - log_sum_exp(row)).sum()
    }

    /// ∂loss/∂logits through the softmax: g·(1\[token\] − p) in each row that counts.
    fn with_gradient(&self, gradient: f64) -> Sequence {
        let row = |at: usize| -> Vec<f64> {
            let (row, total) = (&self.policy_logits[at], log_sum_exp(&self.policy_logits[at]));
            let factor = if at < self.prompt_len { 0.0 } else { gradient };
            let is_token = |id: usize| if id == self.tokens[at] { 1.0 } else { 0.0 };
            (0..row.len()).map(|id| factor * (is_token(id) - (row[id] - total).exp())).collect()
        };
        Sequence { grad_policy_logits: (0..self.tokens.len()).map(row).collect(), ..self.clone() }
    }
}

fn log_sum_exp(row: &[f64]) -> f64 {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + row.iter().map(|value| (value - largest).exp()).sum::<f64>().ln()
}

//! Evaluations as Markdown, over one training run or several.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::bootstrap::{Interval, bootstrap, over_seeds, paired};
use super::measure::{Measure, Tally};
use super::trial::{Correlation, Evaluation, Gate};

/// Key of the resamples.
const SEED: u64 = 0;

/// A row with its intervals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredRow {
    /// Name of the critic.
    pub critic: String,
    /// Temperature of critiques and refinements.
    pub temperature: f32,
    /// Round, from 1.
    pub round: usize,
    /// What is done with the utility advantage.
    pub gate: Gate,
    /// By measure: the mean over training runs, and its interval over prompts.
    pub prompts: BTreeMap<Measure, Interval>,
    /// The same less the baseline's on the same prompts.
    pub difference: BTreeMap<Measure, Interval>,
    /// The interval over training runs.
    pub seeds: BTreeMap<Measure, Interval>,
    /// The value of each training run.
    pub runs: BTreeMap<Measure, Vec<f64>>,
}

/// All rows of one or more runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Training runs.
    pub runs: usize,
    /// Prompts of each.
    pub prompts: usize,
    /// The critic that others are compared with.
    pub baseline: String,
    /// Rows.
    pub rows: Vec<MeasuredRow>,
    /// Of each run, by critic.
    pub correlations: BTreeMap<String, Vec<Correlation>>,
}

/// Puts evaluations of several training runs together.
pub fn summarize(evaluations: &[Evaluation], baseline: &str) -> Summary {
    let mut rows = Vec::new();
    let first = evaluations.first().map_or(&[][..], |evaluation| &evaluation.rows);
    let strata = |critic: &str, temperature: f32, round: usize, gate: Gate| -> Vec<&[Tally]> {
        let of = |evaluation: &'_ Evaluation| {
            evaluation.rows.iter().position(|row| {
                row.critic == critic && row.temperature == temperature && row.round == round && row.gate == gate
            })
        };
        evaluations.iter().filter_map(|e| of(e).map(|at| e.rows[at].tallies.as_slice())).collect()
    };
    for row in first {
        let own = strata(&row.critic, row.temperature, row.round, row.gate);
        let base = strata(baseline, row.temperature, row.round, Gate::Open);
        let by_measure = |intervals: Vec<Option<Interval>>| -> BTreeMap<Measure, Interval> {
            Measure::ALL.into_iter().zip(intervals).filter_map(|(measure, i)| Some((measure, i?))).collect()
        };
        let comparable = own.iter().map(|s| s.len()).eq(base.iter().map(|s| s.len()));
        let difference =
            if comparable { by_measure(paired(&own, &base, &Measure::ALL, SEED)) } else { BTreeMap::new() };
        let mut runs: BTreeMap<Measure, Vec<f64>> = BTreeMap::new();
        for tallies in &own {
            let mut sum = Tally::default();
            tallies.iter().for_each(|&tally| sum += tally);
            for measure in Measure::ALL {
                runs.entry(measure).or_default().extend(measure.of(&sum));
            }
        }
        let seeds = runs.iter().filter_map(|(&measure, values)| Some((measure, over_seeds(values)?))).collect();
        rows.push(MeasuredRow {
            critic: row.critic.clone(),
            temperature: row.temperature,
            round: row.round,
            gate: row.gate,
            prompts: by_measure(bootstrap(&own, &Measure::ALL, SEED)),
            difference,
            seeds,
            runs,
        });
    }
    let mut correlations: BTreeMap<String, Vec<Correlation>> = BTreeMap::new();
    for evaluation in evaluations {
        for (critic, correlation) in &evaluation.correlations {
            correlations.entry(critic.clone()).or_default().push(*correlation);
        }
    }
    Summary {
        runs: evaluations.len(),
        prompts: evaluations.first().map_or(0, |evaluation| evaluation.prompts.len()),
        baseline: baseline.to_owned(),
        rows,
        correlations,
    }
}

/// Measures that stand in the table of the page.
const SHOWN: [Measure; 7] = [
    Measure::CritiqueUtility,
    Measure::RefinementScore,
    Measure::AccuracyAfter,
    Measure::WrongToRight,
    Measure::RightToWrong,
    Measure::BalancedAccuracy,
    Measure::FlagF1,
];

impl Summary {
    /// The page.
    pub fn markdown(&self, title: &str) -> String {
        let mut out = format!("# {title}\n\n");
        let runs = if self.runs == 1 { "one training run".into() } else { format!("{} training runs", self.runs) };
        _ = writeln!(
            out,
            "{runs}, {} held-out prompts each. A value is the mean over runs; in brackets is its 95 % bootstrap interval over prompts. \
             Every critic sees the same drafts.",
            self.prompts
        );
        let mut groups: Vec<(f32, usize)> = self.rows.iter().map(|row| (row.temperature, row.round)).collect();
        groups.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        groups.dedup();
        for (temperature, round) in groups {
            let heading = if temperature == 0.0 { "Greedy".into() } else { format!("Temperature {temperature}") };
            let of_round = if round > 1 { format!(", round {round} of refinement") } else { String::new() };
            _ = writeln!(out, "\n## {heading}{of_round}\n");
            let rows: Vec<&MeasuredRow> =
                self.rows.iter().filter(|row| row.temperature == temperature && row.round == round).collect();
            if let Some(before) = rows.iter().find_map(|row| row.prompts.get(&Measure::AccuracyBefore)) {
                _ = writeln!(out, "Drafts are right in {:.3} of the cases.\n", before.value);
            }
            _ = writeln!(out, "| critic | {} |", SHOWN.map(Measure::name).join(" | "));
            _ = writeln!(out, "| --- |{}", " --- |".repeat(SHOWN.len()));
            for row in &rows {
                _ = write!(out, "| {} |", label(row));
                for measure in SHOWN {
                    _ = write!(out, " {} |", shown(row.prompts.get(&measure)));
                }
                out.push('\n');
            }
            self.differences(&mut out, &rows);
        }
        self.rank(&mut out);
        out
    }

    fn differences(&self, out: &mut String, rows: &[&MeasuredRow]) {
        let baseline = &self.baseline;
        _ = writeln!(
            out,
            "\nCU less that of {baseline} on the same prompts, and CU of each run with the 95 % interval of the mean over runs (Student's t):\n"
        );
        _ = writeln!(out, "| critic | difference | runs | mean over runs |\n| --- | --- | --- | --- |");
        for row in rows {
            let cu = &Measure::CritiqueUtility;
            let runs: Vec<String> = row.runs.get(cu).into_iter().flatten().map(|value| format!("{value:.3}")).collect();
            let (difference, seeds) = (shown(row.difference.get(cu)), shown(row.seeds.get(cu)));
            _ = writeln!(out, "| {} | {difference} | {} | {seeds} |", label(row), runs.join(", "));
        }
    }

    fn rank(&self, out: &mut String) {
        if self.correlations.is_empty() {
            return;
        }
        _ = writeln!(
            out,
            "\n## Utility advantage against measured utility\n\nSpearman's rank correlation on held-out critiques that the base wrote, each run:\n"
        );
        _ = writeln!(out, "| critic | within a draft's critiques | over all |\n| --- | --- | --- |");
        for (critic, runs) in &self.correlations {
            let list = |value: fn(&Correlation) -> Option<f64>| {
                let values = runs.iter().map(|run| value(run).map_or("–".into(), |value| format!("{value:.2}")));
                values.collect::<Vec<_>>().join(", ")
            };
            _ = writeln!(out, "| {critic} | {} | {} |", list(|run| run.within), list(|run| run.overall));
        }
    }
}

/// What a row is called.
pub fn label(row: &MeasuredRow) -> String {
    match row.gate {
        Gate::Open => row.critic.clone(),
        Gate::Threshold => format!("{}, gated", row.critic),
        Gate::Best => format!("{}, best of N and gated", row.critic),
    }
}

fn shown(interval: Option<&Interval>) -> String {
    interval.map_or("–".into(), |Interval { value, low, high }| format!("{value:.3} [{low:.3}, {high:.3}]"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Row, Sample};

    #[test]
    fn runs_are_put_together() {
        let row = |critic: &str, preference: f64| Row {
            critic: critic.into(),
            temperature: 1.0,
            round: 1,
            gate: Gate::Open,
            tallies: (0..50)
                .map(|at| Tally::new(&[Sample { preference, right: Some((at % 2 == 0, true)), ..Sample::default() }]))
                .collect(),
        };
        let run = |cu: f64| Evaluation {
            prompts: vec!["p".into(); 50],
            rows: vec![row("base", 0.5), row("rco", cu)],
            ..Evaluation::default()
        };
        let summary = summarize(&[run(0.6), run(0.8)], "base");
        let found = &summary.rows[1];
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(found.prompts[&Measure::CritiqueUtility].value, 0.7), "{found:?}");
        assert!(close(found.difference[&Measure::CritiqueUtility].value, 0.2));
        assert_eq!(found.runs[&Measure::CritiqueUtility].len(), 2);
        let page = summary.markdown("Test");
        assert!(page.contains("| rco | 0.700 [0.700, 0.700] |"), "{page}");
        let json = serde_json::to_string(&summary).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&json).unwrap().rows.len(), 2);
    }
}

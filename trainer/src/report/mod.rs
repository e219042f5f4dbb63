//! `report.html`: what a run did, in one file that needs nothing else.
//!
//! No scripts, no fonts and no pictures from elsewhere: it can be mailed, archived and opened
//! in twenty years. Plots are SVG and follow the reader's light or dark setting.

mod page;
mod plot;

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::error::Result;
use crate::files;
use crate::metrics::{EvaluationMetrics, StepMetrics, pearson};
use crate::run::{RunDescription, describe, measured};

use page::{escape, number};
use plot::{Chart, Mark, Role, Series};

/// What is reported.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Name of the run.
    pub title: &'a str,
    /// What the run is.
    pub description: &'a RunDescription,
    /// Its steps, in order.
    pub steps: &'a [StepMetrics],
    /// Its evaluations, in order.
    pub evaluations: &'a [EvaluationMetrics],
}

/// Writes `report.html` for the run in `folder` as far as it has come.
pub fn write_report(folder: &Path) -> Result<()> {
    let description = describe(folder)?;
    let (steps, evaluations) = measured(folder)?;
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let title = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let report = Report { title: &title, description: &description, steps: &steps, evaluations: &evaluations };
    files::write_bytes(&folder.join("report.html"), report.html().as_bytes())
}

/// A figure: a plot, its title, and what its lines are.
struct Figure {
    title: &'static str,
    svg: String,
    legend: Vec<Entry>,
}

/// What a line of a plot is.
struct Entry {
    role: Role,
    dashed: bool,
    label: String,
}

impl Report<'_> {
    /// The page.
    pub fn html(&self) -> String {
        let figures: Vec<Figure> = [
            self.over_steps("Loss", |step| step.loss, |held_out| held_out.loss),
            self.over_steps("Residual", |step| step.residual, |held_out| held_out.residual),
            self.over_steps("KL to the reference, nats a critique", |step| step.kl, |held_out| held_out.kl),
            self.utility(),
            self.advantage(),
            self.rank_correlation(),
            self.over_steps_alone("Learning rate", |step| step.learning_rate, 1.0),
            self.over_steps_alone("Gradient norm", |step| step.gradient_norm, SMOOTHING),
        ]
        .into_iter()
        .flatten()
        .collect();
        page::render(self.title, &self.subtitle(), &self.tiles(), &figures, &self.options())
    }

    fn subtitle(&self) -> String {
        let RunDescription { version, model, data, .. } = self.description;
        let steps = self.steps.last().map_or(0, |step| step.step);
        let groups: usize = self.steps.iter().map(|step| step.groups).sum();
        format!("{} trained on {}: {steps} steps, {groups} groups · critic-train {version}", model.name, data.name)
    }

    /// Names and values of what counts most.
    fn tiles(&self) -> Vec<(&'static str, String)> {
        let mut tiles = Vec::new();
        if let Some(last) = self.evaluations.last() {
            tiles.push(("held-out loss", number(last.loss)));
            tiles.push(("KL to the reference", number(last.kl)));
            tiles.extend(last.rank_within.map(|rank| ("rank correlation within drafts", number(rank))));
            tiles.push(("threshold", number(last.threshold)));
            tiles.push(("utility above it (keep: 0.5)", number(last.threshold_utility)));
        } else if let Some(last) = self.steps.last() {
            tiles.push(("loss", number(last.loss)));
            tiles.push(("KL to the reference", number(last.kl)));
        }
        let seconds: f64 = self.steps.iter().map(|step| step.seconds).sum();
        let tokens: u64 = self.steps.iter().map(|step| step.tokens).sum();
        if seconds > 0.0 {
            tiles.push(("time", page::duration(seconds)));
            tiles.push(("tokens a second", format!("{:.0}", tokens as f64 / seconds)));
        }
        tiles
    }

    fn trained(&self, value: fn(&StepMetrics) -> f64, smoothing: f64) -> Vec<Series> {
        let points: Vec<(f64, f64)> = self.steps.iter().map(|step| (step.step as f64, value(step))).collect();
        let smooth = plot::smoothed(&points, smoothing);
        let line = |role, label: &str, points: &[(f64, f64)], width| Series {
            role,
            label: label.to_owned(),
            points: plot::thinned(points),
            mark: Mark::Line { width },
        };
        if smoothing < 1.0 {
            vec![line(Role::Pale, "each step", &points, 1), line(Role::First, "smoothed", &smooth, 2)]
        } else {
            vec![line(Role::First, "", &points, 2)]
        }
    }

    fn held_out(&self, role: Role, label: &str, value: impl Fn(&EvaluationMetrics) -> Option<f64>) -> Series {
        let points = self.evaluations.iter().filter_map(|held_out| Some((held_out.step as f64, value(held_out)?)));
        Series { role, label: label.to_owned(), points: points.collect(), mark: Mark::DottedLine }
    }

    fn over_steps(
        &self,
        title: &'static str,
        trained: fn(&StepMetrics) -> f64,
        held_out: fn(&EvaluationMetrics) -> f64,
    ) -> Option<Figure> {
        let mut series = self.trained(trained, SMOOTHING);
        series.push(self.held_out(Role::Second, "held out", |metrics| Some(held_out(metrics))));
        Chart { title, x: "step", series, ..Chart::default() }.figure()
    }

    fn over_steps_alone(&self, title: &'static str, value: fn(&StepMetrics) -> f64, smoothing: f64) -> Option<Figure> {
        Chart { title, x: "step", series: self.trained(value, smoothing), from_zero: true, ..Chart::default() }.figure()
    }

    fn utility(&self) -> Option<Figure> {
        let mut series = self.trained(|step| step.mean_cu, SMOOTHING);
        series.remove(0);
        series.iter_mut().for_each(|series| {
            series.label = "each step, smoothed".to_owned();
            series.role = Role::Pale;
        });
        series.push(self.held_out(Role::Ink, "held out", |metrics| Some(metrics.mean_cu)));
        series.push(self.held_out(Role::Third, "the reference's", |metrics| Some(metrics.reference_cu)));
        series.push(self.held_out(Role::First, "of highest advantage", |metrics| Some(metrics.best_cu)));
        let acting = "acting above the threshold";
        series.push(self.held_out(Role::Second, acting, |metrics| Some(metrics.threshold_utility)));
        let level = Some((0.5, "keeping every draft"));
        Chart { title: "Mean critique utility", x: "step", series, level, ..Chart::default() }.figure()
    }

    fn rank_correlation(&self) -> Option<Figure> {
        let within = self.held_out(Role::First, "within a draft's critiques", |metrics| metrics.rank_within);
        let overall = self.held_out(Role::Second, "over all critiques", |metrics| metrics.rank_overall);
        let title = "Rank correlation of advantage and utility, held out";
        Chart {
            title,
            x: "step",
            series: vec![within, overall],
            level: Some((0.0, "no correlation")),
            ..Chart::default()
        }
        .figure()
    }

    fn advantage(&self) -> Option<Figure> {
        let last = self.evaluations.last()?;
        let points: Vec<(f64, f64)> = last.points.iter().map(|point| (point.advantage, point.utility)).collect();
        let (x, y): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
        let (low, high) = plot::range(&x)?;
        let straight = |role, label: String, from: (f64, f64), to: (f64, f64), mark| Series {
            role,
            label,
            points: vec![from, to],
            mark,
        };
        let mut series = vec![Series {
            role: Role::First,
            label: format!("a held-out critique ({})", points.len()),
            points,
            mark: Mark::Points,
        }];
        // Where the line of A + ½ passes through the utilities that can be.
        let (from, to) = (low.max(-0.5), high.min(0.5));
        if from < to {
            let exact = "advantage = utility − ½".to_owned();
            series.push(straight(Role::Ink, exact, (from, from + 0.5), (to, to + 0.5), Mark::Dashes));
        }
        if let Some((slope, intercept)) = plot::least_squares(&x, &y) {
            let at = |x: f64| (x, slope * x + intercept);
            let correlation = pearson(&x, &y).map_or_else(String::new, |r| format!(", r = {r:.2}"));
            let label = format!("least squares: slope {}{correlation}", number(slope));
            series.push(straight(Role::Second, label, at(low), at(high), Mark::Line { width: 2 }));
        }
        let label = format!("threshold {}", number(last.threshold));
        let ends = [(last.threshold, 0.0), (last.threshold, 1.0)];
        series.push(straight(Role::Third, label, ends[0], ends[1], Mark::Dashes));
        Chart {
            title: "Predicted advantage against measured utility",
            x: "predicted utility advantage",
            y: "measured utility",
            series,
            ..Chart::default()
        }
        .figure()
    }

    /// Every option and its value.
    fn options(&self) -> Vec<(String, String)> {
        let RunDescription { version, model, data, init, options } = self.description;
        let mut rows = Vec::new();
        flatten("", options, &mut rows);
        rows.push(("model".into(), model.name.clone()));
        rows.push(("model SHA-256".into(), model.sha256.clone()));
        rows.push(("data".into(), data.name.clone()));
        rows.push(("data SHA-256".into(), data.sha256.clone()));
        if let Some(init) = init {
            rows.push(("init".into(), init.name.clone()));
            rows.push(("init SHA-256".into(), init.sha256.clone()));
        }
        rows.push(("critic-train".into(), version.clone()));
        rows
    }
}

/// Weight of a step in the smoothed line: about twenty steps are seen.
const SMOOTHING: f64 = 0.1;

fn flatten(path: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, rows);
            }
        }
        Value::String(text) => rows.push((path.to_owned(), text.clone())),
        Value::Null => rows.push((path.to_owned(), "—".to_owned())),
        other => rows.push((path.to_owned(), other.to_string())),
    }
}

impl Figure {
    fn html(&self) -> String {
        let mut out = format!("<figure><figcaption><b>{}</b>", escape(self.title));
        for Entry { role, dashed, label } in self.legend.iter().filter(|entry| !entry.label.is_empty()) {
            let style = if *dashed { "dashed" } else { "solid" };
            let (role, label) = (role.name(), escape(label));
            _ = write!(out, "<span><i style=\"border-top:3px {style} var(--{role})\"></i>{label}</span>");
        }
        out + "</figcaption>" + &self.svg + "</figure>"
    }
}

#[cfg(test)]
mod tests;

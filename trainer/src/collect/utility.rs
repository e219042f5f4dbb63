//! Critique utility: what was collected about a draft, what its critiques are worth, and which groups say
//! something.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::files;
use crate::tasks::Problem;

/// Everything that was written about one problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Collected {
    /// The problem.
    pub problem: Problem,
    /// The draft.
    pub draft: String,
    /// What the verifier gives it, in \[0, 1\], where there is one.
    pub score: Option<f64>,
    /// Its critiques, those that failed left out.
    pub critiques: Vec<CollectedCritique>,
}

/// A critique and what it led to.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectedCritique {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub tokens: usize,
    /// Whether it says that nothing needs to change.
    pub keep: bool,
    /// Whether it says that something is wrong.
    pub flags: bool,
    /// Share of judgements in which the critique itself was preferred to the draft's others.
    pub preferred: Option<f64>,
    /// What was written from it, those that failed or could not be judged left out.
    pub refinements: Vec<CollectedRefinement>,
}

/// A refinement.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectedRefinement {
    /// The text.
    pub text: String,
    /// What the verifier gives it.
    pub score: Option<f64>,
    /// Preference over the draft: 1, ½ or 0.
    pub preference: f64,
    /// Whether the judge said the same in both orders, where there was one.
    pub orders_agree: Option<bool>,
}

/// Critique utility of a number of refinements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Utility {
    /// CU: the mean of the preferences.
    pub cu: f64,
    /// Its standard error, s/√M with s the deviation of the sample; 0 for *keep*, whose utility is known,
    /// and `None` of a single refinement.
    pub standard_error: Option<f64>,
}

/// CU = (1/M) Σ PS(y_j, y0) with its standard error; `None` of no refinements.
pub fn utility(preferences: &[f64]) -> Option<Utility> {
    let count = preferences.len() as f64;
    if preferences.is_empty() {
        return None;
    }
    let cu = preferences.iter().sum::<f64>() / count;
    let squares: f64 = preferences.iter().map(|preference| (preference - cu).powi(2)).sum();
    let standard_error = (preferences.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt());
    Some(Utility { cu, standard_error })
}

impl CollectedCritique {
    /// Its utility: ½ of one that keeps the draft.
    pub fn utility(&self) -> Option<Utility> {
        if self.keep {
            return Some(Utility { cu: 0.5, standard_error: Some(0.0) });
        }
        let preferences: Vec<f64> = self.refinements.iter().map(|refinement| refinement.preference).collect();
        utility(&preferences)
    }
}

/// A line of scored critiques.
#[derive(Debug, Serialize)]
struct ScoredLine<'a> {
    id: &'a str,
    task: &'a str,
    prompt: &'a str,
    response: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    critiques: Vec<ScoredCritique<'a>>,
}

#[derive(Debug, Serialize)]
struct ScoredCritique<'a> {
    text: &'a str,
    cu: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    standard_error: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred: Option<f64>,
    refinements: Vec<ScoredRefinement<'a>>,
}

#[derive(Debug, Serialize)]
struct ScoredRefinement<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    preferences: [f64; 1],
}

/// What became of the groups, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterCounts {
    /// Written.
    pub kept: usize,
    /// All critiques have the same utility: nothing is learned from them.
    pub flat: usize,
    /// Fewer than two critiques with a utility.
    pub few: usize,
    /// No draft.
    pub no_draft: usize,
}

/// Which groups are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Whether groups without signal stay: a share of them pulls the critic back to the reference.
    #[serde(default)]
    pub keep_flat: bool,
}

/// Writes the scored critiques of `collected` to `path` in their order, as `data::read` reads them.
/// `None` stands for a problem without a draft.
pub fn write_scored(path: &Path, collected: &[Option<Collected>], filter: Filter) -> Result<FilterCounts> {
    let mut counts = FilterCounts::default();
    files::write_file(path, |out| {
        for collected in collected {
            let Some(collected) = collected else {
                counts.no_draft += 1;
                continue;
            };
            let line = scored(collected);
            let cu = |at: usize| line.critiques[at].cu;
            if line.critiques.len() < 2 {
                counts.few += 1;
            } else if !filter.keep_flat && (1..line.critiques.len()).all(|at| cu(at) == cu(0)) {
                counts.flat += 1;
            } else {
                counts.kept += 1;
                serde_json::to_writer(&mut *out, &line)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    })?;
    Ok(counts)
}

fn scored(collected: &Collected) -> ScoredLine<'_> {
    let critique = |critique: &'_ CollectedCritique| -> Option<(Utility, usize)> {
        critique.utility().map(|utility| (utility, critique.refinements.len()))
    };
    let critiques = collected.critiques.iter().filter_map(|c| {
        let (Utility { cu, standard_error }, _) = critique(c)?;
        let refinements = c.refinements.iter().map(|refinement| ScoredRefinement {
            text: &refinement.text,
            score: refinement.score,
            preferences: [refinement.preference],
        });
        let (text, preferred) = (c.text.as_str(), c.preferred);
        Some(ScoredCritique { text, cu, standard_error, preferred, refinements: refinements.collect() })
    });
    ScoredLine {
        id: &collected.problem.id,
        task: &collected.problem.task,
        prompt: &collected.problem.prompt,
        response: &collected.draft,
        score: collected.score,
        critiques: critiques.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataFile;

    fn critique(preferences: &[f64], keep: bool) -> CollectedCritique {
        let refinement = |&preference: &f64| CollectedRefinement {
            text: "y".into(),
            score: None,
            preference,
            orders_agree: Some(true),
        };
        CollectedCritique {
            text: "c".into(),
            tokens: 1,
            keep,
            flags: !keep,
            preferred: None,
            refinements: preferences.iter().map(refinement).collect(),
        }
    }

    #[test]
    fn golden_utilities() {
        // M = 5: three better, one tie, one worse. s² = Σ(x − 0.7)²/4 = 0.8/4.
        let found = utility(&[1.0, 1.0, 1.0, 0.5, 0.0]).unwrap();
        assert!((found.cu - 0.7).abs() < 1e-15);
        assert!((found.standard_error.unwrap() - (0.2f64 / 5.0).sqrt()).abs() < 1e-15, "{found:?}");
        assert_eq!(utility(&[0.5]), Some(Utility { cu: 0.5, standard_error: None }));
        assert_eq!(utility(&[]), None);
        assert_eq!(critique(&[], true).utility(), Some(Utility { cu: 0.5, standard_error: Some(0.0) }));
        assert_eq!(critique(&[], false).utility(), None);
    }

    #[test]
    fn groups_without_signal_are_left_out_and_counted() {
        let problem = |id: &str| Problem {
            id: id.into(),
            task: "qa".into(),
            prompt: "p".into(),
            reference: None,
            tests: Vec::new(),
            constraints: Vec::new(),
            difficulty: 0,
        };
        let group = |id: &str, critiques: &[(&[f64], bool)]| {
            let critiques = critiques.iter().map(|(preferences, keep)| critique(preferences, *keep)).collect();
            Some(Collected { problem: problem(id), draft: "d".into(), score: None, critiques })
        };
        let all = [
            group("signal", &[(&[1.0, 0.5], false), (&[], true)]),
            group("flat", &[(&[1.0, 0.0], false), (&[], true)]),
            group("few", &[(&[1.0], false), (&[], false)]),
            None,
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scored.jsonl");
        let counts = write_scored(&path, &all, Filter::default()).unwrap();
        assert_eq!(counts, FilterCounts { kept: 1, flat: 1, few: 1, no_draft: 1 });
        let read: Vec<_> = DataFile::open(&path).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!((read.len(), read[0].id.as_str()), (1, "signal"));
        assert_eq!(read[0].critiques.iter().map(|critique| critique.cu).collect::<Vec<_>>(), [0.75, 0.5]);
        let counts = write_scored(&path, &all, Filter { keep_flat: true }).unwrap();
        assert_eq!((counts.kept, counts.flat), (2, 0));
    }
}

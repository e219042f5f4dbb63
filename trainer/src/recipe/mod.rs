//! Recipes: the steps of an experiment in order, from nothing to a table, as one TOML file.
//!
//! ```text
//! RECIPE.toml ─▶ for each seed: step after step, each in a folder of its own ─▶ summary over seeds
//! ```
//!
//! A step is done when the manifest says so and names the same options and inputs; it is then not done
//! again. A step that was stopped goes on where it was.

mod manifest;
mod run;
mod train;

pub use manifest::{Manifest, StepRecord};
pub use run::{Event, run, write_summary};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::collect::{CollectOptions, Filter};
use crate::error::{Error, Result};
use crate::eval::TrialOptions;
use crate::optim::OptimizerOptions;
use crate::scratch::Shape;
use crate::tasks::Part;
use crate::tasks::steps::Noise;

/// A whole recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub about: String,
    /// Everything is done once for each.
    pub seeds: Vec<u64>,
    /// Where tensors are computed: `flex`, `wgpu`, `cuda`.
    #[serde(default = "flex")]
    pub device: String,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

fn flex() -> String {
    "flex".into()
}

/// A step and its name, by which later steps call what it made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its name: its folder's, too.
    pub name: String,
    /// What it does.
    #[serde(flatten)]
    pub action: Action,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Makes problems.
    Problems(Problems),
    /// Makes a character model from nothing.
    Pretrain(Pretrain),
    /// Collects scored critiques.
    Collect(Collect),
    /// Trains a critic.
    Train(Train),
    /// Compares critics.
    Eval(Eval),
}

/// Problems of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problems {
    /// The task.
    pub task: String,
    /// Which of its problems.
    pub part: Part,
    /// How many.
    pub count: u64,
}

/// A character model from nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretrain {
    /// Its shape.
    pub shape: Shape,
    /// Steps.
    pub steps: u64,
    /// Texts of a step.
    pub texts_per_step: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Steps over which it rises to that.
    pub warmup: u64,
    /// The learning rate of the last step, as a share of the largest.
    pub floor: f64,
    /// Share of the steps whose critic is mostly right.
    pub clean_share: f64,
    /// How often whom errs in those steps.
    pub clean: Noise,
    /// How often whom errs in the rest.
    pub noisy: Noise,
    /// AdamW.
    #[serde(default)]
    pub optimizer: OptimizerOptions,
}

/// Scored critiques of a problem set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collect {
    /// A step that made problems, or a problem file.
    pub problems: String,
    /// A step that made a model, or a model file.
    pub actor: String,
    /// The same.
    pub critic: String,
    /// The same; none where verifiers decide.
    #[serde(default)]
    pub judge: Option<String>,
    /// Most texts that are decoded as one batch.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Which groups are written.
    #[serde(default)]
    pub filter: Filter,
    /// How much is collected.
    #[serde(flatten)]
    pub options: CollectOptions,
}

fn batch() -> usize {
    256
}

/// A critic, trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// A step that made a model, or a model file: the reference.
    pub model: String,
    /// A step that collected, or a file of scored critiques.
    pub data: String,
    /// The same, by which the threshold is calibrated.
    pub held_out: String,
    /// A step that trained a critic, from which this one goes on, and which is then the reference of
    /// the objective.
    #[serde(default)]
    pub from: Option<String>,
    /// `rco`, `dpco`, `cu-dpo` or `sft`.
    pub objective: String,
    /// `estimated` or `centred`, of `rco`.
    #[serde(default)]
    pub normalizer: Option<String>,
    /// β of the objective; of `sft`, of the utility advantage.
    pub beta: f64,
    /// Steps.
    pub steps: u64,
    /// Critiques whose gradient a step takes: the same for every objective is the same budget.
    pub critiques_per_step: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Steps over which it rises to that.
    pub warmup: u64,
    /// The learning rate of the last step, as a share of the largest.
    pub floor: f64,
    /// Rank of the adapter, which is activated and on all matrices.
    pub rank: usize,
    /// Its alpha.
    pub alpha: f64,
    /// Most tokens of a draft's context with its longest critique.
    #[serde(default = "tokens")]
    pub max_tokens: usize,
    /// Whether groups whose critiques all have the same utility take part.
    #[serde(default)]
    pub keep_flat: bool,
    /// AdamW.
    #[serde(default)]
    pub optimizer: OptimizerOptions,
}

fn tokens() -> usize {
    2048
}

/// Critics, compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Eval {
    /// A step that made problems, or a problem file.
    pub problems: String,
    /// A step that made a model, or a model file.
    pub actor: String,
    /// The same; none where verifiers decide.
    #[serde(default)]
    pub judge: Option<String>,
    /// Steps that made models or critics, or model files; `keep` says *keep* about everything, and
    /// `oracle` what the task knows.
    pub critics: Vec<String>,
    /// The critic that others are compared with.
    pub baseline: String,
    /// A step that collected, or a file of scored critiques, on which utility advantages are ranked.
    #[serde(default)]
    pub scored: Option<String>,
    /// Most texts that are decoded as one batch.
    #[serde(default = "batch")]
    pub batch: usize,
    /// How.
    #[serde(flatten)]
    pub options: TrialOptions,
}

/// The recipes that come with the program, by name.
pub const BUILT_IN: [(&str, &str); 1] = [("tiny", include_str!("../../recipes/tiny.toml"))];

impl Recipe {
    /// Reads the recipe at `path`, or the built-in one of that name.
    pub fn load(path: &Path) -> Result<Self> {
        let built_in = BUILT_IN.iter().find(|(name, _)| path.as_os_str() == *name).filter(|_| !path.exists());
        let text = match built_in {
            Some((_, text)) => (*text).to_owned(),
            None => std::fs::read_to_string(path).map_err(Error::io(path))?,
        };
        Self::parse(&text).map_err(|why| Error::Invalid(format!("{}: {why}", path.display())))
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let recipe: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        if recipe.seeds.is_empty() {
            return Err("seeds is empty, expected one or more".into());
        }
        let mut known: BTreeMap<&str, &Action> = BTreeMap::new();
        for step in &recipe.steps {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            if step.name.is_empty() || !step.name.chars().all(plain) || KNOWN_CRITICS.contains(&step.name.as_str()) {
                return Err(format!("steps: {:?} cannot be a step's name, expected letters, digits and -", step.name));
            }
            for input in step.action.inputs() {
                if !known.contains_key(input) && !is_file(input) && !KNOWN_CRITICS.contains(&input) {
                    return Err(format!("step {}: no step before it is called {input:?}", step.name));
                }
            }
            if known.insert(&step.name, &step.action).is_some() {
                return Err(format!("two steps are called {:?}", step.name));
            }
        }
        Ok(recipe)
    }
}

/// Critics that are no models.
const KNOWN_CRITICS: [&str; 2] = ["keep", "oracle"];

/// Whether a name is that of a file and not of a step.
fn is_file(name: &str) -> bool {
    name.contains(['/', '.'])
}

impl Action {
    /// Names of the steps and files that it reads.
    pub fn inputs(&self) -> Vec<&str> {
        match self {
            Self::Problems(_) | Self::Pretrain(_) => Vec::new(),
            Self::Collect(step) => {
                [&step.problems, &step.actor, &step.critic].into_iter().chain(&step.judge).map(String::as_str).collect()
            }
            Self::Train(step) => {
                [&step.model, &step.data, &step.held_out].into_iter().chain(&step.from).map(String::as_str).collect()
            }
            Self::Eval(step) => [&step.problems, &step.actor]
                .into_iter()
                .chain(&step.judge)
                .chain(&step.critics)
                .chain(&step.scored)
                .map(String::as_str)
                .collect(),
        }
    }

    /// The file that it makes, which later steps read.
    pub fn output(&self) -> &'static str {
        match self {
            Self::Problems(_) => "problems.jsonl",
            Self::Pretrain(_) => "model.critic",
            Self::Collect(_) => "scored.jsonl",
            Self::Train(_) => "critic.critic",
            Self::Eval(_) => "evaluation.json",
        }
    }
}

/// Where a step's output lies in the run's folder, or the file itself.
pub(crate) fn locate(recipe: &Recipe, folder: &Path, name: &str) -> Result<PathBuf> {
    match recipe.steps.iter().find(|step| step.name == name) {
        Some(step) => Ok(folder.join(name).join(step.action.output())),
        None if is_file(name) => Ok(PathBuf::from(name)),
        None => Err(Error::invalid(format!("there is no step called {name:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_recipes_are_recipes() {
        for (name, text) in BUILT_IN {
            let recipe = Recipe::parse(text).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!(recipe.name, name);
            assert_eq!(Recipe::load(Path::new(name)).unwrap(), recipe);
        }
    }

    #[test]
    fn mistakes_are_named() {
        let refused = |text: &str, part: &str| {
            let why = Recipe::parse(text).unwrap_err();
            assert!(why.contains(part), "{why}");
        };
        let problems = "[[steps]]\nname = \"a\"\nkind = \"problems\"\ntask = \"math\"\npart = \"train\"\ncount = 3\n";
        Recipe::parse(&format!("name = \"x\"\nseeds = [1]\n{problems}")).unwrap();
        refused("name = \"x\"\nseeds = []\nsteps = []", "seeds is empty");
        refused("name = \"x\"\nseeds = [1]\nsteps = []\nsede = 2", "sede");
        refused(&format!("name = \"x\"\nseeds = [1]\n{problems}{problems}"), "two steps are called \"a\"");
        refused(&format!("name = \"x\"\nseeds = [1]\n{}", problems.replace("train", "exam")), "exam");
        let collect = "[[steps]]\nname = \"b\"\nkind = \"collect\"\nproblems = \"c\"\nactor = \"m.critic\"\ncritic = \"m.critic\"\ncritiques = 2\nrefinements = 1\n";
        refused(&format!("name = \"x\"\nseeds = [1]\n{collect}"), "step b: no step before it is called \"c\"");
        refused(
            &format!("name = \"x\"\nseeds = [1]\n{}", problems.replace("\"a\"", "\"../a\"")),
            "cannot be a step's name",
        );
    }
}

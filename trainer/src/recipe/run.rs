//! Runs a recipe, step by step and seed by seed.

use std::fs;
use std::ops::ControlFlow::{self, Break, Continue};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::manifest::{Manifest, StepRecord};
use super::{Action, Collect, Eval, Pretrain, Problems, Recipe, Step, locate, train};
use crate::collect::fixed::{Keep, Oracle};
use crate::collect::{Author, Cast, Ledger, Local, LocalOptions, Pipeline, Subject, write_scored};
use crate::data::DataFile;
use crate::device;
use crate::error::{Error, Result};
use crate::eval::measure::Measure;
use crate::eval::{Contender, Evaluation, Trial, correlate, evaluate, plot, summarize};
use crate::files;
use crate::model::{Base, Policy};
use crate::pretrain::{PretrainOptions, pretrain, weights};
use crate::run::lock;
use crate::sandbox::{Limits, Sandbox};
use crate::scratch::{Blueprint, controls};
use crate::tasks::{Task, Verifier, read_problems, write_problems};
use crate::train::Outcome;

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step begins.
    Begin {
        /// Seed of the run.
        seed: u64,
        /// Name of the step.
        step: &'a str,
    },
    /// A step has come so far.
    Progress {
        /// What is done.
        done: u64,
        /// Of how much.
        total: u64,
        /// What is worth showing.
        note: &'a str,
    },
    /// A step is done, now or earlier.
    End {
        /// Seed of the run.
        seed: u64,
        /// Name of the step.
        step: &'a str,
        /// Wall time; `None`: it was done before.
        seconds: Option<f64>,
    },
}

/// Receives [`Event`]s; `Break` stops the run where nothing is lost.
pub type OnEvent<'a> = dyn FnMut(Event) -> ControlFlow<()> + 'a;

/// One seed's run.
pub(super) struct Run<'a> {
    pub recipe: &'a Recipe,
    pub folder: &'a Path,
    pub seed: u64,
    pub stop: &'a AtomicBool,
}

/// Runs `recipe` in `folder`, and writes a summary over seeds for each evaluation. Goes on where it was
/// stopped.
pub fn run(recipe: &Recipe, folder: &Path, stop: &AtomicBool, on_event: &mut OnEvent) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let _lock = lock(folder)?;
    for &seed in &recipe.seeds {
        let folder = folder.join(format!("seed-{seed}"));
        Run { recipe, folder: &folder, seed, stop }.run(on_event)?;
    }
    for step in &recipe.steps {
        let Action::Eval(eval) = &step.action else { continue };
        let read = |seed: &u64| -> Result<Evaluation> {
            let path = folder.join(format!("seed-{seed}")).join(&step.name).join(step.action.output());
            let bytes = fs::read(&path).map_err(Error::io(&path))?;
            serde_json::from_slice(&bytes).map_err(|error| Error::corrupt(&path, error.to_string()))
        };
        let all: Vec<Evaluation> = recipe.seeds.iter().map(read).collect::<Result<_>>()?;
        write_summary(&folder.join(&step.name), &format!("{}: {}", recipe.name, step.name), &all, &eval.baseline)?;
    }
    Ok(())
}

/// Writes tables and plots of evaluations into `folder`.
pub fn write_summary(folder: &Path, title: &str, all: &[Evaluation], baseline: &str) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let summary = summarize(all, baseline);
    let json = serde_json::to_vec_pretty(&summary).expect("plain structs are JSON");
    files::write_bytes(&folder.join("summary.json"), &json)?;
    files::write_bytes(&folder.join("summary.md"), summary.markdown(title).as_bytes())?;
    for (name, measure, reference) in [
        ("cu", Measure::CritiqueUtility, Some(0.5)),
        ("accuracy-after", Measure::AccuracyAfter, None),
        ("wrong-to-right", Measure::WrongToRight, None),
        ("right-to-wrong", Measure::RightToWrong, Some(0.0)),
        ("balanced-accuracy", Measure::BalancedAccuracy, Some(0.5)),
    ] {
        if let Some(svg) = plot::intervals(&summary, measure, reference) {
            files::write_bytes(&folder.join(format!("{name}.svg")), svg.as_bytes())?;
        }
    }
    let mut critics: Vec<&String> = all.iter().flat_map(|evaluation| evaluation.points.keys()).collect();
    critics.sort();
    critics.dedup();
    for critic in critics {
        let points: Vec<(f64, f64)> = all.iter().filter_map(|e| e.points.get(critic)).flatten().copied().collect();
        if let Some(svg) = plot::advantage(&format!("{critic}: predicted advantage against measured utility"), &points)
        {
            files::write_bytes(&folder.join(format!("advantage-{critic}.svg")), svg.as_bytes())?;
        }
    }
    Ok(())
}

impl Run<'_> {
    fn run(&self, on_event: &mut OnEvent) -> Result<()> {
        fs::create_dir_all(self.folder).map_err(Error::io(self.folder))?;
        files::remove_unfinished(self.folder)?;
        let mut manifest = Manifest::read(self.folder)?;
        manifest.recipe.clone_from(&self.recipe.name);
        manifest.version = env!("CARGO_PKG_VERSION").into();
        manifest.seed = self.seed;
        for step in &self.recipe.steps {
            let (seed, name) = (self.seed, step.name.as_str());
            let fingerprint = self.fingerprint(step, &manifest)?;
            let folder = self.folder.join(name);
            let output = folder.join(step.action.output());
            if manifest.step(name).is_some_and(|record| record.fingerprint == fingerprint) && output.exists() {
                _ = on_event(Event::End { seed, step: name, seconds: None });
                continue;
            }
            if self.stop.load(Ordering::Relaxed) || on_event(Event::Begin { seed, step: name }).is_break() {
                return Err(Error::Cancelled);
            }
            self.prepare(&folder, &fingerprint)?;
            let started = Instant::now();
            let notes = self.act(step, &folder, on_event)?;
            let seconds = started.elapsed().as_secs_f64();
            let mut outputs = std::collections::BTreeMap::new();
            outputs.insert(step.action.output().to_owned(), files::sha256(&output)?);
            let finished = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let name = name.to_owned();
            manifest.add(StepRecord { name: name.clone(), fingerprint, outputs, seconds, finished, notes });
            manifest.write(self.folder)?;
            _ = on_event(Event::End { seed, step: &name, seconds: Some(seconds) });
        }
        Ok(())
    }

    /// What the step is made from.
    fn fingerprint(&self, step: &Step, manifest: &Manifest) -> Result<String> {
        let mut hash = Sha256::new();
        let options = serde_json::to_string(&step.action).expect("options are JSON");
        hash.update(format!("{}\n{}\n{}\n{options}\n", env!("CARGO_PKG_VERSION"), self.seed, self.recipe.device));
        for input in step.action.inputs() {
            let known = manifest.step(input).and_then(|record| record.outputs.values().next().cloned());
            let sum = match known {
                Some(sum) => sum,
                None if super::KNOWN_CRITICS.contains(&input) => String::new(),
                None => files::sha256(&locate(self.recipe, self.folder, input)?)?,
            };
            hash.update(format!("{input} {sum}\n"));
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Makes the step's folder. One that was begun from other options or inputs is emptied: nothing in it
    /// could be gone on with.
    fn prepare(&self, folder: &Path, fingerprint: &str) -> Result<()> {
        let mark = folder.join("made-from.txt");
        let same = fs::read_to_string(&mark).is_ok_and(|found| found == fingerprint);
        if folder.exists() && !same {
            fs::remove_dir_all(folder).map_err(Error::io(folder))?;
        }
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        files::remove_unfinished(folder)?;
        files::write_bytes(&mark, fingerprint.as_bytes())
    }

    fn act(&self, step: &Step, folder: &Path, on_event: &mut OnEvent) -> Result<Value> {
        let out = folder.join(step.action.output());
        match &step.action {
            Action::Problems(problems) => self.problems(problems, &out),
            Action::Pretrain(options) => self.pretrain(options, folder, &out, on_event),
            Action::Collect(options) => self.collect(options, folder, &out, on_event),
            Action::Train(options) => train::train(self, options, folder, &out, on_event),
            Action::Eval(options) => self.eval(&step.name, options, folder, &out, on_event),
        }
    }

    fn problems(&self, options: &Problems, out: &Path) -> Result<Value> {
        let task = Task::parse(&options.task).ok_or_else(|| {
            let known = Task::ALL.map(Task::name).join(", ");
            Error::invalid(format!("unknown task {:?}, expected one of {known}", options.task))
        })?;
        let all: Vec<_> = (0..options.count).map(|index| task.generate(self.seed, index, options.part)).collect();
        write_problems(out, &all)?;
        Ok(Value::Null)
    }

    fn pretrain(&self, options: &Pretrain, folder: &Path, out: &Path, on_event: &mut OnEvent) -> Result<Value> {
        let initial = folder.join("untrained.critic");
        let blueprint =
            Blueprint { shape: &options.shape, characters: CHARACTERS, task: "steps", keep: ".", seed: self.seed };
        blueprint.write(&initial)?;
        let model = critic::Model::open(&initial)?;
        let device = device::open(&self.recipe.device)?;
        let policy = Policy { base: Base::new(&model, &device, Default::default())?, adapter: None };
        let Pretrain { steps, texts_per_step, learning_rate, warmup, floor, clean_share, .. } = *options;
        let pretrain_options = PretrainOptions {
            seed: self.seed,
            steps,
            texts_per_step,
            learning_rate,
            warmup,
            floor,
            clean_share,
            clean: options.clean,
            noisy: options.noisy,
            optimizer: options.optimizer.clone(),
            checkpoint_every: 200,
        };
        let mut metrics = Vec::new();
        let (policy, outcome) = pretrain(
            policy,
            model.tokenizer(),
            controls(CHARACTERS.len()),
            &pretrain_options,
            &folder.join("checkpoints"),
            self.stop,
            &mut |step| {
                metrics.push(*step);
                let [draft, critique, refinement] = step.parts;
                let note = format!("loss {draft:.3} {critique:.3} {refinement:.3}");
                on_event(Event::Progress { done: step.step, total: steps, note: &note })
            },
        )?;
        if outcome == Outcome::Stopped {
            return Err(Error::Cancelled);
        }
        files::write_lines(&folder.join("metrics.jsonl"), &metrics)?;
        let name = Some(format!("{}-base", self.recipe.name));
        let conversion = critic_import::ConvertOptions { weights: weights(&policy), name, ..Default::default() };
        critic_import::convert(&initial, out, &conversion, &mut |_, _| Continue(()))?;
        let last = metrics.last();
        Ok(json!({ "loss": last.map(|step| step.loss), "parts": last.map(|step| step.parts) }))
    }

    fn verifier(&self, problems: &[crate::tasks::Problem]) -> Result<Verifier> {
        let code = problems.iter().any(|problem| Task::parse(&problem.task) == Some(Task::Code));
        Ok(Verifier { sandbox: if code { Some(Sandbox::new(Limits::default())?) } else { None } })
    }

    fn local(&self, name: &str, batch: usize) -> Result<Local> {
        let path = locate(self.recipe, self.folder, name)?;
        Local::open(&path, None, LocalOptions { batch, threads: 0 })
    }

    fn collect(&self, step: &Collect, folder: &Path, out: &Path, on_event: &mut OnEvent) -> Result<Value> {
        let problems = read_problems(&locate(self.recipe, self.folder, &step.problems)?, "")?;
        let verifier = self.verifier(&problems)?;
        let actor = self.local(&step.actor, step.batch)?;
        let critic = self.local(&step.critic, step.batch)?;
        let judge = step.judge.as_deref().map(|judge| self.local(judge, step.batch)).transpose()?;
        let keep = critic.model().prompts().keep.clone();
        let cast = Cast {
            actor: &actor,
            critic: &critic,
            judge: judge.as_ref().map(|judge| judge as &dyn Author),
            verifier: &verifier,
            keep: &keep,
        };
        let mut options = step.options.clone();
        options.seed ^= self.seed;
        let subjects: Vec<Subject> = problems.into_iter().map(|problem| Subject { problem, draft: None }).collect();
        let mut ledger = Ledger::open(&folder.join("ledger.jsonl"))?;
        let mut tell = progress_of(on_event);
        let (collected, progress) = Pipeline::new(cast, &options, &mut ledger, self.stop, &mut tell).run(&subjects)?;
        let counts = write_scored(out, &collected, step.filter)?;
        Ok(json!({ "groups": counts, "progress": progress }))
    }

    fn eval(&self, name: &str, step: &Eval, folder: &Path, out: &Path, on_event: &mut OnEvent) -> Result<Value> {
        let problems = read_problems(&locate(self.recipe, self.folder, &step.problems)?, "")?;
        let verifier = self.verifier(&problems)?;
        let actor = self.local(&step.actor, step.batch)?;
        let judge = step.judge.as_deref().map(|judge| self.local(judge, step.batch)).transpose()?;
        let keep_phrase = actor.model().prompts().keep.clone();
        let (keep, oracle) = (Keep { keep: &keep_phrase }, Oracle { verifier: &verifier });
        let mut models = Vec::new();
        for critic in step.critics.iter().filter(|critic| !super::KNOWN_CRITICS.contains(&critic.as_str())) {
            models.push((critic, self.local(critic, step.batch)?));
        }
        let author = |critic: &String| -> &dyn Author {
            match critic.as_str() {
                "keep" => &keep,
                "oracle" => &oracle,
                _ => models.iter().find(|(name, _)| *name == critic).map(|(_, model)| model).expect("it was opened"),
            }
        };
        let contenders: Vec<Contender> =
            step.critics.iter().map(|critic| Contender { name: critic.clone(), critic: author(critic) }).collect();
        let trial = Trial {
            actor: &actor,
            judge: judge.as_ref().map(|judge| judge as &dyn Author),
            verifier: &verifier,
            keep: &keep_phrase,
            folder: &folder.join("written"),
            stop: self.stop,
        };
        let mut options = step.options.clone();
        options.seed ^= self.seed;
        let mut evaluation = evaluate(trial, &problems, &contenders, &options, &mut progress_of(on_event))?;
        if let Some(scored) = &step.scored {
            let path = locate(self.recipe, self.folder, scored)?;
            let drafts: Vec<_> = DataFile::open(&path)?.collect::<Result<_>>()?;
            for contender in &contenders {
                if let Some((correlation, points)) = correlate(contender.critic, &drafts)? {
                    evaluation.correlations.insert(contender.name.clone(), correlation);
                    evaluation.points.insert(contender.name.clone(), points);
                }
            }
        }
        let title = format!("{}: {name}, seed {}", self.recipe.name, self.seed);
        write_summary(folder, &title, std::slice::from_ref(&evaluation), &step.baseline)?;
        // Last: with it the step is done.
        files::write_bytes(out, &serde_json::to_vec(&evaluation).expect("plain structs are JSON"))?;
        Ok(Value::Null)
    }
}

/// Characters of the step-by-step arithmetic.
const CHARACTERS: &str = "0123456789+-=!?.";

/// A collection's progress as events.
fn progress_of<'a>(on_event: &'a mut OnEvent<'_>) -> impl FnMut(&crate::collect::Progress) -> ControlFlow<()> + 'a {
    move |progress| {
        let cu = progress.mean_cu.map_or(String::new(), |cu| format!(", CU {cu:.3}"));
        let rate = progress.tokens as f64 / progress.seconds.max(1e-9);
        let note = format!("{} texts, {rate:.0} tokens/s{cu}", progress.items);
        let (done, total) = (progress.problems as u64, progress.total as u64);
        match on_event(Event::Progress { done, total, note: &note }) {
            Continue(()) => Continue(()),
            Break(()) => Break(()),
        }
    }
}

//! The way of the data: draft, critiques, refinements, preferences, problem by problem.
//!
//! Problems go through in batches; within one, each stage is asked for as a whole, so that an author can
//! work on many texts at a time. What the ledger has is not asked for again.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::author::{Answer, Ask, Author, Part, Written};
use super::judge::{Letter, by_score, letter, preference};
use super::ledger::{Entry, Ledger};
use super::utility::{Collected, CollectedCritique, CollectedRefinement};
use crate::error::{Error, Result};
use crate::random::Random;
use crate::tasks::{Problem, Verifier};

/// What is collected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectOptions {
    /// Key of everything that is drawn.
    #[serde(default)]
    pub seed: u64,
    /// N: critiques of each draft.
    pub critiques: usize,
    /// M: refinements of each critique.
    pub refinements: usize,
    /// Temperature of drafts.
    #[serde(default = "one")]
    pub draft_temperature: f32,
    /// Temperature of critiques.
    #[serde(default = "one")]
    pub critique_temperature: f32,
    /// Temperature of refinements.
    #[serde(default = "one")]
    pub refinement_temperature: f32,
    /// Most tokens of each text.
    #[serde(default = "many")]
    pub max_tokens: usize,
    /// Problems that are worked on together.
    #[serde(default = "some")]
    pub problems_per_batch: usize,
    /// Times that a judge who answers nonsense is asked anew.
    #[serde(default = "twice")]
    pub judge_retries: usize,
    /// Whether critiques are judged themselves, for DPCO, and by whom.
    #[serde(default)]
    pub critique_judge: CritiqueJudge,
}

fn one() -> f32 {
    1.0
}
fn many() -> usize {
    1024
}
fn some() -> usize {
    32
}
fn twice() -> usize {
    2
}

/// Who judges critiques without seeing what they lead to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "who", deny_unknown_fields)]
pub enum CritiqueJudge {
    /// Nobody.
    #[default]
    Nobody,
    /// The judge.
    Judge,
    /// The task itself, where it can tell, turned round at random: a judge that is right so often.
    Task {
        /// Probability that a judgement is the right one.
        accuracy: f64,
    },
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Problems that are done.
    pub problems: usize,
    /// Of how many.
    pub total: usize,
    /// Texts that are on the disk.
    pub items: usize,
    /// Items that failed.
    pub failed: usize,
    /// Answers of the judge that were nonsense.
    pub nonsense: usize,
    /// Tokens written by this process.
    pub tokens: u64,
    /// Seconds of this process.
    pub seconds: f64,
    /// Mean CU of the critiques so far.
    pub mean_cu: Option<f64>,
    /// Critiques that it is the mean of.
    pub critiques: usize,
}

/// Receives [`Progress`]; `Break` stops it where nothing is lost.
pub type OnProgress<'a> = dyn FnMut(&Progress) -> ControlFlow<()> + 'a;

/// Who does what.
#[derive(Clone, Copy)]
pub struct Cast<'a> {
    /// Writes drafts and refinements.
    pub actor: &'a dyn Author,
    /// Writes critiques.
    pub critic: &'a dyn Author,
    /// Prefers, where no verifier does.
    pub judge: Option<&'a dyn Author>,
    /// Checks answers.
    pub verifier: &'a Verifier,
    /// How a critique says that nothing needs to change.
    pub keep: &'a str,
}

/// A problem, and its draft where that is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// The problem.
    pub problem: Problem,
    /// The draft; `None`: the actor writes it.
    pub draft: Option<String>,
}

/// A collection at work.
pub struct Pipeline<'a> {
    cast: Cast<'a>,
    options: &'a CollectOptions,
    ledger: &'a mut Ledger,
    progress: Progress,
    cu_sum: f64,
    started: Instant,
    stop: &'a AtomicBool,
    on_progress: &'a mut OnProgress<'a>,
}

/// A text that is wanted, if the ledger does not have it.
struct Wanted<'p> {
    problem: &'p Problem,
    item: String,
    part: Part<'p>,
    temperature: f32,
}

impl<'a> Pipeline<'a> {
    /// A collection that goes on from `ledger`.
    pub fn new(
        cast: Cast<'a>,
        options: &'a CollectOptions,
        ledger: &'a mut Ledger,
        stop: &'a AtomicBool,
        on_progress: &'a mut OnProgress<'a>,
    ) -> Self {
        let (items, failed) = ledger.counts();
        let progress = Progress { items, failed, ..Progress::default() };
        Self { cast, options, ledger, progress, cu_sum: 0.0, started: Instant::now(), stop, on_progress }
    }

    /// Collects everything about `subjects`: one result each, in their order; `None` where there is no
    /// draft.
    pub fn run(&mut self, subjects: &[Subject]) -> Result<(Vec<Option<Collected>>, Progress)> {
        self.progress.total = subjects.len();
        let mut all = Vec::with_capacity(subjects.len());
        for batch in subjects.chunks(self.options.problems_per_batch.max(1)) {
            let collected = self.batch(batch)?;
            for collected in collected.iter().flatten() {
                for utility in collected.critiques.iter().filter_map(CollectedCritique::utility) {
                    self.cu_sum += utility.cu;
                    self.progress.critiques += 1;
                }
            }
            all.extend(collected);
            self.progress.problems = all.len();
            if self.progress.critiques > 0 {
                self.progress.mean_cu = Some(self.cu_sum / self.progress.critiques as f64);
            }
            self.report()?;
        }
        Ok((all, self.progress))
    }

    fn report(&mut self) -> Result<()> {
        self.progress.seconds = self.started.elapsed().as_secs_f64();
        let go_on = (self.on_progress)(&self.progress);
        if go_on.is_break() || self.stop.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn batch(&mut self, subjects: &[Subject]) -> Result<Vec<Option<Collected>>> {
        let options = self.options;
        // Drafts.
        let wanted = |subject: &'_ Subject| subject.draft.is_none();
        let asked = subjects.iter().filter(|subject| wanted(subject)).map(|subject| Wanted {
            problem: &subject.problem,
            item: "draft".into(),
            part: Part::Draft,
            temperature: options.draft_temperature,
        });
        self.ask(self.cast.actor, asked.collect())?;
        let drafts: Vec<Option<String>> = subjects
            .iter()
            .map(|subject| subject.draft.clone().or_else(|| self.text(&subject.problem, "draft")))
            .collect();

        // Critiques.
        let mut asked = Vec::new();
        for (subject, draft) in subjects.iter().zip(&drafts) {
            let Some(draft) = draft else { continue };
            asked.extend((0..options.critiques).map(|at| Wanted {
                problem: &subject.problem,
                item: format!("critique/{at}"),
                part: Part::Critique { draft },
                temperature: options.critique_temperature,
            }));
        }
        self.ask(self.cast.critic, asked)?;
        let critiques: Vec<Vec<Option<Written>>> = subjects
            .iter()
            .map(|subject| {
                (0..options.critiques).map(|at| self.critique(&subject.problem, &format!("critique/{at}"))).collect()
            })
            .collect();

        // Refinements of those that ask for one.
        let mut asked = Vec::new();
        for ((subject, draft), critiques) in subjects.iter().zip(&drafts).zip(&critiques) {
            let Some(draft) = draft else { continue };
            for (at, critique) in critiques.iter().enumerate() {
                let Some(critique) = critique else { continue };
                if self.keeps(&critique.text) {
                    continue;
                }
                asked.extend((0..options.refinements).map(|of| Wanted {
                    problem: &subject.problem,
                    item: format!("refinement/{at}/{of}"),
                    part: Part::Refinement { draft, critique: &critique.text },
                    temperature: options.refinement_temperature,
                }));
            }
        }
        self.ask(self.cast.actor, asked)?;

        // Preferences.
        let mut collected = Vec::with_capacity(subjects.len());
        for ((subject, draft), critiques) in subjects.iter().zip(&drafts).zip(&critiques) {
            collected.push(match draft {
                None => None,
                Some(draft) => Some(self.assemble(&subject.problem, draft, critiques)?),
            });
        }
        self.judge_refinements(&mut collected)?;
        self.judge_critiques(&mut collected)?;
        Ok(collected)
    }

    fn keeps(&self, critique: &str) -> bool {
        critic::critique::verdict(critique, self.cast.keep) == critic::Verdict::Keep
    }

    fn text(&self, problem: &Problem, item: &str) -> Option<String> {
        self.ledger.get(&problem.id, item)?.text.clone()
    }

    /// A critique that came to its end: one that was cut off has no end that could be trained on.
    fn critique(&self, problem: &Problem, item: &str) -> Option<Written> {
        self.ledger.get(&problem.id, item)?.answer().ok().filter(|written| written.complete)
    }

    fn score(&mut self, problem: &Problem, answer: &str, item: &str) -> Result<Option<f64>> {
        let verifier = self.cast.verifier;
        if !verifier.verifies(problem) {
            return Ok(None);
        }
        if !verifier.is_costly(problem) {
            return verifier.score(problem, answer);
        }
        // What takes a sandbox is done once.
        let item = format!("score/{item}");
        if let Some(found) = self.text(problem, &item) {
            return Ok(found.parse().ok());
        }
        let score = verifier.score(problem, answer)?;
        let text = score.map_or_else(String::new, |score| score.to_string());
        self.ledger.append(vec![Entry::new(&problem.id, &item, Ok(Written { text, tokens: 0, complete: true }))])?;
        Ok(score)
    }

    fn assemble(&mut self, problem: &Problem, draft: &str, critiques: &[Option<Written>]) -> Result<Collected> {
        let score = self.score(problem, draft, "draft")?;
        let mut found = Vec::with_capacity(critiques.len());
        for (at, critique) in critiques.iter().enumerate() {
            let Some(Written { text, tokens, .. }) = critique else { continue };
            let keep = self.keeps(text);
            let mut refinements = Vec::new();
            for of in 0..if keep { 0 } else { self.options.refinements } {
                let Some(refined) = self.text(problem, &format!("refinement/{at}/{of}")) else { continue };
                let new = self.score(problem, &refined, &format!("{at}/{of}"))?;
                let preference = match (score, new) {
                    (Some(old), Some(new)) => by_score(old, new, self.cast.verifier.margin(problem)),
                    // Until a judge has spoken.
                    _ => f64::NAN,
                };
                refinements.push(CollectedRefinement { text: refined, score: new, preference, orders_agree: None });
            }
            let flags = self.cast.verifier.flags(problem, text).unwrap_or(!keep);
            let (text, tokens) = (text.clone(), *tokens);
            found.push(CollectedCritique { text, tokens, keep, flags, preferred: None, refinements });
        }
        Ok(Collected { problem: problem.clone(), draft: draft.to_owned(), score, critiques: found })
    }

    /// Asks the judge about refinements that no verifier compared, and drops those that nobody could.
    fn judge_refinements(&mut self, all: &mut [Option<Collected>]) -> Result<()> {
        let mut pairs = Vec::new();
        for (index, collected) in all.iter().enumerate() {
            let Some(collected) = collected else { continue };
            for (at, critique) in collected.critiques.iter().enumerate() {
                for (of, refinement) in critique.refinements.iter().enumerate() {
                    // The same text is a tie, whoever judges.
                    if refinement.preference.is_nan() && refinement.text.trim() != collected.draft.trim() {
                        pairs.push((index, at, of));
                    }
                }
            }
        }
        let found = {
            let judged = pairs.iter().map(|&(index, at, of)| {
                let collected = all[index].as_ref().expect("it has a draft");
                let (first, second) = (&*collected.draft, &*collected.critiques[at].refinements[of].text);
                // By their texts: the same two are not judged twice.
                let item = format!("judgement/{}", digest(&[first, second]));
                Pair { problem: &collected.problem, item, first, second, draft: None }
            });
            let judged: Vec<Pair> = judged.collect();
            self.judge(&judged)?
        };
        for (&(index, at, of), letters) in pairs.iter().zip(found) {
            let collected = all[index].as_mut().expect("it has a draft");
            let refinement = &mut collected.critiques[at].refinements[of];
            if let Some((forward, swapped)) = letters {
                refinement.preference = preference(forward, swapped);
                refinement.orders_agree = Some(forward != swapped);
            }
        }
        for collected in all.iter_mut().flatten() {
            let draft = collected.draft.trim();
            for critique in &mut collected.critiques {
                for refinement in &mut critique.refinements {
                    if refinement.preference.is_nan() && refinement.text.trim() == draft {
                        refinement.preference = 0.5;
                    }
                }
                critique.refinements.retain(|refinement| !refinement.preference.is_nan());
            }
        }
        Ok(())
    }

    /// Fills in how often each critique is preferred to the others of its draft.
    fn judge_critiques(&mut self, all: &mut [Option<Collected>]) -> Result<()> {
        let accuracy = match self.options.critique_judge {
            CritiqueJudge::Nobody => return Ok(()),
            CritiqueJudge::Judge => None,
            CritiqueJudge::Task { accuracy } => Some(accuracy),
        };
        let mut pairs = Vec::new();
        for (index, collected) in all.iter().enumerate() {
            let count = collected.as_ref().map_or(0, |collected| collected.critiques.len());
            pairs.extend((0..count).flat_map(|a| (a + 1..count).map(move |b| (index, a, b))));
        }
        let preferences: Vec<Option<f64>> = match accuracy {
            Some(accuracy) => pairs
                .iter()
                .map(|&(index, a, b)| self.by_task(all[index].as_ref().expect("it has a draft"), a, b, accuracy))
                .collect(),
            None => {
                let judged = pairs.iter().map(|&(index, a, b)| {
                    let collected = all[index].as_ref().expect("it has a draft");
                    let (first, second) = (&*collected.critiques[a].text, &*collected.critiques[b].text);
                    let item = format!("comparison/{}", digest(&[&collected.draft, first, second]));
                    Pair { problem: &collected.problem, item, first, second, draft: Some(&collected.draft) }
                });
                let judged: Vec<Pair> = judged.collect();
                let letters = self.judge(&judged)?;
                letters.into_iter().map(|letters| letters.map(|(f, s)| preference(f, s))).collect()
            }
        };
        let mut sums: Vec<Vec<(f64, u32)>> = all
            .iter()
            .map(|collected| vec![(0.0, 0); collected.as_ref().map_or(0, |collected| collected.critiques.len())])
            .collect();
        for (&(index, a, b), second) in pairs.iter().zip(preferences) {
            let Some(second) = second else { continue };
            for (at, won) in [(a, 1.0 - second), (b, second)] {
                sums[index][at].0 += won;
                sums[index][at].1 += 1;
            }
        }
        for (collected, sums) in all.iter_mut().zip(sums) {
            let Some(collected) = collected else { continue };
            // All critiques of a draft are compared, or none.
            if sums.iter().all(|(_, count)| *count > 0) {
                for (critique, (sum, count)) in collected.critiques.iter_mut().zip(sums) {
                    critique.preferred = Some(sum / f64::from(count));
                }
            }
        }
        Ok(())
    }

    /// Preference for critique `b` over `a` by the task's own knowledge, wrong now and then.
    fn by_task(&self, collected: &Collected, a: usize, b: usize, accuracy: f64) -> Option<f64> {
        let quality = |at: usize| {
            self.cast.verifier.critique_quality(&collected.problem, &collected.draft, &collected.critiques[at].text)
        };
        let right = by_score(quality(a)?, quality(b)?, 0.0);
        let key = key(self.options.seed, &collected.problem.id, "critique-judge");
        let err = Random::new(key, "critique-judge", &[a as u64, b as u64]).uniform() >= accuracy;
        Some(if err { 1.0 - right } else { right })
    }

    /// Asks the judge about each pair in both orders; `None` where it answers nonsense to the end, or
    /// there is none.
    fn judge(&mut self, pairs: &[Pair]) -> Result<Vec<Option<(Letter, Letter)>>> {
        let Some(judge) = self.cast.judge else { return Ok(vec![None; pairs.len()]) };
        let mut open: Vec<(usize, &str)> =
            (0..pairs.len()).flat_map(|at| ["forward", "swapped"].map(|order| (at, order))).collect();
        let mut letters: Vec<[Option<Letter>; 2]> = vec![[None; 2]; pairs.len()];
        for attempt in 0..=self.options.judge_retries {
            let wanted = open.iter().map(|&(at, order)| {
                let pair = &pairs[at];
                Wanted {
                    problem: pair.problem,
                    item: format!("{}/{order}/{attempt}", pair.item),
                    part: pair.part(order == "swapped"),
                    // The first answer is the likeliest one; another is drawn only where that is nonsense.
                    temperature: if attempt == 0 { 0.0 } else { 1.0 },
                }
            });
            let wanted: Vec<Wanted> = wanted.collect();
            let items: Vec<String> = wanted.iter().map(|wanted| wanted.item.clone()).collect();
            self.ask(judge, wanted)?;
            let mut still = Vec::new();
            for (&(at, order), item) in open.iter().zip(items) {
                let said = self.text(pairs[at].problem, &item);
                match said.as_deref().map(letter) {
                    Some(Some(letter)) => letters[at][usize::from(order == "swapped")] = Some(letter),
                    Some(None) => {
                        self.progress.nonsense += 1;
                        still.push((at, order));
                    }
                    None => {}
                }
            }
            open = still;
            if open.is_empty() {
                break;
            }
        }
        Ok(letters.into_iter().map(|[forward, swapped]| forward.zip(swapped)).collect())
    }

    /// Has everything written that the ledger lacks.
    fn ask(&mut self, author: &dyn Author, mut wanted: Vec<Wanted>) -> Result<()> {
        wanted.retain(|wanted| self.ledger.get(&wanted.problem.id, &wanted.item).is_none_or(|e| e.text.is_none()));
        let mut seen = std::collections::HashSet::new();
        wanted.retain(|wanted| seen.insert((wanted.problem.id.clone(), wanted.item.clone())));
        if wanted.is_empty() {
            return Ok(());
        }
        let asks: Vec<Ask> = wanted
            .iter()
            .map(|wanted| Ask {
                problem: wanted.problem,
                part: wanted.part,
                seed: key(self.options.seed, &wanted.problem.id, &wanted.item),
                temperature: wanted.temperature,
                max_tokens: self.options.max_tokens,
            })
            .collect();
        author.write(&asks, &mut |answers: Vec<(usize, Answer)>| {
            let entries = answers.into_iter().map(|(at, answer)| {
                let wanted = &wanted[at];
                Entry::new(&wanted.problem.id, &wanted.item, answer)
            });
            let entries: Vec<Entry> = entries.collect();
            let tokens: u64 = entries.iter().map(|entry| entry.tokens as u64).sum();
            let failed = entries.iter().filter(|entry| entry.text.is_none()).count();
            let done = entries.len() - failed;
            self.ledger.append(entries)?;
            self.progress.items += done;
            self.progress.failed += failed;
            self.progress.tokens += tokens;
            self.report()
        })
    }
}

/// Two texts that are compared.
struct Pair<'p> {
    problem: &'p Problem,
    item: String,
    first: &'p str,
    second: &'p str,
    /// The draft, where the two are critiques of it.
    draft: Option<&'p str>,
}

impl<'p> Pair<'p> {
    fn part(&self, swapped: bool) -> Part<'p> {
        let (first, second) = if swapped { (self.second, self.first) } else { (self.first, self.second) };
        match self.draft {
            None => Part::Judgement { first, second },
            Some(draft) => Part::CritiqueJudgement { draft, first, second },
        }
    }
}

/// The seed of an item: what is drawn for it depends on nothing else.
pub(crate) fn key(seed: u64, problem: &str, item: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((problem.len() as u64).to_le_bytes());
    hash.update(problem);
    hash.update(item);
    u64::from_le_bytes(hash.finalize()[..8].try_into().expect("a digest has 32 bytes"))
}

/// A short name for texts.
fn digest(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

//! Measures of a critic. Each is a function of sums over prompts, so that a resample of prompts is a sum
//! of their tallies.

use serde::{Deserialize, Serialize};

/// What one critique of one prompt's draft led to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Whether the critique says that something is wrong.
    pub flagged: bool,
    /// Whether a refinement took the draft's place.
    pub acted: bool,
    /// Preference of what came out over the draft: 1, ½ or 0.
    pub preference: f64,
    /// The score of what came out.
    pub score: Option<f64>,
    /// The score of the draft.
    pub score_before: Option<f64>,
    /// Whether the draft was right, and whether what came out is.
    pub right: Option<(bool, bool)>,
    /// Whether the judge said the same in both orders.
    pub orders_agree: Option<bool>,
    /// Tokens of the critique.
    pub critique_tokens: f64,
    /// Characters of what came out, over those of the draft.
    pub length_ratio: f64,
    /// Utility advantage of the critique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advantage: Option<f64>,
}

/// Sums over samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally([f64; SUMS]);

const SUMS: usize = 18;

/// Places in a tally.
mod of {
    pub const SAMPLES: usize = 0;
    pub const PREFERENCE: usize = 1;
    pub const SCORE: usize = 2;
    pub const SCORED: usize = 3;
    pub const WRONG: usize = 4;
    pub const RIGHT: usize = 5;
    pub const WRONG_TO_RIGHT: usize = 6;
    pub const RIGHT_TO_WRONG: usize = 7;
    pub const RIGHT_AFTER: usize = 8;
    pub const FLAGGED_WRONG: usize = 9;
    pub const FLAGGED_RIGHT: usize = 10;
    pub const AGREE: usize = 11;
    pub const JUDGED: usize = 12;
    pub const TOKENS: usize = 13;
    pub const LENGTH: usize = 14;
    pub const ACTED: usize = 15;
}

impl Tally {
    /// The tally of one prompt: its samples weigh 1 together, so that every prompt weighs the same.
    pub fn new(samples: &[Sample]) -> Self {
        let mut sums = [0.0; SUMS];
        let weight = 1.0 / samples.len().max(1) as f64;
        for sample in samples {
            let mut add = |place: usize, value: f64| sums[place] += weight * value;
            let one = |yes: bool| f64::from(u8::from(yes));
            add(of::SAMPLES, 1.0);
            add(of::PREFERENCE, sample.preference);
            if let Some(score) = sample.score {
                add(of::SCORE, score);
                add(of::SCORED, 1.0);
            }
            if let Some((before, after)) = sample.right {
                add(if before { of::RIGHT } else { of::WRONG }, 1.0);
                add(of::WRONG_TO_RIGHT, one(!before && after));
                add(of::RIGHT_TO_WRONG, one(before && !after));
                add(of::RIGHT_AFTER, one(after));
                add(if before { of::FLAGGED_RIGHT } else { of::FLAGGED_WRONG }, one(sample.flagged));
            }
            if let Some(agree) = sample.orders_agree {
                add(of::JUDGED, 1.0);
                add(of::AGREE, one(agree));
            }
            add(of::TOKENS, sample.critique_tokens);
            add(of::LENGTH, sample.length_ratio);
            add(of::ACTED, one(sample.acted));
        }
        Self(sums)
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, value)| *sum += value);
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Critique utility: mean preference of what came out over the draft.
    CritiqueUtility,
    /// RQS: mean score of what came out.
    RefinementScore,
    /// Share of drafts that are right.
    AccuracyBefore,
    /// Share of results that are right.
    AccuracyAfter,
    /// Share of wrong drafts that became right.
    WrongToRight,
    /// Share of right drafts that became wrong.
    RightToWrong,
    /// Mean of the share of wrong drafts that are flagged and of right ones that are not.
    BalancedAccuracy,
    /// F1 of flagging wrong drafts.
    FlagF1,
    /// Share of judgements in which both orders agree.
    OrderAgreement,
    /// Tokens of a critique.
    CritiqueTokens,
    /// Length of results over that of drafts.
    LengthRatio,
    /// Share of drafts that a refinement replaced.
    Acted,
}

impl Measure {
    /// All, in the order of tables.
    pub const ALL: [Self; 12] = [
        Self::CritiqueUtility,
        Self::RefinementScore,
        Self::AccuracyBefore,
        Self::AccuracyAfter,
        Self::WrongToRight,
        Self::RightToWrong,
        Self::BalancedAccuracy,
        Self::FlagF1,
        Self::OrderAgreement,
        Self::CritiqueTokens,
        Self::LengthRatio,
        Self::Acted,
    ];

    /// Its heading.
    pub fn name(self) -> &'static str {
        match self {
            Self::CritiqueUtility => "CU",
            Self::RefinementScore => "RQS",
            Self::AccuracyBefore => "accuracy before",
            Self::AccuracyAfter => "accuracy after",
            Self::WrongToRight => "wrong→right",
            Self::RightToWrong => "right→wrong",
            Self::BalancedAccuracy => "balanced accuracy",
            Self::FlagF1 => "flag F1",
            Self::OrderAgreement => "orders agree",
            Self::CritiqueTokens => "critique tokens",
            Self::LengthRatio => "length ratio",
            Self::Acted => "acted on",
        }
    }

    /// Its value from the sums; `None` where they say nothing, say of drafts of which none is wrong.
    pub fn of(self, tally: &Tally) -> Option<f64> {
        let Tally(sums) = tally;
        let ratio = |above: f64, below: f64| (below > 0.0).then(|| above / below);
        let known = sums[of::WRONG] + sums[of::RIGHT];
        match self {
            Self::CritiqueUtility => ratio(sums[of::PREFERENCE], sums[of::SAMPLES]),
            Self::RefinementScore => ratio(sums[of::SCORE], sums[of::SCORED]),
            Self::AccuracyBefore => ratio(sums[of::RIGHT], known),
            Self::AccuracyAfter => ratio(sums[of::RIGHT_AFTER], known),
            Self::WrongToRight => ratio(sums[of::WRONG_TO_RIGHT], sums[of::WRONG]),
            Self::RightToWrong => ratio(sums[of::RIGHT_TO_WRONG], sums[of::RIGHT]),
            Self::BalancedAccuracy => {
                let caught = ratio(sums[of::FLAGGED_WRONG], sums[of::WRONG])?;
                let passed = 1.0 - ratio(sums[of::FLAGGED_RIGHT], sums[of::RIGHT])?;
                Some((caught + passed) / 2.0)
            }
            // 2·TP / (2·TP + FP + FN)
            Self::FlagF1 => {
                let caught = sums[of::FLAGGED_WRONG];
                ratio(2.0 * caught, caught + sums[of::FLAGGED_RIGHT] + sums[of::WRONG])
            }
            Self::OrderAgreement => ratio(sums[of::AGREE], sums[of::JUDGED]),
            Self::CritiqueTokens => ratio(sums[of::TOKENS], sums[of::SAMPLES]),
            Self::LengthRatio => ratio(sums[of::LENGTH], sums[of::SAMPLES]),
            Self::Acted => ratio(sums[of::ACTED], sums[of::SAMPLES]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(before: bool, after: bool, flagged: bool) -> Sample {
        let preference = match (before, after) {
            (false, true) => 1.0,
            (true, false) => 0.0,
            _ => 0.5,
        };
        Sample {
            flagged,
            acted: flagged,
            preference,
            score: Some(f64::from(u8::from(after))),
            score_before: None,
            right: Some((before, after)),
            orders_agree: Some(flagged),
            critique_tokens: 10.0,
            length_ratio: 1.5,
            advantage: None,
        }
    }

    #[test]
    fn golden_measures() {
        // Four wrong drafts: two repaired, three flagged. Six right ones: one spoilt, two flagged.
        let cases = [
            (false, true, true),
            (false, true, true),
            (false, false, true),
            (false, false, false),
            (true, true, false),
            (true, true, false),
            (true, true, false),
            (true, true, false),
            (true, true, true),
            (true, false, true),
        ];
        let mut tally = Tally::default();
        cases.iter().for_each(|&(before, after, flagged)| tally += Tally::new(&[sample(before, after, flagged)]));
        let expected = [
            (Measure::CritiqueUtility, 0.55),
            (Measure::RefinementScore, 0.7),
            (Measure::AccuracyBefore, 0.6),
            (Measure::AccuracyAfter, 0.7),
            (Measure::WrongToRight, 0.5),
            (Measure::RightToWrong, 1.0 / 6.0),
            (Measure::BalancedAccuracy, (0.75 + 4.0 / 6.0) / 2.0),
            (Measure::FlagF1, 6.0 / 9.0),
            (Measure::OrderAgreement, 0.5),
            (Measure::CritiqueTokens, 10.0),
            (Measure::LengthRatio, 1.5),
            (Measure::Acted, 0.5),
        ];
        for (measure, value) in expected {
            let found = measure.of(&tally).unwrap();
            assert!((found - value).abs() < 1e-12, "{}: {found}, {value}", measure.name());
        }
        // CU = ½ + (accuracy after − accuracy before)/2 where ties are ½.
        assert_eq!(Measure::WrongToRight.of(&Tally::new(&[sample(true, true, false)])), None);
        assert_eq!(Measure::CritiqueUtility.of(&Tally::default()), None);
    }

    #[test]
    fn every_prompt_weighs_the_same() {
        let mut tally = Tally::new(&[sample(false, true, true), sample(false, false, true)]);
        tally += Tally::new(&[sample(true, true, false)]);
        assert_eq!(Measure::CritiqueUtility.of(&tally), Some((0.75 + 0.5) / 2.0));
        assert_eq!(Measure::WrongToRight.of(&tally), Some(0.5));
    }
}

//! The learning rate of a step: linear warm-up, then half a cosine down to a floor
//! (SGDR without restarts, arXiv 1608.03983).

/// Learning rates of a whole run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest learning rate.
    pub peak: f64,
    /// Steps until it is reached.
    pub warmup: u64,
    /// Steps of the run.
    pub steps: u64,
    /// The learning rate of the last step, as a share of the peak.
    pub floor: f64,
}

impl Schedule {
    /// The learning rate of step `step`, counted from 1. Behind the last step it stays at the
    /// floor.
    pub fn learning_rate(&self, step: u64) -> f64 {
        if step <= self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let decay = self.steps.saturating_sub(self.warmup).max(1);
        let done = (step - self.warmup).min(decay) as f64 / decay as f64;
        let cosine = (1.0 + (std::f64::consts::PI * done).cos()) / 2.0;
        self.peak * (self.floor + (1.0 - self.floor) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_and_falls() {
        let schedule = Schedule { peak: 2.0, warmup: 10, steps: 110, floor: 0.1 };
        let close = |step, expected: f64| {
            let found = schedule.learning_rate(step);
            assert!((found - expected).abs() < 1e-12, "step {step}: {found}, expected {expected}");
        };
        close(1, 0.2);
        close(10, 2.0);
        close(60, 1.1);
        close(110, 0.2);
        close(1000, 0.2);
        let falls = (10..110).all(|step| schedule.learning_rate(step) > schedule.learning_rate(step + 1));
        assert!(falls);
    }

    #[test]
    fn odd_runs_have_a_rate_too() {
        for (warmup, steps) in [(0, 0), (0, 1), (5, 5), (9, 3), (1, 1)] {
            let schedule = Schedule { peak: 1.0, warmup, steps, floor: 0.0 };
            for step in 1..12 {
                assert!((0.0..=1.0).contains(&schedule.learning_rate(step)), "{schedule:?} {step}");
            }
        }
    }
}

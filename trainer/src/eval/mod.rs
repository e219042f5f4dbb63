//! Evaluation: what critics are worth on held-out problems, side by side.
//!
//! ```text
//! drafts (the same for all) ─▶ critic ─▶ critiques ─▶ refinements ─▶ Tally of each prompt ─▶ measures
//!                                                                          └─▶ bootstrap ─▶ intervals
//! ```

pub mod bootstrap;
pub mod measure;
pub mod plot;
pub mod table;
pub mod trial;

pub use bootstrap::{Interval, bootstrap};
pub use measure::{Measure, Sample, Tally};
pub use table::{Summary, summarize};
pub use trial::{Contender, Evaluation, Gate, Row, Trial, TrialOptions, correlate, evaluate};

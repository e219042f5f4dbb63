//! Collecting critique utility: who writes, what was written, what it is worth. docs/collecting.md says
//! how it is built and used.
//!
//! ```text
//! problems ─▶ draft ─▶ N critiques ─▶ M refinements each ─▶ preferences ─▶ CU ─▶ scored.jsonl
//!             actor    critic         actor                 verifier or judge
//!                └──────────┴────────── ledger.jsonl ──────────┘
//! ```

pub mod author;
pub mod endpoint;
pub mod fixed;
pub mod judge;
pub mod ledger;
pub mod local;
pub mod pipeline;
pub mod run;
pub mod say;
pub mod utility;

pub use author::{Answer, Ask, Author, Part, Written};
pub use endpoint::{Endpoint, EndpointOptions, Secret, Stop};
pub use ledger::Ledger;
pub use local::{Local, LocalOptions};
pub use pipeline::{Cast, CollectOptions, CritiqueJudge, Pipeline, Progress, Subject};
pub use run::{Summary, collect};
pub use utility::{Collected, CollectedCritique, Filter, FilterCounts, utility, write_scored};

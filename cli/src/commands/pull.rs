//! `critic pull`

use critic_import::pull::Name;
use serde_json::json as object;

use crate::args::PullArgs;
use crate::failure::Failure;
use crate::model::pull_model;
use crate::output::{json, line};

pub fn run(args: &PullArgs) -> Result<(), Failure> {
    let path = pull_model(&args.name.parse::<Name>()?, args.offline)?;
    let path = path.to_string_lossy();
    if args.json { json(&object!({ "path": path })) } else { line(&path) }
}

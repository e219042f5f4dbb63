//! Prompts from a JSON file that a person wrote: whatever is wrong with it is named.

use std::path::Path;

use critic::file::Prompts;
use serde_json::Value;

use crate::error::{Error, Result};

/// Reads the prompts in the JSON file at `path`, for [`crate::ConvertOptions::prompts`].
///
/// Stricter than the reader of model files, which passes over fields that it does not know:
/// here they are mistakes in writing.
pub fn read_prompts(path: &Path) -> Result<Prompts> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    parse(&bytes).map_err(|why| Error::corrupt(path.display().to_string(), format!("prompts: {why}")))
}

fn parse(bytes: &[u8]) -> std::result::Result<Prompts, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let prompts: Prompts = serde_path_to_error::deserialize(&value).map_err(|error| error.to_string())?;
    let taken = serde_json::to_value(&prompts).map_err(|error| error.to_string())?;
    match unknown(&value, &taken) {
        Some(field) => Err(format!("unknown field {field}")),
        None => Ok(prompts),
    }
}

/// The path of a field of `given` that is not in `taken`. Null is the same as nothing.
fn unknown(given: &Value, taken: &Value) -> Option<String> {
    let (given, taken) = (given.as_object()?, taken.as_object()?);
    given.iter().filter(|(_, value)| !value.is_null()).find_map(|(name, value)| match taken.get(name) {
        None => Some(name.clone()),
        Some(taken) => unknown(value, taken).map(|rest| format!("{name}.{rest}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        #[track_caller]
        fn check(json: &str, named: &str) {
            let why = parse(json.as_bytes()).expect_err(json);
            assert!(why.contains(named), "{named:?} is not in {why:?}");
        }
        check("{", "line 1");
        check("[]", "expected struct Prompts");
        check(r#"{"tasks": {}}"#, "missing field `keep`");
        check(r#"{"keep": 3, "tasks": {}}"#, "keep: invalid type: integer `3`, expected a string");
        let task = |rest: &str| format!(r#"{{"keep": "Fine", "tasks": {{"qa": {{"critique": "a", {rest}}}}}}}"#);
        check(&task(r#""refine": "b""#), "tasks.qa: missing field `judge`");
        check(&task(r#""refine": null, "judge": """#), "tasks.qa.refine: invalid type: null, expected a string");
        check(&task(r#""refine": "b", "judge": "", "refine_trun": []"#), "unknown field tasks.qa.refine_trun");
        check(&task(r#""refine": "b", "judge": "", "refine_turn": [{"word": ""}]"#), "tasks.qa.refine_turn[0]");
    }

    #[test]
    fn what_is_written_is_read() {
        let prompts = Prompts::default();
        assert_eq!(parse(&serde_json::to_vec(&prompts).unwrap()), Ok(prompts));
    }
}

//! The objectives against an independent float64 autograd implementation, whose values are
//! tests/data/objective.json: losses, normalisers, gradients down to the logits.

#[path = "../examples/objective_values/values.rs"]
mod values;

use serde_json::Value;

/// Every number of `found` is within 1e-5 of `expected`, relative to it, or within 1e-9 of 0.
fn assert_close(found: &Value, expected: &Value, path: &str) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            let keys = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(found), keys(expected), "{path}");
            expected.iter().for_each(|(key, value)| assert_close(&found[key], value, &format!("{path}.{key}")));
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{path}");
            let pairs = found.iter().zip(expected).enumerate();
            pairs.for_each(|(at, (found, value))| assert_close(found, value, &format!("{path}[{at}]")));
        }
        (Value::Number(found), Value::Number(expected)) => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            let bound = 1e-5 * expected.abs() + 1e-9;
            assert!((found - expected).abs() <= bound, "{path}: {found}, expected {expected}");
        }
        _ => assert_eq!(found, expected, "{path}"),
    }
}

#[test]
fn every_value_is_that_of_the_independent_implementation() {
    let text = include_str!("data/objective.json");
    let expected: Value = serde_json::from_str(text).unwrap();
    let file: values::File = serde_json::from_str(text).unwrap();
    file.check().unwrap();
    assert_eq!(file.groups.len(), 6);
    assert_close(&serde_json::to_value(file.computed()).unwrap(), &expected, "");
}

/// What is printed has to come from the logits, not from the file's results.
#[test]
fn results_in_the_file_are_not_looked_at() {
    let mut json: Value = serde_json::from_str(include_str!("data/objective.json")).unwrap();
    let expected = json.clone();
    for group in json["groups"].as_array_mut().unwrap() {
        let group = group.as_object_mut().unwrap();
        group.retain(|key, _| matches!(key.as_str(), "beta" | "cu" | "sequences"));
        let sequences = group["sequences"].as_array_mut().unwrap();
        sequences.iter_mut().for_each(|sequence| _ = sequence.as_object_mut().unwrap().remove("grad_policy_logits"));
    }
    let file: values::File = serde_json::from_value(json).unwrap();
    assert_close(&serde_json::to_value(file.computed()).unwrap(), &expected, "");
}

//! Structured critiques on the command line, by a small random model: what it finds means
//! nothing, but it has to stand where it says.

mod support;

use serde_json::Value;
use support::{Place, roomy};

const TEXT: &str = "# Títle 👍\n\n\tA naïve cat 日本語 sat;\tthe cat slept.\n🚀🚀 It it was \"good\" and \\ escaped.\n";

fn place() -> Place {
    let place = Place::new();
    roomy(&place);
    place.write("note.md", TEXT.as_bytes());
    place
}

#[track_caller]
fn json(place: &Place, args: &[&str]) -> Value {
    let output = place.run(args);
    output.check(0, "");
    serde_json::from_str(&output.stdout).expect("JSON")
}

#[test]
fn findings_are_exact_and_replacements_a_refinement() {
    let place = place();
    let words =
        ["-m", "roomy.critic", "--prompt", "Write.", "--response-file", "note.md", "--max-tokens", "200", "--json"];
    let critique = json(&place, &[&["critique", "--structured"], &words[..]].concat());
    let findings = critique["findings"].as_array().unwrap();
    assert!(!findings.is_empty());
    for finding in findings {
        let at = |key: &str| finding[key].as_u64().unwrap() as usize;
        assert_eq!(finding["quote"], TEXT[at("start")..at("end")]);
    }
    let list = r#"[{"quote":"It it","message":"twice","severity":"error","replacement":"It"}]"#;
    let refined = json(&place, &[&["refine", "--apply", "--critique", list], &words[..]].concat());
    assert_eq!(refined["refinement"], TEXT.replace("It it", "It"));
    assert_eq!(refined["findings"][0]["quote"], "It it");
    let text = place.run(&[
        "refine",
        "--apply",
        "--critique",
        list,
        "-m",
        "roomy.critic",
        "--prompt",
        "p",
        "--response",
        "It it is.\n",
    ]);
    text.check(0, "");
    assert_eq!(text.stdout, "It is.\n");
    let unknown = r#"[{"quote":"no such words","message":"m","severity":"note"}]"#;
    place
        .run(&[&["refine", "--apply", "--critique", unknown], &words[..]].concat())
        .check(2, "finding 1 is not in the draft");
    json(&place, &[&["improve", "--apply"], &words[..]].concat());
}

#[test]
fn files_are_reviewed_for_people_and_machines() {
    let place = place();
    let words = ["critique", "note.md", "-m", "roomy.critic", "--max-tokens", "200"];
    let text = place.run(&words);
    text.check(0, "finding");
    assert!(text.stdout.starts_with("note.md:"), "{}", text.stdout);
    assert!(text.stdout.contains("^") && !text.stdout.contains('\x1b'), "{}", text.stdout);
    let annotations = place.run(&[&words[..], &["--annotations"]].concat());
    annotations.check(0, "");
    assert!(
        annotations.stdout.starts_with("::") && annotations.stdout.contains(" file=note.md,line="),
        "{}",
        annotations.stdout
    );
    let sarif = json(&place, &[&words[..], &["--sarif"]].concat());
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    let results = run["results"].as_array().unwrap();
    let found = json(&place, &[&words[..], &["--json"]].concat());
    let findings = found["findings"].as_array().unwrap();
    assert_eq!(results.len(), findings.len());
    for (result, finding) in results.iter().zip(findings) {
        let location = &result["locations"][0]["physicalLocation"];
        assert_eq!(
            (&location["artifactLocation"]["uri"], &result["message"]["text"]),
            (&"note.md".into(), &finding["message"])
        );
        let region = &location["region"];
        let number = |key: &str| region[key].as_u64().unwrap() as usize;
        // Columns are characters, from 1.
        let offset = |line: usize, column: usize| {
            let start: usize = TEXT.split_inclusive('\n').take(line - 1).map(str::len).sum();
            start + TEXT[start..].chars().take(column - 1).map(char::len_utf8).sum::<usize>()
        };
        let (start, end) =
            (offset(number("startLine"), number("startColumn")), offset(number("endLine"), number("endColumn")));
        assert_eq!(finding["quote"], TEXT[start..end]);
    }
    let least = findings.iter().map(|finding| finding["severity"].as_str().unwrap()).collect::<Vec<_>>();
    let gate = |severity: &str| place.run(&[&words[..], &["--fail-on", severity]].concat()).code;
    assert_eq!(gate("note"), Some(3));
    assert_eq!(gate("error"), Some(if least.contains(&"error") { 3 } else { 0 }));
    place.run(&["critique", "missing.md", "-m", "roomy.critic"]).check(1, "missing.md");
    place.run(&["critique", "note.md", "--response", "x"]).check(2, "cannot be used with");
}

#[test]
fn a_projects_instructions_are_read() {
    let place = place();
    place.write(".critic.toml", b"model = \"x\"\n");
    place.run(&["critique", "note.md", "-m", "roomy.critic"]).check(1, "unknown field `model`");
    place.write(".critic.toml", b"instruction = \"Write briefly.\"\n[languages.markdown]\ntask = \"nonsense\"\n");
    place.run(&["critique", "note.md", "-m", "roomy.critic"]).check(2, "unknown task \"nonsense\"");
}

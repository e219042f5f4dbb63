//! Collection by `critic-train collect` with model files: killed anywhere, it ends with the same data.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use critic_trainer::collect::Ledger;
use critic_trainer::random::Random;
use critic_trainer::scratch::{Blueprint, Shape};
use critic_trainer::tasks::{Part, Task, write_problems};

/// A random model and problems for it.
fn inputs(folder: &Path, count: u64) -> (PathBuf, PathBuf) {
    let (model, problems) = (folder.join("model.critic"), folder.join("problems.jsonl"));
    let shape = Shape { hidden_size: 32, intermediate_size: 64, layers: 1, heads: 2, context: 64 };
    let blueprint = Blueprint { shape: &shape, characters: "0123456789+-=!?.", task: "steps", keep: ".", seed: 1 };
    blueprint.write(&model).unwrap();
    let all: Vec<_> = (0..count).map(|index| Task::Steps.generate(1, index, Part::Train)).collect();
    write_problems(&problems, &all).unwrap();
    (model, problems)
}

fn command(model: &Path, problems: &Path, out: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("critic-train"));
    command.arg("collect").arg("--problems").arg(problems).arg("--actor").arg(model).arg("--out").arg(out);
    command.args(["--critiques", "3", "--refinements", "2", "--max-tokens", "8", "--keep-flat", "--threads", "1"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn scored(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("scored.jsonl")).unwrap()
}

#[test]
fn twenty_kills_end_in_the_same_data() {
    let folder = tempfile::tempdir().unwrap();
    let (model, problems) = inputs(folder.path(), 120);
    let whole = folder.path().join("whole");
    // Other batches change nothing, either.
    let status = command(&model, &problems, &whole).args(["--problems-per-batch", "16", "--batch", "7"]).status();
    assert!(status.unwrap().success());
    let length = std::fs::metadata(whole.join("ledger.jsonl")).unwrap().len();

    let out = folder.path().join("killed");
    let ledger = out.join("ledger.jsonl");
    let mut random = Random::new(11, "kills", &[]);
    let mut moments: Vec<u64> = (0..20).map(|_| random.below(length as usize) as u64).collect();
    moments.sort_unstable();
    let size = || std::fs::metadata(&ledger).map_or(0, |file| file.len());
    for moment in moments {
        let mut child = command(&model, &problems, &out).args(["--problems-per-batch", "1"]).spawn().unwrap();
        while size() < moment && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(!out.join("scored.jsonl").exists(), "it was never left to end");
    let before = Ledger::open(&ledger).unwrap().counts();
    assert!(command(&model, &problems, &out).args(["--problems-per-batch", "4"]).status().unwrap().success());
    assert_eq!(scored(&out), scored(&whole));
    // Nothing was written twice: as many lines as items.
    let lines = std::fs::read_to_string(&ledger).unwrap().lines().count();
    let after = Ledger::open(&ledger).unwrap().counts();
    assert!(before.0 > 0 && before.0 < after.0);
    assert_eq!((lines, after), (after.0 + after.1, Ledger::open(&whole.join("ledger.jsonl")).unwrap().counts()));
}

/// On a file system that is too small, and then has room. Needs the right to mount, as root in a container has.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (model, problems) = inputs(folder.path(), 60);
    let whole = folder.path().join("whole");
    assert!(command(&model, &problems, &whole).status().unwrap().success());
    let needed = std::fs::metadata(whole.join("ledger.jsonl")).unwrap().len();

    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let system = |arguments: &[&str]| {
        let output = Command::new(arguments[0]).args(&arguments[1..]).arg(&disk).output();
        output.is_ok_and(|output| output.status.success())
    };
    // A third of the ledger, and pages for the folder and small files.
    let small = format!("size={}", needed / 3 + 16 * 1024);
    if !system(&["mount", "-t", "tmpfs", "-o", &small, "tmpfs"]) {
        eprintln!("NOT TESTED: a full disk: mounting a small file system is not allowed here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let out = disk.join("collected");
        let output = command(&model, &problems, &out).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1), "{said}");
        assert!(said.contains("ledger.jsonl") && said.contains("No space left"), "{said}");
        let kept = Ledger::open(&out.join("ledger.jsonl")).unwrap().counts().0;
        assert!(kept > 0, "what was written before is there");
        assert!(system(&["mount", "-o", "remount,size=16m"]));
        assert!(command(&model, &problems, &out).status().unwrap().success());
        assert_eq!(scored(&out), scored(&whole));
    });
    assert!(system(&["umount"]));
    outcome.unwrap();
}

#[test]
fn mistakes_are_named_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (model, problems) = inputs(folder.path(), 2);
    let refused = |problems: &str, extra: &[&str], part: &str| {
        let path = folder.path().join("bad.jsonl");
        std::fs::write(&path, problems).unwrap();
        let out = folder.path().join("refused");
        let output = command(&model, &path, &out).args(extra).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(part), "{said}");
        assert!(!out.join("ledger.jsonl").exists());
    };
    refused("{\"prompt\": \"1+1\", \"task\": \"steps\"", &[], "bad.jsonl, line 1");
    refused("{\"prompt\": 1}", &[], "bad.jsonl, line 1, prompt");
    refused("", &[], "no problems in the file");
    refused("{\"prompt\": \"hello\"}", &[], "there is no judge");
    refused("{\"prompt\": \"hello\"}", &["--judge", "http://127.0.0.1:9/v1"], "expected URL#MODEL");
    refused(
        "{\"prompt\": \"hello\"}",
        &["--judge", "http://127.0.0.1:9/v1#m", "--key-env", "CRITIC_NO_SUCH"],
        "CRITIC_NO_SUCH",
    );
    let nothing = folder.path().join("nothing.critic");
    let output = command(&nothing, &problems, &folder.path().join("x")).stderr(Stdio::piped()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing.critic"));
}

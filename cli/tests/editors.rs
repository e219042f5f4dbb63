//! Real editors against the real server, and what the server asks of the system. A small random
//! model: what it finds means nothing, but it has to stand where it says.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Place, critic, roomy};

fn editors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../editors")
}

/// Runs a client's test, which gets the program and the model.
#[track_caller]
fn drive(program: &str, package: &str, script: &Path) {
    let there =
        Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    assert!(there, "this test needs {program}: install {package}");
    let place = Place::new();
    roomy(&place);
    let mut client = Command::new(script);
    client.arg(assert_cmd::cargo::cargo_bin!("critic")).arg(place.path("roomy.critic"));
    // Each takes seconds, of which VS Code's has to fetch a compiler; an editor that waits for a key waits for ever.
    let output = critic_tests::output_within(&mut client, Duration::from_secs(600))
        .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn neovim() {
    drive("nvim", "neovim", &editors().join("nvim/test/run.sh"));
}

#[test]
fn emacs() {
    drive("emacs", "emacs-nox and elpa-eglot", &editors().join("emacs/test/run.sh"));
}

#[test]
fn the_client_half_for_vs_code() {
    drive("npm", "npm", &editors().join("vscode/test/run.sh"));
}

/// No socket, and no file opened for writing, in a whole session.
#[test]
fn a_session_opens_no_socket_and_writes_no_file() {
    let there = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    assert!(there, "this test needs strace");
    let place = Place::new();
    roomy(&place);
    let uri = "file:///nowhere/note.md";
    let argument = format!(r#"{{"uri":"{uri}"}}"#);
    let messages = [
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"capabilities":{},"processId":null,"initializationOptions":{"maxTokens":100}}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","method":"initialized","params":{}}"#.to_owned(),
        format!(r#"{{"jsonrpc":"2.0","method":"textDocument/didOpen","params":{{"textDocument":{{"uri":"{uri}","languageId":"markdown","version":1,"text":"The the cat sat."}}}}}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":2,"method":"workspace/executeCommand","params":{{"command":"critic.critique","arguments":[{argument}]}}}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":3,"method":"workspace/executeCommand","params":{{"command":"critic.refine","arguments":[{argument}]}}}}"#),
    ];
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-qq",
        "-o",
        "trace.txt",
        "-e",
        "trace=%network,open,openat,openat2,creat,unlink,rename,mkdir,execve",
    ]);
    strace.arg(assert_cmd::cargo::cargo_bin!("critic")).args(["lsp", "--model", "roomy.critic", "--threads", "1"]);
    // The same folder and environment as all tests of the program have.
    let plain = critic(&place);
    strace.current_dir(plain.get_current_dir().expect("a folder"));
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let mut server = strace.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("strace starts");
    let (mut to, from) = (server.stdin.take().unwrap(), server.stdout.take().unwrap());
    let frame = |text: &str| format!("Content-Length: {}\r\n\r\n{text}", text.len());
    std::io::Write::write_all(&mut to, messages.map(|text| frame(&text)).concat().as_bytes()).unwrap();
    let mut output = std::io::BufReader::new(from);
    // Answers come in the order in which the work is done.
    loop {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        let length: usize = line.trim().strip_prefix("Content-Length: ").expect("a header").parse().unwrap();
        let mut body = vec![0; length + 2];
        std::io::Read::read_exact(&mut output, &mut body).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&body[2..]).unwrap();
        if value["id"] == 3 {
            assert!(value["result"].is_object(), "{value}");
            break;
        }
    }
    for text in [r#"{"jsonrpc":"2.0","id":4,"method":"shutdown"}"#, r#"{"jsonrpc":"2.0","method":"exit"}"#] {
        std::io::Write::write_all(&mut to, frame(text).as_bytes()).unwrap();
    }
    assert!(server.wait().unwrap().success());
    let trace = std::fs::read_to_string(place.path("trace.txt")).unwrap();
    assert!(trace.contains("roomy.critic"), "the trace shows what is opened");
    for line in trace.lines() {
        let call = line.split_once(' ').map_or(line, |(_, call)| call).trim_start();
        let opens = ["open(", "openat(", "openat2(", "execve("].iter().any(|name| call.starts_with(name));
        let other = call.starts_with("<...") || call.starts_with("+++") || call.starts_with("---");
        assert!(opens || other, "{line}");
        assert!(
            !["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| call.contains(flag)) || call.contains("/dev/null"),
            "{line}"
        );
    }
    assert_eq!(trace.matches("execve(").count(), 1, "nothing else is started");
}

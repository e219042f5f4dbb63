//! How long the server takes to answer while a model thinks.
//!
//!     cargo run --release -p critic-lsp --example latency -- MODEL.critic
//!
//! Cancels a critique in the middle of reading about 4,000 tokens, twenty times, and then types
//! and asks during one. Prints the slowest answer of each kind.

use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const URI: &str = "file:///nowhere/long.md";

fn main() {
    let Some(model) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: latency MODEL.critic");
        std::process::exit(2);
    };
    let opened = critic::Model::open(&model).unwrap_or_else(|error| panic!("{error}"));
    let tokens = opened.tokenizer().encode(&text(), critic::tokenizer::Special::Text).len();
    let (server_input, mut to) = pipe().expect("a pipe");
    let (from_server, server_output) = pipe().expect("a pipe");
    let open = move |_: Option<&str>| Ok(opened.clone());
    let server = std::thread::spawn(move || critic_lsp::serve(server_input, server_output, None, Box::new(open)));
    let from = receive(from_server);
    let mut send = |message: Value| {
        let text = message.to_string();
        write!(to, "Content-Length: {}\r\n\r\n{text}", text.len()).expect("the server reads");
    };
    let capabilities = json!({ "window": { "workDoneProgress": true } });
    send(
        json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": { "capabilities": capabilities, "processId": null, "initializationOptions": { "partTokens": 6000 } } }),
    );
    let document = json!({ "uri": URI, "languageId": "markdown", "version": 1, "text": text() });
    send(json!({ "jsonrpc": "2.0", "method": "textDocument/didOpen", "params": { "textDocument": document } }));

    let mut cancels = Vec::new();
    for id in 1..=20 {
        send(critique(id));
        // In the middle: once it says that it reads.
        wait(&from, |m| m["method"] == "$/progress" && m["params"]["value"]["kind"] == "report");
        std::thread::sleep(Duration::from_millis(150));
        let started = Instant::now();
        send(json!({ "jsonrpc": "2.0", "method": "$/cancelRequest", "params": { "id": id } }));
        wait(&from, |m| m["id"] == id && m["error"]["code"] == -32800);
        let answered = started.elapsed();
        // A request of the worker is behind the cancelled one: how soon is it free?
        send(critique(1000 + id));
        wait(&from, |m| m["method"] == "$/progress" && m["params"]["value"]["kind"] == "report");
        cancels.push((answered, started.elapsed()));
        send(json!({ "jsonrpc": "2.0", "method": "$/cancelRequest", "params": { "id": 1000 + id } }));
        wait(&from, |m| m["id"] == 1000 + id);
    }
    let slowest = |pick: fn(&(Duration, Duration)) -> Duration| cancels.iter().map(pick).max().unwrap_or_default();
    println!("a critique of {tokens} tokens is cancelled while they are read");
    println!("  slowest answer to $/cancelRequest   {:>8.2} ms", ms(slowest(|pair| pair.0)));
    println!("  slowest until the next job is read  {:>8.2} ms", ms(slowest(|pair| pair.1)));

    send(critique(5000));
    wait(&from, |m| m["method"] == "$/progress" && m["params"]["value"]["kind"] == "report");
    let mut slowest = Duration::ZERO;
    for turn in 0..100 {
        let (id, version) = (6000 + turn, 2 + turn);
        let at = json!({ "line": 3, "character": 0 });
        let change = json!({ "range": { "start": at, "end": at }, "text": "x" });
        let params = json!({ "textDocument": { "uri": URI, "version": version }, "contentChanges": [change] });
        send(json!({ "jsonrpc": "2.0", "method": "textDocument/didChange", "params": params }));
        send(critique(7000 + turn));
        let started = Instant::now();
        let params = json!({ "textDocument": { "uri": URI }, "position": at });
        send(json!({ "jsonrpc": "2.0", "id": id, "method": "textDocument/hover", "params": params }));
        wait(&from, |m| m["id"] == id);
        slowest = slowest.max(started.elapsed());
    }
    println!("typing, asking and hovering during critiques");
    println!("  slowest answer to a request         {:>8.2} ms", ms(slowest));
    send(json!({ "jsonrpc": "2.0", "id": 9999, "method": "shutdown" }));
    send(json!({ "jsonrpc": "2.0", "method": "exit" }));
    server.join().expect("the server ends");
}

/// About 4,000 tokens, which one critique reads.
fn text() -> String {
    (0..200).map(|i| format!("Paragraph {i} says that the cat sat on the mat, and that it was good.\n\n")).collect()
}

fn critique(id: i64) -> Value {
    let arguments = json!([{ "uri": URI, "scope": "document" }]);
    let params = json!({ "command": "critic.critique", "arguments": arguments });
    json!({ "jsonrpc": "2.0", "id": id, "method": "workspace/executeCommand", "params": params })
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn receive(from_server: std::io::PipeReader) -> Receiver<Value> {
    let (sender, from) = channel();
    std::thread::spawn(move || {
        let mut input = BufReader::new(from_server);
        let mut line = String::new();
        while input.read_line(&mut line).is_ok_and(|length| length > 0) {
            let length = line.trim().strip_prefix("Content-Length: ").and_then(|length| length.parse().ok());
            line.clear();
            let mut body = vec![0; length.unwrap_or(0) + 2];
            if input.read_exact(&mut body).is_err() {
                break;
            }
            if serde_json::from_slice(&body[2..]).is_ok_and(|message| sender.send(message).is_err()) {
                break;
            }
        }
    });
    from
}

fn wait(from: &Receiver<Value>, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let message = from.recv().expect("the server answers");
        if wanted(&message) {
            return message;
        }
    }
}

//! The server against a client of a few lines, with a small random model: what it finds means
//! nothing, but it has to stand where it says.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, PipeWriter, Read, Write, pipe};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use critic::Model;
use critic_import::Quant;
use critic_lsp::serve;
use critic_tests::small_with_context;
use serde_json::{Value, json};

const URI: &str = "file:///nowhere/note.md";
const TEXT: &str = "# Títle 👍\r\n\r\n\tA 👩‍👧 naïve cat 日本語 sat;\tthe cat slept.\r\n🚀🚀 It it was \"good\".\r\n";

/// A client. Messages that nobody waited for are kept.
struct Client {
    to: Option<PipeWriter>,
    from: Receiver<Value>,
    kept: VecDeque<Value>,
    server: Option<JoinHandle<u8>>,
    last: i64,
}

impl Client {
    fn start(open: impl Fn(Option<&str>) -> Result<Arc<Model>, String> + Send + 'static) -> Self {
        let (server_input, to) = pipe().unwrap();
        let (from_server, server_output) = pipe().unwrap();
        let server = std::thread::spawn(move || serve(server_input, server_output, None, Box::new(open)));
        let (sender, from) = channel();
        std::thread::spawn(move || {
            let mut input = BufReader::new(from_server);
            let mut line = String::new();
            while input.read_line(&mut line).is_ok_and(|length| length > 0) {
                let length: usize = line.trim().strip_prefix("Content-Length: ").unwrap().parse().unwrap();
                line.clear();
                input.read_line(&mut line).unwrap();
                line.clear();
                let mut body = vec![0; length];
                input.read_exact(&mut body).unwrap();
                if sender.send(serde_json::from_slice(&body).unwrap()).is_err() {
                    break;
                }
            }
        });
        Self { to: Some(to), from, kept: VecDeque::new(), server: Some(server), last: 0 }
    }

    /// Started and initialized, with a small model.
    fn ready(capabilities: Value) -> Self {
        Self::ready_with(capabilities, json!({ "maxTokens": 200, "threads": 1 }))
    }

    fn ready_with(capabilities: Value, options: Value) -> Self {
        let mut client = Self::start(|_| Ok(small_with_context("qwen2-bias", Quant::Keep, 8192)));
        let params = json!({ "capabilities": capabilities, "processId": null, "initializationOptions": options });
        client.request("initialize", params);
        client.notify("initialized", json!({}));
        client
    }

    fn raw(&mut self, text: &str) {
        self.to.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn send(&mut self, message: Value) {
        let text = message.to_string();
        self.raw(&format!("Content-Length: {}\r\n\r\n{text}", text.len()));
    }

    fn notify(&mut self, method: &str, params: Value) {
        self.send(json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    /// Sends a request without waiting.
    fn ask(&mut self, method: &str, params: Value) -> i64 {
        self.last += 1;
        self.send(json!({ "jsonrpc": "2.0", "id": self.last, "method": method, "params": params }));
        self.last
    }

    /// The first message, old or new, that is wanted.
    fn wait(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.kept.iter().position(&wanted) {
            return self.kept.remove(at).unwrap();
        }
        loop {
            // Long enough for a busy machine; a server that hangs fails here.
            let message =
                self.from.recv_timeout(Duration::from_secs(300)).unwrap_or_else(|_| panic!("{what}: nothing came"));
            if wanted(&message) {
                return message;
            }
            self.kept.push_back(message);
        }
    }

    fn answer(&mut self, id: i64) -> Value {
        self.wait(&format!("answer {id}"), |message| message["id"] == id && message.get("method").is_none())
    }

    fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.ask(method, params);
        self.answer(id)
    }

    fn command(&mut self, command: &str, argument: Value) -> i64 {
        self.ask("workspace/executeCommand", json!({ "command": command, "arguments": [argument] }))
    }

    fn open(&mut self, text: &str) {
        let document = json!({ "uri": URI, "languageId": "markdown", "version": 1, "text": text });
        self.notify("textDocument/didOpen", json!({ "textDocument": document }));
    }

    fn change(&mut self, version: i32, change: Value) {
        let params = json!({ "textDocument": { "uri": URI, "version": version }, "contentChanges": [change] });
        self.notify("textDocument/didChange", params);
    }

    fn methods(&mut self) -> Vec<String> {
        while let Ok(message) = self.from.try_recv() {
            self.kept.push_back(message);
        }
        self.kept.iter().filter_map(|message| message["method"].as_str().map(str::to_owned)).collect()
    }

    /// Shut down in order; the exit code.
    fn end(mut self) -> u8 {
        self.request("shutdown", Value::Null);
        self.notify("exit", Value::Null);
        self.server.take().unwrap().join().unwrap()
    }
}

/// The text of a range.
fn words(text: &str, range: &Value, encoding: &str) -> String {
    let width = |c: char| match encoding {
        "utf-8" => c.len_utf8(),
        "utf-16" => c.len_utf16(),
        _ => 1,
    };
    let offset = |at: &Value| {
        let (line, column) = (at["line"].as_u64().unwrap() as usize, at["character"].as_u64().unwrap() as usize);
        let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
        let mut left = column;
        let within = text[start..].chars().take_while(|&c| {
            let here = left > 0;
            left = left.saturating_sub(width(c));
            here
        });
        start + within.map(char::len_utf8).sum::<usize>()
    };
    text[offset(&range["start"])..offset(&range["end"])].to_owned()
}

#[test]
fn findings_stand_under_their_words_in_every_encoding() {
    for encoding in ["utf-8", "utf-16", "utf-32"] {
        let mut client = Client::ready(json!({ "general": { "positionEncodings": [encoding] } }));
        client.open(TEXT);
        let id = client.command("critic.critique", json!({ "uri": URI }));
        let answer = client.answer(id);
        let findings = answer["result"]["findings"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
        assert!(!findings.is_empty());
        for finding in &findings {
            assert_eq!(finding["quote"], words(TEXT, &finding["range"], encoding));
        }
        let published = |message: &Value| {
            message["method"] == "textDocument/publishDiagnostics"
                && message["params"]["diagnostics"].as_array().map(Vec::len) == Some(findings.len())
        };
        let diagnostics = client.wait("diagnostics", published);
        assert_eq!(diagnostics["params"]["version"], 1);
        let first = &diagnostics["params"]["diagnostics"][0];
        let hover = client.request(
            "textDocument/hover",
            json!({ "textDocument": { "uri": URI }, "position": first["range"]["start"] }),
        );
        let shown = hover["result"]["contents"]["value"].as_str().unwrap();
        assert!(shown.contains(first["message"].as_str().unwrap()), "{shown}");
        assert_eq!(client.end(), 0);
    }
}

#[test]
fn diagnostics_are_pulled_or_pushed_and_never_both() {
    let pull = json!({
        "textDocument": { "diagnostic": {} }, "workspace": { "diagnostic": { "refreshSupport": true } }
    });
    let mut client = Client::ready(pull);
    client.open(TEXT);
    let id = client.command("critic.critique", json!({ "uri": URI }));
    let count = client.answer(id)["result"]["findings"].as_array().unwrap().len();
    client.wait("refresh", |message| message["method"] == "workspace/diagnostic/refresh");
    let report = client.request("textDocument/diagnostic", json!({ "textDocument": { "uri": URI } }));
    assert_eq!(
        (report["result"]["kind"].as_str(), report["result"]["items"].as_array().unwrap().len()),
        (Some("full"), count)
    );
    assert!(!client.methods().contains(&"textDocument/publishDiagnostics".to_owned()));
    assert_eq!(client.end(), 0);
    // A client that would not ask again is told instead.
    let mut client = Client::ready(json!({ "textDocument": { "diagnostic": {} } }));
    client.open(TEXT);
    let id = client.command("critic.critique", json!({ "uri": URI }));
    client.answer(id);
    client.wait("diagnostics", |message| message["method"] == "textDocument/publishDiagnostics");
    assert!(!client.methods().contains(&"workspace/diagnostic/refresh".to_owned()));
}

#[test]
fn a_refinement_is_applied_to_the_text_that_it_is_for() {
    let mut client = Client::ready(json!({ "workspace": { "workspaceEdit": { "documentChanges": true } } }));
    client.open(TEXT);
    let id = client.command("critic.refine", json!({ "uri": URI }));
    let refinement = client.answer(id)["result"].clone();
    assert_eq!((&refinement["changed"], refinement["original"].as_str()), (&json!(true), Some(TEXT)));
    let applied = client.command("critic.applyRefinement", json!({ "uri": URI, "id": refinement["id"] }));
    let edit = client.wait("the edit", |message| message["method"] == "workspace/applyEdit");
    let change = &edit["params"]["edit"]["documentChanges"][0];
    assert_eq!(change["textDocument"], json!({ "uri": URI, "version": 1 }));
    for edit in change["edits"].as_array().unwrap() {
        assert_eq!(edit["range"]["start"]["character"], 0, "whole lines");
    }
    client.send(json!({ "jsonrpc": "2.0", "id": edit["id"], "result": { "applied": true } }));
    assert_eq!(client.answer(applied)["result"]["applied"], true);
    client.change(2, json!({ "text": "other" }));
    let stale = client.command("critic.applyRefinement", json!({ "uri": URI, "id": refinement["id"] }));
    let error = &client.answer(stale)["error"];
    assert_eq!(error["code"], -32801);
    assert_eq!(client.end(), 0);
}

#[test]
fn findings_with_a_replacement_are_quick_fixes() {
    let mut client = Client::ready(json!({ "workspace": { "workspaceEdit": { "documentChanges": true } } }));
    client.open(TEXT);
    let id = client.command("critic.critique", json!({ "uri": URI }));
    let findings = client.answer(id)["result"]["findings"].as_array().unwrap().clone();
    let fixable: Vec<&Value> = findings.iter().filter(|finding| finding["replacement"].is_string()).collect();
    assert!(!fixable.is_empty(), "the model of this test writes replacements: {findings:?}");
    let end = json!({ "line": 99, "character": 0 });
    let mut actions = |only: Value| {
        let params = json!({
            "textDocument": { "uri": URI }, "range": { "start": { "line": 0, "character": 0 }, "end": end },
            "context": { "diagnostics": [], "only": only }
        });
        client.request("textDocument/codeAction", params)["result"].as_array().unwrap().clone()
    };
    let edits = |action: &Value| -> Vec<Value> {
        let change = &action["edit"]["documentChanges"][0];
        assert_eq!(change["textDocument"], json!({ "uri": URI, "version": 1 }));
        change["edits"].as_array().unwrap().clone()
    };
    let fixes = actions(json!(["quickfix"]));
    assert_eq!(fixes.len(), fixable.len());
    for (fix, finding) in fixes.iter().zip(&fixable) {
        let expected = json!([{ "range": finding["range"], "newText": finding["replacement"] }]);
        assert_eq!((fix["kind"].as_str(), json!(edits(fix))), (Some("quickfix"), expected));
        assert_eq!(fix["diagnostics"][0]["range"], finding["range"]);
    }
    let all = actions(json!(["source.fixAll"]));
    assert_eq!((all.len(), all[0]["kind"].as_str()), (1, Some("source.fixAll.critic")));
    let place = |at: &Value| (at["line"].as_u64().unwrap(), at["character"].as_u64().unwrap());
    let mut ranges: Vec<_> =
        edits(&all[0]).iter().map(|edit| (place(&edit["range"]["start"]), place(&edit["range"]["end"]))).collect();
    ranges.sort();
    assert!(!ranges.is_empty() && ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:?}");
    assert!(actions(json!(["refactor"])).iter().all(|action| action["edit"].is_null()));
    assert_eq!(client.end(), 0);
}

#[test]
fn typing_drops_what_is_stale_and_everything_else_is_answered_meanwhile() {
    let mut client = Client::ready_with(json!({}), json!({ "maxTokens": 2000, "threads": 1 }));
    let long = TEXT.repeat(60);
    client.open(&long);
    let critique = client.command("critic.critique", json!({ "uri": URI }));
    for version in 2..30 {
        let end = json!({ "line": 0, "character": 0 });
        client.change(version, json!({ "range": { "start": end, "end": end }, "text": "x" }));
        let position = json!({ "line": 0, "character": 0 });
        let hover =
            client.request("textDocument/hover", json!({ "textDocument": { "uri": URI }, "position": position }));
        assert!(hover.get("error").is_none());
    }
    assert_eq!(client.answer(critique)["error"]["code"], -32801);
    // A newer request takes the place of an older one.
    let older = client.command("critic.critique", json!({ "uri": URI }));
    let newer = client.command(
        "critic.critique",
        json!({ "uri": URI, "scope": "function", "position": { "line": 0, "character": 0 } }),
    );
    assert_eq!(client.answer(older)["error"]["code"], -32802);
    client.notify("$/cancelRequest", json!({ "id": newer }));
    let answer = client.answer(newer);
    assert!(answer["error"]["code"] == -32800 || answer["result"].is_object(), "{answer}");
    assert_eq!(client.end(), 0);
}

#[test]
fn progress_is_reported_and_cancels() {
    let mut client = Client::ready_with(
        json!({ "window": { "workDoneProgress": true } }),
        json!({ "maxTokens": 2000, "threads": 1 }),
    );
    client.open(&TEXT.repeat(60));
    let critique = client.command("critic.critique", json!({ "uri": URI }));
    let begun = client.wait("progress", |m| m["method"] == "$/progress" && m["params"]["value"]["kind"] == "begin");
    client.wait("a report", |m| m["method"] == "$/progress" && m["params"]["value"]["kind"] == "report");
    client.notify("window/workDoneProgress/cancel", json!({ "token": begun["params"]["token"] }));
    assert_eq!(client.answer(critique)["error"]["code"], -32800);
    client.wait("its end", |m| m["method"] == "$/progress" && m["params"]["value"]["kind"] == "end");
    // The session works on.
    client.change(2, json!({ "text": "A short note." }));
    let again = client.command("critic.critique", json!({ "uri": URI }));
    assert!(client.answer(again)["result"]["findings"].is_array());
    assert_eq!(client.end(), 0);
}

#[test]
fn settings_come_from_the_client() {
    let mut client = Client::ready(json!({ "workspace": { "configuration": true } }));
    let asked = client.wait("the question", |message| message["method"] == "workspace/configuration");
    assert_eq!(asked["params"]["items"][0]["section"], "critic");
    client.send(json!({ "jsonrpc": "2.0", "id": asked["id"], "result": [{ "languages": ["rust"], "run": "onSave", "maxLength": 10 }] }));
    client.open(TEXT);
    let range = json!({ "start": { "line": 0, "character": 0 }, "end": { "line": 1, "character": 0 } });
    let params = json!({ "textDocument": { "uri": URI }, "range": range, "context": { "diagnostics": [] } });
    assert_eq!(client.request("textDocument/codeAction", params.clone())["result"], json!([]));
    let id = client.command("critic.critique", json!({ "uri": URI }));
    let error = client.answer(id)["error"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains("critic.maxLength is 10"), "{error}");
    client.notify("workspace/didChangeConfiguration", json!({ "settings": null }));
    let asked = client.wait("the question", |message| message["method"] == "workspace/configuration");
    client.send(json!({ "jsonrpc": "2.0", "id": asked["id"], "result": [{ "run": "onSave", "maxTokens": 60 }] }));
    let titles: Vec<String> = client.request("textDocument/codeAction", params)["result"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| action["title"].as_str().unwrap().to_owned())
        .collect();
    for title in
        ["Critique selection", "Critique paragraph", "Critique document", "Refine selection", "Refine document"]
    {
        assert!(titles.contains(&title.to_owned()), "{titles:?}");
    }
    client.notify("textDocument/didSave", json!({ "textDocument": { "uri": URI } }));
    client.wait("diagnostics", |message| message["method"] == "textDocument/publishDiagnostics");
    assert_eq!(client.end(), 0);
}

#[test]
fn bad_input_is_answered_and_survived() {
    let mut client = Client::start(|model| Err(format!("{model:?} is not here\nfetch it: critic pull smollm2-135m")));
    assert_eq!(client.request("textDocument/hover", json!({}))["error"]["code"], -32002);
    client.raw("Content-Length: 9\r\n\r\n{\"broken\"");
    client.wait("an error", |message| message["error"]["code"] == -32700);
    client.raw("not a header at all\r\n\r\n");
    client.request("initialize", json!({ "capabilities": {}, "processId": null }));
    assert_eq!(client.request("initialize", json!({ "capabilities": {} }))["error"]["code"], -32600);
    assert_eq!(client.request("no/such/method", json!({}))["error"]["code"], -32601);
    assert_eq!(client.request("textDocument/hover", json!({ "position": "here" }))["error"]["code"], -32602);
    client.notify("no/such/notification", json!({}));
    client.notify("textDocument/didChange", json!({ "nonsense": true }));
    client.change(7, json!({ "text": "of a document that is not open" }));
    client.notify("$/cancelRequest", json!({ "id": "unknown" }));
    client.open("short");
    let far = json!({ "line": 4_294_967_295u32, "character": 4_294_967_295u32 });
    let hover = client.request("textDocument/hover", json!({ "textDocument": { "uri": URI }, "position": far }));
    assert_eq!(hover["result"], Value::Null);
    client.change(2, json!({ "range": { "start": far, "end": { "line": 0, "character": 0 } }, "text": "!" }));
    let bad = json!({ "start": far, "end": far });
    let params = json!({ "textDocument": { "uri": URI }, "range": bad, "context": { "diagnostics": [] } });
    assert!(client.request("textDocument/codeAction", params)["result"].is_array());
    let unknown = client.command("critic.nothing", json!({ "uri": URI }));
    assert_eq!(client.answer(unknown)["error"]["code"], -32602);
    let elsewhere = client.command("critic.critique", json!({ "uri": "file:///elsewhere" }));
    assert_eq!(client.answer(elsewhere)["error"]["code"], -32602);
    // A missing model says how to get one, to the request and to the person.
    let id = client.command("critic.critique", json!({ "uri": URI }));
    let error = client.answer(id)["error"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains("critic pull smollm2-135m"), "{error}");
    let shown = client.wait("a message", |message| message["method"] == "window/showMessage");
    assert!(shown["params"]["message"].as_str().unwrap().contains("critic pull"));
    // Five megabytes are more than is critiqued at once, and no reason to stop.
    client.open(&"The cat sat on the mat. 👍\n".repeat(5_000_000 / 29));
    let id = client.command("critic.critique", json!({ "uri": URI }));
    let error = client.answer(id)["error"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains("critic.maxLength is 1048576: select a part"), "{error}");
    client.request("shutdown", Value::Null);
    assert_eq!(client.request("textDocument/hover", json!({}))["error"]["code"], -32600);
    client.notify("exit", Value::Null);
    assert_eq!(client.server.take().unwrap().join().unwrap(), 0);
}

#[test]
fn a_client_that_vanishes_ends_the_server() {
    let mut client = Client::ready(json!({}));
    client.open(&TEXT.repeat(60));
    client.command("critic.critique", json!({ "uri": URI }));
    client.to = None;
    assert_eq!(client.server.take().unwrap().join().unwrap(), 1);
}

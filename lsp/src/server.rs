//! The server: its state, its loop, and its life from `initialize` to `exit`.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender, select, unbounded};
use lsp_server::{ErrorCode, Message, Notification, Request, RequestId, Response};
use lsp_types::{
    ClientCapabilities, CodeActionKind, CodeActionOptions, CodeActionProviderCapability, DiagnosticOptions,
    DiagnosticServerCapabilities, DidChangeConfigurationParams, DidChangeTextDocumentParams,
    DidCloseTextDocumentParams, DidOpenTextDocumentParams, DidSaveTextDocumentParams, ExecuteCommandOptions,
    HoverProviderCapability, InitializeParams, InitializeResult, SaveOptions, ServerCapabilities, ServerInfo,
    TextDocumentSyncCapability, TextDocumentSyncKind, TextDocumentSyncOptions, TextDocumentSyncSaveOptions, Uri,
    WorkDoneProgressCancelParams, WorkDoneProgressOptions,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::document::Document;
use crate::features::{COMMANDS, KINDS};
use crate::jobs::Running;
use crate::position::Encoding;
use crate::rpc::{self, Incoming};
use crate::settings::{Settings, When};
use crate::worker::{Opener, Work, Worker};

/// Serves one client until it says `exit` or closes its stream. Returns the process's exit code.
pub fn serve(
    input: impl Read + Send + 'static,
    mut output: impl Write + Send + 'static,
    log: Option<Box<dyn Write + Send>>,
    open: Opener,
) -> u8 {
    let (to_client, outbox) = unbounded::<Value>();
    let (inbox, from_client) = unbounded::<Incoming>();
    // Not joined: it may wait for input that never comes.
    std::thread::spawn(move || {
        let mut input = BufReader::new(input);
        while let Ok(Some(incoming)) = rpc::read(&mut input) {
            if inbox.send(incoming).is_err() {
                break;
            }
        }
    });
    let writer = std::thread::spawn(move || {
        for message in outbox {
            if rpc::write(&mut output, &message).is_err() {
                break;
            }
        }
    });
    let mut server = Server::new(to_client, log, Worker::start(open));
    let code = server.run(&from_client);
    drop(server);
    // It has been seen to write, or its client is gone.
    _ = writer.join();
    code
}

/// Where in its life the server is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Created,
    Running,
    ShutDown,
}

/// What the client can do.
#[derive(Clone, Copy, Default)]
pub(crate) struct Client {
    /// Asks for diagnostics, and asks again when told to.
    pub pull: bool,
    /// Takes edits with versions.
    pub versioned: bool,
    /// Shows progress that the server begins.
    pub progress: bool,
    configuration: bool,
    dynamic_configuration: bool,
}

/// A request of ours that waits for the client's answer.
pub(crate) enum Asked {
    /// Its settings.
    Settings,
    /// To apply an edit, for a request of its own.
    Apply(RequestId),
    /// Something whose answer does not matter.
    Whatever,
}

pub(crate) struct Server {
    to_client: Sender<Value>,
    log: Option<Box<dyn Write + Send>>,
    stage: Stage,
    pub encoding: Encoding,
    pub client: Client,
    pub settings: Settings,
    pub documents: HashMap<String, (Uri, Document)>,
    pub jobs: HashMap<u64, Running>,
    pub worker: Worker,
    asked: HashMap<i32, Asked>,
    last_id: i32,
    pub last_job: u64,
}

impl Server {
    fn new(to_client: Sender<Value>, log: Option<Box<dyn Write + Send>>, worker: Worker) -> Self {
        Self {
            to_client,
            log,
            stage: Stage::Created,
            encoding: Encoding::default(),
            client: Client::default(),
            settings: Settings::default(),
            documents: HashMap::new(),
            jobs: HashMap::new(),
            worker,
            asked: HashMap::new(),
            last_id: 0,
            last_job: 0,
        }
    }

    fn run(&mut self, from_client: &Receiver<Incoming>) -> u8 {
        let reports = self.worker.reports.clone();
        let code = loop {
            select! {
                recv(from_client) -> incoming => match incoming {
                    Err(_) => break 1,
                    Ok(Incoming::Malformed(answer)) => {
                        self.note(&format!("malformed: {answer}"));
                        self.send(answer);
                    }
                    Ok(Incoming::Message(Message::Notification(message))) if message.method == "exit" => {
                        break u8::from(self.stage != Stage::ShutDown);
                    }
                    Ok(Incoming::Message(message)) => self.take(message),
                },
                recv(reports) -> report => if let Ok(report) = report { self.report(report) },
            }
        };
        self.cancel_jobs(|_| true, None);
        code
    }

    /// One message. A defect in answering it must not end the server.
    fn take(&mut self, message: Message) {
        let id = match &message {
            Message::Request(request) => Some(request.id.clone()),
            _ => None,
        };
        let taken = catch_unwind(AssertUnwindSafe(|| match message {
            Message::Request(request) => self.request(request),
            Message::Notification(notification) => self.notification(notification),
            Message::Response(response) => self.response(response),
        }));
        if taken.is_err()
            && let Some(id) = id
        {
            self.fail(id, ErrorCode::InternalError, "a defect of the server");
        }
    }

    fn request(&mut self, request: Request) {
        let Request { id, method, params } = request;
        self.note(&format!("request {id} {method}"));
        match (self.stage, method.as_str()) {
            (Stage::Created, "initialize") => match parse(params) {
                Ok(params) => self.initialize(id, params),
                Err(error) => self.fail(id, ErrorCode::InvalidParams, &error),
            },
            (Stage::Created, _) => self.fail(id, ErrorCode::ServerNotInitialized, "initialize comes first"),
            (_, "initialize") => self.fail(id, ErrorCode::InvalidRequest, "initialized already"),
            (Stage::ShutDown, _) => self.fail(id, ErrorCode::InvalidRequest, "shut down"),
            (_, "shutdown") => {
                self.stage = Stage::ShutDown;
                self.cancel_jobs(|_| true, Some((ErrorCode::ServerCancelled, "shut down")));
                self.answer(id, Value::Null);
            }
            (_, method) => match self.feature(&id, method, params) {
                None => self.fail(id, ErrorCode::MethodNotFound, &format!("unknown method {method}")),
                // The answer comes later.
                Some(Ok(None)) => {}
                Some(Ok(Some(value))) => self.answer(id, value),
                Some(Err((code, why))) => self.fail(id, code, &why),
            },
        }
    }

    fn initialize(&mut self, id: RequestId, params: InitializeParams) {
        self.stage = Stage::Running;
        let capabilities = params.capabilities;
        let offered = capabilities.general.as_ref().and_then(|general| general.position_encodings.clone());
        self.encoding = Encoding::choose(&offered.unwrap_or_default());
        self.client = Client::of(&capabilities);
        if let Some(options) = params.initialization_options {
            self.set(options);
        }
        let result = InitializeResult {
            capabilities: self.capabilities(),
            server_info: Some(ServerInfo { name: "critic".into(), version: Some(env!("CARGO_PKG_VERSION").into()) }),
        };
        self.answer(id, to_value(result));
    }

    fn capabilities(&self) -> ServerCapabilities {
        let diagnostics = DiagnosticOptions { identifier: Some("critic".into()), ..Default::default() };
        ServerCapabilities {
            position_encoding: Some(self.encoding.kind()),
            text_document_sync: Some(TextDocumentSyncCapability::Options(TextDocumentSyncOptions {
                open_close: Some(true),
                change: Some(TextDocumentSyncKind::INCREMENTAL),
                save: Some(TextDocumentSyncSaveOptions::SaveOptions(SaveOptions { include_text: Some(false) })),
                ..Default::default()
            })),
            hover_provider: Some(HoverProviderCapability::Simple(true)),
            code_action_provider: Some(CodeActionProviderCapability::Options(CodeActionOptions {
                code_action_kinds: Some(KINDS.into_iter().map(CodeActionKind::from).collect()),
                ..Default::default()
            })),
            execute_command_provider: Some(ExecuteCommandOptions {
                commands: COMMANDS.into_iter().map(str::to_owned).collect(),
                work_done_progress_options: WorkDoneProgressOptions { work_done_progress: Some(true) },
            }),
            diagnostic_provider: self.client.pull.then_some(DiagnosticServerCapabilities::Options(diagnostics)),
            ..Default::default()
        }
    }

    fn notification(&mut self, notification: Notification) {
        let Notification { method, params } = notification;
        if self.stage != Stage::Running {
            return;
        }
        let taken = match method.as_str() {
            "initialized" => {
                self.ask_settings();
                if self.client.dynamic_configuration {
                    let registration = json!({ "id": "settings", "method": "workspace/didChangeConfiguration" });
                    self.ask("client/registerCapability", json!({ "registrations": [registration] }), Asked::Whatever);
                }
                Ok(())
            }
            "textDocument/didOpen" => parse(params).map(|params: DidOpenTextDocumentParams| {
                let opened = params.text_document;
                let document = Document::new(opened.text, opened.version, opened.language_id);
                self.documents.insert(opened.uri.as_str().to_owned(), (opened.uri, document));
            }),
            "textDocument/didChange" => parse(params).map(|params: DidChangeTextDocumentParams| self.changed(params)),
            "textDocument/didSave" => parse(params).map(|params: DidSaveTextDocumentParams| {
                if self.settings.run == When::OnSave {
                    self.saved(params.text_document.uri.as_str());
                }
            }),
            "textDocument/didClose" => parse(params).map(|params: DidCloseTextDocumentParams| {
                let key = params.text_document.uri.as_str().to_owned();
                let closed = Some((ErrorCode::ContentModified, "the document was closed"));
                self.cancel_jobs(|job| job.document == key, closed);
                if let Some((_, document)) = self.documents.get_mut(&key) {
                    document.findings.clear();
                    self.publish(&key);
                }
                self.documents.remove(&key);
            }),
            "workspace/didChangeConfiguration" => {
                parse(params).map(|params: DidChangeConfigurationParams| match self.client.configuration {
                    true => self.ask_settings(),
                    false => self.set(params.settings.get("critic").cloned().unwrap_or(params.settings)),
                })
            }
            "window/workDoneProgress/cancel" => parse(params).map(|params: WorkDoneProgressCancelParams| {
                let cancelled = Some((ErrorCode::RequestCanceled, "cancelled"));
                self.cancel_jobs(|job| job.token.as_ref() == Some(&params.token), cancelled);
            }),
            "$/cancelRequest" => parse(params).map(|params: Cancel| {
                let cancelled = Some((ErrorCode::RequestCanceled, "cancelled"));
                self.cancel_jobs(|job| job.request.as_ref() == Some(&params.id), cancelled);
            }),
            // Notifications that are not known are no mistake.
            _ => Ok(()),
        };
        if let Err(error) = taken {
            self.note(&format!("{method}: {error}"));
        }
    }

    fn changed(&mut self, params: DidChangeTextDocumentParams) {
        let key = params.text_document.uri.as_str().to_owned();
        let stale = Some((ErrorCode::ContentModified, "the document has changed"));
        self.cancel_jobs(|job| job.document == key, stale);
        let encoding = self.encoding;
        let Some((_, document)) = self.documents.get_mut(&key) else { return };
        let had = !document.findings.is_empty();
        document.change(params.text_document.version, params.content_changes, encoding);
        if had {
            self.publish(&key);
        }
    }

    fn saved(&mut self, key: &str) {
        let Some((_, document)) = self.documents.get(key) else { return };
        if self.settings.offers(document.language.id) || self.settings.offers(&document.language_id) {
            let range = 0..document.text.len();
            // What is too long is not for saving to complain about.
            _ = self.begin(key, Work::Critique, range, None, None);
        }
    }

    fn response(&mut self, response: Response) {
        let id = serde_json::to_value(&response.id).ok().and_then(|id| id.as_i64());
        let asked = id.and_then(|id| self.asked.remove(&i32::try_from(id).ok()?));
        match (asked, response.response_result) {
            (Some(Asked::Settings), Ok(value)) => {
                let own = value.get(0).cloned().unwrap_or(value);
                if !own.is_null() {
                    self.set(own);
                }
            }
            (Some(Asked::Apply(id)), Ok(value)) => self.answer(id, json!({ "applied": value["applied"] == true })),
            (Some(Asked::Apply(id)), Err(error)) => self.fail(id, ErrorCode::RequestFailed, &error.message),
            _ => {}
        }
    }

    fn set(&mut self, value: Value) {
        match Settings::read(value) {
            Ok(settings) => self.settings = settings,
            Err(error) => self.show_error(&error),
        }
    }

    fn ask_settings(&mut self) {
        if self.client.configuration {
            self.ask("workspace/configuration", json!({ "items": [{ "section": "critic" }] }), Asked::Settings);
        }
    }

    /// A message that a person sees.
    pub fn show_error(&mut self, message: &str) {
        self.note(message);
        self.notify("window/showMessage", json!({ "type": 1, "message": message }));
    }

    pub fn ask(&mut self, method: &str, params: Value, asked: Asked) {
        self.last_id += 1;
        self.asked.insert(self.last_id, asked);
        self.send(json!({ "jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params }));
    }

    pub fn notify(&mut self, method: &str, params: Value) {
        self.send(json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    pub fn answer(&mut self, id: RequestId, result: Value) {
        self.send(json!({ "jsonrpc": "2.0", "id": id, "result": result }));
    }

    pub fn fail(&mut self, id: RequestId, code: ErrorCode, message: &str) {
        self.note(&format!("failed {id}: {message}"));
        self.send(json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code as i32, "message": message } }));
    }

    fn send(&mut self, message: Value) {
        // Without a writer there is no client, and the loop ends.
        _ = self.to_client.send(message);
    }

    /// A line of the log. Texts of documents are never logged.
    pub fn note(&mut self, line: &str) {
        if let Some(log) = &mut self.log {
            // A full disk must not end the server.
            _ = writeln!(log, "{line}").and_then(|()| log.flush());
        }
    }
}

#[derive(Deserialize)]
struct Cancel {
    id: RequestId,
}

impl Client {
    fn of(capabilities: &ClientCapabilities) -> Self {
        let workspace = capabilities.workspace.as_ref();
        let window = capabilities.window.as_ref();
        let asks = capabilities.text_document.as_ref().is_some_and(|text| text.diagnostic.is_some());
        // Without it, findings that come later would never be asked for.
        let asks_again = workspace.and_then(|w| w.diagnostic.as_ref()).and_then(|d| d.refresh_support) == Some(true);
        let edit = workspace.and_then(|w| w.workspace_edit.as_ref());
        let changes = workspace.and_then(|w| w.did_change_configuration.as_ref());
        Self {
            pull: asks && asks_again,
            versioned: edit.and_then(|edit| edit.document_changes) == Some(true),
            progress: window.and_then(|w| w.work_done_progress) == Some(true),
            configuration: workspace.and_then(|w| w.configuration) == Some(true),
            dynamic_configuration: changes.and_then(|c| c.dynamic_registration) == Some(true),
        }
    }
}

/// Parameters of a message.
pub(crate) fn parse<P: DeserializeOwned>(params: Value) -> Result<P, String> {
    serde_json::from_value(params).map_err(|error| format!("parameters: {error}"))
}

/// The protocol's types are all JSON.
pub(crate) fn to_value(value: impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

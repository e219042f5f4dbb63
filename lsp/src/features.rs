//! What a client can ask: diagnostics, hover, code actions, commands.

use std::ops::Range;

use critic::{Finding, Severity, findings};
use lsp_server::{ErrorCode, RequestId};
use lsp_types::{
    CodeAction, CodeActionKind, CodeActionOrCommand, CodeActionParams, Command, Diagnostic, DiagnosticSeverity,
    DocumentDiagnosticParams, ExecuteCommandParams, Hover, HoverContents, HoverParams, MarkupContent, MarkupKind,
    Position, Uri,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::document::Document;
use crate::edits;
use crate::server::{Asked, Server, parse, to_value};
use crate::split;
use crate::worker::Work;

const CRITIQUE: &str = "critic.critique";
const REFINE: &str = "critic.refine";
const APPLY: &str = "critic.applyRefinement";
const DISCARD: &str = "critic.discardRefinement";
const CLEAR: &str = "critic.clear";

/// All commands.
pub(crate) const COMMANDS: [&str; 5] = [CRITIQUE, REFINE, APPLY, DISCARD, CLEAR];

const FIX: &str = "quickfix";
const FIX_ALL: &str = "source.fixAll.critic";
const ASK: &str = "refactor.critic";
const REWRITE: &str = "refactor.rewrite.critic";

/// All kinds of actions.
pub(crate) const KINDS: [&str; 4] = [FIX, FIX_ALL, ASK, REWRITE];

/// What comes of a request: an answer, or `None` if it comes later; or why not.
type Answer = Result<Option<Value>, (ErrorCode, String)>;

/// What a command is about.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct About {
    uri: Uri,
    #[serde(default)]
    scope: Scope,
    range: Option<lsp_types::Range>,
    position: Option<Position>,
    /// Whether the answer waits for the result; otherwise it shows where it shows.
    #[serde(default = "yes")]
    wait: bool,
    id: Option<u64>,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scope {
    Selection,
    Function,
    #[default]
    Document,
}

impl Server {
    /// Answers a request; `None` if there is no such one.
    pub fn feature(&mut self, id: &RequestId, method: &str, params: Value) -> Option<Answer> {
        let invalid = |why: String| (ErrorCode::InvalidParams, why);
        Some(match method {
            "textDocument/diagnostic" => parse(params).map_err(invalid).map(|params: DocumentDiagnosticParams| {
                let items = self.diagnostics(params.text_document.uri.as_str());
                Some(json!({ "kind": "full", "items": items }))
            }),
            "textDocument/hover" => {
                parse(params).map_err(invalid).map(|params: HoverParams| Some(to_value(self.hover(&params))))
            }
            "textDocument/codeAction" => {
                parse(params).map_err(invalid).map(|params: CodeActionParams| Some(to_value(self.actions(&params))))
            }
            "workspace/executeCommand" => {
                parse(params).map_err(invalid).and_then(|params: ExecuteCommandParams| self.command(id, params))
            }
            _ => return None,
        })
    }

    /// Tells the client that findings have changed, in the way that it can take.
    pub fn publish(&mut self, key: &str) {
        let Some((uri, document)) = self.documents.get(key) else { return };
        if self.client.pull {
            self.ask("workspace/diagnostic/refresh", Value::Null, Asked::Whatever);
            return;
        }
        let params = json!({ "uri": uri, "version": document.version, "diagnostics": self.diagnostics(key) });
        self.notify("textDocument/publishDiagnostics", params);
    }

    fn diagnostics(&self, key: &str) -> Vec<Diagnostic> {
        let Some((_, document)) = self.documents.get(key) else { return Vec::new() };
        document.findings.iter().map(|finding| self.diagnostic(document, finding)).collect()
    }

    fn diagnostic(&self, document: &Document, finding: &Finding) -> Diagnostic {
        let severity = match finding.severity {
            Severity::Error => DiagnosticSeverity::ERROR,
            Severity::Warning => DiagnosticSeverity::WARNING,
            Severity::Note => DiagnosticSeverity::INFORMATION,
        };
        Diagnostic {
            range: document.lines.positions(&document.text, finding.start..finding.end, self.encoding),
            severity: Some(severity),
            source: Some("critic".into()),
            message: finding.message.clone(),
            ..Default::default()
        }
    }

    fn hover(&self, params: &HoverParams) -> Option<Hover> {
        let at = &params.text_document_position_params;
        let (_, document) = self.documents.get(at.text_document.uri.as_str())?;
        let byte = document.lines.offset(&document.text, at.position, self.encoding);
        let here: Vec<&Finding> = document
            .findings
            .iter()
            .filter(|finding| (finding.start..finding.end.max(finding.start + 1)).contains(&byte))
            .collect();
        let first = here.first()?;
        let texts: Vec<String> = here.iter().map(|finding| in_full(finding)).collect();
        // A model's words are no markup.
        let contents = HoverContents::Markup(MarkupContent { kind: MarkupKind::PlainText, value: texts.join("\n\n") });
        let range = document.lines.positions(&document.text, first.start..first.end, self.encoding);
        Some(Hover { contents, range: Some(range) })
    }

    fn actions(&self, params: &CodeActionParams) -> Vec<CodeActionOrCommand> {
        let uri = &params.text_document.uri;
        let Some((_, document)) = self.documents.get(uri.as_str()) else { return Vec::new() };
        if !self.settings.offers(document.language.id) && !self.settings.offers(&document.language_id) {
            return Vec::new();
        }
        let mut actions = self.fixes(params, uri, document);
        let range = document.lines.span(&document.text, params.range, self.encoding);
        let mut about = |title: &str, kind: &'static str, command: &str, scope: &str| {
            let argument = json!({
                "uri": uri, "scope": scope, "range": params.range, "position": params.range.start, "wait": false
            });
            actions.push(action(title, kind, command, argument));
        };
        let unit = if document.language.prose { "paragraph" } else { "function" };
        if !range.is_empty() {
            about("Critique selection", ASK, CRITIQUE, "selection");
            about("Refine selection", REWRITE, REFINE, "selection");
        }
        about(&format!("Critique {unit}"), ASK, CRITIQUE, "function");
        about("Critique document", ASK, CRITIQUE, "document");
        about(&format!("Refine {unit}"), REWRITE, REFINE, "function");
        about("Refine document", REWRITE, REFINE, "document");
        if let Some(refinement) = &document.refinement {
            actions.push(action("Apply refinement", REWRITE, APPLY, json!({ "uri": uri, "id": refinement.id })));
        }
        let wanted = |kind: &CodeActionKind| match &params.context.only {
            None => true,
            Some(only) => only.iter().any(|only| {
                let (kind, only) = (kind.as_str(), only.as_str());
                kind == only || only.is_empty() || kind.strip_prefix(only).is_some_and(|rest| rest.starts_with('.'))
            }),
        };
        let kept = actions.into_iter().filter(|action| action.kind.as_ref().is_none_or(wanted));
        kept.map(CodeActionOrCommand::CodeAction).collect()
    }

    /// Quick fixes of the findings here, and all that do not overlap.
    fn fixes(&self, params: &CodeActionParams, uri: &Uri, document: &Document) -> Vec<CodeAction> {
        let range = document.lines.span(&document.text, params.range, self.encoding);
        let edit = |findings: &[&Finding]| {
            let replace = |finding: &&Finding| {
                let new = finding.replacement.as_deref().unwrap_or_default();
                edits::replacement(document, finding.start..finding.end, new, self.encoding)
            };
            edits::of_document(uri, document, findings.iter().map(replace).collect(), self.client.versioned)
        };
        let here = document.findings.iter().filter(|f| f.start <= range.end && range.start <= f.end);
        let mut actions: Vec<CodeAction> = here
            .filter_map(|finding| {
                let replacement = finding.replacement.as_deref()?;
                let title = match replacement {
                    "" => format!("Remove “{}”", brief(&finding.quote)),
                    replacement => format!("Replace “{}” with “{}”", brief(&finding.quote), brief(replacement)),
                };
                Some(CodeAction {
                    title,
                    kind: Some(CodeActionKind::QUICKFIX),
                    diagnostics: Some(vec![self.diagnostic(document, finding)]),
                    edit: Some(edit(&[finding])),
                    is_preferred: Some(true),
                    ..Default::default()
                })
            })
            .collect();
        let all = findings::applicable(&document.findings);
        if !all.is_empty() {
            actions.push(CodeAction {
                title: format!("Fix all findings of critic ({})", all.len()),
                kind: Some(FIX_ALL.into()),
                edit: Some(edit(&all)),
                ..Default::default()
            });
        }
        actions
    }

    fn command(&mut self, id: &RequestId, params: ExecuteCommandParams) -> Answer {
        let invalid = |why: String| (ErrorCode::InvalidParams, why);
        let command = params.command.as_str();
        if !COMMANDS.contains(&command) {
            return Err(invalid(format!("unknown command {command}")));
        }
        let argument = params.arguments.into_iter().next().unwrap_or(Value::Null);
        let about: About = parse(argument).map_err(invalid)?;
        let key = about.uri.as_str().to_owned();
        let Some((uri, document)) = self.documents.get_mut(&key) else {
            return Err(invalid(format!("{key} is not open")));
        };
        match command {
            CRITIQUE | REFINE => {
                let range = part(document, &about, self.encoding).map_err(invalid)?;
                let work = if command == CRITIQUE { Work::Critique } else { Work::Refine };
                let request = about.wait.then(|| id.clone());
                let token = params.work_done_progress_params.work_done_token;
                self.begin(&key, work, range, request, token).map_err(|why| (ErrorCode::RequestFailed, why))?;
                Ok(if about.wait { None } else { Some(Value::Null) })
            }
            APPLY => {
                let known = document.refinement.as_ref().filter(|known| about.id.is_none_or(|id| id == known.id));
                let Some(refinement) = known.cloned() else {
                    let why = "the document has changed since the refinement was written".to_owned();
                    return Err((ErrorCode::ContentModified, why));
                };
                let edits = edits::minimal(document, refinement.range, &refinement.text, self.encoding);
                let edit = edits::of_document(uri, document, edits, self.client.versioned);
                let params = json!({ "label": "Apply refinement", "edit": edit });
                self.ask("workspace/applyEdit", params, Asked::Apply(id.clone()));
                Ok(None)
            }
            DISCARD => {
                document.refinement = None;
                Ok(Some(Value::Null))
            }
            _ => {
                document.findings.clear();
                self.publish(&key);
                Ok(Some(Value::Null))
            }
        }
    }
}

/// The bytes that a command is about.
fn part(document: &Document, about: &About, encoding: crate::position::Encoding) -> Result<Range<usize>, String> {
    let (text, lines) = (&document.text, &document.lines);
    match about.scope {
        Scope::Document => Ok(0..text.len()),
        Scope::Selection => {
            let range = about.range.ok_or("parameters: a selection needs its range")?;
            Ok(lines.span(text, range, encoding))
        }
        Scope::Function => {
            let position = about.position.or(about.range.map(|range| range.start));
            let position = position.ok_or("parameters: a function needs a position in it")?;
            Ok(split::around(text, document.language, lines.offset(text, position, encoding)))
        }
    }
}

fn action(title: &str, kind: &'static str, command: &str, argument: Value) -> CodeAction {
    let command = Command { title: title.to_owned(), command: command.to_owned(), arguments: Some(vec![argument]) };
    CodeAction { title: title.to_owned(), kind: Some(kind.into()), command: Some(command), ..Default::default() }
}

/// A finding in words.
fn in_full(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let mut text = format!("{severity}: {}", finding.message);
    match finding.replacement.as_deref() {
        None => {}
        Some("") => text += "\nbetter without it",
        Some(replacement) => text += &format!("\nbetter: {replacement}"),
    }
    text
}

/// The beginning of a text, on one line.
fn brief(text: &str) -> String {
    const LENGTH: usize = 32;
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= LENGTH { line } else { line.chars().take(LENGTH - 1).chain(['…']).collect() }
}

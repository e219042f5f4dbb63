//! Compiles a Jinja chat template to what stands around messages.
//!
//! A template is a program; our file holds data. So the program is run here, once, on
//! conversations of sentinels, and what it puts before, between and behind them are the
//! affixes. Then further conversations are rendered both ways and compared, character by
//! character: a template that is more than affixes is refused, never approximated in
//! silence. Control tokens become ids at this point, so that no text can become one later.

use critic::file::{Affixes, ChatTemplate, Part};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};

use crate::error::{Error, Result};

/// Steps that a rendering may take: a template comes from a stranger, and may loop.
const FUEL: u64 = 1_000_000;

/// The tokens that a template can name.
#[derive(Clone, Debug, Default)]
pub struct SpecialTokens {
    /// Every control token's text and id.
    pub controls: Vec<(String, u32)>,
    /// Text of the beginning-of-sequence token, `bos_token` to the template.
    pub bos: Option<String>,
    /// Text of the end-of-sequence token, `eos_token` to the template.
    pub eos: Option<String>,
}

/// A compiled template, and where it says less than its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The template.
    pub template: ChatTemplate,
    /// Differences to the source that no other form could avoid: one sentence each.
    pub notes: Vec<String>,
}

/// Compiles the Jinja text `source`.
pub fn compile(source: &str, tokens: &SpecialTokens) -> Result<Compiled> {
    let program = Program::new(source, tokens)?;
    let mut notes = Vec::new();
    let mut draft = Draft::derive(&program, &mut notes)?;
    draft.trim = trims(&program, &mut notes)?;
    draft.verify(&program, false)?;
    if draft.system_is_exact
        && let Err(error) = draft.verify(&program, true)
    {
        notes.push(format!("with a system message, ours differs ({error})"));
    }
    Ok(Compiled { template: draft.split(&tokens.controls), notes })
}

const SYSTEM: &str = "system";
const USER: &str = "user";
const ASSISTANT: &str = "assistant";

/// Role and content.
type Message<'a> = (&'a str, &'a str);

// Sentinels: words that no template contains or changes.
const S: Message = (SYSTEM, "QzSystemZq");
const U1: Message = (USER, "QzUserOneZq");
const A1: Message = (ASSISTANT, "QzAssistantOneZq");
const U2: Message = (USER, "QzUserTwoZq");

/// The template as a program.
struct Program<'a> {
    environment: Environment<'a>,
    bos: &'a str,
    eos: &'a str,
}

impl<'a> Program<'a> {
    fn new(source: &'a str, tokens: &'a SpecialTokens) -> Result<Self> {
        let mut environment = Environment::new();
        // As transformers sets them.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| Error::Template(error.to_string()))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |why: String| -> std::result::Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
        });
        // Most templates ask whether there is a clock, and have a date of their own where
        // there is none: that one is kept.
        if !source.contains("strftime_now is defined") {
            environment.add_function("strftime_now", |format: String| date(&format));
        }
        environment
            .add_template("chat", source)
            .map_err(|error| Error::Template(format!("does not parse: {error:#}")))?;
        let text = |token: &'a Option<String>| token.as_deref().unwrap_or_default();
        Ok(Self { environment, bos: text(&tokens.bos), eos: text(&tokens.eos) })
    }

    fn render(&self, messages: &[Message], generate: bool) -> Result<String> {
        let list: Vec<Value> = messages.iter().map(|&(role, content)| context! { role, content }).collect();
        let context = context! {
            messages => list,
            add_generation_prompt => generate,
            // A critic answers at once; where a template can switch thinking off, it does.
            enable_thinking => false,
            tools => Value::from(()),
            documents => Value::from(()),
            bos_token => self.bos,
            eos_token => self.eos,
        };
        let template = self.environment.get_template("chat").and_then(|template| template.render(context));
        template.map_err(|error| Error::Template(format!("{}: {error:#}", describe(messages, generate))))
    }
}

/// The date that is put into templates which insist on one. Fixed, so that the same source
/// always gives the same file: the day that Llama 3's own templates fall back to.
fn date(format: &str) -> String {
    [("%d", "26"), ("%b", "Jul"), ("%B", "July"), ("%m", "07"), ("%Y", "2024"), ("%y", "24")]
        .iter()
        .fold(format.to_owned(), |text, (code, value)| text.replace(code, value))
}

/// Names a probe for messages.
fn describe(messages: &[Message], generate: bool) -> String {
    let roles: Vec<&str> = messages.iter().map(|(role, _)| *role).collect();
    format!("probe [{}]{}", roles.join(", "), if generate { " with generation prompt" } else { "" })
}

fn refuse(messages: &[Message], why: &str) -> Error {
    Error::Template(format!("{}: {why}", describe(messages, false)))
}

/// A template as text, before control tokens are told apart.
#[derive(Clone, Debug, Default)]
struct Draft {
    start: String,
    system: Option<(String, String)>,
    system_separator: String,
    default_system: Option<String>,
    user: (String, String),
    assistant: (String, String),
    generation: String,
    /// Whether the source's rendering with a system message is ours, too.
    system_is_exact: bool,
    trim: bool,
}

impl Draft {
    fn derive(program: &Program, notes: &mut Vec<String>) -> Result<Self> {
        let dialog = [U1, A1, U2];
        let [before, between_ua, between_au, user_suffix] = pieces(program, &dialog)?;
        let [_, _, assistant_suffix] = pieces(program, &[U1, A1])?;
        let strip = |text: &str, prefix: &str, what: &str| {
            text.strip_prefix(prefix).map(str::to_owned).ok_or_else(|| {
                refuse(&dialog, &format!("expected {prefix:?} behind the {what}'s message, found {text:?}"))
            })
        };
        let assistant_prefix = strip(&between_ua, &user_suffix, USER)?;
        let user_prefix = strip(&between_au, &assistant_suffix, ASSISTANT)?;
        // What stands before the first message, a default system message included.
        let lead = before.strip_suffix(&user_prefix).ok_or_else(|| {
            refuse(&dialog, &format!("expected {user_prefix:?} before the first message, found {before:?}"))
        })?;
        let plain = program.render(&[U1], false)?;
        let prompt = program.render(&[U1], true)?;
        let generation = prompt
            .strip_prefix(&plain)
            .ok_or_else(|| refuse(&[U1], "the generation prompt changes what stands before it"))?;
        let mut draft = Self {
            start: lead.to_owned(),
            system_separator: "\n\n".to_owned(),
            user: (user_prefix, user_suffix),
            assistant: (assistant_prefix, assistant_suffix),
            generation: generation.to_owned(),
            ..Self::default()
        };
        match pieces(program, &[S, U1]) {
            Ok([before_system, between, _]) => {
                draft.derive_system(lead, &before, &before_system, &between, program.bos)
            }
            Err(error) => notes.push(format!("the template takes no system message ({error})")),
        }
        if draft.system.is_none() && !draft.system_is_exact {
            notes.push(
                "system messages are put before the first user message, which the source's template does not do".into(),
            );
        }
        Ok(draft)
    }

    /// `lead`: before the first user prefix where there is no system message; `before`: the
    /// same with the prefix; `before_system` and `between`: around a system message.
    fn derive_system(&mut self, lead: &str, before: &str, before_system: &str, between: &str, bos: &str) {
        let Some(suffix) = between.strip_suffix(&self.user.0).filter(|_| !self.user.0.is_empty()) else {
            // No user prefix between them. If the one prefix of the turn stands before the
            // system's text, that text is the beginning of the turn.
            if before_system == before {
                self.system_separator = between.to_owned();
                self.system_is_exact = true;
            }
            return;
        };
        let default = lead.strip_prefix(before_system).and_then(|rest| rest.strip_suffix(suffix));
        if let Some(default) = default.filter(|_| !before_system.is_empty()) {
            self.default_system = Some(default.to_owned());
            self.start = if before_system.starts_with(bos) { bos.to_owned() } else { String::new() };
        }
        if let Some(prefix) = before_system.strip_prefix(&self.start) {
            self.system = Some((prefix.to_owned(), suffix.to_owned()));
            self.system_is_exact = true;
        }
    }

    /// Our rendering, as the runtime does it.
    fn render(&self, messages: &[Message], generate: bool) -> String {
        let content = |text: &str| if self.trim { text.trim().to_owned() } else { text.to_owned() };
        let mut out = self.start.clone();
        let (system, rest) = match messages {
            [(SYSTEM, text), rest @ ..] => (Some(content(text)), rest),
            _ => (self.default_system.clone(), messages),
        };
        let mut merged = String::new();
        match (system, &self.system) {
            (Some(text), Some((prefix, suffix))) => out.extend([prefix.as_str(), &text, suffix]),
            (Some(text), None) => merged = text + &self.system_separator,
            (None, _) => {}
        }
        for (role, text) in rest {
            let (prefix, suffix) = if *role == USER { &self.user } else { &self.assistant };
            out.extend([prefix.as_str(), &std::mem::take(&mut merged), &content(text), suffix]);
        }
        if generate {
            out += &self.generation;
        }
        out
    }

    /// Renders conversations of up to three rounds both ways. They end with the user, as all
    /// do that a model is to answer.
    fn verify(&self, program: &Program, with_system: bool) -> Result<()> {
        // Spaces tell whether content is trimmed; the rest is what content is made of.
        let pad = if self.trim { " \n" } else { "" };
        let texts = ["Why?", "Because 2 < 3.\n\n- it's so", "Ünd \"now\"?\n", "{{ no }}", "1. a\n2. b"]
            .map(|text| format!("{pad}{text}{pad}"));
        let roles = [USER, ASSISTANT, USER, ASSISTANT, USER];
        for rounds in [1, 3, 5] {
            let system = with_system.then_some((SYSTEM, "Be brief.\nBe kind."));
            let dialog = roles.iter().zip(&texts).take(rounds).map(|(&role, text)| (role, text.as_str()));
            let messages: Vec<Message> = system.into_iter().chain(dialog).collect();
            for generate in [false, true] {
                let expected = program.render(&messages, generate)?;
                let ours = self.render(&messages, generate);
                if ours != expected {
                    let (expected, ours) = differing(&expected, &ours);
                    return Err(Error::Template(format!(
                        "{}: the source goes on with {expected:?} where affixes give {ours:?}",
                        describe(&messages, generate),
                    )));
                }
            }
        }
        Ok(())
    }

    fn split(self, controls: &[(String, u32)]) -> ChatTemplate {
        let parts = |text: &str| split_controls(text, controls);
        let affixes = |(prefix, suffix): &(String, String)| Affixes { prefix: parts(prefix), suffix: parts(suffix) };
        let generation = (self.generation != self.assistant.0).then(|| parts(&self.generation));
        ChatTemplate {
            start: parts(&self.start),
            system: self.system.as_ref().map(affixes),
            system_separator: self.system_separator,
            default_system: self.default_system,
            user: affixes(&self.user),
            assistant: affixes(&self.assistant),
            generation,
            trim: self.trim,
        }
    }
}

/// Where two texts part: the next few characters of each.
fn differing(a: &str, b: &str) -> (String, String) {
    let same: usize = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    let rest = |text: &str| text[same..].chars().take(40).collect();
    (rest(a), rest(b))
}

/// Renders `messages` and returns the text before, between and behind their contents.
fn pieces<const N: usize>(program: &Program, messages: &[Message]) -> Result<[String; N]> {
    let text = program.render(messages, false)?;
    let mut rest = text.as_str();
    let mut pieces = Vec::with_capacity(N);
    for (role, content) in messages {
        let Some((piece, behind)) = rest.split_once(content) else {
            return Err(refuse(messages, &format!("the {role}'s message is missing or out of order")));
        };
        if behind.contains(content) {
            return Err(refuse(messages, &format!("the {role}'s message occurs twice")));
        }
        pieces.push(piece.to_owned());
        rest = behind;
    }
    pieces.push(rest.to_owned());
    Ok(pieces.try_into().expect("one piece more than messages"))
}

/// Whether whitespace around content is trimmed.
fn trims(program: &Program, notes: &mut Vec<String>) -> Result<bool> {
    let padded = [(USER, " QzUserOneZq "), (ASSISTANT, " QzAssistantOneZq "), (USER, " QzUserTwoZq ")];
    let trimmed = program.render(&[U1, A1, U2], false)?;
    let text = program.render(&padded, false)?;
    if text == trimmed {
        return Ok(true);
    }
    let bare = text.replace(padded[0].1, U1.1).replace(padded[1].1, A1.1).replace(padded[2].1, U2.1);
    if bare != trimmed || padded.iter().any(|(_, content)| !text.contains(content)) {
        notes.push("the template trims some roles' messages and not others; ours trims none".into());
    }
    Ok(false)
}

/// Cuts `text` at control tokens, the longest that fits first.
fn split_controls(text: &str, controls: &[(String, u32)]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let control = controls
            .iter()
            .filter(|(token, _)| !token.is_empty() && rest.starts_with(token.as_str()))
            .max_by_key(|(token, _)| token.len());
        match control {
            Some((token, id)) => {
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(Part::Control(*id));
                rest = &rest[token.len()..];
            }
            None => {
                plain.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(names: &[&str], bos: &str, eos: &str) -> SpecialTokens {
        let controls = names.iter().zip(100..).map(|(name, id)| (name.to_string(), id)).collect();
        let token = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        SpecialTokens { controls, bos: token(bos), eos: token(eos) }
    }

    fn text(text: &str) -> Part {
        Part::Text(text.into())
    }

    fn chatml() -> SpecialTokens {
        tokens(&["<|im_start|>", "<|im_end|>", "<think>"], "", "<|im_end|>")
    }

    const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    #[test]
    fn chatml_without_default() {
        let Compiled { template, notes } = compile(CHATML, &chatml()).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        let affixes = |role: &str| Affixes {
            prefix: vec![Part::Control(100), text(&format!("{role}\n"))],
            suffix: vec![Part::Control(101), text("\n")],
        };
        let expected = ChatTemplate {
            system: Some(affixes("system")),
            system_separator: "\n\n".into(),
            user: affixes("user"),
            assistant: affixes("assistant"),
            ..ChatTemplate::default()
        };
        assert_eq!(template, expected);
    }

    #[test]
    fn chatml_with_default_system() {
        // SmolLM2's way: only where the first message is none.
        let source = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let Compiled { template, notes } = compile(source, &chatml()).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        assert_eq!(template.default_system.as_deref(), Some("You help."));
        assert_eq!((template.start.len(), template.trim, template.generation), (0, false, None));
        // Qwen2.5's way: before the loop.
        let source = r#"{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are Q.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"#;
        let template = compile(source, &chatml()).unwrap().template;
        assert_eq!(template.default_system.as_deref(), Some("You are Q."));
        assert_eq!(template.system.unwrap().prefix, [Part::Control(100), text("system\n")]);
    }

    #[test]
    fn qwen3_answers_without_thinking() {
        let source = r#"{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"#;
        let Compiled { template, notes } = compile(source, &chatml()).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        assert_eq!(template.assistant.prefix, [Part::Control(100), text("assistant\n")]);
        let generation = vec![Part::Control(100), text("assistant\n"), Part::Control(102), text("\n\n</think>\n\n")];
        assert_eq!(template.generation, Some(generation));
    }

    #[test]
    fn llama3_headers() {
        let tokens = tokens(
            &["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
            "<|begin_of_text|>",
            "<|eot_id|>",
        );
        let source = "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
        let Compiled { template, notes } = compile(source, &tokens).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        assert_eq!(template.start, [Part::Control(100)]);
        assert!(template.trim);
        let header = |role: &str| vec![Part::Control(101), text(role), Part::Control(102), text("\n\n")];
        assert_eq!(template.system.unwrap(), Affixes { prefix: header("system"), suffix: vec![Part::Control(103)] });
        assert_eq!(template.user.prefix, header("user"));
        assert_eq!((template.assistant.prefix, template.generation), (header("assistant"), None));
        // Llama 3.2's system block is there even where nobody says anything in it.
        let source = "{{ bos_token }}{% if not date is defined %}{% if strftime_now is defined %}{% set date = strftime_now('%d %b %Y') %}{% else %}{% set date = '26 Jul 2024' %}{% endif %}{% endif %}{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content']|trim %}{% set messages = messages[1:] %}{% else %}{% set system_message = '' %}{% endif %}{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date + '\n\n' + system_message + '<|eot_id|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
        let template = compile(source, &tokens).unwrap().template;
        assert_eq!((template.start, template.default_system.as_deref()), (vec![Part::Control(100)], Some("")));
        assert_eq!(template.system.unwrap().prefix.last(), Some(&text("\n\nToday Date: 26 Jul 2024\n\n")));
    }

    #[test]
    fn llama2_and_mistral_instructions() {
        let tokens = tokens(&["<s>", "</s>"], "<s>", "</s>");
        let source = "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";
        let Compiled { template, notes } = compile(source, &tokens).unwrap();
        assert_eq!(
            template.user,
            Affixes { prefix: vec![Part::Control(100), text("[INST] ")], suffix: vec![text(" [/INST]")] }
        );
        assert_eq!(
            template.assistant,
            Affixes { prefix: vec![text(" ")], suffix: vec![text(" "), Part::Control(101)] }
        );
        assert_eq!((template.generation, template.trim, template.system), (Some(vec![]), true, None));
        assert_eq!(notes.len(), 1, "the system's brackets are inside the first turn: {notes:?}");
        let source = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}";
        let Compiled { template, notes } = compile(source, &tokens).unwrap();
        assert_eq!((template.start, template.user.prefix), (vec![Part::Control(100)], vec![text("[INST] ")]));
        assert_eq!(notes.len(), 2, "{notes:?}");
    }

    #[test]
    fn a_system_message_in_the_last_turn_is_said_to_differ() {
        // Mistral 7B v0.3.
        let tokens = tokens(&["<s>", "</s>", "[INST]", "[/INST]"], "<s>", "</s>");
        let source = r#"{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token }}
    {%- endif %}
{%- endfor %}
"#;
        let Compiled { template, notes } = compile(source, &tokens).unwrap();
        assert_eq!((template.system, template.system_separator.as_str()), (None, "\n\n"));
        assert_eq!(template.user.prefix, [Part::Control(102), text(" ")]);
        assert!(notes.len() == 1 && notes[0].contains("with a system message"), "{notes:?}");
    }

    #[test]
    fn gemma_merges_the_system_into_the_first_turn() {
        let tokens = tokens(&["<bos>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>");
        let source = "{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = 'model' -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
";
        let Compiled { template, notes } = compile(source, &tokens).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        assert_eq!((template.system, template.system_separator.as_str(), template.trim), (None, "\n\n", true));
        assert_eq!(template.start, [Part::Control(100)]);
        assert_eq!(template.assistant.prefix, [Part::Control(101), text("model\n")]);
    }

    #[test]
    fn what_is_more_than_affixes_is_refused() {
        for (source, why) in [
            ("{% for m in messages %}{{ loop.length }}: {{ m.content }}\n{% endfor %}", "probe"),
            ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "missing"),
            ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "twice"),
            ("{% for m in messages %}[{{ m.role }}]{{ m.content | replace('2', '3') }}|{% endfor %}", "goes on with"),
            ("{% for m in messages %}", "parse"),
            (
                "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
                "fuel",
            ),
        ] {
            let error = compile(source, &chatml()).unwrap_err().to_string();
            assert!(error.contains(why), "{source}: {error}");
        }
    }

    #[test]
    fn the_longest_control_token_wins() {
        let controls = [("<a>".to_owned(), 1), ("<a><b>".to_owned(), 2)];
        assert_eq!(
            split_controls("x<a><b>y<a>", &controls),
            [text("x"), Part::Control(2), text("y"), Part::Control(1)]
        );
    }
}

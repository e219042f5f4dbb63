//! What can be said on the command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use critic::{Request, Sampling};
use critic_import::Quant;

use crate::failure::Failure;
use crate::text::{Source, read_all, required};

/// Reads a task and a draft, says what is wrong, and writes a better draft. Nothing leaves
/// this machine.
#[derive(Parser)]
#[command(name = "critic", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Say what is wrong with a draft, or with files
    Critique(CritiqueArgs),
    /// Write a better draft from a critique, given or made
    Refine(RefineArgs),
    /// Critique, refine, and keep the better text, for one or more rounds
    Improve(ImproveArgs),
    /// Show the loop on a built-in example, with everything that it needs
    Demo(DemoArgs),
    /// Write a model file from a GGUF file, a Hugging Face folder, or a model file
    Convert(ConvertArgs),
    /// Write a model in another program's format
    Export(ExportArgs),
    /// Say what is in a model
    Info(InfoArgs),
    /// Fetch a model, check it, and keep it; prints its path
    Pull(PullArgs),
    /// Continue a prompt
    Generate(GenerateArgs),
    /// Print the token ids of a text
    Tokenize(TokenizeArgs),
    /// Print the log-probability of each token of a text, and its perplexity
    Score(ScoreArgs),
    /// Write the logits of a list of token ids to a safetensors file
    Logits(LogitsArgs),
    /// Measure how far the fast path is from this model's own f32 path
    Kl(KlArgs),
    /// Measure the speed of this machine
    Bench(BenchArgs),
    /// Serve an editor on standard input and output (Language Server Protocol)
    Lsp(LspArgs),
}

/// Which model, and how it computes.
#[derive(Args, Clone)]
pub struct ModelArgs {
    /// A .critic or .gguf file, or the name of a pulled model [default: smollm2-135m]
    #[arg(long, short, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Threads [default: one for each core]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Instruction set: scalar, avx2, avx512 or neon [default: the fastest one]
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,
    /// Most tokens of context [default: the model's limit]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Activations with fifteen bits instead of eight: nearly exact arithmetic; reading takes twice
    /// as long, writing up to a fifth longer
    #[arg(long)]
    pub fine: bool,
    /// Folder in which what was evaluated of long prompts is left for the next call
    #[arg(long, value_name = "DIR")]
    pub prefix_cache: Option<PathBuf>,
    #[command(flatten)]
    pub adapted: AdapterArgs,
}

/// The adapter that makes a critic of the model.
#[derive(Args, Clone, Default)]
pub struct AdapterArgs {
    /// An adapter for the model: a file of ours, or a folder in PEFT's layout [default: the
    /// adapter in the model's own file, if any]
    #[arg(long, value_name = "FILE|DIR")]
    pub adapter: Option<PathBuf>,
    /// The base weights alone
    #[arg(long, conflicts_with = "adapter")]
    pub no_adapter: bool,
}

/// How tokens are chosen.
#[derive(Args, Clone)]
pub struct SamplingArgs {
    /// Key of all random choices
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// 0 always takes the likeliest token; 1 is the model's own distribution [default: 0, or
    /// 0.8 with several candidates]
    #[arg(long, allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Choose among the K likeliest tokens; 0 is all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Choose among tokens at least this share as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Make tokens that were just used less likely; 1 does nothing
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repetition_penalty: f32,
    /// Most tokens of each text; 0 is as many as the context holds
    #[arg(long, value_name = "TOKENS", default_value_t = 1024)]
    pub max_tokens: usize,
}

impl SamplingArgs {
    /// Checked here, so that a mistake is found before a model is opened.
    pub fn sampling(&self) -> Result<Sampling, Failure> {
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(0.0),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        };
        sampling.validate()?;
        Ok(sampling)
    }
}

/// The task and the draft.
#[derive(Args)]
pub struct LoopArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Category: dialog, summarization, qa, math, code, general, or another of the model's
    #[arg(long, default_value = "general")]
    pub task: String,
    /// What was asked; - is standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<OsString>,
    /// The same from a file
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,
    /// The draft that is criticised; - is standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub response: Option<OsString>,
    /// The same from a file
    #[arg(long, value_name = "FILE", conflicts_with = "response")]
    pub response_file: Option<PathBuf>,
    /// Rounds of critique and refinement
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=Request::MAX_ROUNDS as i64))]
    pub rounds: u32,
    /// Critiques to write and choose from
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=Request::MAX_CANDIDATES as i64))]
    pub candidates: u32,
    /// Make the critique a list of findings, each at an exact place of the draft
    #[arg(long)]
    pub structured: bool,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A draft, or files.
#[derive(Args)]
pub struct CritiqueArgs {
    /// Files to look through, in place of a draft: each finding is shown at its place
    #[arg(value_name = "FILES", conflicts_with_all = ["prompt_file", "response", "response_file", "structured", "rounds", "task"])]
    pub files: Vec<PathBuf>,
    /// Print findings in the format SARIF 2.1.0
    #[arg(long, conflicts_with = "json")]
    pub sarif: bool,
    /// Print findings as workflow commands, for a CI system to show beside the lines
    #[arg(long, conflicts_with_all = ["json", "sarif"])]
    pub annotations: bool,
    /// Exit with code 3 if something is found that is at least this grave
    #[arg(long, value_enum, value_name = "SEVERITY")]
    pub fail_on: Option<SeverityArg>,
    #[command(flatten)]
    pub request: LoopArgs,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum SeverityArg {
    Note,
    Warning,
    Error,
}

impl From<SeverityArg> for critic::Severity {
    fn from(severity: SeverityArg) -> Self {
        match severity {
            SeverityArg::Note => critic::Severity::Note,
            SeverityArg::Warning => critic::Severity::Warning,
            SeverityArg::Error => critic::Severity::Error,
        }
    }
}

#[derive(Args)]
pub struct ImproveArgs {
    #[command(flatten)]
    pub request: LoopArgs,
    /// Take the findings' replacements for the better draft, which costs no decoding
    #[arg(long)]
    pub apply: bool,
}

#[derive(Args)]
pub struct LspArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Write what happens to this file
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Standard input and output, which there is no alternative to: some editors say it
    #[arg(long, hide = true)]
    pub stdio: bool,
}

impl LoopArgs {
    /// The request, and the text of `extra`.
    pub fn request(&self, extra: Source) -> Result<(Request, Option<String>), Failure> {
        let sampling = self.sampling.sampling()?;
        let [prompt, response, extra] = read_all([
            Source { flag: "prompt", text: &self.prompt, file: &self.prompt_file },
            Source { flag: "response", text: &self.response, file: &self.response_file },
            extra,
        ])?;
        let request = Request {
            task: self.task.clone(),
            prompt: required(prompt, "prompt")?,
            response: required(response, "response")?,
            sampling,
            max_tokens: self.sampling.max_tokens,
            candidates: self.candidates as usize,
            rounds: self.rounds as usize,
            structured: self.structured,
            ..Request::default()
        };
        Ok((request, extra))
    }
}

#[derive(Args)]
pub struct RefineArgs {
    #[command(flatten)]
    pub request: LoopArgs,
    /// Take the findings' replacements for the better draft, which costs no decoding
    #[arg(long)]
    pub apply: bool,
    /// A critique to work from, in place of the model's own; - is standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub critique: Option<OsString>,
    /// The same from a file
    #[arg(long, value_name = "FILE", conflicts_with = "critique")]
    pub critique_file: Option<PathBuf>,
}

#[derive(Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Open no connection
    #[arg(long)]
    pub offline: bool,
    /// A tiny critic that is in the program: nothing is fetched
    #[arg(long, conflicts_with = "model")]
    pub tiny: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum QuantArg {
    Q4,
    Q8,
    F16,
    Keep,
}

impl From<QuantArg> for Quant {
    fn from(quant: QuantArg) -> Self {
        match quant {
            QuantArg::Q4 => Quant::Q4,
            QuantArg::Q8 => Quant::Q8,
            QuantArg::F16 => Quant::F16,
            QuantArg::Keep => Quant::Keep,
        }
    }
}

#[derive(Args)]
pub struct ConvertArgs {
    /// A GGUF file, a Hugging Face folder, or a .critic file
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// The model file to write
    #[arg(long, short, value_name = "OUT")]
    pub output: PathBuf,
    /// How weights are stored
    #[arg(long, value_enum, default_value = "keep")]
    pub quant: QuantArg,
    /// What the critic is told, in the form that `critic info --prompts` shows
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// A LoRA adapter in PEFT's layout, to stand beside the weights
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Add the adapter to the weights instead: the model is then a critic alone, and has no utility advantage
    #[arg(long, requires = "adapter")]
    pub merge: bool,
    /// Merge an activated adapter too, which changes how the prompt and the draft are read
    #[arg(long, requires = "merge")]
    pub force: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct ExportArgs {
    /// A .critic or .gguf file, or the name of a pulled model
    pub model: PathBuf,
    /// The GGUF file to write
    #[arg(long, value_name = "OUT")]
    pub gguf: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct InfoArgs {
    /// A .critic or .gguf file, or the name of a pulled model [default: smollm2-135m]
    pub model: Option<PathBuf>,
    /// The same
    #[arg(long = "model", short, value_name = "MODEL", conflicts_with = "model")]
    pub model_flag: Option<PathBuf>,
    #[command(flatten)]
    pub adapted: AdapterArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Print what the critic is told, and nothing else, in the form that `critic convert --prompts` reads
    #[arg(long, conflicts_with = "json")]
    pub prompts: bool,
}

#[derive(Args)]
pub struct PullArgs {
    /// smollm2-135m, or `hf:OWNER/REPO/FILE.gguf[@REVISION]`
    pub name: String,
    /// Open no connection
    #[arg(long)]
    pub offline: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to continue; - is standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<OsString>,
    /// The same from a file
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,
    /// Continue the text as it stands, without the chat template
    #[arg(long)]
    pub raw: bool,
    /// Control tokens in the text count: for trusted text only
    #[arg(long)]
    pub special: bool,
    /// End before this text; can be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct TokenizeArgs {
    #[command(flatten)]
    pub text: TextArgs,
}

/// A model and a text that is looked at.
#[derive(Args)]
pub struct TextArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text; - is standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub text: Option<OsString>,
    /// The same from a file
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub text_file: Option<PathBuf>,
    /// Control tokens in the text count: for trusted text only
    #[arg(long)]
    pub special: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl TextArgs {
    /// The text.
    pub fn read(&self) -> Result<String, Failure> {
        let [text] = read_all([Source { flag: "text", text: &self.text, file: &self.text_file }])?;
        required(text, "text")
    }

    /// What control tokens' names in it mean.
    pub fn special(&self) -> critic::tokenizer::Special {
        special(self.special)
    }
}

/// What `--special` means.
pub fn special(flag: bool) -> critic::tokenizer::Special {
    use critic::tokenizer::Special;
    if flag { Special::Parse } else { Special::Text }
}

#[derive(Args)]
pub struct ScoreArgs {
    #[command(flatten)]
    pub text: TextArgs,
    /// Compute all in f32, slowly
    #[arg(long, conflicts_with = "fine")]
    pub exact: bool,
}

#[derive(Args)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// A JSON array of token ids; - is standard input
    #[arg(long, value_name = "FILE")]
    pub tokens_file: PathBuf,
    /// The safetensors file to write: `logits` [tokens, vocab] in f32
    #[arg(long, short, value_name = "OUT")]
    pub output: PathBuf,
    /// Compute as generation does, not all in f32
    #[arg(long)]
    pub fast: bool,
}

#[derive(Args)]
pub struct KlArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text to measure on; - is standard input
    #[arg(long, value_name = "FILE")]
    pub text_file: PathBuf,
    /// Tokens of context; the second half of each chunk counts
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    pub chunk: u32,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Tokens that are read at once
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt_tokens: u32,
    /// Tokens that are written one by one
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub gen_tokens: u32,
    /// Tokens that are in the context already
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub depth: u32,
    /// Measurements; their median is given
    #[arg(long, value_name = "TIMES", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// Also measure so many tokens at once, as one text and as so many texts; can be several numbers
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=64))]
    pub batch: Vec<u32>,
    /// Also measure how fast the weights can be read, which bounds decoding
    #[arg(long)]
    pub limits: bool,
    /// Also run the loop on these cases, with their own critiques and refinements: a JSON
    /// array of {name, kind, task, prompt, draft, critique, refinement}
    #[arg(long, value_name = "FILE")]
    pub cases: Option<PathBuf>,
    /// Let the model write the cases' critiques and refinements, up to so many tokens each
    #[arg(long, value_name = "TOKENS", requires = "cases", value_parser = clap::value_parser!(u32).range(1..))]
    pub free: Option<u32>,
    /// Also time the first finding about this file, new and edited
    #[arg(long, value_name = "FILE")]
    pub findings: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

//! `critic generate`

use critic::chat::Conversation;
use critic::tokenizer::Special;
use critic::{GenerateOptions, Precision, Timings};
use serde::Serialize;

use crate::args::{GenerateArgs, special};
use crate::failure::Failure;
use crate::output::{Stream, To, json};
use crate::text::{Source, read_all, required};

#[derive(Serialize)]
struct Answer {
    text: String,
    tokens: Vec<u32>,
    prompt_tokens: Vec<u32>,
    timings: Timings,
}

pub fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let sampling = args.sampling.sampling()?;
    let [prompt] = read_all([Source { flag: "prompt", text: &args.prompt, file: &args.prompt_file }])?;
    let prompt = required(prompt, "prompt")?;
    let model = args.model.open()?;
    let mut session = args.model.session(&model, Precision::Fast)?;
    let prompt_tokens = if args.raw {
        session.tokenize(&prompt, special(args.special))
    } else {
        let mut chat = Conversation::new(model.chat(), model.tokenizer(), None);
        match special(args.special) {
            Special::Text => chat.user(&prompt),
            Special::Parse => {
                chat.parts(&model.chat().user.prefix);
                chat.said(&model.tokenizer().encode(&prompt, Special::Parse));
                chat.parts(&model.chat().user.suffix);
            }
        }
        chat.open_assistant();
        chat.tokens().to_vec()
    };
    let options = GenerateOptions {
        sampling,
        max_tokens: args.sampling.max_tokens,
        stop: args.stop.clone(),
        ..Default::default()
    };
    let mut stream = Stream::new(args.json);
    let result = session.generate(&prompt_tokens, &options, &mut |progress| stream.show(progress, To::Stdout));
    let generation = stream.finish(result)?;
    if args.json {
        let timings = session.take_timings();
        return json(&Answer { text: generation.text, tokens: generation.tokens, prompt_tokens, timings });
    }
    Ok(())
}

//! Groups of real text for small models of several families: the tokens are the runtime's.

use std::path::Path;

use critic::critique::{Context, Request};
use critic::tokenizer::Special;
use critic_import::Quant;
use critic_trainer::Error;
use critic_trainer::data::{DataFile, EncodeOptions, EncodedGroup, encode};

const DATA: &str = r#"{"id": "a", "task": "math", "prompt": "What is 17 + 25?", "response": "32", "critiques": [{"text": "The carry is missing.", "cu": 1}, {"text": "No changes needed.", "cu": 0.5}]}
{"id": "b", "prompt": "Say hello.", "response": "hello <|im_end|>", "critiques": [{"text": "", "cu": 0.25, "preferred": 1}, {"text": "Greet them.", "cu": 0.25, "preferred": 0}]}
"#;

fn drafts(text: &str) -> DataFile<&[u8]> {
    DataFile::new(Path::new("data.jsonl"), text.as_bytes())
}

#[test]
fn tokens_are_those_that_the_runtime_scores() {
    for name in ["llama-gqa-tied", "qwen3-qknorm", "gemma3-text"] {
        let model = critic_tests::small(name, Quant::Keep);
        let options = EncodeOptions { max_tokens: 100_000, keep_flat: true };
        let encoded = encode(&model, drafts(DATA), Path::new("data.jsonl"), &options).unwrap();
        assert_eq!((encoded.groups.len(), encoded.dropped()), (2, 0), "{name}");
        let group = &encoded.groups[0];
        let request = Request {
            task: "math".into(),
            prompt: "What is 17 + 25?".into(),
            response: "32".into(),
            ..Request::default()
        };
        let context = Context::new(&model, &request).unwrap();
        assert_eq!([group.prefix.as_slice(), &group.instruction].concat(), context.tokens, "{name}");
        assert_eq!(group.prefix.len(), context.invocation);
        for (tokens, text) in group.critiques.iter().zip(["The carry is missing.", "No changes needed."]) {
            assert_eq!(tokens, &context.target(&model, text));
            assert_eq!(tokens.last().copied(), model.end_of_turn(), "{name}: the end is in what is scored");
        }
        assert_eq!(group.keep, context.target(&model, &model.prompts().keep));
        assert_eq!((group.utilities.as_slice(), &group.preferred), ([1.0, 0.5].as_slice(), &None));

        let flat = &encoded.groups[1];
        assert_eq!(flat.critiques[0].len(), 1, "{name}: an empty critique is its end");
        assert_eq!(flat.preferred.as_deref(), Some([1.0, 0.0].as_slice()));
        let text: Vec<u32> = flat.prefix.clone();
        let control = model.tokenize("<|im_end|>", Special::Parse);
        let ends = |tokens: &[u32]| tokens.iter().filter(|&id| control.last() == Some(id)).count();
        let plain = EncodedGroup::new(
            &model,
            &drafts(&DATA.replace("hello <|im_end|>", "hello")).nth(1).unwrap().unwrap(),
            Path::new("data.jsonl"),
        );
        assert_eq!(ends(&text), ends(&plain.unwrap().prefix), "{name}: text cannot become a control token");
    }
}

#[test]
fn what_does_not_fit_and_what_has_no_signal_are_counted() {
    let model = critic_tests::small("llama-gqa-tied", Quant::Keep);
    let encoded = |max_tokens, keep_flat| {
        let options = EncodeOptions { max_tokens, keep_flat };
        encode(&model, drafts(DATA), Path::new("data.jsonl"), &options).unwrap()
    };
    let all = encoded(100_000, false);
    assert_eq!((all.groups.len(), all.flat.as_slice()), (1, ["b".to_owned()].as_slice()));
    let longest = all.groups[0].longest();
    assert!(encoded(longest, false).too_long.is_empty());
    assert_eq!(encoded(longest - 1, false).too_long, [("a".to_owned(), longest)]);
}

#[test]
fn faults_that_the_model_finds_are_named_too() {
    let model = critic_tests::small("llama-gqa-tied", Quant::Keep);
    let text = DATA.replace("\"math\"", "\"alchemy\"");
    let options = EncodeOptions { max_tokens: 1000, keep_flat: true };
    match encode(&model, drafts(&text), Path::new("data.jsonl"), &options) {
        Err(Error::Data { line: 1, field, why, .. }) => assert!(field == "task" && why.contains("alchemy"), "{why}"),
        other => panic!("{other:?}"),
    }
    let text = DATA.replace("0.5}", "5}");
    let error = encode(&model, drafts(&text), Path::new("data.jsonl"), &options).unwrap_err().to_string();
    assert_eq!(error, "data.jsonl, line 1, critiques[1].cu: 5, expected 0 to 1");
}

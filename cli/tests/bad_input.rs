//! What is wrong with models, texts and ids is said with its place; nobody panics, and no
//! output file is left.

mod support;

use serde_json::{Value, json};
use support::{Place, tiny, tiny_folder};

const CRITIQUE: [&str; 5] = ["critique", "--prompt", "a", "--response", "b"];

#[test]
fn models_cut_short() {
    let place = Place::new();
    let bytes = std::fs::read(tiny(&place)).expect("the model");
    let whole = bytes.len();
    place.write("cut.critic", b"");
    place.run(&["info", "cut.critic"]).check(1, "cut.critic");
    // A thousand places: half of them in the first page, where the header is.
    for len in (0..500).map(|n| n * 4096 / 500).chain((0..499).map(|n| whole * n / 499)).chain([whole - 1]) {
        place.write("cut.critic", &bytes[..len]);
        place.run(&["info", "cut.critic"]).check(1, "");
    }
    place.write("cut.critic", &bytes[..whole / 2]);
    place.run(&[&CRITIQUE[..], &["--model", "cut.critic"]].concat()).check(1, "cut.critic");
    let output = place.run(&["convert", "cut.critic", "-o", "out.critic"]);
    output.check(1, "cut.critic");
    place.run(&["export", "cut.critic", "--gguf", "out.gguf"]).check(1, "cut.critic");
    assert_eq!(place.files(), ["cut.critic", "tiny.critic"]);
}

/// The header of a model file with one value replaced, and the rest of the file as it was.
fn damaged(bytes: &[u8], damage: impl FnOnce(&mut Value)) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    damage(&mut header);
    let mut text = serde_json::to_vec(&header).expect("JSON");
    text.resize((8 + text.len()).next_multiple_of(4096) - 8, b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text, &bytes[8 + length..]].concat()
}

#[test]
fn headers_with_one_wrong_field() {
    let place = Place::new();
    let bytes = std::fs::read(tiny(&place)).expect("the model");
    let check = |what: &str, damage: &dyn Fn(&mut Value)| {
        place.write("damaged.critic", &damaged(&bytes, damage));
        let output = place.run(&["info", "damaged.critic"]);
        assert_eq!(output.code, Some(1), "{what}: {}", output.stderr);
        output.check(1, "");
    };
    for version in ["", "0", "x", "2", "99999999999999999999"] {
        check(version, &|header| header["__metadata__"]["critic.version"] = version.into());
    }
    for key in ["critic.version", "critic.config", "critic.tokenizer"] {
        check(key, &|header| _ = header["__metadata__"].as_object_mut().expect("an object").remove(key));
        check(key, &|header| header["__metadata__"][key] = "{".into());
    }
    let config_fields =
        ["vocab_size", "hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "head_dim", "context"];
    for field in config_fields {
        for value in [json!(0), json!(u64::MAX), json!(-1), json!("x"), json!(1e300)] {
            check(field, &|header| {
                let text = header["__metadata__"]["critic.config"].as_str().expect("text");
                let mut config: Value = serde_json::from_str(text).expect("JSON");
                config[field] = value.clone();
                header["__metadata__"]["critic.config"] = config.to_string().into();
            });
        }
    }
    for (field, value) in [
        ("data_offsets", json!([0, u64::MAX])),
        ("data_offsets", json!([8, 0])),
        ("shape", json!([1, 1])),
        ("shape", json!([u64::MAX, u64::MAX, 2])),
        ("dtype", json!("F99")),
    ] {
        check(field, &|header| header["embedding"][field] = value.clone());
    }
    check("a tensor is missing", &|header| {
        let header = header.as_object_mut().expect("an object");
        let embedding = header.remove("embedding").expect("an embedding");
        header.insert("other".into(), embedding);
    });
    for length in [0, 1, u64::MAX, 1 << 40] {
        let mut copy = bytes.clone();
        copy[..8].copy_from_slice(&length.to_le_bytes());
        place.write("damaged.critic", &copy);
        place.run(&["info", "damaged.critic"]).check(1, "damaged.critic");
    }
}

#[test]
fn gguf_files_with_absurd_counts() {
    let place = Place::new();
    let gguf = |tensors: u64, entries: u64| {
        [b"GGUF".as_slice(), &3u32.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()].concat()
    };
    let long_key = [gguf(0, 1), u64::MAX.to_le_bytes().to_vec()].concat();
    // An array of arrays of … of as many strings as there are bytes in the world.
    let long_array = [
        gguf(0, 1),
        1u64.to_le_bytes().to_vec(),
        b"k".to_vec(),
        9u32.to_le_bytes().to_vec(),
        8u32.to_le_bytes().to_vec(),
        (u64::MAX / 8).to_le_bytes().to_vec(),
    ]
    .concat();
    let cases = [gguf(u64::MAX, 0), gguf(0, u64::MAX), gguf(1 << 40, 1 << 40), gguf(0, 0), long_key, long_array];
    for bytes in cases {
        place.write("absurd.gguf", &bytes);
        place.run(&["convert", "absurd.gguf", "-o", "out.critic"]).check(1, "absurd.gguf");
        let output = place.run(&["info", "absurd.gguf"]);
        output.check(1, "absurd.gguf");
        assert_eq!(place.files(), ["absurd.gguf"]);
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let place = Place::new();
    tiny(&place);
    place.run(&["convert", "tiny.critic", "-o", "absent/out.critic"]).check(1, "absent");
    place.run(&["export", "tiny.critic", "--gguf", "absent/out.gguf"]).check(1, "absent");
    place.write("ids.json", b"[1, 2]");
    let words = ["logits", "-m", "tiny.critic", "--tokens-file", "ids.json", "-o", "absent/out"];
    place.run(&words).check(1, "absent");
}

#[test]
fn texts_that_do_not_fit() {
    let place = Place::new();
    tiny(&place);
    place.write("long.txt", "word and number 42\n".repeat(10_000_000 / 19).as_bytes());
    let words = ["critique", "-m", "tiny.critic", "--response", "b", "--prompt-file", "long.txt"];
    place.run(&words).check(1, "context full");
    place.run(&["score", "-m", "tiny.critic", "--text-file", "long.txt"]).check(1, "context full");
    let words = [&CRITIQUE[..], &["-m", "tiny.critic", "--context", "5"]].concat();
    place.run(&words).check(1, "5 are available");
    let words = [&CRITIQUE[..], &["-m", "tiny.critic", "--context", "100000000"]].concat();
    place.run(&words).check(2, "the model allows");
    place.run(&["bench", "-m", "tiny.critic", "--prompt-tokens", "100000000"]).check(1, "context full");
    place.write("empty.txt", b"");
    place.run(&["score", "-m", "tiny.critic", "--text-file", "empty.txt"]).check(2, "empty");
}

#[test]
fn words_that_the_model_does_not_know() {
    let place = Place::new();
    tiny(&place);
    let output = place.run(&[&CRITIQUE[..], &["-m", "tiny.critic", "--task", "poetry"]].concat());
    output.check(2, "unknown task \"poetry\"");
    output.check(2, "summarization");
    place.run(&[&CRITIQUE[..], &["-m", "tiny.critic", "--kernel", "abacus"]].concat()).check(2, "abacus");
    for (ids, named) in [("[1, 99999999]", "index 1"), ("[1, -1]", "JSON"), ("{}", "JSON"), ("[1,", "JSON")] {
        place.write("ids.json", ids.as_bytes());
        let output = place.run(&["logits", "-m", "tiny.critic", "--tokens-file", "ids.json", "-o", "out"]);
        output.check(1, named);
        output.check(1, "ids.json");
    }
    place.write("cases.json", b"[{\"name\": 1}]");
    place.run(&["bench", "-m", "tiny.critic", "--cases", "cases.json"]).check(1, "cases.json");
    assert!(!place.path("out").exists());
}

#[test]
fn folders_that_are_no_checkpoint() {
    let place = Place::new();
    std::fs::create_dir(place.path("folder")).expect("a folder");
    place.run(&["convert", "folder", "-o", "out.critic"]).check(1, "folder");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(tiny_folder().join(file), place.path("folder").join(file)).expect("a copy");
    }
    place.write("folder/model.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\xff");
    place.run(&["convert", "folder", "-o", "out.critic"]).check(1, "model.safetensors");
    assert!(!place.path("out.critic").exists());
}

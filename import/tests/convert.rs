//! Whole conversions: in, out, and in again.

#[allow(dead_code, reason = "other test programs use the rest")]
use critic_tests::fixtures;

use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};

use critic::file::{ModelFile, Part, Prompts};
use critic::quant::Format;
use critic_import::gguf::{Gguf, blocks};
use critic_import::names::{Shape, gguf_name, layout};
use critic_import::{ConvertOptions, Quant, Report, TemplateState, convert, export_gguf};
use safetensors::SafeTensors;
use tempfile::TempDir;

/// Tiny random checkpoints in Hugging Face layout, one for each variant of the architecture.
const CHECKPOINTS: [&str; 6] =
    ["llama-gqa-tied", "llama3-rope-scaled", "qwen2-bias", "qwen3-qknorm", "mistral-window", "gemma3-text"];

fn checkpoint(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    root.join("tests/data/hf").join(name)
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn options(quant: Quant) -> ConvertOptions {
    ConvertOptions { quant, ..ConvertOptions::default() }
}

fn run(source: &Path, out: &Path, quant: Quant) -> Report {
    convert(source, out, &options(quant), &mut |_, _| Continue(())).unwrap()
}

/// All weights of a model, by name: format and values.
fn weights(path: &Path) -> Vec<(String, Option<Format>, Vec<f32>)> {
    let file = ModelFile::open(path).unwrap();
    let slots = layout(&file.config().unwrap());
    let present = slots.into_iter().filter(|slot| file.contains(&slot.name));
    present
        .map(|slot| match slot.shape {
            Shape::Vector { len } => (slot.name.clone(), None, file.vector(&slot.name, len).unwrap().to_vec()),
            Shape::Matrix { rows, columns } => {
                let matrix = file.matrix(&slot.name, rows, columns).unwrap();
                let mut values = vec![0.0; rows * columns];
                values.chunks_exact_mut(columns).enumerate().for_each(|(row, out)| matrix.dequantize_row(row, out));
                (slot.name, Some(matrix.format()), values)
            }
        })
        .collect()
}

/// Exports, imports again, and compares every tensor and what is said beside them.
fn check_round_trip(model: &Path, folder: &Path) {
    let (gguf, again) = (folder.join("again.gguf"), folder.join("again.critic"));
    let file = ModelFile::open(model).unwrap();
    export_gguf(&file, &gguf).unwrap();
    run(&gguf, &again, Quant::Keep);
    let other = ModelFile::open(&again).unwrap();
    assert_eq!(other.config().unwrap(), file.config().unwrap());
    assert_eq!(other.chat().unwrap(), file.chat().unwrap());
    assert_eq!(other.tokenizer().unwrap(), file.tokenizer().unwrap());
    let (bytes, other_bytes) = (std::fs::read(model).unwrap(), std::fs::read(&again).unwrap());
    assert_eq!(file.tensors().len(), other.tensors().len());
    for (name, info) in file.tensors() {
        let twin = &other.tensors()[name];
        assert_eq!((twin.dtype, &twin.shape), (info.dtype, &info.shape), "{name}");
        assert!(other_bytes[twin.range.clone()] == bytes[info.range.clone()], "{name} differs");
    }
}

#[test]
fn hugging_face_weights_arrive_exactly() {
    for name in CHECKPOINTS {
        let folder = folder();
        let out = folder.path().join("model.critic");
        let report = run(&checkpoint(name), &out, Quant::Keep);
        assert_eq!(report.template, TemplateState::Compiled, "{name}: {:?}", report.lost);
        assert!(report.lost.is_empty(), "{name}: {:?}", report.lost);
        let bytes = std::fs::read(checkpoint(name).join("model.safetensors")).unwrap();
        let source = SafeTensors::deserialize(&bytes).unwrap();
        let gemma = name.starts_with("gemma");
        let mut compared = 0;
        for (tensor, format, values) in weights(&out) {
            if tensor == "rope.factors" {
                continue;
            }
            let foreign = critic_import::names::hf_name(&tensor, gemma).unwrap();
            let raw = source.tensor(&foreign).unwrap().data().to_vec();
            let plus = if gemma && format.is_none() { 1.0 } else { 0.0 };
            let expected: Vec<f32> =
                raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) + plus).collect();
            assert!(values == expected, "{name}: {tensor}");
            compared += 1;
        }
        assert_eq!(compared, source.len(), "{name}");
        check_round_trip(&out, folder.path());
    }
}

#[test]
fn quantized_checkpoints_survive_export() {
    for name in CHECKPOINTS {
        for quant in [Quant::Q4, Quant::Q8, Quant::F16] {
            let folder = folder();
            let out = folder.path().join("model.critic");
            run(&checkpoint(name), &out, quant);
            for (tensor, format, _) in weights(&out) {
                let Some(format) = format else { continue };
                let expected = match quant {
                    Quant::Q4 if tensor == "embedding" || tensor == "output" => Format::Q8_0,
                    Quant::Q4 => Format::Q4_1,
                    Quant::Q8 => Format::Q8_0,
                    _ => Format::F16,
                };
                assert_eq!(format, expected, "{name}: {tensor}");
            }
            check_round_trip(&out, folder.path());
        }
    }
}

#[test]
fn configurations_say_what_the_checkpoints_do() {
    let folder = folder();
    let out = folder.path().join("model.critic");
    let config = |name: &str| {
        run(&checkpoint(name), &out, Quant::Keep);
        (ModelFile::open(&out).unwrap().config().unwrap(), ModelFile::open(&out).unwrap())
    };
    let (gemma, _) = config("gemma3-text");
    assert_eq!(gemma.windows, [8, 8, 8, 8, 8, 0]);
    assert_eq!((gemma.rope.theta, gemma.rope_local.unwrap().theta, gemma.embedding_scale), (1e6, 1e4, 8.0));
    let (llama, file) = config("llama3-rope-scaled");
    assert_eq!(file.vector("rope.factors", llama.head_dim / 2).unwrap().len(), 8);
    assert!(file.contains("output"));
    let (mistral, _) = config("mistral-window");
    assert_eq!(mistral.windows, [8; 3]);
    let (qwen, file) = config("qwen2-bias");
    assert!(qwen.windows.is_empty() && file.contains("layers.2.attention.v_bias") && !file.contains("output"));
    assert!(config("qwen3-qknorm").1.contains("layers.0.attention.q_norm"));
}

#[test]
fn a_model_of_ours_is_quantized_and_renamed() {
    let folder = folder();
    let (first, second, third) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
    run(&checkpoint("llama-gqa-tied"), &first, Quant::Keep);
    let options =
        ConvertOptions { quant: Quant::Q4, name: Some("renamed".into()), prompts: None, ..Default::default() };
    let mut seen = Vec::new();
    let report = convert(&first, &second, &options, &mut |done, total| {
        seen.push((done, total));
        Continue(())
    })
    .unwrap();
    assert_eq!((report.read.format.as_str(), report.template), ("critic", TemplateState::Kept));
    assert!(seen.is_sorted() && seen.last().is_some_and(|(done, total)| done == total));
    run(&checkpoint("llama-gqa-tied"), &third, Quant::Q4);
    assert!(weights(&second) == weights(&third), "two steps differ from one");
    let (second, third) = (ModelFile::open(&second).unwrap(), ModelFile::open(&third).unwrap());
    assert_eq!(second.provenance().unwrap().name, "renamed");
    assert_eq!(second.chat().unwrap(), third.chat().unwrap());
    assert_eq!(second.tokenizer().unwrap(), third.tokenizer().unwrap());
}

#[test]
fn importance_moves_the_error_to_where_it_costs_least() {
    let folder = folder();
    let (exact, plain, weighted) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
    run(&checkpoint("llama-gqa-tied"), &exact, Quant::Keep);
    run(&checkpoint("llama-gqa-tied"), &plain, Quant::Q4);
    let name = "layers.0.mlp.down";
    let rows = |path: &Path| -> Vec<Vec<f32>> {
        let file = ModelFile::open(path).unwrap();
        let config = file.config().unwrap();
        let matrix = file.matrix(name, config.hidden_size, config.intermediate_size).unwrap();
        let row = |row| {
            let mut values = vec![0.0; config.intermediate_size];
            matrix.dequantize_row(row, &mut values);
            values
        };
        (0..config.hidden_size).map(row).collect()
    };
    let exact = rows(&exact);
    let importance: Vec<f32> = (0..exact[0].len()).map(|column| if column % 4 == 0 { 10.0 } else { 0.1 }).collect();
    let options = |importance: &[f32]| ConvertOptions {
        importance: [(name.to_owned(), importance.to_vec())].into(),
        ..options(Quant::Q4)
    };
    let source = checkpoint("llama-gqa-tied");
    convert(&source, &weighted, &options(&importance), &mut |_, _| Continue(())).unwrap();
    let error = |path: &Path| -> f32 {
        let cost = |(row, exact): (Vec<f32>, &Vec<f32>)| -> f32 {
            let columns = row.iter().zip(exact).zip(&importance);
            columns.map(|((stored, exact), weight)| weight * (stored - exact).powi(2)).sum()
        };
        rows(path).into_iter().zip(&exact).map(cost).sum()
    };
    assert!(error(&weighted) < error(&plain) * 0.9, "{} {}", error(&weighted), error(&plain));

    for (wrong, part) in [
        (importance[1..].to_vec(), "expected one for each"),
        (vec![f32::NAN; importance.len()], "NaN"),
        (vec![-1.0; importance.len()], "-1"),
    ] {
        let message = convert(&source, &plain, &options(&wrong), &mut |_, _| Continue(())).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains(name), "{message}");
    }
}

#[test]
fn prompts_are_replaced_and_weights_stay() {
    let folder = folder();
    let (first, second, third) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
    run(&checkpoint("llama-gqa-tied"), &first, Quant::Keep);
    let mut prompts = Prompts { keep: "Perfect".into(), ..Prompts::default() };
    let write = |prompts: &Prompts| {
        let options = ConvertOptions { prompts: Some(prompts.clone()), ..ConvertOptions::default() };
        convert(&first, &second, &options, &mut |_, _| Continue(()))
    };
    write(&prompts).unwrap();
    assert_eq!(ModelFile::open(&second).unwrap().prompts().unwrap(), prompts);
    assert!(weights(&first) == weights(&second));
    let general = prompts.tasks.get_mut("general").unwrap();
    general.critique_turn = Some(vec![Part::Control(u32::MAX)]);
    let why = write(&prompts).unwrap_err().to_string();
    assert!(why.contains("tasks.general.critique_turn: control token 4294967295"), "{why}");
    run(&second, &third, Quant::Q8);
    assert_eq!(ModelFile::open(&third).unwrap().prompts().unwrap().keep, "Perfect", "prompts were lost on the way");
}

/// A copy of a checkpoint whose tensors are dealt out to `shards` files.
fn sharded(name: &str, shards: usize, folder: &Path) -> PathBuf {
    let out = folder.join("sharded");
    std::fs::create_dir(&out).unwrap();
    for file in
        ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
    {
        std::fs::copy(checkpoint(name).join(file), out.join(file)).unwrap();
    }
    let bytes = std::fs::read(checkpoint(name).join("model.safetensors")).unwrap();
    let source = SafeTensors::deserialize(&bytes).unwrap();
    let mut map = serde_json::Map::new();
    for shard in 0..shards {
        let file = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        let part: Vec<_> = source
            .tensors()
            .into_iter()
            .enumerate()
            .filter(|(at, _)| at % shards == shard)
            .map(|(_, tensor)| tensor)
            .collect();
        map.extend(part.iter().map(|(name, _)| (name.clone(), file.clone().into())));
        std::fs::write(out.join(&file), safetensors::serialize(part, None).unwrap()).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    std::fs::write(out.join("model.safetensors.index.json"), index.to_string()).unwrap();
    out
}

#[test]
fn shards_are_one_checkpoint() {
    let folder = folder();
    let source = sharded("qwen2-bias", 3, folder.path());
    let (one, many) = (folder.path().join("one"), folder.path().join("many"));
    run(&checkpoint("qwen2-bias"), &one, Quant::Keep);
    run(&source, &many, Quant::Keep);
    assert!(weights(&one) == weights(&many));
    // A shard may not lead out of the folder.
    let index = source.join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index).unwrap().replace("model-00001", "../model-00001");
    std::fs::write(&index, text).unwrap();
    let error = convert(&source, &many, &options(Quant::Keep), &mut |_, _| Continue(())).unwrap_err().to_string();
    assert!(error.contains("plain file name"), "{error}");
}

#[test]
fn failures_name_the_fault_and_leave_no_file() {
    let folder = folder();
    let out = folder.path().join("out.critic");
    let source = sharded("llama-gqa-tied", 1, folder.path());
    let config = std::fs::read_to_string(source.join("config.json")).unwrap();
    let cases = [
        ("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4", "model.layers.3"),
        ("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2", "no place"),
        ("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 99999999", "layers"),
        ("\"intermediate_size\": 256", "\"intermediate_size\": 512", "shape"),
        ("\"head_dim\": 16", "\"head_dim\": 0", "heads of 0"),
        ("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", "lm_head.weight is missing"),
        ("\"model_type\": \"llama\"", "\"model_type\": \"opt\"", "opt"),
    ];
    for (from, to, named) in cases {
        assert!(config.contains(from), "{from}");
        std::fs::write(source.join("config.json"), config.replace(from, to)).unwrap();
        let error = convert(&source, &out, &options(Quant::Keep), &mut |_, _| Continue(())).unwrap_err().to_string();
        assert!(error.contains(named), "{to}: {error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{to}");
    }
}

#[test]
fn damaged_gguf_files_are_errors() {
    let folder = folder();
    let (model, gguf, out) = (folder.path().join("m"), folder.path().join("m.gguf"), folder.path().join("out"));
    run(&checkpoint("qwen2-bias"), &model, Quant::Q4);
    export_gguf(&ModelFile::open(&model).unwrap(), &gguf).unwrap();
    let bytes = std::fs::read(&gguf).unwrap();
    let damaged = folder.path().join("damaged.gguf");
    let tables = Gguf::parse(&bytes).unwrap().tensors.values().map(|tensor| tensor.range.start).min().unwrap();
    for len in (0..bytes.len()).step_by(bytes.len() / 60) {
        std::fs::write(&damaged, &bytes[..len]).unwrap();
        assert!(convert(&damaged, &out, &options(Quant::Keep), &mut |_, _| Continue(())).is_err(), "{len} bytes");
    }
    // Anything may come of a changed byte in the tables but a panic.
    let mut state = 1u64;
    for _ in 0..200 {
        let mut copy = bytes.clone();
        for _ in 0..4 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            copy[(state >> 33) as usize % tables] = (state >> 25) as u8;
        }
        std::fs::write(&damaged, &copy).unwrap();
        _ = convert(&damaged, &out, &options(Quant::Keep), &mut |_, _| Continue(()));
    }
}

#[test]
fn a_real_model_converts_bit_by_bit_and_back() {
    let path = fixtures::SMOLLM2.path();
    let folder = folder();
    let out = folder.path().join("smollm2.critic");
    let report = run(&path, &out, Quant::Keep);
    assert!(report.lost.is_empty(), "{:?}", report.lost);
    assert_eq!(report.template, TemplateState::Compiled);
    assert_eq!((report.read.tensors, report.written.formats["q4_1"], report.written.formats["q8_0"]), (272, 210, 1));
    let file = ModelFile::open(&out).unwrap();
    let config = file.config().unwrap();
    assert_eq!((config.layers, config.heads, config.kv_heads, config.head_dim, config.context), (30, 9, 3, 64, 8192));
    assert_eq!((config.rope.theta, config.vocab_size), (1e5, 49152));
    let chat = file.chat().unwrap().unwrap();
    assert_eq!(
        chat.default_system.as_deref(),
        Some("You are a helpful AI assistant named SmolLM, trained by Hugging Face")
    );
    assert_eq!(chat.user.prefix, [Part::Control(1), Part::Text("user\n".into())]);
    assert_eq!(file.provenance().unwrap().licence, "apache-2.0");

    // Every tensor of the source is in the exported file, byte by byte.
    let gguf = folder.path().join("smollm2.gguf");
    export_gguf(&file, &gguf).unwrap();
    let (original, exported) = (std::fs::read(&path).unwrap(), std::fs::read(&gguf).unwrap());
    let (original_tables, exported_tables) = (Gguf::parse(&original).unwrap(), Gguf::parse(&exported).unwrap());
    assert_eq!(original_tables.tensors.len(), exported_tables.tensors.len());
    for (name, tensor) in &original_tables.tensors {
        let twin = &exported_tables.tensors[name];
        assert_eq!((twin.kind, &twin.dimensions), (tensor.kind, &tensor.dimensions), "{name}");
        assert!(original[tensor.range.clone()] == exported[twin.range.clone()], "{name} differs");
    }
    for key in [
        "llama.context_length",
        "llama.rope.freq_base",
        "tokenizer.ggml.pre",
        "tokenizer.chat_template",
        "tokenizer.ggml.eos_token_id",
    ] {
        assert_eq!(exported_tables.get(key), original_tables.get(key), "{key}");
    }

    // Q and K of a llama GGUF are interleaved, ours are not: row 1 of a head of 64 is its row 2.
    let name = "layers.7.attention.k";
    let matrix = file.matrix(name, 192, 576).unwrap();
    let tensor = &original_tables.tensors[gguf_name(name).unwrap().as_str()];
    let row = |row: usize| {
        let bytes = 576 / 32 * 20;
        let mut values = vec![0.0; 576];
        blocks::dequantize_row(tensor.kind, &original[tensor.range.start + row * bytes..][..bytes], &mut values);
        values
    };
    let mut ours = vec![0.0; 576];
    for (at, from) in [(0, 0), (1, 2), (31, 62), (32, 1), (64, 64), (97, 67)] {
        matrix.dequantize_row(at, &mut ours);
        assert_eq!(ours, row(from), "{at}");
    }
    check_round_trip(&out, folder.path());
}

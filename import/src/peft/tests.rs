use super::*;
use crate::adapter::tests::sample;
use half::{bf16, f16};
use proptest::prelude::*;
use serde_json::{Value, json};

fn written() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_peft(&sample(), folder.path()).unwrap();
    folder
}

#[test]
fn what_is_written_is_read() {
    let folder = written();
    assert_eq!(read_peft(folder.path()).unwrap(), sample());
    let json: Value = serde_json::from_slice(&std::fs::read(folder.path().join(CONFIG)).unwrap()).unwrap();
    assert_eq!(json["target_modules"], json!(["q_proj", "v_proj", "down_proj"]));
    assert_eq!(json["alora_invocation_tokens"], json!([5, 70_000]));
    assert_eq!((&json["r"], &json["lora_alpha"], &json["task_type"]), (&json!(2), &json!(8), &json!("CAUSAL_LM")));
    let bytes = std::fs::read(folder.path().join(TENSORS)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let b = file.tensor("base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight").unwrap();
    assert_eq!(b.shape(), [16, 2]);
    assert!(file.tensor("base_model.model.model.layers.0.mlp.down_proj.lora_A.weight").is_ok());
}

#[test]
fn rank_stabilised_and_plain_scales() {
    for (alpha, scale) in [(8.0, 8.0 / 2f32.sqrt()), (8.0, 4.0), (0.5, 0.25)] {
        let folder = tempfile::tempdir().unwrap();
        let adapter = LoraAdapter { alpha, scale, invocation_tokens: vec![], ..sample() };
        write_peft(&adapter, folder.path()).unwrap();
        assert_eq!(read_peft(folder.path()).unwrap(), adapter);
    }
    // A scale that is neither: alpha gives way.
    let folder = tempfile::tempdir().unwrap();
    write_peft(&LoraAdapter { scale: 3.0, ..sample() }, folder.path()).unwrap();
    let read = read_peft(folder.path()).unwrap();
    assert_eq!((read.alpha, read.scale), (6.0, 3.0));
}

/// Replaces fields of the configuration.
fn with_config(fields: Value) -> Result<LoraAdapter> {
    let folder = written();
    let path = folder.path().join(CONFIG);
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    std::fs::write(&path, json.to_string()).unwrap();
    read_peft(folder.path())
}

fn refused(found: Result<LoraAdapter>, parts: &[&str]) {
    let message = found.expect_err("refused").to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "{message}, expected {parts:?}");
}

#[test]
fn what_cannot_be_applied_is_refused_by_name() {
    for (field, value) in [
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("rank_pattern", json!({"q_proj": 4})),
        ("alpha_pattern", json!({"q_proj": 4})),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("layer_replication", json!([[0, 2]])),
        ("trainable_token_indices", json!([1])),
        ("target_parameters", json!(["x"])),
        ("arrow_config", json!({"top_k": 2})),
        ("use_something_new", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("peft_type", json!("IA3")),
        ("task_type", json!("SEQ_CLS")),
        ("r", json!(0)),
        ("r", json!(1_000_000)),
        ("r", json!(-1)),
        ("r", json!("8")),
        ("r", Value::Null),
        ("lora_alpha", json!("x")),
        ("lora_alpha", json!(1e300)),
        ("lora_dropout", json!(1.5)),
        ("alora_invocation_tokens", json!([-1])),
        ("alora_invocation_tokens", json!("text")),
        ("target_modules", json!(["q_proj", "k_proj", "v_proj", "down_proj"])),
    ] {
        refused(with_config(json!({field: value})), &[CONFIG, field]);
    }
}

#[test]
fn what_changes_nothing_is_accepted() {
    let fields = json!({
        "use_dora": false, "modules_to_save": null, "rank_pattern": {}, "target_modules": "all-linear",
        "init_lora_weights": "gaussian", "megatron_core": "megatron.core", "qalora_group_size": 16,
        "loftq_config": {}, "use_something_new": null, "task_type": null, "alora_invocation_tokens": null,
    });
    assert_eq!(with_config(fields).unwrap(), LoraAdapter { invocation_tokens: vec![], ..sample() });
}

/// Writes `tensors` (name, shape, bytes) of `dtype` beside a valid configuration.
fn with_tensors(dtype: Dtype, tensors: &[(&str, [usize; 2], Vec<u8>)]) -> Result<LoraAdapter> {
    let folder = written();
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, shape, data)| (*name, TensorView::new(dtype, shape.to_vec(), data).unwrap()))
        .collect();
    let fields = json!({"target_modules": ["q_proj"]});
    let path = folder.path().join(CONFIG);
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    std::fs::write(&path, json.to_string()).unwrap();
    std::fs::write(folder.path().join(TENSORS), safetensors::serialize(views, None).unwrap()).unwrap();
    read_peft(folder.path())
}

const A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
const B: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";

#[test]
fn halves_of_each_width_are_read() {
    let values = [0.5f32, -1.0, 2.0, 0.25, 1.0, 4.0];
    let f32s: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let f16s: Vec<u8> = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
    let bf16s: Vec<u8> = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
    for (dtype, bytes) in [(Dtype::F32, f32s), (Dtype::F16, f16s), (Dtype::BF16, bf16s)] {
        let read = with_tensors(dtype, &[(A, [2, 3], bytes.clone()), (B, [3, 2], bytes)]).unwrap();
        let pair = &read.pairs["layers.0.attention.q"];
        assert_eq!((pair.a.as_slice(), pair.inputs, pair.outputs), (values.as_slice(), 3, 3));
    }
}

#[test]
fn multimodal_names_are_understood() {
    let zeros = vec![0; 24];
    for prefix in ["base_model.model.model.language_model.", "base_model.model.language_model.model."] {
        let [a, b] = [A, B].map(|name| name.replace("base_model.model.model.", prefix));
        let read = with_tensors(Dtype::F32, &[(&a, [2, 3], zeros.clone()), (&b, [3, 2], zeros.clone())]).unwrap();
        assert!(read.pairs.contains_key("layers.0.attention.q"));
    }
}

#[test]
fn attacks_on_the_tensors() {
    let zeros = |count: usize| vec![0; count * 4];
    let check = |tensors: &[(&str, [usize; 2], Vec<u8>)], parts: &[&str]| {
        refused(with_tensors(Dtype::F32, tensors), &[&[TENSORS], parts].concat());
    };
    check(&[(A, [2, 3], zeros(6))], &[B, "missing"]);
    check(&[(B, [3, 2], zeros(6))], &[A, "missing"]);
    check(&[(A, [3, 2], zeros(6)), (B, [3, 2], zeros(6))], &[A, "[3, 2]", "[2, inputs]"]);
    check(&[(A, [2, 3], zeros(6)), (B, [2, 3], zeros(6))], &[B, "[outputs, 2]"]);
    check(&[(A, [2, 0], vec![]), (B, [3, 2], zeros(6))], &[A, "[2, 0]"]);
    let mut nan = zeros(6);
    nan[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    check(&[(A, [2, 3], nan), (B, [3, 2], zeros(6))], &[A, "NaN"]);
    refused(with_tensors(Dtype::F32, &[]), &[CONFIG, "q_proj", "no tensors"]);
    for name in [
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.layers.0.mlp.experts.0.up_proj.lora_A.weight",
        "base_model.model.model.layers.00.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.99999.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.-1.self_attn.q_proj.lora_A.weight",
        "../../etc/passwd",
        "",
    ] {
        check(&[(A, [2, 3], zeros(6)), (B, [3, 2], zeros(6)), (name, [2, 3], zeros(6))], &["no LoRA pair", name]);
    }
    refused(with_tensors(Dtype::I32, &[(A, [2, 3], zeros(6))]), &[A, "I32"]);
}

#[test]
fn every_truncation_is_an_error() {
    let folder = written();
    for file in [CONFIG, TENSORS] {
        let path = folder.path().join(file);
        let bytes = std::fs::read(&path).unwrap();
        for len in (0..bytes.len()).step_by(7) {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(read_peft(folder.path()).is_err(), "{len} bytes of {file}");
        }
        std::fs::write(&path, &bytes).unwrap();
    }
    std::fs::remove_file(folder.path().join(TENSORS)).unwrap();
    refused(read_peft(folder.path()), &[TENSORS]);
    std::fs::write(folder.path().join("adapter_model.bin"), "").unwrap();
    refused(read_peft(folder.path()), &["pickle"]);
    refused(read_peft(&folder.path().join("nowhere")), &[CONFIG]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damage_never_panics(
        in_config: bool, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let folder = written();
        let path = folder.path().join(if in_config { CONFIG } else { TENSORS });
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        std::fs::write(&path, bytes).unwrap();
        if let Ok(adapter) = read_peft(folder.path()) {
            adapter.validate().unwrap();
        }
    }
}

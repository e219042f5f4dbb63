//! A low-rank adapter to GGUF, as llama.cpp loads it beside a model (`--lora FILE`).

use std::path::Path;

use critic::file::Config;

use super::blocks::GgmlType;
use super::config;
use super::export::ExportReport;
use super::write::{Metadata, PlannedGgml, write_gguf};
use crate::adapter::{LoraAdapter, LoraPair};
use crate::error::{Error, Result};
use crate::names::{gguf_name, is_rotary, rotated_row};
use crate::output::write_whole;

/// Writes `adapter`, which belongs to a model of `config`, to `path`, which is replaced in one
/// step. Values stay f32.
///
/// llama.cpp applies B·(A·x) · alpha / rank, rank being what B's rows have, and takes an alpha
/// of 0 for "no alpha"; a rank-stabilised adapter gets the alpha that makes this its own scale.
pub fn export_lora_gguf(adapter: &LoraAdapter, config: &Config, path: &Path) -> Result<ExportReport> {
    adapter.validate()?;
    adapter.fits(config)?;
    let alpha = adapter.scale * adapter.rank as f32;
    if alpha == 0.0 || !alpha.is_finite() {
        let why = format!("a scale of {}: llama.cpp would apply another", adapter.scale);
        return Err(Error::unsupported("adapter", why));
    }
    // The model's own keys are the base file's business; its architecture has to be the same.
    let architecture = config::write(config, &mut Metadata::default(), &mut Vec::new())?;
    let mut metadata = Metadata::default();
    metadata.string("general.architecture", architecture);
    metadata.string("general.type", "adapter");
    metadata.string("adapter.type", "lora");
    metadata.f32("adapter.lora.alpha", alpha);
    if !adapter.invocation_tokens.is_empty() {
        metadata.u32s("adapter.alora.invocation_tokens", &adapter.invocation_tokens);
    }
    if !adapter.base_model.is_empty() {
        metadata.u32("general.base_model.count", 1);
        metadata.string("general.base_model.0.name", &adapter.base_model);
    }
    // All values as they are.
    metadata.u32("general.file_type", 0);

    let mut plans = Vec::new();
    let mut values: Vec<Vec<f32>> = Vec::new();
    for (name, pair) in &adapter.pairs {
        let base = gguf_name(name).expect("a valid adapter has targets alone");
        let plan =
            |which: &str, dimensions| PlannedGgml { name: format!("{base}.{which}"), kind: GgmlType::F32, dimensions };
        let interleaved = (architecture == "llama" && is_rotary(name)).then_some(config.head_dim);
        plans.push(plan("lora_a", vec![pair.inputs, adapter.rank]));
        values.push(pair.a.clone());
        plans.push(plan("lora_b", vec![adapter.rank, pair.outputs]));
        values.push(rows_of_b(pair, adapter.rank, interleaved));
    }
    let mut bytes = 0;
    let write = |writer: &mut std::io::BufWriter<&std::fs::File>| {
        let data = |index: usize| values[index].iter().flat_map(|value| value.to_le_bytes()).collect();
        write_gguf(writer, &metadata, &plans, |index, _| Ok(data(index))).map_err(Error::io(path))
    };
    write_whole(path, write, |written| {
        bytes = std::fs::metadata(written).map_err(Error::io(path))?.len();
        Ok(())
    })?;
    let lost = if adapter.invocation_tokens.is_empty() {
        Vec::new()
    } else {
        vec!["programs that do not know activated adapters apply it to the whole text".to_owned()]
    };
    Ok(ExportReport { tensors: plans.len(), bytes, lost })
}

/// B in the order of the base matrix's rows: where those are interleaved for RoPE, its own are.
fn rows_of_b(pair: &LoraPair, rank: usize, interleaved: Option<usize>) -> Vec<f32> {
    let source = |row: usize| interleaved.map_or(row, |head_dim| rotated_row(row, head_dim));
    (0..pair.outputs).flat_map(|row| &pair.b[source(row) * rank..][..rank]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::tests::sample;
    use crate::gguf::{Gguf, Value};
    use crate::names::interleaved_row;
    use critic::file::{Activation, Rope};

    fn config(family: &str) -> Config {
        Config {
            family: family.into(),
            vocab_size: 40,
            hidden_size: 32,
            intermediate_size: 64,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 16,
            context: 64,
            rms_norm_eps: 1e-5,
            activation: Activation::Silu,
            embedding_scale: 1.0,
            attention_scale: 0.25,
            rope: Rope { theta: 1e4, scale: 1.0 },
            rope_local: None,
            windows: Vec::new(),
        }
    }

    fn export(adapter: &LoraAdapter, family: &str) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter.gguf");
        export_lora_gguf(adapter, &config(family), &path)?;
        Ok(std::fs::read(&path).unwrap())
    }

    fn values(bytes: &[u8], gguf: &Gguf, name: &str) -> Vec<f32> {
        let place = &gguf.tensors[name];
        assert_eq!(place.kind, GgmlType::F32);
        bytes[place.range.clone()].chunks_exact(4).map(|v| f32::from_le_bytes(v.try_into().unwrap())).collect()
    }

    #[test]
    fn what_is_written_is_what_llama_cpp_reads() {
        let adapter = sample();
        let bytes = export(&adapter, "qwen3").unwrap();
        let gguf = Gguf::parse(&bytes).unwrap();
        for (key, expected) in
            [("general.type", "adapter"), ("adapter.type", "lora"), ("general.architecture", "qwen3")]
        {
            assert_eq!(gguf.get(key).unwrap().as_str(), Some(expected));
        }
        let Some(Value::Array(tokens)) = gguf.get("adapter.alora.invocation_tokens") else { panic!() };
        assert_eq!(tokens.iter().collect::<Vec<_>>(), [Value::Unsigned(5), Value::Unsigned(70_000)]);
        assert_eq!(gguf.tensors.len(), 12);
        for (name, pair) in &adapter.pairs {
            let base = gguf_name(name).unwrap();
            let [a, b] = ["lora_a", "lora_b"].map(|which| format!("{base}.{which}"));
            // ggml counts the row's length first: [in, r] and [r, out].
            assert_eq!(gguf.tensors[a.as_str()].dimensions, [pair.inputs, 2]);
            assert_eq!(gguf.tensors[b.as_str()].dimensions, [2, pair.outputs]);
            assert_eq!(values(&bytes, &gguf, &a), pair.a);
            assert_eq!(values(&bytes, &gguf, &b), pair.b);
        }
        assert!(gguf.tensors.contains_key("blk.1.ffn_down.weight.lora_b"));
    }

    #[test]
    fn alpha_over_rank_is_the_scale() {
        for scale in [4.0, 8.0 / 2f32.sqrt()] {
            let bytes = export(&LoraAdapter { scale, invocation_tokens: vec![], ..sample() }, "llama").unwrap();
            let gguf = Gguf::parse(&bytes).unwrap();
            let Some(Value::Float(alpha)) = gguf.get("adapter.lora.alpha") else { panic!() };
            let rank = gguf.tensors["blk.0.attn_q.weight.lora_b"].dimensions[0];
            assert_eq!(alpha as f32 / rank as f32, scale);
            assert_eq!(gguf.get("adapter.alora.invocation_tokens"), None);
        }
        assert!(export(&LoraAdapter { scale: 0.0, ..sample() }, "llama").is_err());
    }

    /// The change B·A of a matrix has its rows where the base matrix has them.
    #[test]
    fn rows_of_rotary_matrices_are_interleaved_as_the_bases() {
        let adapter = sample();
        let bytes = export(&adapter, "mistral").unwrap();
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.get("general.architecture").unwrap().as_str(), Some("llama"));
        let (q, v) = (&adapter.pairs["layers.0.attention.q"], &adapter.pairs["layers.0.attention.v"]);
        let written = values(&bytes, &gguf, "blk.0.attn_q.weight.lora_b");
        for row in 0..q.outputs {
            let at = interleaved_row(row, 16);
            assert_eq!(written[at * 2..][..2], q.b[row * 2..][..2], "row {row}");
        }
        assert_ne!(written, q.b);
        assert_eq!(values(&bytes, &gguf, "blk.0.attn_q.weight.lora_a"), q.a);
        assert_eq!(values(&bytes, &gguf, "blk.0.attn_v.weight.lora_b"), v.b);
    }

    #[test]
    fn an_adapter_of_another_model_is_refused() {
        let mut other = sample();
        let pair = other.pairs.remove("layers.1.attention.q").unwrap();
        other.pairs.insert("layers.2.attention.q".into(), pair.clone());
        assert!(export(&other, "llama").unwrap_err().to_string().contains("no layers.2.attention.q"));
        let mut wide = sample();
        wide.pairs.insert("layers.0.attention.k".into(), pair);
        assert!(export(&wide, "llama").unwrap_err().to_string().contains("32 × 32, but 16 × 32"));
    }
}

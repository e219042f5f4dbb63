"""One RCO training step of a LoRA critic in PyTorch, the usual way: the prompt is part of each critique's sequence.

usage: pytorch_step.py [--prefix 200] [--instruction 20] [--critique 80] [--critiques 4] [--rank 16] [--steps 5]

Needs torch, transformers and peft. Weights are random, of SmolLM2-135M's shape: speed does not depend on them.
Prints the median seconds of a step: forward, loss, backward, clipping and AdamW. As in the trainer, reference
log-probabilities are given, and logits are computed for the critiques' tokens alone.
"""
import argparse
import json
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def main():
    parser = argparse.ArgumentParser()
    for name, value in [("prefix", 200), ("instruction", 20), ("critique", 80), ("critiques", 4), ("rank", 16), ("steps", 5), ("threads", 2)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True, use_cache=False,
    )
    base = LlamaForCausalLM(config)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(base, LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=targets))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0)
    n, length = args.critiques, args.prefix + args.instruction + args.critique
    ids = torch.randint(0, config.vocab_size, (n, length))
    ids[:, : args.prefix + args.instruction] = ids[0, : args.prefix + args.instruction]
    reference = torch.full((n,), -10.0 * args.critique)
    utility, beta = torch.linspace(0, 1, n), 0.1

    def step():
        hidden = model.base_model.model.model(input_ids=ids).last_hidden_state
        rows = hidden[:, -args.critique - 1 : -1]
        logits = model.base_model.model.lm_head(rows)
        targets = ids[:, -args.critique :]
        log_policy = torch.log_softmax(logits, -1).gather(-1, targets[..., None])[..., 0].sum(-1)
        residual = log_policy - reference - utility / beta
        residual = residual - residual.mean()
        loss = 0.5 * (residual**2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    step()
    seconds = []
    for _ in range(args.steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": statistics.median(seconds), "all": [round(s, 3) for s in seconds], "torch": torch.__version__}))


if __name__ == "__main__":
    main()

"""How much faster collection is than the command line called once for each text.

    cargo build --release -p critic-cli -p critic-trainer
    python3 benches/collection_speed.py MODEL.critic [--problems 4] [--calls 12]

Collects for a few word problems, N = 4 critiques with M = 5 refinements each, and then writes some of the very same
refinements by `critic refine`, one call each. Prints refinements per minute and tokens per second of both.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("model")
arguments.add_argument("--bin", default="target/release", help="folder of critic and critic-train")
arguments.add_argument("--problems", type=int, default=4)
arguments.add_argument("--calls", type=int, default=12)
arguments.add_argument("--max-tokens", type=int, default=96)
options = arguments.parse_args()
programs = pathlib.Path(options.bin)

with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    problems, out = folder / "problems.jsonl", folder / "collected"
    train = [programs / "critic-train"]
    subprocess.run(train + ["problems", "math", "--count", str(options.problems), "-o", problems], check=True, stdout=subprocess.DEVNULL)
    command = ["collect", "--problems", problems, "--actor", options.model, "--out", out, "--max-tokens", str(options.max_tokens)]
    started = time.monotonic()
    subprocess.run(train + command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    entries = [json.loads(line) for line in open(out / "ledger.jsonl")]
    texts = {(entry["problem"], entry["item"]): entry for entry in entries}
    refinements = [key for key in texts if key[1].startswith("refinement/")]
    tokens = sum(entry["tokens"] for entry in entries)
    # All of the collection's time counts, drafts and critiques included.
    rate = len(refinements) * 60 / seconds
    print(f"collect: {len(refinements)} refinements and {len(entries) - len(refinements)} other texts in {seconds:.1f} s: "
          f"{rate:.0f} refinements a minute, {tokens / seconds:.0f} tokens/s")

    prompts = {problem["id"]: problem["prompt"] for problem in map(json.loads, open(problems))}
    step = max(1, len(refinements) // options.calls)
    chosen = refinements[::step][: options.calls]
    started, tokens = time.monotonic(), 0
    for number, (problem, item) in enumerate(chosen):
        critique = texts[problem, item.replace("refinement", "critique").rsplit("/", 1)[0]]["text"]
        call = [programs / "critic", "refine", "--model", options.model, "--task", "math", "--prompt", prompts[problem],
                "--response", texts[problem, "draft"]["text"], "--critique", critique, "--temperature", "1",
                "--seed", str(number), "--max-tokens", str(options.max_tokens), "--json"]
        done = subprocess.run(call, check=True, capture_output=True, text=True)
        tokens += json.loads(done.stdout)["timings"]["generated_tokens"]
    seconds = time.monotonic() - started
    alone = len(chosen) * 60 / seconds
    print(f"critic refine: {len(chosen)} refinements in {seconds:.1f} s: {alone:.0f} a minute, {tokens / seconds:.0f} tokens/s")
    print(f"collection is {rate / alone:.1f} times as fast")

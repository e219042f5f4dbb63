"""How much faster collection is than the command line called once for each text.

    cargo build --release -p critic-cli -p critic-trainer
    python3 benches/collection_speed.py MODEL.critic [--problems 4] [--calls 12]

Collects for a few word problems, N = 4 critiques with M = 5 refinements each, and then writes some of the same drafts,
critiques and refinements by `critic generate`, `critique` and `refine`, one call each, which gives the time of all of them.
Prints refinements per minute of both.
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
    critic = [programs / "critic"]
    sampling = ["--temperature", "1", "--max-tokens", str(options.max_tokens), "--model", options.model, "--json"]

    def call(problem, item, number):
        """The command that writes such a text."""
        asked = ["--prompt", prompts[problem], "--seed", str(number)] + sampling
        if item == "draft":
            return critic + ["generate"] + asked
        about = ["--task", "math", "--response", texts[problem, "draft"]["text"]]
        if item.startswith("critique/"):
            return critic + ["critique"] + asked + about
        critique = texts[problem, item.replace("refinement", "critique").rsplit("/", 1)[0]]["text"]
        return critic + ["refine", "--critique", critique] + asked + about

    # All texts of the collection by the command line, one call each: of each kind some are written.
    total = 0
    for kind in ("draft", "critique", "refinement"):
        keys = [key for key in texts if key[1].split("/")[0] == kind]
        chosen = keys[:: max(1, len(keys) // options.calls)][: options.calls]
        started = time.monotonic()
        for number, (problem, item) in enumerate(chosen):
            subprocess.run(call(problem, item, number), check=True, capture_output=True)
        each = (time.monotonic() - started) / len(chosen)
        print(f"critic: {len(keys)} times a {kind}, {each:.2f} s a call (mean of {len(chosen)})")
        total += each * len(keys)
    alone = len(refinements) * 60 / total
    print(f"critic: {total:.1f} s for all, {alone:.0f} refinements a minute")
    print(f"collection is {rate / alone:.1f} times as fast")

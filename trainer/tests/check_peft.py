"""What PEFT makes of an adapter that this project trained and saved.

usage: check_peft.py VALUES.json

VALUES.json: {"base": DIR, "adapters": [{"directory": DIR, "sequences": [{"tokens": [..], "target": n, "trainer": x,
"runtime": y}]}]}: the log-probability of the last n tokens, by the trainer and by the runtime. Loads base and adapters
with transformers and PEFT, computes the same, and fails where they differ by more than 1e-3.
"""
import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

# The three sum f32 products in different orders; the log-probabilities are sums over some tens of tokens.
BOUND = 1e-3


def main():
    values = json.load(open(sys.argv[1]))
    worst = 0.0
    for adapter in values["adapters"]:
        base = AutoModelForCausalLM.from_pretrained(values["base"], dtype=torch.float32).eval()
        model = PeftModel.from_pretrained(base, adapter["directory"]).eval()
        invocation = model.peft_config["default"].alora_invocation_tokens
        for sequence in adapter["sequences"]:
            ids = torch.tensor([sequence["tokens"]])
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0].double()
            log_p = torch.log_softmax(logits[:-1], -1).gather(-1, ids[0, 1:, None])[:, 0]
            found = log_p[-sequence["target"] :].sum().item()
            with torch.no_grad(), model.disable_adapter():
                logits = model(input_ids=ids).logits[0].double()
            plain = torch.log_softmax(logits[:-1], -1).gather(-1, ids[0, 1:, None])[:, 0][-sequence["target"] :].sum().item()
            worst = max(worst, abs(found - sequence["trainer"]), abs(found - sequence["runtime"]))
            print(
                f"{'activated' if invocation else 'whole text'}: base {plain:.5f}, PEFT {found:.5f}, "
                f"trainer {sequence['trainer']:.5f}, runtime {sequence['runtime']:.5f}"
            )
            if abs(found - plain) < 10 * BOUND:
                sys.exit("the adapter does nothing: this compares nothing")
    print(f"largest difference {worst:.1e}")
    if worst > BOUND:
        sys.exit(f"more than {BOUND}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Holds ONNX exports (`haikuq export --format onnx`) against what they must say, by ONNX Runtime on the processor.

    export_onnx.py families HAIKUQ [FIXTURE...]
    export_onnx.py measure GOLDEN FOLDER...
    export_onnx.py genai FOLDER GOLDEN

Needs: onnxruntime, numpy, safetensors; `genai` needs onnxruntime-genai.

`families`: each FIXTURE of tests/fixtures/architectures (or of the folder HAIKUQ_FIXTURES) becomes a package in f32 and an export. Printed are KL from transformers' logits,
the largest difference when the same text is run in steps, and whether greedy continuations are transformers' own. All that is refused
is printed with its reason.

`measure`: GOLDEN is what `haikuq golden` writes. FOLDER is an export, or what GenAI's builder writes. KL is over the kept tokens of each
position plus one bucket for the rest. WINDOWS and CONTEXT, from the environment, take fewer.

`genai`: GenAI loads the folder by its genai_config.json, and continues the prompts of GOLDEN.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors import safe_open
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent


class Model:
    """A model by its genai_config.json, run with a cache."""

    def __init__(self, folder):
        folder = Path(folder)
        config = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
        self.path = folder / config["filename"]
        self.session = onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        inputs = {value.name: value for value in self.session.get_inputs()}
        self.past = {name: value for name, value in inputs.items() if name.startswith("past_key_values.")}
        self.has_positions = "position_ids" in inputs
        self.heads, self.width = config["num_key_value_heads"], config["head_size"]
        self.reset()

    def reset(self):
        kind = lambda value: np.float16 if "float16" in value.type else np.float32
        self.cache = {name: np.zeros((1, self.heads, 0, self.width), kind(value)) for name, value in self.past.items()}
        self.seen = 0

    def run(self, ids):
        """Logits of the next tokens."""
        begin, self.seen = self.seen, self.seen + len(ids)
        feed = {"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, self.seen), np.int64), **self.cache}
        if self.has_positions:
            feed["position_ids"] = np.arange(begin, self.seen, dtype=np.int64)[None]
        names = [value.name for value in self.session.get_outputs()]
        found = dict(zip(names, self.session.run(names, feed)))
        self.cache = {name: found[name.replace("past_key_values", "present")] for name in self.past}
        return found["logits"][0].astype(np.float64)

    def greedy(self, prompt, count, ends=()):
        self.reset()
        ids, out = list(prompt), []
        while len(out) < count:
            token = int(self.run(ids)[-1].argmax())
            out.append(token)
            ids = [token]
            if token in ends:
                break
        return out


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def families(program, names):
    """Every fixture's export against transformers."""
    fixtures = Path(os.environ.get("HAIKUQ_FIXTURES", ROOT / "tests/fixtures/architectures"))
    names = names or sorted(p.parent.name for p in fixtures.glob("*/reference.safetensors"))
    failed, worst = [], 0.0
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            package, out = f"{scratch}/package", f"{scratch}/onnx"
            subprocess.run([program, "convert", fixtures / name, "--recipe", "f32", "-q", "--out", package], check=True, capture_output=True)
            command = [program, "export", package, "--format", "onnx", "--checkpoint", fixtures / name, "--out", out, "-q"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{name:20} refused: {done.stderr.strip().splitlines()[-1].strip()}")
                continue
            reference = load_file(fixtures / name / "reference.safetensors")
            kl, steps = 0.0, 0.0
            try:
                model = Model(out)
                model.run(reference["input_ids"][0].tolist())
            except Exception as error:  # of a kind of its own for each reason
                print(f"{name:20} FAILED: {str(error)[:300]}")
                failed.append(name)
                continue
            for ids, expected in zip(reference["input_ids"].tolist(), reference["logits"].astype(np.float64)):
                model.reset()
                whole = model.run(ids)
                a, b = log_softmax(expected), log_softmax(whole)
                kl = max(kl, float((np.exp(a) * (a - b)).sum(-1).mean()))
                model.reset()
                parts = np.concatenate([model.run(ids[:7]), *(model.run([i]) for i in ids[7:30]), model.run(ids[30:])])
                steps = max(steps, float(np.abs(parts - whole).max() / whole.std()))
            greedy = reference["greedy"].tolist()
            same = model.greedy(greedy[:12], len(greedy) - 12) == greedy[12:]
            bad = not kl < 1e-4 or not steps < 1e-3 or not same
            worst = max(worst, kl)
            failed += [name] * bad
            print(f"{name:20} KL {kl:.1e}  in steps {steps:.1e}  greedy {'same' if same else 'OTHER'}{'  WRONG' if bad else ''}", flush=True)
    print(f"onnxruntime {onnxruntime.__version__}, largest KL {worst:.2e}, wrong: {failed or 'none'}")
    return bool(failed)


def measure(golden, folders):
    """KL of exports from a golden file, and their greedy continuations."""
    expected = load_file(golden)
    with safe_open(golden, "np") as file:
        generations = json.loads((file.metadata() or {}).get("generations", "[]"))
    windows = expected["input_ids"][: int(os.environ.get("WINDOWS", 1 << 30))]
    context = int(os.environ.get("CONTEXT", windows.shape[1]))
    print(f"onnxruntime {onnxruntime.__version__}")
    for folder in map(Path, folders):
        model = Model(folder)
        total, same, count = 0.0, 0, 0
        for w, ids in enumerate(windows[:, :context].tolist()):
            model.reset()
            found = log_softmax(model.run(ids))
            top = expected["top_ids"][w, :context].astype(np.int64)
            p = expected["top_logits"][w, :context].astype(np.float64) - expected["logsumexp"][w, :context].astype(np.float64)[:, None]
            q = np.take_along_axis(found, top, -1)
            rest = [np.clip(1 - np.exp(x).sum(-1), 1e-9, None) for x in (p, q)]
            kl = (np.exp(p) * (p - q)).sum(-1) + np.where(rest[0] > 1e-6, rest[0] * np.log(rest[0] / rest[1]), 0)
            total, count = total + kl.sum(), count + len(kl)
            same += int((found.argmax(-1) == top[:, 0]).sum())
        equal = sum(model.greedy(g["prompt_ids"], len(g["greedy_ids"])) == g["greedy_ids"] for g in generations)
        size = sum(p.stat().st_size for p in model.path.parent.glob(f"{model.path.name}*"))
        print(
            f"{folder.name:24} {size} bytes  KL {total / count:.3e}  same top token {100 * same / count:.2f} %  "
            f"{count} positions  greedy texts {equal} of {len(generations)}",
            flush=True,
        )
    return False


def genai(folder, golden):
    """Greedy continuations by GenAI."""
    import onnxruntime_genai

    with safe_open(golden, "np") as file:
        generations = json.loads(file.metadata()["generations"])
    model, equal = onnxruntime_genai.Model(str(folder)), 0
    tokenizer = onnxruntime_genai.Tokenizer(model)
    for g in generations:
        prompt, expected = g["prompt_ids"], g["greedy_ids"]
        params = onnxruntime_genai.GeneratorParams(model)
        params.set_search_options(do_sample=False, max_length=len(prompt) + len(expected))
        generator = onnxruntime_genai.Generator(model, params)
        generator.append_tokens(np.array(prompt, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        found = [int(token) for token in generator.get_sequence(0)][len(prompt) :]
        equal += found == expected or found == expected[:-1]
    text = tokenizer.decode(np.array(generations[0]["greedy_ids"], np.int32))
    print(f"onnxruntime-genai {onnxruntime_genai.__version__}: greedy texts {equal} of {len(generations)}; the first is {text[:60]!r}")
    return equal != len(generations)


def main():
    verb, *arguments = sys.argv[1:]
    if verb == "families":
        return families(arguments[0], arguments[1:])
    if verb == "measure":
        return measure(arguments[0], arguments[1:])
    return genai(*arguments)


if __name__ == "__main__":
    sys.exit(main())

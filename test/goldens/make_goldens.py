"""Goldens from transformers, float32 with eager attention: logits, log-probabilities and greedy continuations.

    python3 test/goldens/make_goldens.py --oracle path/to/oracle.py [--out test/goldens] [model folder ...]

Without folders: models/demo, models/stories260k and test/goldens/models/*. Writes one JSON file a model, named after
its folder. Needs torch, transformers, safetensors and tokenizers. The oracle module reads a checkpoint of any format
into transformers: `load(dir)` gives the model and `greedy(model, ids, n)` its continuation.
"""

import argparse
import base64
import importlib.util
import json
import math
import platform
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOP = 64  # logits kept of a position
FULL_VOCABULARY = 4096  # vocabularies up to this size: all logits of the last position
TOKENS_OF_TEXT = 120

# (file beside the checkpoint, greedy prompts as (text, tokens to generate)); other folders get random tokens alone
TEXTS = {
    "demo": ("held-out.txt", [("Once upon a time", 60), ("Tell me", 20)]),
    "stories260k": (None, [("", 256), ("One day, Tom and his dog", 120)]),
    "smollm2-135m": ("speckled-band.txt", [("The capital of France is", 16)]),
}


def base64_floats(values):
    """float32, little-endian."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


def random_tokens(seed, count, vocab):
    """The same on every machine: a linear congruential generator's high bits."""
    state, tokens = seed, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        tokens.append((state >> 33) % vocab)
    return tokens


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float()


def measure_sequence(model, name, tokens):
    logits = logits_of(model, tokens)
    logprobs = logits[:-1].double().log_softmax(-1).gather(-1, torch.tensor(tokens[1:])[:, None])[:, 0]
    golden = {"name": name, "tokens": tokens, "logprobs": base64_floats(logprobs), "positions": []}
    for position in sorted({0, len(tokens) // 3, 2 * len(tokens) // 3, len(tokens) - 1}):
        top = logits[position].topk(min(TOP, logits.shape[1]))
        golden["positions"].append({
            "position": position,
            "logSumExp": logits[position].double().logsumexp(-1).item(),
            "ids": top.indices.tolist(),
            "logits": base64_floats(top.values),
        })
    if logits.shape[1] <= FULL_VOCABULARY:
        golden["lastLogits"] = base64_floats(logits[-1])
    print(f"  {name}: {len(tokens)} tokens, perplexity {math.exp(-logprobs.mean().item()):.4g}, "
          f"logits deviate by {logits.std().item():.3g}")
    return golden


def measure_greedy(oracle, model, prompt, count):
    tokens = oracle.greedy(model, prompt, count)
    # How far the choice lay above the next best: where that is tiny, other arithmetic may choose otherwise.
    best = logits_of(model, prompt + tokens)[len(prompt) - 1:-1].topk(2).values
    margins = (best[:, 0] - best[:, 1]).tolist()
    print(f"  greedy: {len(prompt)} + {len(tokens)} tokens, least margin {min(margins):.3g}")
    return {"prompt": prompt, "tokens": tokens, "margins": [round(m, 5) for m in margins]}


def fix_dynamic_rope(model):
    """Rope scaling `dynamic` of the greatest length, max_position_embeddings x factor, for every position."""
    rope = model.config.rope_parameters
    if rope.get("rope_type") != "dynamic":
        return
    length = int(model.config.max_position_embeddings * rope["factor"])
    frequencies, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["dynamic"](
        model.config, torch.device("cpu"), seq_len=length)
    model.model.rotary_emb.inv_freq = frequencies
    # Of any other type, the frequencies stay as they are.
    model.model.rotary_emb.rope_type = "default"


def make(oracle, folder):
    config = json.loads((folder / "config.json").read_text())
    vocab = config["vocab_size"]
    model = oracle.load(str(folder))
    fix_dynamic_rope(model)
    sequences, greedy = [], []
    if folder.name in TEXTS:
        file, prompts = TEXTS[folder.name]
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        for text, count in prompts:
            prompt = tokenizer.encode(text).ids
            golden = measure_greedy(oracle, model, prompt, count)
            print("   ", repr(tokenizer.decode(golden["tokens"])))
            greedy.append(golden)
        if file:
            text = tokenizer.encode((folder / file).read_text(encoding="utf-8")).ids[:TOKENS_OF_TEXT]
        else:
            text = greedy[0]["prompt"] + greedy[0]["tokens"]
        sequences.append(measure_sequence(model, "text", text))
        sequences.append(measure_sequence(model, "random", random_tokens(7, 40, vocab)))
    else:
        for seed, count in ((1, 5), (2, 33), (3, 150)):
            sequences.append(measure_sequence(model, f"random {count}", random_tokens(seed, count, vocab)))
        greedy.append(measure_greedy(oracle, model, random_tokens(4, 12, vocab), 40))
    return {
        "model": folder.name,
        "made": {"torch": torch.__version__, "transformers": transformers.__version__, "dtype": "float32",
                 "attention": "eager", "machine": platform.machine()},
        "vocab": vocab,
        "sequences": sequences,
        "greedy": greedy,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", required=True, type=Path, help="path of the oracle module")
    parser.add_argument("--out", default=HERE, type=Path, help="folder of the JSON files")
    parser.add_argument("folders", nargs="*", type=Path, help="model folders")
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("oracle", options.oracle)
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)

    folders = options.folders or [ROOT / "models/demo", ROOT / "models/stories260k",
                                  *sorted(p for p in (HERE / "models").iterdir() if p.is_dir())]
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    for folder in folders:
        print(folder.name)
        golden = make(oracle, folder)
        path = options.out / f"{folder.name}.json"
        path.write_text(json.dumps(golden) + "\n")
        print(f"  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

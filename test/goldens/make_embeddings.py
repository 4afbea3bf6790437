"""Goldens of embeddings from transformers, float32 with eager attention: the last hidden state of a text's tokens, its mean
and its last row, each of Euclidean length 1.

    python3 test/goldens/make_embeddings.py

Writes embeddings/golden.json, by the model's folder in the repository. Needs torch and transformers.
"""

import base64
import json
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent.parent
MODELS = [
    "models/stories260k",
    "test/goldens/models/bf16-tied",
    "test/goldens/models/f16-untied",
    "test/goldens/models/mistral-bf16-window",
    "test/goldens/models/qwen3-bf16-tied",
    # LayerNorm, weights added to 1, norms behind the layers' parts, multipliers
    "test/goldens/families/cohere-bf16",
    "test/goldens/families/gemma2-bf16",
    "test/goldens/families/olmo2-bf16",
    "test/goldens/families/granite-bf16",
]


def base64_floats(values):
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def random_tokens(seed, count, vocab):
    """The same on every machine: a linear congruential generator's high bits."""
    state, tokens = seed, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        tokens.append((state >> 33) % vocab)
    return tokens


def unit(vector):
    return (vector / vector.norm()).float()


def measure(folder, seed):
    model = transformers.AutoModel.from_pretrained(
        ROOT / folder, dtype=torch.float32, attn_implementation="eager", use_safetensors=True
    )
    model.eval()
    tokens = random_tokens(seed, 45, model.config.vocab_size)
    with torch.no_grad():
        hidden = model(torch.tensor([tokens])).last_hidden_state[0].double()
    return {"tokens": tokens, "mean": base64_floats(unit(hidden.mean(0))), "last": base64_floats(unit(hidden[-1]))}


def main():
    made = {"torch": torch.__version__, "transformers": transformers.__version__}
    models = {folder: measure(folder, seed) for seed, folder in enumerate(MODELS)}
    lines = [f"  {json.dumps(folder)}: {json.dumps(golden)}" for folder, golden in models.items()]
    out = '{\n  "made": ' + json.dumps(made) + ",\n" + ",\n".join(lines) + "\n}\n"
    (Path(__file__).resolve().parent / "embeddings" / "golden.json").write_text(out)


main()

"""Tiny random checkpoints of quantised formats, with log-probabilities of transformers in float32 on what they stand for.

    python3 test/goldens/formats/make_formats.py TEXT [--out test/goldens/formats] [name ...]

TEXT is any text of some hundred words: its last 150 tokens are what is scored. Needs torch, transformers 5, safetensors
and tokenizers; linears.py says how each format is written.
"""

import sys
from pathlib import Path

from cases import CASES

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tiny import make, run  # noqa: E402


def codec_of(codecs, name):
    if not isinstance(codecs, dict):
        return None if name == 'lm_head' else codecs
    if name == 'lm_head':
        return codecs.get(name)
    return next((codec for part, codec in codecs.items() if part in name), None)


def make_case(case, ids, folder):
    _, model_type, own, settings, codecs, seed = case

    def store(tensor, weight, random):
        name = tensor.removesuffix('.weight')
        linear = weight.dim() == 2 and name != tensor and 'embed' not in name
        codec = codec_of(codecs, name) if linear else None
        if codec is None:
            return None
        parts, mean = codec(random, *weight.shape)
        return {f'{name}.{part}': value for part, value in parts.items()}, mean

    return make(folder, ids, model_type, own, seed, store, settings)


if __name__ == '__main__':
    run(HERE, CASES, make_case)

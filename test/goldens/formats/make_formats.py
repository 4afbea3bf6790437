"""Tiny random checkpoints of quantised formats, with log-probabilities of transformers in float32 on what they stand for.

    python3 test/goldens/formats/make_formats.py TEXT [--out test/goldens/formats] [name ...]

TEXT is any text of some hundred words: its last 150 tokens are what is scored. Needs torch, transformers 5, safetensors
and tokenizers; linears.py says how each format is written.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
import transformers
from cases import BASE, CASES
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
TOKENIZER = HERE.parents[2] / 'models/stories260k/tokenizer.json'
TOKENS = 150


def randomise(model, tied, random):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = torch.randn(weight.shape, generator=random)
            if 'embed' in name or ('lm_head' in name and tied):
                weight.copy_(values * (0.12 if tied else 1))
            elif weight.dim() == 1:
                weight.add_(values * 0.2)
            else:
                weight.copy_(values * 1.2 / weight.shape[-1] ** 0.5)


def codec_of(codecs, name):
    if not isinstance(codecs, dict):
        return None if name == 'lm_head' else codecs
    if name == 'lm_head':
        return codecs.get(name)
    return next((codec for part, codec in codecs.items() if part in name), None)


def make(case, ids, folder):
    _, model_type, own, settings, codecs, seed = case
    config = {**BASE, **own}
    random = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config), dtype=torch.float32)
    randomise(model, config['tie_word_embeddings'], random)
    with tempfile.TemporaryDirectory() as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary)
        found = load_file(Path(temporary, 'model.safetensors'))
        stored, means = {}, {}
        for tensor, weight in found.items():
            name = tensor.removesuffix('.weight')
            linear = weight.dim() == 2 and name != tensor and 'embed' not in name
            codec = codec_of(codecs, name) if linear else None
            if codec is None:
                stored[tensor] = means[tensor] = weight.contiguous()
                continue
            parts, mean = codec(random, *weight.shape)
            stored |= {f'{name}.{part}': value.contiguous() for part, value in parts.items()}
            means[tensor] = mean.contiguous()
        save_file(means, Path(temporary, 'model.safetensors'), metadata={'format': 'pt'})
        said = json.loads(Path(temporary, 'config.json').read_text())
        reference = AutoModelForCausalLM.from_pretrained(
            temporary, dtype=torch.float32, attn_implementation='eager'
        ).eval()
    with torch.no_grad():
        logits = reference(torch.tensor([ids]), use_cache=False).logits[0].float()
    scores = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(stored, folder / 'model.safetensors', metadata={'format': 'pt'})
    said['quantization_config'] = settings
    (folder / 'config.json').write_text(json.dumps(said, indent=1))
    golden = {
        'ids': ids,
        'logprobs': [round(score, 5) for score in scores.tolist()],
        'last_logits': [round(logit, 4) for logit in logits[-1].tolist()][:64],
        'transformers': transformers.__version__,
    }
    (folder / 'golden.json').write_text(json.dumps(golden))
    return f'logits of {logits.std():.2f}, log-probabilities of {scores.mean():.2f} in the mean'


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('text', type=Path)
    parser.add_argument('--out', type=Path, default=HERE)
    parser.add_argument('names', nargs='*')
    arguments = parser.parse_args()
    ids = Tokenizer.from_file(str(TOKENIZER)).encode(arguments.text.read_text()[:800]).ids[-TOKENS:]
    for case in CASES:
        if not arguments.names or case[0] in arguments.names:
            print(case[0], make(case, ids, arguments.out / case[0]), flush=True)


if __name__ == '__main__':
    main()

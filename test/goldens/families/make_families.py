"""Tiny random checkpoints of the architectures in cases.py, with log-probabilities of transformers in float32.

    python3 test/goldens/families/make_families.py TEXT [--out test/goldens/families] [name ...]

TEXT is any text of some hundred words: its last 150 tokens are what is scored. Needs torch, transformers 5, safetensors
and tokenizers. Quantised weights are random numbers of the format; transformers computes with what they stand for.
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
GROUP = 32
PLAIN = ('embed', 'lm_head')
AWQ_ORDER = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])


def words(nibbles):
    """Eight numbers of 4 bits a word, the last dimension's."""
    value = (nibbles.long() << (torch.arange(8) * 4)).sum(-1)
    return torch.where(value < 2**31, value, value - 2**32).to(torch.int32)


def quantised(name, weight, fmt, random):
    """Tensors of a linear in a format, and the weight that they stand for."""
    n, k = weight.shape
    groups = k // GROUP
    index = torch.arange(k) // GROUP
    q = (torch.randn(k, n, generator=random) * 2.6 + 8).round().clamp(0, 15).int()
    scales = ((0.5 + torch.rand(groups, n, generator=random)) * 0.45 / k**0.5).half()
    if fmt == 'gptq':
        zeros = torch.full((groups, n), 8)
        packed = {
            'qweight': words(q.reshape(-1, 8, n).permute(0, 2, 1)),
            'qzeros': words((zeros - 1).reshape(groups, -1, 8)),
            'scales': scales,
            'g_idx': index.int(),
        }
    else:
        zeros = torch.randint(4, 12, (groups, n), generator=random)
        packed = {
            'qweight': words(q.reshape(k, -1, 8)[:, :, AWQ_ORDER]),
            'qzeros': words(zeros.reshape(groups, -1, 8)[:, :, AWQ_ORDER]),
            'scales': scales,
        }
    module = name.removesuffix('weight')
    means = ((q - zeros[index]) * scales.float()[index]).T.contiguous()
    return {module + part: tensor.contiguous() for part, tensor in packed.items()}, means


def settings(fmt):
    if fmt == 'gptq':
        return {
            'quant_method': 'gptq',
            'bits': 4,
            'group_size': GROUP,
            'desc_act': False,
            'sym': True,
            'checkpoint_format': 'gptq',
            'lm_head': False,
        }
    return {
        'quant_method': 'awq',
        'bits': 4,
        'group_size': GROUP,
        'zero_point': True,
        'version': 'gemm',
        'modules_to_not_convert': None,
    }


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


def make(case, ids, folder):
    name, model_type, own, fmt, seed = case
    config = {**BASE, **own}
    random = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config), dtype=torch.float32)
    randomise(model, config['tie_word_embeddings'], random)
    with tempfile.TemporaryDirectory() as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary)
        found = load_file(Path(temporary, 'model.safetensors'))
        stored, means = {}, {}
        for tensor, weight in found.items():
            linear = weight.dim() == 2 and tensor.endswith('.weight') and not any(part in tensor for part in PLAIN)
            if linear and fmt != 'plain':
                packed, means[tensor] = quantised(tensor, weight, fmt, random)
                stored |= packed
            else:
                stored[tensor] = means[tensor] = weight.contiguous()
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
    if fmt != 'plain':
        said['quantization_config'] = settings(fmt)
    (folder / 'config.json').write_text(json.dumps(said, indent=1))
    golden = {
        'ids': ids,
        'logprobs': [round(score, 5) for score in scores.tolist()],
        'last_logits': [round(logit, 4) for logit in logits[-1].tolist()][:64],
        'transformers': transformers.__version__,
    }
    (folder / 'golden.json').write_text(json.dumps(golden))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('text', type=Path)
    parser.add_argument('--out', type=Path, default=HERE)
    parser.add_argument('names', nargs='*')
    arguments = parser.parse_args()
    ids = Tokenizer.from_file(str(TOKENIZER)).encode(arguments.text.read_text()[:800]).ids[-TOKENS:]
    for case in CASES:
        if not arguments.names or case[0] in arguments.names:
            make(case, ids, arguments.out / case[0])
            print(case[0], flush=True)


if __name__ == '__main__':
    main()

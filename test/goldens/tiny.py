"""What families/make_families.py and formats/make_formats.py have alike: a tiny random model, stored, and what transformers makes of it."""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

TOKENIZER = Path(__file__).resolve().parents[2] / 'models/stories260k/tokenizer.json'
TOKENS = 150
BASE = {
    'vocab_size': 512,
    'hidden_size': 64,
    'intermediate_size': 128,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'head_dim': 16,
    'max_position_embeddings': 512,
    'rms_norm_eps': 1e-5,
    'tie_word_embeddings': True,
    'bos_token_id': 0,
    'eos_token_id': 0,
    'pad_token_id': None,
}


def randomise(model, tied, random):
    with torch.no_grad():
        corrections = [(name, buffer) for name, buffer in model.named_buffers() if 'correction_bias' in name]
        for name, weight in [*model.named_parameters(), *corrections]:
            values = torch.randn(weight.shape, generator=random)
            if 'embed' in name or ('lm_head' in name and tied):
                weight.copy_(values * (0.12 if tied else 1))
            elif name.endswith('A_log'):  # states that last for some tokens
                weight.copy_(values * 0.8 - 2)
            elif weight.dim() == 1:
                weight.add_(values * 0.2)
            elif 'bias' in name:  # of experts
                weight.copy_(values * 0.2)
            else:
                weight.copy_(values * 1.2 / weight.shape[-1] ** 0.5)


def make(folder, ids, model_type, own, seed, store, settings):
    """A checkpoint and golden.json. store(name, weight, random) -> tensors and the weight that they stand for, or None:
    as it is, in bfloat16. `settings`: quantization_config, or None."""
    config = {**BASE, **own}
    random = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config), dtype=torch.float32)
    randomise(model, config['tie_word_embeddings'], random)
    with tempfile.TemporaryDirectory() as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary)
        stored, means = {}, {}
        for tensor, weight in load_file(Path(temporary, 'model.safetensors')).items():
            found = store(tensor, weight, random)
            parts, mean = ({tensor: weight}, weight) if found is None else found
            stored |= {name: value.contiguous() for name, value in parts.items()}
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
    if settings is not None:
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


def run(here, cases, make_case):
    """The command line of both: make_case(case, ids, folder) -> what to print."""
    parser = argparse.ArgumentParser()
    parser.add_argument('text', type=Path)
    parser.add_argument('--out', type=Path, default=here)
    parser.add_argument('names', nargs='*')
    arguments = parser.parse_intermixed_args()
    ids = Tokenizer.from_file(str(TOKENIZER)).encode(arguments.text.read_text()[:800]).ids[-TOKENS:]
    for case in cases:
        if not arguments.names or case[0] in arguments.names:
            print(case[0], make_case(case, ids, arguments.out / case[0]), flush=True)

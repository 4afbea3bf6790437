"""Tiny random checkpoints of the architectures in cases.py, with log-probabilities of transformers in float32.

    python3 test/goldens/families/make_families.py TEXT [--out test/goldens/families] [name ...]

TEXT is any text of some hundred words: its last 150 tokens are what is scored. Needs torch, transformers 5, safetensors
and tokenizers. Quantised weights are random numbers of the format; transformers computes with what they stand for.
"""

import sys
from pathlib import Path

import torch
from cases import CASES

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tiny import make, run  # noqa: E402

GROUP = 32
# Quantisers leave routers as they are.
PLAIN = ('embed', 'lm_head', 'mlp.gate.weight', 'block_sparse_moe.gate.weight', 'router', 'shared_expert_gate', 'in_proj_a.', 'in_proj_b.', 'in_proj_ba.')
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


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def blocks(name, weight, random):
    """The experts of gpt-oss in MXFP4, [experts, in, out] as floats, and what they stand for."""
    experts, k, n = weight.shape
    q = torch.randint(0, 16, (experts, n, k), generator=random)
    exponents = torch.randint(120, 124, (experts, n, k // 32), generator=random)
    means = E2M1[q] * torch.exp2(exponents.float() - 127).repeat_interleave(32, -1)
    pairs = q.reshape(experts, n, k // 32, 16, 2)
    packed = {
        name + '_blocks': (pairs[..., 0] | pairs[..., 1] << 4).to(torch.uint8),
        name + '_scales': exponents.to(torch.uint8),
    }
    return packed, means.transpose(1, 2).contiguous().bfloat16()


def settings(fmt, mixture):
    if fmt == 'mxfp4':
        return {'quant_method': 'mxfp4', 'modules_to_not_convert': ['model.layers.*.self_attn', 'lm_head']}
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
        'modules_to_not_convert': ['gate'] if mixture else None,
    }


def make_case(case, ids, folder):
    _, model_type, own, fmt, seed = case

    def store(tensor, weight, random):
        linear = weight.dim() == 2 and tensor.endswith('.weight') and not any(part in tensor for part in PLAIN)
        if fmt == 'mxfp4':
            return blocks(tensor, weight, random) if weight.dim() == 3 else None
        return quantised(tensor, weight, fmt, random) if linear and fmt != 'plain' else None

    return make(folder, ids, model_type, own, seed, store, None if fmt == 'plain' else settings(fmt, 'num_experts_per_tok' in own))


if __name__ == '__main__':
    run(HERE, CASES, make_case)

"""How linears are stored: each codec draws random numbers of a format and says which tensors hold them and what they stand for.

    tensors by the end of their name, weight [n, k] in float32  =  codec(random, n, k)
"""

import torch

AWQ_ORDER = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def words(levels, bits=4):
    """32 bits' worth of levels a word, the first lowest, along the last dimension."""
    per = 32 // bits
    split = levels.long().reshape(*levels.shape[:-1], -1, per)
    value = (split << (torch.arange(per) * bits)).sum(-1)
    return torch.where(value < 2**31, value, value - 2**32).to(torch.int32)


def draw(random, n, k, groups, bits):
    """Levels [n, k] and scales [n, groups] that keep rows' lengths near 1.2."""
    middle = 2 ** (bits - 1)
    spread = 2.6 if bits == 4 else 40
    levels = (torch.randn(n, k, generator=random) * spread + middle).round().clamp(0, 2**bits - 1).int()
    scales = (0.5 + torch.rand(n, groups, generator=random)) * (0.45 if bits == 4 else 0.03) / k**0.5
    return levels, scales


def groups_of(random, k, group, act):
    index = torch.arange(k) // group
    return index[torch.randperm(k, generator=random)] if act else index


def gptq(bits=4, group=32, version=1, symmetric=True, act=False, dtype=torch.float16):
    def codec(random, n, k):
        size = k if group == -1 else group
        levels, scales = draw(random, n, k, k // size, bits)
        scales = scales.to(dtype)
        index = groups_of(random, k, size, act)
        zeros = torch.full((n, k // size), 2 ** (bits - 1))
        if not symmetric:
            # Of version 1 a zero of 0 would be stored as what different readers take for different numbers.
            zeros = torch.randint(1 if version == 1 else 0, 2**bits, zeros.shape, generator=random)
        weight = (levels - zeros[:, index]) * scales.float()[:, index]
        tensors = {
            'qweight': words(levels, bits).T,
            'qzeros': words((zeros - int(version == 1)).T, bits),
            'scales': scales.T,
            'g_idx': index.int(),
        }
        return tensors, weight

    return codec


def awq(group=32):
    def codec(random, n, k):
        levels, scales = draw(random, n, k, k // group, 4)
        scales = scales.half()
        zeros = torch.randint(4, 12, scales.shape, generator=random)
        index = torch.arange(k) // group

        def packed(values):
            return words(values.T.reshape(values.shape[1], -1, 8)[:, :, AWQ_ORDER].reshape(values.shape[1], -1))

        tensors = {'qweight': packed(levels), 'qzeros': packed(zeros), 'scales': scales.T}
        return tensors, (levels - zeros[:, index]) * scales.float()[:, index]

    return codec


def integers(bits=4, group=32, symmetric=True, act=False, packed=True, dtype=torch.bfloat16, activations=False):
    """compressed-tensors: pack-quantized, or int-quantized where not packed. group -1: a row, 0: the tensor."""

    def codec(random, n, k):
        size = group if group > 0 else k
        levels, scales = draw(random, n, k, k // size, bits)
        if group == 0:
            scales = scales[:1, :1]
        scales = scales.to(dtype)
        index = groups_of(random, k, size, act)
        middle = 2 ** (bits - 1)
        zeros = torch.full((n, k // size), middle)
        tensors = {'weight_scale': scales.reshape(1) if group == 0 else scales}
        if not symmetric:
            zeros = torch.randint(middle - 4, middle + 4, zeros.shape, generator=random)
            tensors['weight_zero_point'] = words(zeros.T, bits).T if packed else (zeros - middle).to(torch.int8)
        if packed:
            tensors['weight_packed'] = words(levels, bits)
            tensors['weight_shape'] = torch.tensor([n, k])
        else:
            tensors['weight'] = (levels - middle).to(torch.int8)
        if act:
            tensors['weight_g_idx'] = index.int()
        if activations:
            tensors['input_scale'] = torch.tensor([0.02], dtype=dtype)
            tensors['input_zero_point'] = torch.tensor([0], dtype=torch.int8)
        spread = scales.float().expand(n, -1) if group == 0 else scales.float()
        return tensors, (levels - zeros[:, index]) * spread[:, index]

    return codec


def fp8(rows, features, name='weight_scale', dtype=torch.float32, shape=None, static=False):
    """e4m3 of blocks; rows or features -1: all of them."""

    def codec(random, n, k):
        r, f = (n if rows == -1 else rows), (k if features == -1 else features)
        scales = (torch.rand((n + r - 1) // r, (k + f - 1) // f, generator=random) * 0.004 + 0.002).to(dtype)
        spread = scales.float().repeat_interleave(r, 0)[:n].repeat_interleave(f, 1)[:, :k]
        weight = torch.randn(n, k, generator=random) * 1.2 / k**0.5
        stored = (weight / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
        tensors = {'weight': stored, name: scales if shape is None else scales.reshape(shape)}
        if static:
            tensors['input_scale'] = torch.tensor(0.03)
        return tensors, stored.float() * spread

    return codec


def nvfp4(compressed):
    """modelopt's names and factors, or those of compressed-tensors, whose scale of the tensor divides."""

    def codec(random, n, k):
        levels = torch.randint(0, 16, (n, k), generator=random)
        scales = (torch.rand(n, k // 16, generator=random) * 300 + 20).to(torch.float8_e4m3fn)
        whole = torch.tensor(0.0018 / k**0.5)
        stored = (levels[:, ::2] | (levels[:, 1::2] << 4)).to(torch.uint8)
        if compressed:
            whole = (1 / whole).float()
            factor = 1 / whole
            tensors = {
                'weight_packed': stored,
                'weight_scale': scales,
                'weight_global_scale': whole.reshape(1),
                'input_global_scale': torch.tensor([320.0]),
            }
        else:
            factor = whole
            tensors = {'weight': stored, 'weight_scale': scales, 'weight_scale_2': whole, 'input_scale': torch.tensor(0.004)}
        return tensors, E2M1[levels] * (scales.float() * factor).repeat_interleave(16, 1)

    return codec


def mxfp4():
    """compressed-tensors: e8m0 scales of 32."""

    def codec(random, n, k):
        levels = torch.randint(0, 16, (n, k), generator=random)
        powers = torch.randint(121, 124, (n, k // 32), generator=random)
        stored = (levels[:, ::2] | (levels[:, 1::2] << 4)).to(torch.uint8)
        tensors = {'weight_packed': stored, 'weight_scale': powers.to(torch.uint8)}
        return tensors, E2M1[levels] * torch.exp2(powers.float() - 127).repeat_interleave(32, 1)

    return codec

"""The tiny models of test/goldens/formats that make_formats.py makes: what config.json says of linears, and how they are stored."""

import torch
from linears import awq, fp8, gptq, integers, mxfp4, nvfp4

WIDE = {'hidden_size': 160, 'intermediate_size': 192, 'head_dim': 32, 'num_key_value_heads': 1}


def gptq_settings(**more):
    common = {'bits': 4, 'group_size': 32, 'desc_act': False, 'sym': True, 'lm_head': False}
    return {'quant_method': 'gptq', 'checkpoint_format': 'gptq', **common, **more}


def group(targets=('Linear',), activations=None, form=None, **weights):
    common = {'symmetric': True, 'dynamic': False, 'actorder': None, 'block_structure': None, 'observer': 'minmax'}
    said = {'targets': list(targets), 'weights': {**common, **weights}, 'output_activations': None}
    return {**said, 'input_activations': activations, **({} if form is None else {'format': form})}


def compressed(form, *groups, ignore=('lm_head',), **more):
    named = {f'group_{i}': one for i, one in enumerate(groups)}
    common = {'quantization_status': 'compressed', 'kv_cache_scheme': None, 'global_compression_ratio': None}
    settings = {'quant_method': 'compressed-tensors', 'format': form, 'config_groups': named, 'ignore': list(ignore)}
    return {**settings, **common, **more}


INT8 = {'num_bits': 8, 'type': 'int', 'strategy': 'token', 'dynamic': True, 'symmetric': True}
STATIC8 = {**INT8, 'strategy': 'tensor', 'dynamic': False}
FLOAT8 = {**INT8, 'type': 'float'}
FLOAT4 = {'num_bits': 4, 'type': 'float', 'strategy': 'tensor_group', 'group_size': 16, 'dynamic': 'local'}
KV8 = {'num_bits': 8, 'type': 'float', 'strategy': 'tensor', 'dynamic': False, 'symmetric': True}
ATTENTION, MLP = r're:.*self_attn\.(q|k|v|o)_proj$', r're:.*mlp\.(gate|up|down)_proj$'


def ints(bits, size=None, **more):
    strategy = 'channel' if size is None else 'group'
    return {'num_bits': bits, 'type': 'int', 'strategy': strategy, 'group_size': size, **more}


def floats(strategy, **more):
    return {'num_bits': 8, 'type': 'float', 'strategy': strategy, 'group_size': None, **more}


def auto_round(packing, **more):
    common = {'bits': 4, 'data_type': 'int', 'group_size': 32, 'sym': True, 'autoround_version': '0.9.0', 'iters': 200}
    return {'quant_method': 'auto-round', 'packing_format': packing, **common, **more}


MODELOPT = {'quant_method': 'modelopt', 'producer': {'name': 'modelopt', 'version': '0.40.0'}}
NVFP4 = {'num_bits': 4, 'type': 'float', 'group_size': 16, 'dynamic': False}

# name, model_type, config beside tiny.py's BASE, settings, the codec of all linears or the first whose part of a name is there, seed
CASES = [
    (
        'llama-nvfp4-modelopt',
        'llama',
        {},
        {
            **MODELOPT,
            'quant_algo': 'NVFP4',
            'config_groups': {'group_0': {'input_activations': NVFP4, 'weights': NVFP4, 'targets': ['Linear']}},
            'ignore': ['lm_head'],
            'kv_cache_scheme': {'dynamic': False, 'num_bits': 8, 'type': 'float'},
        },
        nvfp4(False),
        1,
    ),
    (
        'qwen3-nvfp4-ct',
        'qwen3',
        {},
        compressed('nvfp4-pack-quantized', group(activations=FLOAT4, **{**FLOAT4, 'dynamic': False})),
        nvfp4(True),
        2,
    ),
    (
        'llama-mxfp4-ct',
        'llama',
        {},
        compressed(
            'mxfp4-pack-quantized',
            group(num_bits=4, type='float', strategy='group', group_size=32, scale_dtype='torch.uint8'),
        ),
        mxfp4(),
        3,
    ),
    (
        'llama-modelopt-mixed',
        'llama',
        {},
        {
            **MODELOPT,
            'quant_algo': 'MIXED_PRECISION',
            'quantized_layers': {
                f'model.layers.{layer}.{part}_proj': (
                    {'quant_algo': 'FP8'} if 'attn' in part else {'quant_algo': 'NVFP4', 'group_size': 16}
                )
                for layer in range(2)
                for part in [*(f'self_attn.{p}' for p in 'qkvo'), 'mlp.gate', 'mlp.up', 'mlp.down']
            },
        },
        {'self_attn': fp8(-1, -1, shape=(), static=True), 'mlp': nvfp4(False)},
        4,
    ),
    ('llama-modelopt-fp8', 'llama', {}, {**MODELOPT, 'quant_algo': 'FP8', 'ignore': ['lm_head']}, fp8(-1, -1, shape=(), static=True), 5),
    (
        'mistral-fp8-tensor',
        'mistral',
        {'sliding_window': None},
        {'quant_method': 'fp8', 'activation_scheme': 'static', 'ignored_layers': ['lm_head']},
        fp8(-1, -1, shape=(1,), static=True),
        6,
    ),
    (
        'qwen2-fbgemm-fp8',
        'qwen2',
        {},
        {'quant_method': 'fbgemm_fp8', 'activation_scale_ub': 1200.0, 'modules_to_not_convert': ['lm_head']},
        fp8(1, -1),
        7,
    ),
    (
        'llama-ct-fp8-dynamic',
        'llama',
        {},
        compressed('float-quantized', group(activations=FLOAT8, **floats('channel')), kv_cache_scheme=KV8),
        fp8(1, -1, dtype=torch.bfloat16),
        8,
    ),
    (
        'qwen3-ct-fp8-static',
        'qwen3',
        {},
        compressed('float-quantized', group(activations=FLOAT8, **floats('tensor'))),
        fp8(-1, -1, dtype=torch.bfloat16, shape=(1,), static=True),
        9,
    ),
    (
        'qwen3-ct-fp8-block',
        'qwen3',
        WIDE,
        compressed('float-quantized', group(activations=FLOAT8, **floats('block', block_structure=[128, 128]))),
        fp8(128, 128, dtype=torch.bfloat16),
        10,
    ),
    ('llama-ct-naive-fp8', 'llama', {}, compressed('naive-quantized', group(**floats('tensor'))), fp8(-1, -1, shape=(1,)), 11),
    ('phi3-fp8-tensor', 'phi3', {}, {'quant_method': 'fp8', 'activation_scheme': 'dynamic'}, fp8(-1, -1, shape=(1,)), 12),
    ('phi3-ct-w8a8', 'phi3', {}, compressed('int-quantized', group(activations=INT8, **ints(8))), integers(8, -1, packed=False), 13),
    ('phi3-awq', 'phi3', {}, {'quant_method': 'awq', 'bits': 4, 'group_size': 32, 'zero_point': True, 'version': 'gemm'}, awq(), 14),
    (
        'llama-ct-w8a8-f32',
        'llama',
        {},
        compressed('int-quantized', group(activations=INT8, **ints(8))),
        integers(8, -1, packed=False, dtype=torch.float32),
        15,
    ),
    (
        'qwen2-ct-w8a8-static',
        'qwen2',
        {},
        compressed('int-quantized', group(activations=STATIC8, num_bits=8, type='int', strategy='tensor')),
        integers(8, 0, packed=False, activations=True),
        16,
    ),
    (
        'llama-ct-w4a8',
        'llama',
        {},
        compressed('int-quantized', group(activations=INT8, **ints(4, 32))),
        integers(4, 32, packed=False),
        17,
    ),
    (
        'llama-ct-w8a8-asym',
        'llama',
        {},
        compressed('int-quantized', group(activations=INT8, **ints(8, symmetric=False))),
        integers(8, -1, packed=False, symmetric=False),
        18,
    ),
    (
        'llama-ct-pack-w4a8',
        'llama',
        {},
        compressed('pack-quantized', group(activations=INT8, **ints(4, 32))),
        integers(4, 32),
        19,
    ),
    (
        'qwen3-ct-pack8-asym',
        'qwen3',
        {},
        compressed('pack-quantized', group(**ints(8, 32, symmetric=False))),
        integers(8, 32, symmetric=False),
        20,
    ),
    (
        'llama-ct-pack4-act-asym',
        'llama',
        {},
        compressed('pack-quantized', group(**ints(4, 32, symmetric=False, actorder='group'))),
        integers(4, 32, symmetric=False, act=True),
        21,
    ),
    (
        'llama-ct-mixed',
        'llama',
        {},
        compressed(
            'mixed-precision',
            group([ATTENTION], activations=FLOAT8, form='float-quantized', **floats('channel')),
            group([MLP], form='pack-quantized', **ints(4, 32)),
            ignore=['lm_head', 're:.*layers.0.mlp.down_proj'],
        ),
        {'layers.0.mlp.down_proj': None, 'self_attn': fp8(1, -1, dtype=torch.bfloat16), 'mlp': integers(4, 32)},
        22,
    ),
    (
        'qwen3-ct-two-groups',
        'qwen3',
        {},
        compressed(
            'pack-quantized',
            group(['model.layers.1.mlp.down_proj', r're:.*\.o_proj'], **ints(8, 64)),
            group(['Linear'], **ints(4, 32)),
        ),
        {'layers.1.mlp.down_proj': integers(8, 64), 'o_proj': integers(8, 64), '': integers(4, 32)},
        23,
    ),
    ('llama-gptq8-asym', 'llama', {}, gptq_settings(bits=8, sym=False), gptq(8, symmetric=False), 24),
    (
        'llama-gptq8-v2-asym',
        'llama',
        {},
        gptq_settings(bits=8, sym=False, checkpoint_format='gptq_v2', group_size=-1),
        gptq(8, group=-1, version=2, symmetric=False),
        25,
    ),
    (
        'qwen2-gptq-v2-asym-act',
        'qwen2',
        {},
        gptq_settings(sym=False, checkpoint_format='gptq_v2', desc_act=True),
        gptq(version=2, symmetric=False, act=True),
        26,
    ),
    (
        'llama-gptq-rules-8-4',
        'llama',
        {},
        gptq_settings(dynamic={r'+:.*\.down_proj': {'bits': 8, 'group_size': 64}, r'-:.*layers\.0\.self_attn': {}}),
        {'layers.0.self_attn': None, 'down_proj': gptq(8, 64), '': gptq()},
        27,
    ),
    (
        'llama-auto-round',
        'llama',
        {},
        auto_round(
            'auto_round:auto_gptq',
            extra_config={
                'model.layers.0.mlp.down_proj': {'bits': 8, 'group_size': 64},
                r'.*layers\.1\.self_attn.*': {'bits': 16, 'data_type': 'float'},
            },
        ),
        {'layers.1.self_attn': None, 'layers.0.mlp.down_proj': gptq(8, 64), '': gptq()},
        28,
    ),
    ('qwen2-auto-round-awq', 'qwen2', {}, auto_round('auto_round:auto_awq', sym=False), awq(), 29),
    (
        'llama-auto-round-old',
        'llama',
        {},
        {
            'quant_method': 'intel/auto-round',
            'bits': 4,
            'group_size': 32,
            'sym': False,
            'data_type': 'int',
            'backend': 'auto_round:gptq:exllamav2',
        },
        gptq(symmetric=False),
        30,
    ),
    ('llama-gptq-bf16-scales', 'llama', {'attention_bias': True, 'mlp_bias': True}, gptq_settings(), gptq(dtype=torch.bfloat16), 31),
    (
        'llama-quantised-head-fp8',
        'llama',
        {'tie_word_embeddings': False},
        compressed('float-quantized', group(activations=FLOAT8, **floats('channel')), ignore=[]),
        {'lm_head': fp8(1, -1), '': fp8(1, -1)},
        32,
    ),
]

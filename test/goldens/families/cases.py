"""The tiny models of test/goldens/families: name, model_type of transformers, what its config says beside tiny.py's BASE, format of linears."""


def windows(layers, every, window=24):
    """Every `every`-th layer sees all, the others a window."""
    types = ['full_attention' if (i + 1) % every == 0 else 'sliding_attention' for i in range(layers)]
    return {'num_hidden_layers': layers, 'layer_types': types, 'sliding_window': window}


GEMMA2 = {
    **windows(4, 2),
    'query_pre_attn_scalar': 24,
    'attn_logit_softcapping': 20.0,
    'final_logit_softcapping': 8.0,
    'hidden_activation': 'gelu_pytorch_tanh',
}
GEMMA3 = {
    **windows(4, 3),
    'query_pre_attn_scalar': 20,
    'rope_parameters': {
        'full_attention': {'rope_type': 'linear', 'factor': 4.0, 'rope_theta': 1e6},
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4},
    },
}
GEMMA4 = {
    **windows(4, 2),
    'global_head_dim': 32,
    'num_global_key_value_heads': 1,
    'vocab_size_per_layer_input': 512,
    'hidden_size_per_layer_input': 32,
}
PHI3 = {'pad_token_id': 0}
LONGROPE = {
    'original_max_position_embeddings': 64,
    'rope_scaling': {
        'type': 'longrope',
        'rope_type': 'longrope',
        'short_factor': [1.0 + 0.05 * i for i in range(8)],
        'long_factor': [1.0 + 0.6 * i for i in range(8)],
    },
}
GLM = {'attention_bias': True, 'partial_rotary_factor': 0.5}
GRANITE = {
    'embedding_multiplier': 6.0,
    'residual_multiplier': 0.4,
    'attention_multiplier': 0.11,
    'logits_scaling': 3.0,
}
GRANITE4 = {
    **GRANITE,
    'num_local_experts': 0,
    'num_experts_per_tok': 0,
    'shared_intermediate_size': 128,
    'layer_types': ['attention', 'attention'],
    'mamba_n_heads': 8,
    'mamba_d_head': 16,
}
HYPERCLOVAX = {
    'embedding_multiplier': 6.0,
    'residual_multiplier': 0.4,
    'logits_scaling': 0.5,
    'use_post_norm': True,
}
CWM = {
    'rope_parameters': {
        'rope_type': 'llama3',
        'rope_theta': 1e4,
        'factor': 4.0,
        'high_freq_factor': 4.0,
        'low_freq_factor': 1.0,
        'original_max_position_embeddings': 64,
    },
}
SMOLLM3 = {'num_hidden_layers': 4, 'no_rope_layer_interval': 2, 'pad_token_id': 0}
COHERE2 = {**windows(4, 4), 'logit_scale': 0.25}
YARN = {
    'rope_type': 'yarn',
    'type': 'yarn',
    'rope_theta': 1e6,
    'factor': 16.0,
    'original_max_position_embeddings': 64,
    'max_position_embeddings': 512,
    'beta_fast': 32.0,
    'beta_slow': 1.0,
    'mscale': 1.0,
    'mscale_all_dim': 1.0,
    'llama_4_scaling_beta': 0.1,
}
UNTIED = {'tie_word_embeddings': False}
QWEN3_MOE = {
    'num_hidden_layers': 3,
    'mlp_only_layers': [1],
    'num_experts': 8,
    'num_experts_per_tok': 3,
    'moe_intermediate_size': 32,
    'norm_topk_prob': True,
}
SPARSE_HALF = {**QWEN3_MOE, 'num_hidden_layers': 4, 'mlp_only_layers': [], 'decoder_sparse_step': 2}
GPT_OSS = {
    **windows(4, 2),
    'num_local_experts': 6,
    'num_experts_per_tok': 2,
    'intermediate_size': 96,
    'rope_parameters': {
        'rope_type': 'yarn',
        'rope_theta': 150000.0,
        'factor': 8.0,
        'beta_fast': 32.0,
        'beta_slow': 1.0,
        'truncate': False,
        'original_max_position_embeddings': 64,
    },
}
GLM4_MOE = {
    'num_hidden_layers': 3,
    'num_nextn_predict_layers': 0,
    'moe_intermediate_size': 32,
    'n_routed_experts': 8,
    'num_experts_per_tok': 3,
    'routed_scaling_factor': 1.5,
    'attention_bias': True,
    'use_qk_norm': True,
}
GLM4_GROUPS = {**GLM4_MOE, 'n_group': 4, 'topk_group': 2, 'use_qk_norm': False, 'norm_topk_prob': False}
LATENT = {
    'num_hidden_layers': 3,
    'num_key_value_heads': 4,
    'head_dim': 8,
    'q_lora_rank': 32,
    'kv_lora_rank': 32,
    'qk_nope_head_dim': 16,
    'qk_rope_head_dim': 8,
    'v_head_dim': 24,
    'n_routed_experts': 8,
    'num_experts_per_tok': 3,
    'moe_intermediate_size': 32,
    'n_shared_experts': 1,
    'routed_scaling_factor': 1.5,
    'num_nextn_predict_layers': 0,
}
DEEPSEEK_V3 = {
    **LATENT,
    'first_k_dense_replace': 1,
    'n_group': 4,
    'topk_group': 2,
    'rope_parameters': {
        'rope_type': 'yarn',
        'rope_theta': 10000.0,
        'factor': 4.0,
        'beta_fast': 32.0,
        'beta_slow': 1.0,
        'mscale': 0.8,
        'mscale_all_dim': 1.1,
        'original_max_position_embeddings': 64,
    },
}
DEEPSEEK_V2 = {**LATENT, 'q_lora_rank': None, 'n_shared_experts': 2, 'first_k_dense_replace': 1}
V2_GROUPS = {**LATENT, 'topk_method': 'group_limited_greedy', 'n_group': 4, 'topk_group': 2}
OLMOE = {'num_experts': 8, 'num_experts_per_tok': 3, 'intermediate_size': 32, 'pad_token_id': 0}
MIXTRAL = {'num_local_experts': 6, 'num_experts_per_tok': 2, 'intermediate_size': 96}

LINEAR = {
    'num_hidden_layers': 4,
    'layer_types': ['linear_attention', 'full_attention', 'linear_attention', 'linear_attention'],
    'linear_key_head_dim': 16,
    'linear_value_head_dim': 32,
    'linear_num_key_heads': 2,
    'linear_num_value_heads': 4,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 10000.0, 'partial_rotary_factor': 0.5},
}
SHARED_GATE = {
    'num_experts': 8,
    'num_experts_per_tok': 3,
    'moe_intermediate_size': 32,
    'shared_expert_intermediate_size': 64,
}
# As GGUF says which layers attend: each second.
PAIRS = {**LINEAR, 'layer_types': ['linear_attention', 'full_attention'] * 2, 'linear_value_head_dim': 16}
QWEN3_NEXT = {**LINEAR, **SHARED_GATE, 'mlp_only_layers': [1], 'linear_num_value_heads': 6}

# (name, model_type, config, format, seed)
CASES = [
    ('gemma-bf16', 'gemma', {'num_key_value_heads': 1}, 'plain', 1),
    ('gemma2-bf16', 'gemma2', GEMMA2, 'plain', 1),
    ('gemma2-gptq-g32', 'gemma2', GEMMA2, 'gptq', 2),
    ('gemma3-bf16', 'gemma3_text', GEMMA3, 'plain', 1),
    ('gemma3-awq-g32', 'gemma3_text', GEMMA3, 'awq', 3),
    ('gemma3-bias-bf16', 'gemma3_text', {**windows(2, 2), 'attention_bias': True}, 'plain', 4),
    ('gemma4-bf16', 'gemma4_text', GEMMA4, 'plain', 1),
    ('gemma4-bias-bf16', 'gemma4_text', {**GEMMA4, 'attention_bias': True}, 'plain', 4),
    ('gemma4-gptq-g32', 'gemma4_text', GEMMA4, 'gptq', 2),
    ('gemma4-shared-kv-bf16', 'gemma4_text', {**GEMMA4, **windows(6, 3), 'num_kv_shared_layers': 3}, 'plain', 1),
    (
        'gemma4-k-is-v-bf16',
        'gemma4_text',
        {**GEMMA4, 'attention_k_eq_v': True, 'hidden_size_per_layer_input': 0},
        'plain',
        1,
    ),
    ('phi3-bf16', 'phi3', {**PHI3, **UNTIED}, 'plain', 1),
    ('phi3-gptq-g32', 'phi3', PHI3, 'gptq', 2),
    ('phi3-partial-window-bf16', 'phi3', {**PHI3, 'partial_rotary_factor': 0.75, 'sliding_window': 24}, 'plain', 3),
    ('phi3-longrope-bf16', 'phi3', {**PHI3, **LONGROPE}, 'plain', 4),
    ('glm-bf16', 'glm', GLM, 'plain', 1),
    ('glm4-bf16', 'glm4', GLM, 'plain', 1),
    ('glm4-gptq-g32', 'glm4', GLM, 'gptq', 2),
    ('granite-bf16', 'granite', GRANITE, 'plain', 1),
    ('granite-gptq-g32', 'granite', GRANITE, 'gptq', 2),
    ('granite4-dense-bf16', 'granitemoehybrid', {**GRANITE4, 'position_embedding_type': 'rope'}, 'plain', 1),
    ('granite4-dense-nope-bf16', 'granitemoehybrid', {**GRANITE4, 'position_embedding_type': None}, 'plain', 1),
    ('olmo-bf16', 'olmo', UNTIED, 'plain', 1),
    ('olmo-gptq-g32', 'olmo', {}, 'gptq', 2),
    ('olmo2-bf16', 'olmo2', UNTIED, 'plain', 1),
    ('olmo2-awq-g32', 'olmo2', {}, 'awq', 2),
    ('olmo3-bf16', 'olmo3', windows(4, 4), 'plain', 1),
    ('olmo3-gptq-g32', 'olmo3', windows(4, 4), 'gptq', 2),
    ('smollm3-bf16', 'smollm3', SMOLLM3, 'plain', 1),
    ('smollm3-gptq-g32', 'smollm3', SMOLLM3, 'gptq', 2),
    ('cohere-bf16', 'cohere', {'logit_scale': 0.25}, 'plain', 1),
    ('cohere2-bf16', 'cohere2', COHERE2, 'plain', 1),
    ('cohere2-gptq-g32', 'cohere2', COHERE2, 'gptq', 2),
    ('ministral-bf16', 'ministral', windows(4, 4), 'plain', 1),
    ('ministral3-bf16', 'ministral3', {'rope_parameters': YARN}, 'plain', 1),
    ('mistral-small-bf16', 'mistral', {**UNTIED, 'sliding_window': None, 'rope_theta': 1e9}, 'plain', 1),
    ('seed-oss-bf16', 'seed_oss', {'attention_bias': True, 'attention_out_bias': False}, 'plain', 1),
    ('exaone4-bf16', 'exaone4', {**windows(4, 4), 'sliding_window_pattern': 4}, 'plain', 1),
    ('ernie45-bf16', 'ernie4_5', {'use_bias': False}, 'plain', 1),
    ('ernie45-bias-bf16', 'ernie4_5', {'use_bias': True}, 'plain', 1),
    ('qwen3-moe-bf16', 'qwen3_moe', QWEN3_MOE, 'plain', 1),
    ('qwen3-moe-gptq-g32', 'qwen3_moe', QWEN3_MOE, 'gptq', 2),
    ('qwen3-moe-unnormed-awq-g32', 'qwen3_moe', {**SPARSE_HALF, 'norm_topk_prob': False}, 'awq', 3),
    ('gpt-oss-bf16', 'gpt_oss', GPT_OSS, 'plain', 1),
    ('gpt-oss-mxfp4', 'gpt_oss', {**GPT_OSS, **UNTIED}, 'mxfp4', 3),
    ('glm4-moe-bf16', 'glm4_moe', GLM4_MOE, 'plain', 1),
    ('glm4-moe-groups-gptq-g32', 'glm4_moe', {**GLM4_GROUPS, 'n_shared_experts': 2}, 'gptq', 2),
    ('glm4-moe-lite-bf16', 'glm4_moe_lite', LATENT, 'plain', 1),
    ('glm4-moe-lite-awq-g32', 'glm4_moe_lite', {**LATENT, 'v_head_dim': 32, 'q_lora_rank': 64}, 'awq', 4),
    ('deepseek-v3-bf16', 'deepseek_v3', DEEPSEEK_V3, 'plain', 1),
    ('deepseek-v3-gptq-g32', 'deepseek_v3', {**DEEPSEEK_V3, 'attention_bias': True}, 'gptq', 2),
    ('deepseek-v2-bf16', 'deepseek_v2', DEEPSEEK_V2, 'plain', 5),
    ('deepseek-v2-groups-bf16', 'deepseek_v2', V2_GROUPS, 'plain', 3),
    ('olmoe-bf16', 'olmoe', OLMOE, 'plain', 1),
    ('mixtral-bf16', 'mixtral', {**MIXTRAL, 'sliding_window': 24}, 'plain', 1),
    ('mixtral-gptq-g32', 'mixtral', {**MIXTRAL, **UNTIED}, 'gptq', 2),
    ('qwen3-next-bf16', 'qwen3_next', QWEN3_NEXT, 'plain', 4),
    ('qwen3-next-gptq-g32', 'qwen3_next', {**QWEN3_NEXT, **UNTIED}, 'gptq', 2),
    ('qwen35-bf16', 'qwen3_5_text', LINEAR, 'plain', 1),
    ('qwen35-awq-g32', 'qwen3_5_text', {**LINEAR, 'num_hidden_layers': 3, 'layer_types': LINEAR['layer_types'][:3]}, 'awq', 3),
    ('qwen35-moe-bf16', 'qwen3_5_moe_text', {**LINEAR, **SHARED_GATE}, 'plain', 1),
    ('qwen35-pairs-bf16', 'qwen3_5_text', PAIRS, 'plain', 5),
    ('qwen35-moe-pairs-bf16', 'qwen3_5_moe_text', {**PAIRS, **SHARED_GATE}, 'plain', 6),
    ('helium-bf16', 'helium', {**UNTIED, 'attention_bias': True, 'mlp_bias': True}, 'plain', 1),
    ('hyperclovax-bf16', 'hyperclovax', HYPERCLOVAX, 'plain', 1),
    ('cwm-bf16', 'cwm', {**windows(4, 4), **CWM}, 'plain', 1),
]

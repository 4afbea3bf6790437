#pragma once
// A random model without a checkpoint: slabs written straight with the layout's own encoders.
#include <cstring>
#include <memory>
#include <random>

#include "core/half.h"
#include "stream/host_store.h"

namespace millrace {

inline ModelSpec tiny_spec() {
  ModelSpec spec;
  spec.vocab = 97;
  spec.hidden = 64;
  spec.layers = 3;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.intermediate = 96;
  spec.max_position = 512;
  return spec;
}

inline LinearLayout tiny_linear(SlabBuilder& builder, MatrixCode code, int n, int k) {
  LinearLayout linear;
  linear.n = n;
  linear.k = k;
  linear.segments.push_back({builder.matrix(code, n, k, static_cast<int>(round_up(k, kTileK))), 0});
  return linear;
}

// Weights of about 1/sqrt(k), so that activations stay of order one.
inline void fill_matrix(const MatrixLayout& m, std::byte* slab, std::mt19937_64& random) {
  std::byte* base = slab + m.offset;
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  const float size = 1.7f / std::sqrt(static_cast<float>(m.k));
  for (int rb = 0; rb < m.n_blocks(); rb++) {
    for (int s = 0; s < m.slices(); s++) {
      if (m.code.type == WeightType::q4) {
        uint8_t q[kTileN * kTileK];
        for (uint8_t& value : q) value = random() % 16;
        encode_q4_tile(q, base + q4_tile_offset(m, rb, s));
        std::byte* group = base + q4_group_offset(m, rb, s * kTileK / m.code.group);
        for (int i = 0; i < kTileN; i++) {
          const bool real = rb * kTileN + tile_feature(i) < m.n;
          const uint16_t scale = float_to_half(real ? size / 8 * (1.0f + 0.3f * uniform(random)) : 0.0f);
          std::memcpy(group + 2 * i, &scale, 2);
          if (m.code.zeros) group[128 + i] = static_cast<std::byte>(7 + random() % 3);
        }
      } else {
        float w[kTileN * kTileK];
        for (int i = 0; i < kTileN * kTileK; i++) {
          const bool real = rb * kTileN + i / kTileK < m.n && s * kTileK + i % kTileK < m.k;
          w[i] = real ? size * uniform(random) : 0.0f;
        }
        encode_float_tile(w, reinterpret_cast<float*>(base + float_tile_offset(m, rb, s)));
      }
    }
  }
}

inline std::shared_ptr<const HostModel> tiny_model(uint64_t seed) {
  SlabPlan plan;
  plan.source.spec = tiny_spec();
  const ModelSpec& spec = plan.source.spec;
  MatrixCode q4;
  q4.type = WeightType::q4;
  q4.group = 32;
  q4.zeros = true;
  MatrixCode f32;
  f32.type = WeightType::f32;
  for (int unit = 0; unit < unit_count(spec); unit++) {
    UnitLayout layout;
    SlabBuilder builder;
    layout.norm_offset = builder.floats(spec.hidden);
    layout.layer = unit / 2;
    if (unit == head_unit(spec)) {
      layout.kind = UnitKind::head;
      layout.first = tiny_linear(builder, f32, spec.vocab, spec.hidden);
    } else if (unit % 2 == 0) {
      layout.kind = UnitKind::attention;
      layout.first = tiny_linear(builder, q4, spec.qkv_width(), spec.hidden);
      layout.second = tiny_linear(builder, q4, spec.hidden, spec.query_width());
    } else {
      layout.kind = UnitKind::feed_forward;
      layout.interleaved = true;
      layout.first = tiny_linear(builder, q4, 2 * spec.intermediate, spec.hidden);
      layout.second = tiny_linear(builder, q4, spec.hidden, spec.intermediate);
    }
    layout.bytes = builder.bytes();
    plan.units.push_back(layout);
  }
  plan.embedding_type = WeightType::f32;
  plan.embedding_bytes = static_cast<size_t>(spec.vocab) * spec.hidden * sizeof(float);

  auto model = std::make_shared<HostModel>(plan);
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (size_t unit = 0; unit < plan.units.size(); unit++) {
    std::byte* slab = model->mutable_slab(static_cast<int>(unit));
    auto* norm = reinterpret_cast<float*>(slab + plan.units[unit].norm_offset);
    for (int i = 0; i < spec.hidden; i++) norm[i] = 1.0f + 0.2f * uniform(random);
    for (const LinearLayout* linear : {&plan.units[unit].first, &plan.units[unit].second}) {
      for (const auto& segment : linear->segments) fill_matrix(segment.matrix, slab, random);
    }
  }
  auto* rows = reinterpret_cast<float*>(model->mutable_embedding());
  for (size_t i = 0; i < plan.embedding_bytes / sizeof(float); i++) rows[i] = uniform(random);
  return model;
}

}  // namespace millrace

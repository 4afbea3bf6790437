#pragma once
// A row's keys and values into its place of a block, as model/kv_type.h lays it out.
#include <cstddef>
#include <cstring>

#include "backend/cpu/vector_ops.h"
#include "model/kv_type.h"

namespace millrace {

struct KvRowShape {
  KvType type = KvType::f16;
  int kv_heads = 0, head_dim = 0;
};

// k, v: [kv_heads, head_dim], keys after rope. `block`: of the layer, the one that has the position.
inline void append_kv(const float* k, const float* v, const KvRowShape& shape, int position, std::byte* block) {
  const VectorOps& ops = vector_ops();
  const size_t part_bytes = kv_part_bytes(shape.type, shape.head_dim);
  const int within = position % kKvBlockTokens;
  const size_t first = static_cast<size_t>(within) * shape.head_dim;
  for (int part = 0; part < 2 * shape.kv_heads; part++, block += part_bytes) {
    const float* row = part < shape.kv_heads ? k + part * shape.head_dim : v + (part - shape.kv_heads) * shape.head_dim;
    if (shape.type == KvType::q8) {
      const float scale = ops.to_q8(row, shape.head_dim, reinterpret_cast<uint8_t*>(block) + first);
      std::memcpy(block + kv_scales_at(shape.head_dim) + within * sizeof(float), &scale, sizeof(scale));
    } else {
      ops.to_half(row, shape.head_dim, reinterpret_cast<uint16_t*>(block) + first);
    }
  }
}

}  // namespace millrace

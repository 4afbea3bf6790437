#pragma once
// How keys and values lie in a block of the cache: kKvBlockTokens positions of one layer.
//
//   keys [kv_heads] x part, then values [kv_heads] x part (of a class of latents one part, the keys)
//   f16 part: float16 [16, head_dim]
//   q8 part:  uint8 [16, head_dim], then float32 [16], the scale of each position: x = scale * (q - 128)
//
// So a head's keys of a block, scales included, are one run of bytes that begins at a multiple of 16.
//
// A row of head_dim numbers x becomes q8 so, on every device to the bit, every operation rounded to nearest even:
//   most = max |x|, numbers beyond float16's range counted as its ends; scale = most / 127;
//   q = 128 + round(x * (127 / most))
// Where most is below 2^-100 all q are 128 and the scale 0. Where an x is NaN the scale is, so that whoever attends to
// the row finds it out.
#include <cstddef>
#include <cstdint>

namespace millrace {

inline constexpr int kKvBlockTokens = 16;

enum class KvType : uint8_t { f16, q8 };

inline constexpr int kQ8Zero = 128;
inline constexpr float kQ8Levels = 127.0f;
inline constexpr float kQ8LeastMost = 0x1p-100f;

// Of one head's keys, or values, in a block; of q8, where their scales begin in it.
constexpr size_t kv_scales_at(int head_dim) {
  return static_cast<size_t>(kKvBlockTokens) * head_dim;
}
constexpr size_t kv_part_bytes(KvType type, int head_dim) {
  if (type == KvType::q8) return kv_scales_at(head_dim) + kKvBlockTokens * sizeof(float);
  return static_cast<size_t>(kKvBlockTokens) * head_dim * sizeof(uint16_t);
}

}  // namespace millrace

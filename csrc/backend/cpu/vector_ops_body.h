// The row-wise operations over Vec, whichever vector_*.h was included before; see attention_body.h. Loops without Vec
// are left to the compiler, which keeps their order.
#include "backend/cpu/vector_ops.h"

namespace millrace {
namespace {

void rms_norm(const float* x, const float* weight, int width, double epsilon, float* out) {
  double lanes[16] = {};
  int i = 0;
  for (; i + 16 <= width; i += 16) {
    for (int j = 0; j < 16; j++) lanes[j] += static_cast<double>(x[i + j]) * x[i + j];
  }
  for (int j = 0; i + j < width; j++) lanes[j] += static_cast<double>(x[i + j]) * x[i + j];
  for (int half = 8; half > 0; half /= 2) {
    for (int j = 0; j < half; j++) lanes[j] += lanes[j + half];
  }
  const float inverse = static_cast<float>(1.0 / __builtin_sqrt(lanes[0] / width + epsilon));
  for (int j = 0; j < width; j++) out[j] = x[j] * inverse * weight[j];
}

void rope(float* x, int heads, int head_dim, const float* table) {
  const int half = head_dim / 2;
  const float* cosine = table;
  const float* sine = table + half;
  for (int h = 0; h < heads; h++, x += head_dim) {
    float* first = x;
    float* second = x + half;
    for (int i = 0; i < half; i++) {
      const float a = first[i], b = second[i];
      first[i] = a * cosine[i] - b * sine[i];
      second[i] = b * cosine[i] + a * sine[i];
    }
  }
}

void to_half(const float* source, int count, uint16_t* destination) {
  int i = 0;
  for (; i + 16 <= count; i += 16) vec_store_half(destination + i, vec_load(source + i));
  if (i == count) return;
  float tail[16] = {};
  uint16_t halfs[16];
  for (int j = 0; i + j < count; j++) tail[j] = source[i + j];
  vec_store_half(halfs, vec_load(tail));
  for (int j = 0; i + j < count; j++) destination[i + j] = halfs[j];
}

void from_half(const uint16_t* source, int count, float* destination) {
  int i = 0;
  for (; i + 16 <= count; i += 16) vec_store(destination + i, vec_load_half(source + i));
  if (i == count) return;
  uint16_t tail[16] = {};
  float floats[16];
  for (int j = 0; i + j < count; j++) tail[j] = source[i + j];
  vec_store(floats, vec_load_half(tail));
  for (int j = 0; i + j < count; j++) destination[i + j] = floats[j];
}

void from_bfloat16(const uint16_t* source, int count, float* destination) {
  for (int i = 0; i < count; i++) destination[i] = __builtin_bit_cast(float, static_cast<uint32_t>(source[i]) << 16);
}

}  // namespace
}  // namespace millrace

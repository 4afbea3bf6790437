// The row-wise operations over Vec, whichever vector_*.h was included before; see attention_body.h. Loops without Vec
// are left to the compiler, which keeps their order.
#include "backend/cpu/vector_ops.h"
#include "model/kv_type.h"

namespace millrace {
namespace {

// In 16 lanes, then halves of them.
double sum_of_squares(const float* x, int width) {
  double lanes[16] = {};
  int i = 0;
  for (; i + 16 <= width; i += 16) {
    for (int j = 0; j < 16; j++) lanes[j] += static_cast<double>(x[i + j]) * x[i + j];
  }
  for (int j = 0; i + j < width; j++) lanes[j] += static_cast<double>(x[i + j]) * x[i + j];
  for (int half = 8; half > 0; half /= 2) {
    for (int j = 0; j < half; j++) lanes[j] += lanes[j + half];
  }
  return lanes[0];
}

void rms_norm(const float* x, const float* weight, int width, double epsilon, float* out) {
  const float inverse = static_cast<float>(1.0 / __builtin_sqrt(sum_of_squares(x, width) / width + epsilon));
  for (int j = 0; j < width; j++) out[j] = x[j] * inverse * weight[j];
}

void unit_length(const float* x, int width, double scale, float* out) {
  const float factor = static_cast<float>(scale / __builtin_sqrt(sum_of_squares(x, width) + 1e-6));
  for (int j = 0; j < width; j++) out[j] = x[j] * factor;
}

// Columns of the matrix by the hundred, so that sums stay in the nearest cache.
void delta_rule(const DeltaRow& row, int key_dim, int value_dim, float* state) {
  constexpr int kColumns = 128;
  float sum[kColumns], change[kColumns];
  for (int begin = 0; begin < value_dim; begin += kColumns) {
    const int columns = value_dim - begin < kColumns ? value_dim - begin : kColumns;
    for (int j = 0; j < columns; j++) sum[j] = 0.0f;
    for (int i = 0; i < key_dim; i++) {
      float* s = state + static_cast<int64_t>(i) * value_dim + begin;
      const float k = row.k[i];
      for (int j = 0; j < columns; j++) {
        s[j] *= row.decay;
        sum[j] += s[j] * k;
      }
    }
    for (int j = 0; j < columns; j++) {
      change[j] = (row.v[begin + j] - sum[j]) * row.beta;
      sum[j] = 0.0f;
    }
    for (int i = 0; i < key_dim; i++) {
      float* s = state + static_cast<int64_t>(i) * value_dim + begin;
      const float k = row.k[i], q = row.q[i];
      for (int j = 0; j < columns; j++) {
        s[j] += k * change[j];
        sum[j] += s[j] * q;
      }
    }
    for (int j = 0; j < columns; j++) row.out[begin + j] = sum[j];
  }
}

void weighted_rows(const float* weights, int count, const float* rows, int width, float* out) {
  for (int i = 0; i < width; i++) out[i] = 0.0f;
  for (int j = 0; j < count; j++, rows += width) {
    const float weight = weights[j];
    for (int i = 0; i < width; i++) out[i] += weight * rows[i];
  }
}

float dot(const float* a, const float* b, int width) {
  float lanes[16] = {};
  int i = 0;
  for (; i + 16 <= width; i += 16) {
    for (int j = 0; j < 16; j++) lanes[j] += a[i + j] * b[i + j];
  }
  for (int j = 0; i + j < width; j++) lanes[j] += a[i + j] * b[i + j];
  for (int half = 8; half > 0; half /= 2) {
    for (int j = 0; j < half; j++) lanes[j] += lanes[j + half];
  }
  return lanes[0];
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

float to_q8(const float* source, int count, uint8_t* destination) {
  constexpr float kMost = 65504.0f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to an integer, ties to even
  const auto limited = [](float x) { return x > kMost ? kMost : x < -kMost ? -kMost : x; };
  float most = 0.0f;
  bool valid = true;
  for (int i = 0; i < count; i++) {
    const float size = __builtin_fabsf(limited(source[i]));
    valid &= size == size;
    most = size > most ? size : most;
  }
  if (!valid || most < kQ8LeastMost) {
    for (int i = 0; i < count; i++) destination[i] = kQ8Zero;
    return valid ? 0.0f : __builtin_nanf("");
  }
  const float inverse = kQ8Levels / most;
  for (int i = 0; i < count; i++) {
    const float q = (limited(source[i]) * inverse + kRound) - kRound;
    destination[i] = static_cast<uint8_t>(static_cast<int>(q) + kQ8Zero);
  }
  return most / kQ8Levels;
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

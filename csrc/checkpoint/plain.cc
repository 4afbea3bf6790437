#include "checkpoint/plain.h"

#include <cmath>
#include <cstring>

#include "checkpoint/messages.h"
#include "core/half.h"
#include "core/memory.h"

namespace millrace {

PlainReader::PlainReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k)
    : LinearReader(n, k),
      checkpoint_(checkpoint),
      weight_(require_weight(checkpoint, source.weight, n, k)),
      data_(checkpoint.data(weight_)) {
  code_ = code_of(weight_.dtype);
  k_stored_ = static_cast<int>(round_up(static_cast<size_t>(k), kTileK));
  row_bytes_ = static_cast<size_t>(k) * element_bytes(code_.type);
  tensors_ = {&weight_};
}

const std::byte* PlainReader::row(int n) const {
  return data_ + static_cast<size_t>(n) * row_bytes_;
}

const std::byte* PlainReader::elements(int n, int begin, int, std::byte*) const {
  return row(n) + static_cast<size_t>(begin) * element_bytes(code_.type);
}

void PlainReader::refuse_not_finite(int begin, int end) const {
  refuse_not_finite_rows(checkpoint_, weight_, begin, end);
}

TransposedReader::TransposedReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k)
    : LinearReader(n, k),
      checkpoint_(checkpoint),
      weight_(require_tensor(checkpoint, source.weight, {DType::f16, DType::bf16, DType::f32}, {k, n})),
      data_(checkpoint.data(weight_)) {
  code_ = code_of(weight_.dtype);
  k_stored_ = static_cast<int>(round_up(static_cast<size_t>(k), kTileK));
  tensors_ = {&weight_};
}

const std::byte* TransposedReader::elements(int n, int begin, int end, std::byte* scratch) const {
  const size_t bytes = element_bytes(code_.type), stride = static_cast<size_t>(n_) * bytes;
  const std::byte* from = data_ + static_cast<size_t>(begin) * stride + static_cast<size_t>(n) * bytes;
  std::byte* to = scratch;
  for (int i = begin; i < end; i++, from += stride, to += bytes) std::memcpy(to, from, bytes);
  return scratch;
}

void TransposedReader::refuse_not_finite(int, int) const {
  refuse_not_finite_rows(checkpoint_, weight_, 0, k_);
}

void refuse_not_finite_rows(const Checkpoint& checkpoint, const Tensor& tensor, int64_t begin, int64_t end) {
  const std::byte* data = checkpoint.data(tensor);
  const int64_t k = tensor.shape.back();
  for (int64_t i = begin * k; i < end * k; i++) {
    float value;
    if (tensor.dtype == DType::f32) {
      value = load_element<float>(data, static_cast<size_t>(i));
    } else {
      const uint16_t bits = load_element<uint16_t>(data, static_cast<size_t>(i));
      value = tensor.dtype == DType::f16 ? half_to_float(bits) : bfloat16_to_float(bits);
    }
    if (!std::isfinite(value)) {
      throw_invalid(format("%s: expected finite weights, found %s at [%lld, %lld]",
                           describe(checkpoint, tensor).c_str(), std::isnan(value) ? "NaN" : "infinity",
                           static_cast<long long>(i / k), static_cast<long long>(i % k)));
    }
  }
}

}  // namespace millrace

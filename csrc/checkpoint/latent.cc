#include "checkpoint/latent.h"

#include <cmath>
#include <cstring>

#include "checkpoint/messages.h"
#include "checkpoint/packed.h"
#include "core/half.h"
#include "core/memory.h"

namespace millrace {

namespace {

// Rows [begin, end) of a tensor's innermost dimension.
void read_rows(const Checkpoint& checkpoint, const Tensor& tensor, int64_t begin, int64_t end, float* out) {
  if (is_packed(tensor.dtype)) return read_packed_rows(checkpoint, tensor, begin, end, out);
  const std::byte* data = checkpoint.data(tensor);
  const auto k = static_cast<size_t>(tensor.shape.back());
  for (size_t i = static_cast<size_t>(begin) * k; i < static_cast<size_t>(end) * k; i++) {
    if (tensor.dtype == DType::f32) {
      *out++ = load_element<float>(data, i);
    } else {
      const auto bits = load_element<uint16_t>(data, i);
      *out++ = tensor.dtype == DType::f16 ? half_to_float(bits) : bfloat16_to_float(bits);
    }
  }
}

const Tensor& require_readable(const Checkpoint& checkpoint, const std::string& name, int64_t inner, const char* what) {
  const Tensor& tensor = checkpoint.require(name);
  const bool floats = tensor.dtype == DType::f16 || tensor.dtype == DType::bf16 || tensor.dtype == DType::f32;
  if (!floats && !is_packed(tensor.dtype)) {
    throw_unsupported(format("%s: expected floats or a packed type, found %s", describe(checkpoint, tensor).c_str(),
                             printable(tensor.type_name(), 40).c_str()));
  }
  const size_t at = inner < 0 ? 1 : 2;
  if (tensor.shape.size() != 3 || tensor.shape[at] != std::abs(inner)) {
    throw_invalid(format("%s: expected %s, found shape %s", describe(checkpoint, tensor).c_str(), what,
                         shape_text(tensor.shape).c_str()));
  }
  return tensor;
}

}  // namespace

LatentReader::LatentReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k)
    : LinearReader(n, k),
      checkpoint_(checkpoint),
      values_tensor_(require_readable(checkpoint, source.weight, k, "values [heads, value_dim, rank]")),
      keys_tensor_(require_readable(checkpoint, source.keys, -k, "keys [heads, rank, nope]")) {
  const int64_t heads = values_tensor_.shape[0];
  const int64_t features = heads * (values_tensor_.shape[1] + keys_tensor_.shape[2]);
  if (heads != keys_tensor_.shape[0] || features != n) {
    throw_invalid(format("%s and %s: expected %d output features of as many heads, found shapes %s and %s",
                         describe(checkpoint, values_tensor_).c_str(), printable(keys_tensor_.name).c_str(), n,
                         shape_text(values_tensor_.shape).c_str(), shape_text(keys_tensor_.shape).c_str()));
  }
  value_dim_ = static_cast<int>(values_tensor_.shape[1]);
  nope_ = static_cast<int>(keys_tensor_.shape[2]);
  const bool alike = values_tensor_.dtype == keys_tensor_.dtype && !is_packed(keys_tensor_.dtype);
  code_ = millrace::code_of(alike ? keys_tensor_.dtype : DType::f16);
  k_stored_ = static_cast<int>(round_up(static_cast<size_t>(k), kTileK));
  tensors_ = {&values_tensor_, &keys_tensor_};
}

const std::vector<float>& LatentReader::keys() const {
  std::call_once(once_, [this] {
    const auto heads = static_cast<int>(keys_tensor_.shape[0]);
    std::vector<float> turned(static_cast<size_t>(heads) * nope_ * k_), head(static_cast<size_t>(k_) * nope_);
    for (int h = 0; h < heads; h++) {
      read_rows(checkpoint_, keys_tensor_, int64_t{h} * k_, int64_t{h + 1} * k_, head.data());
      float* out = turned.data() + static_cast<size_t>(h) * nope_ * k_;
      for (int d = 0; d < nope_; d++) {
        for (int r = 0; r < k_; r++) *out++ = head[static_cast<size_t>(r) * nope_ + d];
      }
    }
    keys_ = std::move(turned);
  });
  return keys_;
}

void LatentReader::read_row(int n, float* out) const {
  const int head = n / (nope_ + value_dim_), feature = n % (nope_ + value_dim_);
  if (feature < nope_) {
    const size_t row = static_cast<size_t>(head) * nope_ + feature;
    std::memcpy(out, keys().data() + row * k_, static_cast<size_t>(k_) * sizeof(float));
  } else {
    const int64_t row = int64_t{head} * value_dim_ + feature - nope_;
    read_rows(checkpoint_, values_tensor_, row, row + 1, out);
  }
}

const std::byte* LatentReader::elements(int n, int begin, int end, std::byte* scratch) const {
  thread_local std::vector<float> row;
  row.resize(static_cast<size_t>(k_));
  read_row(n, row.data());
  const size_t bytes = element_bytes(code_.type);
  for (int i = begin; i < end; i++) {
    std::byte* to = scratch + static_cast<size_t>(i - begin) * bytes;
    if (code_.type == WeightType::f32) {
      std::memcpy(to, &row[i], bytes);
    } else {
      const uint16_t bits = code_.type == WeightType::f16 ? float_to_half(row[i]) : float_to_bfloat16(row[i]);
      std::memcpy(to, &bits, bytes);
    }
  }
  return scratch;
}

void LatentReader::refuse_not_finite(int begin, int end) const {
  std::vector<float> row(static_cast<size_t>(k_));
  for (int n = begin; n < end; n++) {
    read_row(n, row.data());
    for (int i = 0; i < k_; i++) {
      // Float16 has to hold it.
      const float value = code_.type == WeightType::f16 ? half_to_float(float_to_half(row[i])) : row[i];
      if (std::isfinite(value)) continue;
      const bool key = n % (nope_ + value_dim_) < nope_;
      throw_invalid(format("%s: expected finite weights, found %s of output feature %d, input feature %d",
                           describe(checkpoint_, key ? keys_tensor_ : values_tensor_).c_str(),
                           std::isnan(value) ? "NaN" : "infinity", n, i));
    }
  }
}

}  // namespace millrace

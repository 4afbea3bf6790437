#include "checkpoint/linear_reader.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/awq.h"
#include "checkpoint/compressed_tensors.h"
#include "checkpoint/gptq.h"
#include "checkpoint/messages.h"
#include "checkpoint/plain.h"
#include "checkpoint/quantise.h"
#include "core/error.h"
#include "core/half.h"

namespace millrace {

namespace {

[[noreturn]] void not_implemented(const char* what) {
  throw Error(code::kInternal, format("%s of a linear whose format has none", what), "report this as a bug");
}

}  // namespace

void LinearReader::read_words(int, int, int, int, uint32_t*) const {
  not_implemented("packed words");
}
void LinearReader::read_group(int, int, int, uint16_t*, uint8_t*) const {
  not_implemented("groups");
}
const std::byte* LinearReader::row(int) const {
  not_implemented("rows");
}
void LinearReader::refuse_not_finite(int, int) const {
  not_implemented("rows");
}

std::unique_ptr<LinearReader> open_linear(const Checkpoint& checkpoint, const LinearSource& source, int n, int k) {
  switch (source.format) {
    case LinearFormat::plain:
      return std::make_unique<PlainReader>(checkpoint, source, n, k);
    case LinearFormat::gptq:
      return std::make_unique<GptqReader>(checkpoint, source, n, k);
    case LinearFormat::awq:
      return std::make_unique<AwqReader>(checkpoint, source, n, k);
    case LinearFormat::compressed_tensors:
      return std::make_unique<CompressedTensorsReader>(checkpoint, source, n, k);
  }
  throw Error(code::kInternal, "unknown linear format", "report this as a bug");
}

std::unique_ptr<LinearReader> open_head(const Checkpoint& checkpoint, const ModelSource& source) {
  const int n = source.spec.vocab, k = source.spec.hidden;
  if (source.head_bits != 0 && source.head.format == LinearFormat::plain) {
    return std::make_unique<QuantisingReader>(checkpoint, source.head, source.final_norm, n, k, source.head_bits);
  }
  return open_linear(checkpoint, source.head, n, k);
}

std::string describe(const Checkpoint& checkpoint, const Tensor& tensor) {
  return base_name(checkpoint.path_of(tensor)) + ": tensor " + printable(tensor.name);
}

const Tensor& require_tensor(const Checkpoint& checkpoint, const std::string& name, std::initializer_list<DType> types,
                             std::initializer_list<int64_t> shape) {
  const Tensor& tensor = checkpoint.require(name);
  if (std::find(types.begin(), types.end(), tensor.dtype) == types.end()) {
    std::string expected;
    for (const DType type : types) {
      if (!expected.empty()) expected += " or ";
      expected += name_of(type);
    }
    const std::string message = format("%s: expected dtype %s, found %s", describe(checkpoint, tensor).c_str(),
                                       expected.c_str(), printable(tensor.type_name(), 40).c_str());
    // A packed tensor has one type by its format; of floating-point ones, a type too many is merely not read here.
    if (types.size() == 1 && tensor.dtype != DType::other) throw_invalid(message);
    throw_unsupported(message);
  }
  if (!std::equal(tensor.shape.begin(), tensor.shape.end(), shape.begin(), shape.end())) {
    throw_invalid(format("%s: expected shape %s, found %s", describe(checkpoint, tensor).c_str(),
                         shape_text({shape.begin(), shape.size()}).c_str(), shape_text(tensor.shape).c_str()));
  }
  return tensor;
}

const Tensor& require_floats(const Checkpoint& checkpoint, const std::string& name, int n) {
  return require_tensor(checkpoint, name, {DType::f16, DType::bf16, DType::f32, DType::f64}, {n});
}

void read_floats(const Checkpoint& checkpoint, const Tensor& tensor, float* out) {
  const std::byte* data = checkpoint.data(tensor);
  const size_t count = tensor.bytes / size_of(tensor.dtype);
  for (size_t i = 0; i < count; i++) {
    switch (tensor.dtype) {
      case DType::f16:
        out[i] = half_to_float(load_element<uint16_t>(data, i));
        break;
      case DType::bf16:
        out[i] = bfloat16_to_float(load_element<uint16_t>(data, i));
        break;
      case DType::f32:
        out[i] = load_element<float>(data, i);
        break;
      default: {
        // Beyond float's range the conversion would be undefined.
        const double wide = load_element<double>(data, i);
        out[i] = std::fabs(wide) <= 3.4028234663852886e38 ? static_cast<float>(wide) : INFINITY;
        break;
      }
    }
    if (!std::isfinite(out[i])) {
      throw_invalid(format("%s: expected finite numbers, found %s at index %zu", describe(checkpoint, tensor).c_str(),
                           std::isnan(out[i]) ? "NaN" : "infinity", i));
    }
  }
}

WeightType weight_type_of(DType type) {
  switch (type) {
    case DType::f16:
      return WeightType::f16;
    case DType::bf16:
      return WeightType::bf16;
    case DType::f32:
      return WeightType::f32;
    default:
      throw Error(code::kInternal, format("no weight type for %s", name_of(type)), "report this as a bug");
  }
}

}  // namespace millrace

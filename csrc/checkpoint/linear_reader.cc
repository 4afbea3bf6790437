#include "checkpoint/linear_reader.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/awq.h"
#include "checkpoint/compressed_tensors.h"
#include "checkpoint/fp8.h"
#include "checkpoint/gguf_blocks.h"
#include "checkpoint/gptq.h"
#include "checkpoint/latent.h"
#include "checkpoint/messages.h"
#include "checkpoint/packed.h"
#include "checkpoint/plain.h"
#include "checkpoint/quantise.h"
#include "checkpoint/rows.h"
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
void LinearReader::read_levels(int, int, int, int, uint8_t*) const {
  not_implemented("levels");
}
void LinearReader::read_group(int, int, int, GroupField*) const {
  not_implemented("groups");
}
void LinearReader::read_span(int, int, int, SpanField*) const {
  not_implemented("spans");
}
const std::byte* LinearReader::elements(int, int, int, std::byte*) const {
  not_implemented("rows");
}
void LinearReader::refuse_not_finite(int, int) const {
  not_implemented("rows");
}

namespace {

std::unique_ptr<LinearReader> open_plain(const Checkpoint& checkpoint, const LinearSource& source, int n, int k,
                                         const VectorSource& norm) {
  if (!source.keys.empty()) return std::make_unique<LatentReader>(checkpoint, source, n, k);
  if (source.transposed) return std::make_unique<TransposedReader>(checkpoint, source, n, k);
  const Tensor& weight = require_weight(checkpoint, source.weight, n, k);
  if (is_packed(weight.dtype)) return open_packed(checkpoint, weight, n, k);
  // Rows of half words have no 4-bit code.
  if (source.make_bits != 0 && k % 8 == 0) return std::make_unique<QuantisingReader>(checkpoint, source, norm, n, k);
  return std::make_unique<PlainReader>(checkpoint, source, n, k);
}

// As the file has its rows.
std::unique_ptr<LinearReader> open_as_stored(const Checkpoint& checkpoint, const LinearSource& source, int n, int k,
                                             const VectorSource& norm) {
  switch (source.format) {
    case LinearFormat::plain:
      return open_plain(checkpoint, source, n, k, norm);
    case LinearFormat::gptq:
      return std::make_unique<GptqReader>(checkpoint, source, n, k);
    case LinearFormat::awq:
      return std::make_unique<AwqReader>(checkpoint, source, n, k);
    case LinearFormat::compressed_tensors:
      return std::make_unique<CompressedTensorsReader>(checkpoint, source, n, k);
    case LinearFormat::fp8:
      return std::make_unique<Fp8Reader>(checkpoint, source, n, k);
    case LinearFormat::nvfp4:
      return std::make_unique<Nvfp4Reader>(checkpoint, source, n, k);
    case LinearFormat::mxfp4:
      return std::make_unique<Mxfp4Reader>(checkpoint, source, n, k);
  }
  throw Error(code::kInternal, "unknown linear format", "report this as a bug");
}

}  // namespace

std::unique_ptr<LinearReader> open_linear(const Checkpoint& checkpoint, const LinearSource& source, int n, int k,
                                          const VectorSource& norm) {
  const RowRange& rows = source.rows;
  const int64_t last =
      rows.begin + (int64_t{n} - 1) / std::max(rows.run, 1) * rows.step + (n - 1) % std::max(rows.run, 1);
  // Heads lie whole within a run.
  const bool whole = source.heads.head_dim == 0 || rows.together() || rows.run % source.heads.head_dim == 0;
  if (rows.begin < 0 || rows.of < 0 || rows.run < 1 || rows.step < rows.run || (rows.of != 0 && last >= rows.of) ||
      !whole) {
    throw Error(code::kInvalidArgument,
                format("%d output features from %d on, of a tensor of %d", n, rows.begin, rows.of),
                "name a range that the tensor has");
  }
  auto reader = open_as_stored(checkpoint, source, rows.of == 0 ? n : rows.of, k, norm);
  if (source.heads.head_dim == 0 && rows.of == 0) return reader;
  return std::make_unique<RowsReader>(std::move(reader), source, n);
}

namespace {

// The weights of the norm whose rows the linear reads; no tensor where there is none.
VectorSource norm_before(const ModelSource& source, int u, int linear) {
  const ProgramUnit& unit = source.program.units[u];
  VectorSource found;
  int of = kNone;  // the value that it is in
  for (const Op& op : unit.ops) {
    if (const auto* norm = std::get_if<NormOp>(&op); norm != nullptr && norm->weight != kNone && !norm->add) {
      found = source.units[u].vectors[norm->weight];
      of = norm->out;
    } else if (const auto* found_linear = std::get_if<LinearOp>(&op);
               found_linear != nullptr && found_linear->linear == linear) {
      return found_linear->in == of ? found : VectorSource{};
    } else if (const auto* experts = std::get_if<ExpertsOp>(&op);
               experts != nullptr && linear >= experts->linear && linear < experts->linear + 2 * experts->experts) {
      return experts->in == of && (linear - experts->linear) % 2 == 0 ? found : VectorSource{};
    }
  }
  return {};
}

}  // namespace

namespace {

std::unique_ptr<LinearReader> open_part(const Checkpoint& checkpoint, const ModelSource& source, int u, int linear,
                                        size_t part) {
  const LinearShape& shape = source.program.units[u].linears[linear];
  return open_linear(checkpoint, source.units[u].linears[linear][part], shape.parts[part], shape.k,
                     norm_before(source, u, linear));
}

// A GLU whose features only one linear reads, of one part and no other order than its own: what act-order does to down
// projections. Then the GLU's features are made in that order, and nobody gathers them.
struct PermutedGlu {
  int glu = kNone, reader = kNone;  // linears of the unit
  std::vector<int32_t> order;       // [features]: feature of each stored one
};
// Of the GLU that is the linear, or that it reads.
PermutedGlu permuted_glu(const Checkpoint& checkpoint, const ModelSource& source, int u, int linear) {
  const ProgramUnit& unit = source.program.units[u];
  const std::vector<int> carried = source.program.carried();
  for (const Op& op : unit.ops) {
    const auto* glu = std::get_if<GluOp>(&op);
    if (glu == nullptr || std::count(carried.begin(), carried.end(), glu->out) > 0) continue;
    int readers = 0;
    const LinearOp* reader = nullptr;
    for (const Op& other : unit.ops) {
      const Access access = access_of(other);
      if (&other != &op && access.writes == glu->out) readers = 2;  // not this one's alone
      if (std::count(access.reads.begin(), access.reads.end(), glu->out) == 0) continue;
      readers++;
      reader = std::get_if<LinearOp>(&other);
    }
    if (readers != 1 || reader == nullptr || (linear != glu->linear && linear != reader->linear)) continue;
    const std::vector<LinearSource>& parts = source.units[u].linears[reader->linear];
    const auto biased = [](const LinearSource& part) { return !part.bias.empty(); };
    const std::vector<LinearSource>& gates = source.units[u].linears[glu->linear];
    if (parts.size() != 1 || parts[0].format == LinearFormat::plain ||
        std::any_of(gates.begin(), gates.end(), biased)) {
      continue;
    }
    const auto opened = open_part(checkpoint, source, u, reader->linear, 0);
    std::vector<int32_t> order = opened->permutation();
    const bool whole = opened->k_stored() == opened->k() && std::count(order.begin(), order.end(), kPadding) == 0;
    if (!order.empty() && whole) return {glu->linear, reader->linear, std::move(order)};
  }
  return {};
}

}  // namespace

LinearReaders open_parts(const Checkpoint& checkpoint, const ModelSource& source, int u, int linear) {
  const LinearShape& shape = source.program.units[u].linears[linear];
  const PermutedGlu permuted = permuted_glu(checkpoint, source, u, linear);
  LinearReaders readers;
  for (size_t i = 0; i < shape.parts.size(); i++) {
    auto reader = open_part(checkpoint, source, u, linear, i);
    if (linear == permuted.reader) reader->take_stored_order();
    if (linear == permuted.glu) {
      reader = std::make_unique<RowsReader>(std::move(reader), LinearSource{}, shape.parts[i], permuted.order);
    }
    readers.push_back(std::move(reader));
  }
  return readers;
}

std::string describe(const Checkpoint& checkpoint, const Tensor& tensor) {
  return base_name(checkpoint.path_of(tensor)) + ": tensor " + printable(tensor.name);
}

const Tensor& require_tensor(const Checkpoint& checkpoint, const std::string& name, std::initializer_list<DType> types,
                             std::initializer_list<int64_t> shape) {
  return require_tensor(checkpoint, name, std::span(types.begin(), types.size()), shape);
}

const Tensor& require_tensor(const Checkpoint& checkpoint, const std::string& name, std::span<const DType> types,
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

const Tensor& require_vector(const Checkpoint& checkpoint, const VectorSource& source, int n) {
  if (source.columns == 0) return require_floats(checkpoint, source.tensor, n);
  const int rows = n / source.columns;
  const std::initializer_list<DType> types = {DType::f16, DType::bf16, DType::f32, DType::f64};
  if (checkpoint.require(source.tensor).shape.size() == 2) {  // as GGUF has it
    return require_tensor(checkpoint, source.tensor, types, {rows, source.columns});
  }
  return require_tensor(checkpoint, source.tensor, types, {rows, 1, source.columns});
}

void read_floats(const Checkpoint& checkpoint, const Tensor& tensor, float* out) {
  const std::byte* data = checkpoint.data(tensor);
  const size_t count = tensor.bytes / static_cast<size_t>(traits_of(tensor.dtype).block_bytes);
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

const Tensor& require_weight(const Checkpoint& checkpoint, const std::string& name, int64_t n, int64_t k) {
  const Tensor& tensor = checkpoint.require(name);
  if (checkpoint.is_gguf(tensor)) {
    // Of one row files may have one dimension.
    if (n == 1 && tensor.shape.size() == 1) return require_floats(checkpoint, name, static_cast<int>(k));
    static const std::vector<DType> types = [] {
      std::vector<DType> all = {DType::f32, DType::f16, DType::bf16};
      for (int type = static_cast<int>(kFirstPacked); type < static_cast<int>(DType::other); type++) {
        all.push_back(static_cast<DType>(type));
      }
      return all;
    }();
    return require_tensor(checkpoint, name, types, {n, k});
  }
  return require_tensor(checkpoint, name, {DType::f16, DType::bf16, DType::f32}, {n, k});
}

MatrixCode code_of(DType type) {
  if (is_packed(type)) return code_of_blocks(type);
  MatrixCode out;
  switch (type) {
    case DType::f16:
      out.type = WeightType::f16;
      return out;
    case DType::bf16:
      out.type = WeightType::bf16;
      return out;
    case DType::f32:
      out.type = WeightType::f32;
      return out;
    default:
      throw Error(code::kInternal, format("no code for weights of %s", name_of(type)), "report this as a bug");
  }
}

WeightType embedding_type_of(DType type) {
  return is_packed(type) ? WeightType::f32 : code_of(type).type;
}

}  // namespace millrace

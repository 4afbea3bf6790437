#include "checkpoint/packed.h"

#include <cmath>

#include "checkpoint/gguf_blocks.h"
#include "checkpoint/messages.h"
#include "core/half.h"
#include "core/memory.h"

namespace millrace {

namespace {

[[noreturn]] void throw_not_finite(const Checkpoint& checkpoint, const Tensor& tensor, float value, int64_t row,
                                   int64_t column) {
  throw_invalid(format("%s: expected finite weights, found %s at [%lld, %lld]", describe(checkpoint, tensor).c_str(),
                       std::isnan(value) ? "NaN" : "infinity", static_cast<long long>(row),
                       static_cast<long long>(column)));
}

size_t row_bytes_of(const Tensor& tensor) {
  const DTypeTraits& traits = traits_of(tensor.dtype);
  return static_cast<size_t>(tensor.shape.back()) / static_cast<size_t>(traits.block) *
         static_cast<size_t>(traits.block_bytes);
}

}  // namespace

void read_packed_rows(const Checkpoint& checkpoint, const Tensor& tensor, int64_t begin, int64_t end, float* out) {
  const size_t k = static_cast<size_t>(tensor.shape.back()), row_bytes = row_bytes_of(tensor);
  const std::byte* data = checkpoint.data(tensor);
  for (int64_t row = begin; row < end; row++, out += k) {
    decode_blocks(tensor.dtype, data + static_cast<size_t>(row) * row_bytes,
                  k / static_cast<size_t>(traits_of(tensor.dtype).block), out);
    for (size_t i = 0; i < k; i++) {
      if (!std::isfinite(out[i])) throw_not_finite(checkpoint, tensor, out[i], row, static_cast<int64_t>(i));
    }
  }
}

PackedReader::PackedReader(const Checkpoint& checkpoint, const Tensor& weight, int n, int k)
    : LinearReader(n, k),
      checkpoint_(checkpoint),
      weight_(weight),
      data_(checkpoint.data(weight)),
      row_bytes_(row_bytes_of(weight)) {
  code_ = code_of(weight.dtype);
  k_stored_ = static_cast<int>(round_up(static_cast<size_t>(k), kTileK));
  tensors_ = {&weight};
}

const std::byte* PackedReader::elements(int n, int begin, int end, std::byte* scratch) const {
  const DTypeTraits& traits = traits_of(weight_.dtype);
  decode_blocks(weight_.dtype,
                data_ + static_cast<size_t>(n) * row_bytes_ +
                    static_cast<size_t>(begin / traits.block) * static_cast<size_t>(traits.block_bytes),
                static_cast<size_t>((end - begin) / traits.block), reinterpret_cast<float*>(scratch));
  return scratch;
}

void PackedReader::refuse_not_finite(int begin, int end) const {
  std::vector<float> row(static_cast<size_t>(k_));
  for (int n = begin; n < end; n++) read_packed_rows(checkpoint_, weight_, n, n + 1, row.data());
}

Q40Reader::Q40Reader(const Checkpoint& checkpoint, const Tensor& weight, int n, int k)
    : LinearReader(n, k),
      checkpoint_(checkpoint),
      weight_(weight),
      data_(checkpoint.data(weight)),
      row_bytes_(row_bytes_of(weight)) {
  code_ = code_of(weight.dtype);
  k_stored_ = k;  // whole blocks are whole tiles
  tensors_ = {&weight};
}

void Q40Reader::read_words(int begin, int end, int column, int count, uint32_t* out) const {
  const DTypeTraits& traits = traits_of(DType::q4_0);
  for (int c = 0; c < count; c++) {
    const std::byte* row = data_ + static_cast<size_t>(column + c) * row_bytes_;
    for (int r = begin; r < end; r++) {
      // A block is four words: the low nibbles of its bytes 0..7 and 8..15, then the high ones.
      const std::byte* block =
          row + static_cast<size_t>(8 * r / traits.block) * static_cast<size_t>(traits.block_bytes);
      const int part = r % 4;
      uint64_t x = load_element<uint64_t>(block + sizeof(uint16_t), static_cast<size_t>(part % 2));
      x = (part < 2 ? x : x >> 4) & 0x0f0f0f0f0f0f0f0full;
      x = (x | x >> 4) & 0x00ff00ff00ff00ffull;
      x = (x | x >> 8) & 0x0000ffff0000ffffull;
      out[static_cast<size_t>(r - begin) * kTileN + c] = static_cast<uint32_t>(x | x >> 16);
    }
  }
}

void Q40Reader::read_group(int group, int column, int count, uint16_t* scales, uint8_t* zeros) const {
  const DTypeTraits& traits = traits_of(DType::q4_0);
  for (int c = 0; c < count; c++) {
    scales[c] = load_element<uint16_t>(
        data_ + static_cast<size_t>(column + c) * row_bytes_ + static_cast<size_t>(group * traits.block_bytes), 0);
    if ((scales[c] & 0x7c00) == 0x7c00) {
      throw_not_finite(checkpoint_, weight_, half_to_float(scales[c]), column + c, group * traits.block);
    }
    zeros[c] = 8;
  }
}

std::unique_ptr<LinearReader> open_packed(const Checkpoint& checkpoint, const Tensor& weight, int n, int k) {
  if (code_of(weight.dtype).type == WeightType::q4) return std::make_unique<Q40Reader>(checkpoint, weight, n, k);
  return std::make_unique<PackedReader>(checkpoint, weight, n, k);
}

}  // namespace millrace

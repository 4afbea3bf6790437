#include "checkpoint/packed.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

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
      row_bytes_(row_bytes_of(weight)),
      blocks_(traits_of(weight.dtype)) {
  code_ = code_of(weight.dtype);
  k_stored_ = k;  // whole blocks are whole tiles
  tensors_ = {&weight};
}

const std::byte* PackedReader::block(int n, int feature) const {
  return data_ + static_cast<size_t>(n) * row_bytes_ +
         static_cast<size_t>(feature / blocks_.block) * static_cast<size_t>(blocks_.block_bytes);
}

// Of Q4_0, whose nibbles are levels already.
void PackedReader::read_nibbles(int begin, int end, int column, int count, uint32_t* out) const {
  for (int c = 0; c < count; c++) {
    for (int r = begin; r < end; r++) {
      // A block is four words: the low nibbles of its bytes 0..7 and 8..15, then the high ones.
      const std::byte* bytes = block(column + c, 8 * r) + sizeof(uint16_t);
      const int part = r % 4;
      uint64_t x = load_element<uint64_t>(bytes, static_cast<size_t>(part % 2));
      x = (part < 2 ? x : x >> 4) & 0x0f0f0f0f0f0f0f0full;
      x = (x | x >> 4) & 0x00ff00ff00ff00ffull;
      x = (x | x >> 8) & 0x0000ffff0000ffffull;
      out[static_cast<size_t>(r - begin) * kTileN + c] = static_cast<uint32_t>(x | x >> 16);
    }
  }
}

void PackedReader::read_words(int begin, int end, int column, int count, uint32_t* out) const {
  if (weight_.dtype == DType::q4_0) return read_nibbles(begin, end, column, count, out);
  const int words = blocks_.block / 8;
  for (int c = 0; c < count; c++) {
    for (int r = begin; r < end;) {
      uint8_t levels[256];
      unpack_block(weight_.dtype, block(column + c, 8 * r), levels);
      for (const int stop = std::min(end, (r / words + 1) * words); r < stop; r++) {
        uint32_t word = 0;
        for (int i = 0; i < 8; i++) word |= uint32_t{levels[8 * (r % words) + i]} << (4 * i);
        out[static_cast<size_t>(r - begin) * kTileN + c] = word;
      }
    }
  }
}

void PackedReader::read_levels(int begin, int end, int column, int count, uint8_t* out) const {
  const int tiles = blocks_.block / kTileK;
  for (int c = 0; c < count; c++) {
    for (int s = begin; s < end;) {
      uint8_t levels[256];
      unpack_block(weight_.dtype, block(column + c, kTileK * s), levels);
      const int stop = std::min(end, (s / tiles + 1) * tiles);
      for (; s < stop; s++) {
        std::memcpy(out + (static_cast<size_t>(s - begin) * kTileN + static_cast<size_t>(c)) * kTileK,
                    levels + s % tiles * kTileK, kTileK);
      }
    }
  }
}

void PackedReader::refuse_not_finite_scale(uint32_t bits, bool e8m0, int n, int feature) const {
  if (e8m0 ? bits != 255 : (bits & 0x7c00) != 0x7c00) return;
  const float value = e8m0 ? std::numeric_limits<float>::quiet_NaN() : half_to_float(static_cast<uint16_t>(bits));
  throw_not_finite(checkpoint_, weight_, value, n, feature);
}

void PackedReader::read_group(int group, int column, int count, GroupField* out) const {
  const int feature = group * code_.group;
  const Code& traits = code_.traits();
  for (int c = 0; c < count; c++) {
    out[c] = group_of_block(weight_.dtype, block(column + c, feature), feature % blocks_.block / code_.group);
    if (traits.scales != Scales::two_level) {
      refuse_not_finite_scale(out[c].scale, traits.scales == Scales::e8m0, column + c, feature);
    }
    if (traits.offsets == Offsets::minimum) refuse_not_finite_scale(out[c].offset, false, column + c, feature);
    if (traits.zeros) out[c].offset = static_cast<uint16_t>(traits.zero);
  }
}

void PackedReader::read_span(int span, int column, int count, SpanField* out) const {
  const int feature = span * code_.traits().span();
  for (int c = 0; c < count; c++) {
    out[c] = span_of_block(weight_.dtype, block(column + c, feature));
    refuse_not_finite_scale(out[c].scale, false, column + c, feature);
    refuse_not_finite_scale(out[c].offset, false, column + c, feature);
  }
}

std::unique_ptr<LinearReader> open_packed(const Checkpoint& checkpoint, const Tensor& weight, int n, int k) {
  return std::make_unique<PackedReader>(checkpoint, weight, n, k);
}

}  // namespace millrace

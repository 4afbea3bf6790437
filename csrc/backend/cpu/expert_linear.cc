#include "backend/cpu/expert_linear.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "backend/cpu/linear.h"
#include "backend/expert_arithmetic.h"

namespace millrace {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffffu;

// Scale of a chunk; its q.
float quantize_chunk(const float* x, int count, int16_t* q) {
  uint32_t largest = 0;
  for (int i = 0; i < count; i++) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & kMagnitude);
  const uint32_t exponent = expert_exponent(largest);
  const float scale = std::bit_cast<float>(expert_scale_bits(exponent));
  if (exponent >= 255) {
    std::memset(q, 0, static_cast<size_t>(count) * sizeof(int16_t));
    return scale;
  }
  const float factor = std::bit_cast<float>(expert_factor_bits(exponent));
  for (int i = 0; i < count; i++) {
    // Adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low mantissa bits.
    q[i] = static_cast<int16_t>(std::bit_cast<int32_t>(x[i] * factor + 0x1.8p23f) - 0x4b400000);
  }
  return scale;
}

bool takes_many(const LinearKernels& kernels, const MatrixCode& code, int rows) {
  return code.type == WeightType::q4 && kernels.q4_many != nullptr && rows > kernels.q4_rows;
}

int chunk_rows_of(const LinearKernels& kernels, const MatrixCode& code, int rows) {
  const int most = takes_many(kernels, code, rows) ? kLinearRows
                   : code.type == WeightType::q4   ? kernels.q4_rows
                                                   : kernels.code_rows;
  const int chunks = (rows + most - 1) / most;
  return (rows + chunks - 1) / chunks;
}

// Of a Q4RowBlock or a CodeRowBlock, whose fields of the same name mean the same.
template <typename RowBlock>
RowBlock row_block_of(const MatrixLayout& m, float* out) {
  RowBlock task;
  task.group_tiles = std::min(m.code.group, m.k_stored) / kTileK;
  task.zeros = m.code.zeros;
  task.bf16_scales = m.code.scale == ScaleType::bf16;
  task.out = out;
  return task;
}

}  // namespace

float round_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & kMagnitude;
  const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u)) & ~0x1fffu;
  // Of what float16 has as subnormal numbers the FPU rounds: ulp(0.5) = 2^-24.
  const auto subnormal = std::bit_cast<uint32_t>((std::bit_cast<float>(magnitude) + 0.5f) - 0.5f);
  uint32_t rounded = magnitude < 0x38800000u ? subnormal : std::min(normal, 0x477fe000u);
  rounded = magnitude > 0x7f800000u ? 0x7fc00000u : rounded;
  return std::bit_cast<float>(rounded | (bits & ~kMagnitude));
}

bool has_expert_arithmetic(const LinearLayout& linear) {
  return std::all_of(linear.segments.begin(), linear.segments.end(),
                     [](const LinearLayout::Segment& s) { return s.matrix.code.traits().integer(); });
}

int row_blocks(const LinearLayout& linear) {
  int blocks = 0;
  for (const LinearLayout::Segment& segment : linear.segments) blocks += segment.matrix.n_blocks();
  return blocks;
}

void ExpertRows::begin(const LinearLayout& linear, const std::byte* expert, int rows) {
  kernels_ = &linear_kernels();
  linear_ = &linear;
  expert_ = expert;
  rows_ = rows;
  weight_bytes_ = 0;
  prepared_.resize(std::max(prepared_.size(), linear.segments.size()));
  for (size_t i = 0; i < linear.segments.size(); i++) {
    const MatrixLayout& m = linear.segments[i].matrix;
    const ExpertOrder order = expert_order(m);
    weight_bytes_ += m.bytes;
    Prepared& p = prepared_[i];
    p.matrix = &m;
    p.permutation = m.code.permuted ? reinterpret_cast<const int32_t*>(expert + m.permutation_offset) : nullptr;
    p.chunk_rows = chunk_rows_of(*kernels_, m.code, rows);
    p.block = std::min(order.chunk, std::min(m.code.group, m.k_stored) / kTileK);
    p.begins.clear();
    for (int tile = 0; tile < m.slices(); tile += order.group) {
      const int end = std::min(tile + order.group, m.slices());
      for (int at = tile; at < end; at += p.block) p.begins.push_back(at);
    }
    const size_t blocks = p.begins.size(), n = static_cast<size_t>(rows);
    p.begins.push_back(m.slices());
    p.q.resize(std::max(p.q.size(), n * m.k_stored));
    p.scales.resize(std::max(p.scales.size(), n * blocks));
    p.sums.resize(std::max(p.sums.size(), n * blocks));
  }
}

void ExpertRows::quantize(int row, const float* x) {
  for (size_t i = 0; i < linear_->segments.size(); i++) quantize(prepared_[i], row, x);
}

void ExpertRows::quantize(Prepared& p, int row, const float* x) const {
  constexpr int kMostTiles = kLinearMaxBlock / kTileK;
  const MatrixLayout& m = *p.matrix;
  const ExpertOrder order = expert_order(m);
  const int first = row / p.chunk_rows * p.chunk_rows;
  const int together = std::min(p.chunk_rows, rows_ - first);
  const size_t blocks = p.begins.size() - 1;
  int16_t* q = p.q.data() + static_cast<size_t>(first) * m.k_stored;
  const auto at = [&](size_t block) { return first * blocks + block * together + (row - first); };
  float gathered[kMostTiles * kTileK];
  int16_t chunk_q[kMostTiles * kTileK];
  for (size_t block = 0; block < blocks;) {
    // A chunk: its blocks begin in it.
    const int begin = p.begins[block];
    int end = std::min(begin + order.chunk, m.slices());
    if (order.in_groups) end = std::min(end, (begin / order.group + 1) * order.group);
    const int count = (end - begin) * kTileK;
    for (int i = 0; i < count; i++) {
      const int stored = begin * kTileK + i;
      const int from = p.permutation == nullptr ? (stored < m.k ? stored : kPadding) : p.permutation[stored];
      gathered[i] = from == kPadding ? 0.0f : x[from];
    }
    const float scale = quantize_chunk(gathered, count, chunk_q);
    for (; block < blocks && p.begins[block] < end; block++) {
      const int features = (p.begins[block + 1] - p.begins[block]) * kTileK;
      const int16_t* own = chunk_q + static_cast<ptrdiff_t>(p.begins[block] - begin) * kTileK;
      int32_t sum = 0;
      for (int i = 0; i < features; i++) sum += own[i];
      std::memcpy(q + static_cast<ptrdiff_t>(p.begins[block]) * kTileK * together + (row - first) * features, own,
                  static_cast<size_t>(features) * sizeof(int16_t));
      p.scales[at(block)] = scale;
      p.sums[at(block)] = sum;
    }
  }
}

void ExpertRows::multiply(int begin, int end, float* const* y) const {
  int before = 0;
  for (size_t i = 0; i < linear_->segments.size(); i++) {
    const LinearLayout::Segment& segment = linear_->segments[i];
    const int blocks = segment.matrix.n_blocks();
    for (int block = std::max(begin - before, 0); block < std::min(end - before, blocks); block++) {
      multiply(segment, prepared_[i], block, y);
    }
    before += blocks;
  }
}

void ExpertRows::multiply(const LinearLayout::Segment& segment, const Prepared& p, int row_block,
                          float* const* y) const {
  const MatrixLayout& m = segment.matrix;
  const ExpertOrder order = expert_order(m);
  const bool spans = m.span_bytes() > 0, q4 = m.code.type == WeightType::q4;
  const std::byte* matrix = expert_ + m.offset;
  const size_t blocks = p.begins.size() - 1;
  alignas(64) float sums[kLinearRows * kTileN], run[kLinearRows * kTileN];
  auto q4_task = row_block_of<Q4RowBlock>(m, run);
  q4_task.block_tiles = p.block;
  auto code_task = row_block_of<CodeRowBlock>(m, run);
  code_task.code = &m.code.traits();
  const auto q4_kernel = takes_many(*kernels_, m.code, rows_) ? kernels_->q4_many : kernels_->q4;
  const int out_begin = segment.out_begin + row_block * kTileN;
  const int features = std::min(kTileN, m.n - row_block * kTileN);
  const float* bias =
      linear_->has_bias ? reinterpret_cast<const float*>(expert_ + linear_->bias_offset) + out_begin : nullptr;
  for (int row = 0; row < rows_; row += p.chunk_rows) {
    const int rows = std::min(p.chunk_rows, rows_ - row);
    std::fill(sums, sums + static_cast<ptrdiff_t>(rows) * kTileN, 0.0f);
    size_t block = 0;
    for (int tile = 0; tile < m.slices(); tile += order.run) {
      const auto start = [&](auto& task) {
        task.weights = matrix + (spans ? m.span_offset(row_block, tile * kTileK / m.span())
                                       : m.group_offset(row_block, tile / order.group));
        task.slices = std::min(order.run, m.slices() - tile);
        task.rows = rows;
        task.x = p.q.data() + static_cast<size_t>(row) * m.k_stored + static_cast<size_t>(tile) * kTileK * rows;
        task.scales = p.scales.data() + row * blocks + block * rows;
        task.sums = p.sums.data() + row * blocks + block * rows;
      };
      if (q4) {
        start(q4_task);
        q4_kernel(q4_task);
      } else {
        start(code_task);
        kernels_->code(code_task);
      }
      for (int i = 0; i < rows * kTileN; i++) sums[i] += run[i];
      while (block < blocks && p.begins[block] < tile + order.run) block++;
    }
    for (int r = 0; r < rows; r++) {
      float* to = y[row + r] + out_begin;
      for (int n = 0; n < features; n++) {
        const float sum = sums[r * kTileN + tile_index(n)];
        to[n] = bias == nullptr ? sum : sum + bias[n];
      }
    }
  }
}

}  // namespace millrace

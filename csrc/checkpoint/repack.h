#pragma once
// From checkpoint tensors to slabs. TypeScript knows names and settings (which tensors make up which linear, in which
// format); this side checks every shape, type and index against them before any memory is committed, and repacks.
#include <array>
#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/thread_pool.h"
#include "model/program.h"
#include "model/slab_layout.h"

namespace millrace {

// How a linear is stored. A new format is one more enumerator, and one more file with a LinearReader.
enum class LinearFormat : uint8_t { plain, gptq, awq, compressed_tensors, fp8, nvfp4, mxfp4 };

// Rows of query or key of heads of which the first `rotary` elements are rotated: element i with element i + rotary /
// 2, or, `interleaved`, with its neighbour. In slabs element i turns with i + head_dim / 2: the others stand between.
// head_dim 0: rows are in order.
struct HeadOrder {
  int head_dim = 0;
  int rotary = 0;
  bool interleaved = false;
};

// Of a tensor that holds several linears' output features: those of this one are `run` from `begin` on, and from each
// `step` further on. of = 0: they are all.
struct RowRange {
  int begin = 0;
  int of = 0;
  int step = 1;
  int run = 1;  // at most `step`
  int at(int feature) const { return begin + feature / run * step + feature % run; }
  bool together() const { return step == run; }
};

// One linear of the checkpoint, by tensor names; empty where the format has none. name[3] is the fourth along the first
// dimension of a tensor that holds several linears' (checkpoint.h).
struct LinearSource {
  LinearFormat format = LinearFormat::plain;
  std::string
      weight;  // plain [n, k] of f16, bf16, f32 or one of GGUF's packed types; gptq, awq: qweight;
               // compressed_tensors: weight_packed, or weight of int8; fp8, nvfp4, mxfp4: weight or weight_packed
  std::string zeros;   // gptq, awq: qzeros; compressed_tensors: weight_zero_point. Need not be named where symmetric
  std::string scales;  // gptq, awq: scales; compressed_tensors, nvfp4, mxfp4: weight_scale; fp8: weight_scale(_inv)
  std::string g_idx;   // gptq: g_idx; compressed_tensors: weight_g_idx. The tensor may be absent
  std::string shape;   // compressed_tensors: weight_shape
  std::string bias;    // [n], any format
  int bits = 4;        // of gptq, awq and compressed_tensors
  int group_size = 0;  // of them, -1 is one group of k; fp8: input features of a block
  int block_rows = 0;  // fp8: output features of a block; 1 where each has a scale
  std::string global_scale;     // nvfp4: of the tensor
  bool global_divides = false;  // nvfp4: it divides
  bool symmetric = false;       // all zeros must be 8, and are dropped
  bool zeros_minus_one = true;  // gptq version 1 stores zero - 1
  HeadOrder heads;              // of weight and bias
  RowRange rows;                // of weight and bias
  int make_bits = 0;            // plain floats are made 4 or 8 bits while they are repacked; 0: they stay
  int make_group = 0;           // of 4 bits, in input features, 128 at most; 0: 128. Smaller where k is no multiple
  bool transposed = false;      // plain: [k, n] in the file
  std::string keys;             // plain, of latents: the tensor of keys, `weight` being that of values (latent.h)
};

// A float32 vector of a unit: a norm's weights.
struct VectorSource {
  std::string tensor;        // [width]
  bool plus_one = false;     // stored as what is added to 1
  HeadOrder heads = {};      // of a norm of such heads, whose weights lie as the heads' rows do
  bool exponential = false;  // e to the power of what is stored
  bool negated = false;
  int columns = 0;  // > 0: stored as [width / columns, 1, columns]
};

// Where the weights of a unit come from: one source a vector, and one a part of each linear.
struct UnitSource {
  std::vector<VectorSource> vectors;
  std::vector<std::vector<LinearSource>> linears;
};

struct ModelSource {
  Program program;
  std::vector<UnitSource> units;
  std::vector<std::string> tables;  // [vocab, width] each
};

// What 4 or 8 bits made while repacking cost: root mean squares, relative to those of the values as they were.
struct QuantisationError {
  bool made = false;  // otherwise nothing was
  double weights = 0;
  // Of the linear's results over random normed inputs: independent normal features times the norm's weights.
  double results = 0;
};
// Sums of squares: of errors and of values, plain and weighed by the norm.
using ErrorSums = std::array<double, 4>;
QuantisationError error_of(const ErrorSums& sums);

struct RepackReport {
  QuantisationError head;
  QuantisationError layers;  // of all their linears that were made
};

// What a model will take, checked and laid out; no weights read yet but g_idx, weight_shape and zeros.
struct SlabPlan {
  ModelSource source;
  std::vector<UnitLayout> units;  // of the program's
  std::vector<TableLayout> tables;
  size_t embedding_bytes = 0;  // of all tables
  void add_table(WeightType type, int width);
  size_t slab_bytes() const {
    size_t total = 0;
    for (const UnitLayout& unit : units) total += unit.bytes;
    return total;
  }
};

SlabPlan plan_slabs(const Checkpoint& checkpoint, const ModelSource& source);

struct RepackOptions {
  // bytes of checkpoint data repacked so far, of all; called from one thread at a time
  std::function<void(size_t done, size_t total)> progress;
  const std::atomic<bool>* cancelled = nullptr;  // polled; ends the repack with ABORTED
};

// Where the repack writes a unit (plan.units[unit].bytes) or, of -1, the tables' rows; and what hears that it is whole.
// Units come in order, behind the tables.
using RepackPlace = std::function<std::byte*(int unit)>;
using RepackDone = std::function<void(int unit)>;
RepackReport repack(const Checkpoint& checkpoint, const SlabPlan& plan, const RepackPlace& place,
                    const RepackDone& done, ThreadPool& pool, const RepackOptions& options);

// Writes every unit's slab to slabs[unit] (plan.units[unit].bytes each) and the tables' rows to `embedding`,
// in parallel, dropping the file's pages on the way. Every byte of a slab is written.
RepackReport repack(const Checkpoint& checkpoint, const SlabPlan& plan, const std::vector<std::byte*>& slabs,
                    std::byte* embedding, ThreadPool& pool, const RepackOptions& options);

}  // namespace millrace

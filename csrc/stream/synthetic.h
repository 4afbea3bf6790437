#pragma once
// A model of random weights in a real shape, without a checkpoint: for benches at sizes nobody wants to ship, and for
// tests.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "stream/host_store.h"

namespace millrace {

struct SyntheticOptions {
  WeightType layers = WeightType::q4;      // of every linear of the layers
  WeightType more = WeightType::q4;        // in its place where Q4_K_M spends more bits, unless q4
  int group = 128;                         // where `layers` is q4
  bool zeros = false;                      // q4: integer zeros about 8 instead of exactly 8
  WeightType head = WeightType::f16;       // q4 in the same groups
  WeightType embedding = WeightType::f16;  // a float
  uint64_t seed = 1;
};

// Random weights of variance about 1 / k for one row block of a matrix.
void fill_row_block(const MatrixLayout& matrix, std::byte* out, uint64_t seed);

// Units and sizes of such a model. Widths must be multiples of 16, and of the layers' groups (INVALID_ARGUMENT).
SlabPlan plan_synthetic(const Program& program, const SyntheticOptions& options);

// Units that stay in a packed file, which is written where it does not hold just this model. Empty: none.
struct SyntheticFile {
  std::string path;
  std::vector<bool> in_file;  // [units]
};

// Weights of variance about 1 / k, so that activations stay of order one; the same for any number of threads. Throws
// WRITE_FAILED where the file cannot be written.
std::shared_ptr<const HostModel> synthetic_model(const Program& program, const SyntheticOptions& options,
                                                 ThreadPool& pool, const HostPinners& pinners = {},
                                                 const SyntheticFile& file = {});

}  // namespace millrace

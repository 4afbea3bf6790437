#pragma once
// Experts that are computed at once, by all threads: what the CPU answers beside a device.
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/cpu/expert_answer.h"
#include "backend/expert_mail.h"
#include "core/thread_pool.h"
#include "model/experts_layout.h"
#include "model/program.h"

namespace millrace {

// Of one unit, its experts in memory of the host.
struct ExpertSlabs {
  const ExpertsOp* op = nullptr;
  const ExpertsLayout* layout = nullptr;
  const std::byte* first = nullptr;  // expert e is layout->stride bytes after the one before
};

class ExpertComputer {
 public:
  explicit ExpertComputer(int threads);

  // y[place] = expert(x[place / top_k]) for the places of each entry. x, y: rows of `in` and `out` floats, x float16
  // numbers. Of one row an expert's matrices take some tens of microseconds of one core: handed out expert by expert,
  // threads would wait for each other as long as they compute.
  void compute(const ExpertSlabs& slabs, std::span<const ExpertMailEntry> entries, const int32_t* places, int top_k,
               const float* x, int in, float* y, int out);

 private:
  struct Piece {
    int entry = 0, begin = 0, end = 0;  // row blocks
  };
  template <typename Run>
  void in_pieces(size_t entries, int blocks, Run&& run);
  template <typename Run>
  void in_rows(std::span<const ExpertMailEntry> entries, Run&& run);

  ThreadPool pool_;
  std::vector<std::unique_ptr<ExpertAnswer>> answers_;  // of the entries
  std::vector<Piece> pieces_;
  std::vector<const float*> x_rows_;
  std::vector<float*> y_rows_;
};

}  // namespace millrace

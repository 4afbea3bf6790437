#pragma once
// Experts of a mixture by themselves: what the twin's passes and the CPU's answers beside a GPU share.
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/cpu/linear.h"
#include "backend/expert_mail.h"
#include "core/thread_pool.h"
#include "model/experts_layout.h"
#include "model/program.h"

namespace millrace {

// What becomes of gate and up: both [gate_up.n], to [features].
void activate_expert(const ExpertsOp& op, bool interleaved, size_t features, const float* both, float* to);

// Of one unit, its experts in memory of the host.
struct ExpertSlabs {
  const ExpertsOp* op = nullptr;
  const ExpertsLayout* layout = nullptr;
  const std::byte* first = nullptr;  // expert e is layout->stride bytes after the one before
};

// Computes some experts at once: pieces of all of their matrices go over the threads together.
class ExpertComputer {
 public:
  explicit ExpertComputer(int threads);

  // y[place] = expert(x[place / top_k]) for the places of each entry. x, y: rows of `in` and `out` floats. The bits of
  // the twin's own passes.
  void compute(const ExpertSlabs& slabs, std::span<const ExpertMailEntry> entries, const int32_t* places, int top_k,
               const float* x, int in, float* y, int out);

 private:
  // Row blocks [begin, end) of a segment of an entry's linear.
  struct Piece {
    int entry = 0, segment = 0, begin = 0, end = 0;
  };
  void plan(const LinearLayout& linear, int entries);
  static void part_of(const LinearLayout& linear, const Piece& piece, LinearLayout& out);

  struct Worker {
    ThreadPool alone{1};
    LinearScratch scratch;
    LinearLayout piece;
  };
  ThreadPool pool_;
  std::vector<std::unique_ptr<Worker>> workers_;  // one a thread
  std::vector<Piece> pieces_;
  std::vector<int> begins_;  // [entries + 1]: rows before each
  std::vector<float> x_, both_, activated_, y_;
};

}  // namespace millrace

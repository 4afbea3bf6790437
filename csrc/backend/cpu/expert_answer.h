#pragma once
// One expert on the CPU, for all rows that chose it: gate and up, the activation, down, by the arithmetic that GPUs
// share (backend/expert_arithmetic.h). No threads, no waits, and no allocation once the largest call was seen: who
// calls it says who computes which row blocks.
#include <cstddef>
#include <vector>

#include "backend/cpu/expert_linear.h"
#include "model/program.h"

namespace millrace {

struct ExpertCall {
  // Of an ExpertsLayout: offsets count from `expert`, its first byte.
  const LinearLayout* gate_up = nullptr;
  const LinearLayout* down = nullptr;
  const std::byte* expert = nullptr;
  Activation activation = Activation::silu;
  float alpha = 1, limit = 0;  // of clamped_swiglu
  int rows = 0;
  const float* const* x = nullptr;  // [rows], each float32 [gate_up.k], all float16 numbers (round_to_half())
  float* const* y = nullptr;        // [rows], each float32 [down.n]: the expert's result, which weights come to later
};

// Whether both linears of an expert have the arithmetic.
bool has_expert_arithmetic(const LinearLayout& gate_up, const LinearLayout& down);

// In this order, each but the first in pieces by any threads at once: begin(), quantize() of all rows, gate_up() of all
// row blocks, activate() of all rows, down() of all row blocks. What the call points to stays until then.
class ExpertAnswer {
 public:
  void begin(const ExpertCall& call);
  void quantize(int row);
  int gate_up_blocks() const { return row_blocks(*call_.gate_up); }
  void gate_up(int begin, int end);
  void activate(int row);
  int down_blocks() const { return row_blocks(*call_.down); }
  void down(int begin, int end);

  uint64_t weight_bytes() const { return in_.weight_bytes() + hidden_.weight_bytes(); }

 private:
  ExpertCall call_;
  ExpertRows in_, hidden_;
  std::vector<float> gate_up_, activated_;  // [rows, gate_up.n]; [rows, down.k]
  std::vector<float*> gate_up_rows_;
};

// All of it, on this thread.
void answer_expert(const ExpertCall& call, ExpertAnswer& answer);

// activated[i] of gate and up as a linear left them; not rounded to float16.
void activate_expert(const float* gate_up, bool interleaved, int features, Activation activation, float alpha,
                     float limit, float* activated);

}  // namespace millrace

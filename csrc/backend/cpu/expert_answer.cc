#include "backend/cpu/expert_answer.h"

#include <algorithm>

#include "backend/expert_arithmetic.h"

namespace millrace {

bool has_expert_arithmetic(const LinearLayout& gate_up, const LinearLayout& down) {
  return has_expert_arithmetic(gate_up) && has_expert_arithmetic(down);
}

void activate_expert(const float* gate_up, bool interleaved, int features, Activation activation, float alpha,
                     float limit, float* activated) {
  const auto run = [&](const float* gate, const float* up, int count, float* to) {
    if (activation == Activation::clamped_swiglu) {
      for (int i = 0; i < count; i++) to[i] = expert_clamped_swiglu(gate[i], up[i], alpha, limit);
    } else {
      for (int i = 0; i < count; i++) to[i] = expert_silu(gate[i], up[i]);
    }
  };
  if (!interleaved) return run(gate_up, gate_up + features, features, activated);
  for (int i = 0; i < features; i += 8) {
    const float* gate = gate_up + 2 * static_cast<ptrdiff_t>(i);
    run(gate, gate + 8, std::min(8, features - i), activated + i);
  }
}

void ExpertAnswer::begin(const ExpertCall& call) {
  call_ = call;
  const size_t rows = static_cast<size_t>(call.rows), n = static_cast<size_t>(call.gate_up->n);
  gate_up_.resize(std::max(gate_up_.size(), rows * n));
  activated_.resize(std::max(activated_.size(), rows * static_cast<size_t>(call.down->k)));
  gate_up_rows_.resize(std::max(gate_up_rows_.size(), rows));
  for (size_t row = 0; row < rows; row++) gate_up_rows_[row] = gate_up_.data() + row * n;
  in_.begin(*call.gate_up, call.expert, call.rows);
  hidden_.begin(*call.down, call.expert, call.rows);
}

void ExpertAnswer::quantize(int row) {
  in_.quantize(row, call_.x[row]);
}

void ExpertAnswer::gate_up(int begin, int end) {
  in_.multiply(begin, end, gate_up_rows_.data());
}

void ExpertAnswer::activate(int row) {
  const int features = call_.down->k;
  float* activated = activated_.data() + static_cast<ptrdiff_t>(row) * features;
  activate_expert(gate_up_rows_[static_cast<size_t>(row)], call_.gate_up->interleaved, features, call_.activation,
                  call_.alpha, call_.limit, activated);
  for (int i = 0; i < features; i++) activated[i] = round_to_half(activated[i]);
  hidden_.quantize(row, activated);
}

void ExpertAnswer::down(int begin, int end) {
  hidden_.multiply(begin, end, call_.y);
}

void answer_expert(const ExpertCall& call, ExpertAnswer& answer) {
  answer.begin(call);
  for (int row = 0; row < call.rows; row++) answer.quantize(row);
  answer.gate_up(0, answer.gate_up_blocks());
  for (int row = 0; row < call.rows; row++) answer.activate(row);
  answer.down(0, answer.down_blocks());
}

}  // namespace millrace

#include "backend/cpu/expert_computer.h"

#include <algorithm>

namespace millrace {

namespace {

// Threads poll for the next task through what a layer takes without its experts: woken sleepers would come too late.
constexpr std::chrono::microseconds kSpin{400};
// What is done of a row takes a thread a microsecond: of fewer, less than handing them out.
constexpr int kRowsAlone = 6;

}  // namespace

ExpertComputer::ExpertComputer(int threads) : pool_(threads, kSpin) {}

// About four pieces a thread, of equal size.
template <typename Run>
void ExpertComputer::in_pieces(size_t entries, int blocks, Run&& run) {
  const int all = static_cast<int>(entries) * blocks;
  const int each = std::max(1, all / (4 * pool_.threads()));
  pieces_.clear();
  for (int entry = 0; entry < static_cast<int>(entries); entry++) {
    for (int begin = 0; begin < blocks; begin += each) {
      pieces_.push_back({entry, begin, std::min(begin + each, blocks)});
    }
  }
  pool_.parallel_for(static_cast<int64_t>(pieces_.size()), [&](int64_t index, int) {
    const Piece& piece = pieces_[static_cast<size_t>(index)];
    run(*answers_[static_cast<size_t>(piece.entry)], piece.begin, piece.end);
  });
}

template <typename Run>
void ExpertComputer::in_rows(std::span<const ExpertMailEntry> entries, Run&& run) {
  int rows = 0;
  for (const ExpertMailEntry& entry : entries) rows += entry.count;
  const auto of_entry = [&](int64_t e, int) {
    for (int row = 0; row < entries[static_cast<size_t>(e)].count; row++) run(*answers_[static_cast<size_t>(e)], row);
  };
  if (rows > kRowsAlone) return pool_.parallel_for(static_cast<int64_t>(entries.size()), of_entry);
  for (size_t e = 0; e < entries.size(); e++) of_entry(static_cast<int64_t>(e), 0);
}

void ExpertComputer::compute(const ExpertSlabs& slabs, std::span<const ExpertMailEntry> entries, const int32_t* places,
                             int top_k, const float* x, int in, float* y, int out) {
  if (entries.empty()) return;
  while (answers_.size() < entries.size()) answers_.push_back(std::make_unique<ExpertAnswer>());
  x_rows_.clear();
  y_rows_.clear();
  for (const ExpertMailEntry& entry : entries) {
    for (int r = 0; r < entry.count; r++) {
      const auto place = static_cast<size_t>(places[entry.first + r]);
      x_rows_.push_back(x + place / static_cast<size_t>(top_k) * static_cast<size_t>(in));
      y_rows_.push_back(y + place * static_cast<size_t>(out));
    }
  }
  size_t begin = 0;
  for (size_t e = 0; e < entries.size(); e++) {
    ExpertCall call;
    call.gate_up = &slabs.layout->gate_up;
    call.down = &slabs.layout->down;
    call.expert = slabs.first + static_cast<size_t>(entries[e].expert) * slabs.layout->stride;
    call.activation = slabs.op->activation;
    call.alpha = slabs.op->alpha;
    call.limit = slabs.op->limit;
    call.rows = entries[e].count;
    call.x = x_rows_.data() + begin;
    call.y = y_rows_.data() + begin;
    answers_[e]->begin(call);
    begin += static_cast<size_t>(entries[e].count);
  }
  in_rows(entries, [](ExpertAnswer& answer, int row) { answer.quantize(row); });
  in_pieces(entries.size(), answers_.front()->gate_up_blocks(),
            [](ExpertAnswer& answer, int first, int last) { answer.gate_up(first, last); });
  in_rows(entries, [](ExpertAnswer& answer, int row) { answer.activate(row); });
  in_pieces(entries.size(), answers_.front()->down_blocks(),
            [](ExpertAnswer& answer, int first, int last) { answer.down(first, last); });
}

}  // namespace millrace

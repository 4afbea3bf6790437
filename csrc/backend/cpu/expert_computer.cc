// Experts computed by all threads at once. Of one row an expert's matrices take some tens of microseconds of one
// core: handed out linear by linear, threads would wait for each other as long as they compute.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/experts.h"

namespace millrace {

namespace {

// Threads poll for the next task through what a layer takes without its experts: woken sleepers would come too late.
constexpr std::chrono::microseconds kSpin{400};

float* grow(std::vector<float>& buffer, size_t floats) {
  if (buffer.size() < floats) buffer.resize(floats);
  return buffer.data();
}

}  // namespace

void activate_expert(const ExpertsOp& op, bool interleaved, size_t features, const float* both, float* to) {
  for (size_t i = 0; i < features; i++) {
    const size_t at = interleaved ? i / 8 * 16 + i % 8 : i;
    const float gate = std::min(both[at], op.limit);
    const float up = std::clamp(both[interleaved ? at + 8 : features + i], -op.limit, op.limit);
    to[i] = gate / (1.0f + std::exp(-op.alpha * gate)) * (up + 1.0f);
  }
}

ExpertComputer::ExpertComputer(int threads) : pool_(threads, kSpin) {
  for (int i = 0; i < pool_.threads(); i++) workers_.push_back(std::make_unique<Worker>());
}

// About four pieces a thread, of equal size.
void ExpertComputer::plan(const LinearLayout& linear, int entries) {
  pieces_.clear();
  int blocks = 0;
  for (const LinearLayout::Segment& segment : linear.segments) blocks += segment.matrix.n_blocks();
  const int each = std::max(1, entries * blocks / (4 * pool_.threads()));
  for (int entry = 0; entry < entries; entry++) {
    for (size_t s = 0; s < linear.segments.size(); s++) {
      const int count = linear.segments[s].matrix.n_blocks();
      for (int begin = 0; begin < count; begin += each) {
        pieces_.push_back({entry, static_cast<int>(s), begin, std::min(begin + each, count)});
      }
    }
  }
}

void ExpertComputer::part_of(const LinearLayout& linear, const Piece& piece, LinearLayout& out) {
  const LinearLayout::Segment& whole = linear.segments[static_cast<size_t>(piece.segment)];
  out.n = linear.n;
  out.k = linear.k;
  out.has_bias = linear.has_bias;
  out.bias_offset = linear.bias_offset;
  out.interleaved = linear.interleaved;
  out.segments.assign(1, whole);
  LinearLayout::Segment& own = out.segments.front();
  own.out_begin += piece.begin * kTileN;
  own.matrix.offset += static_cast<size_t>(piece.begin) * whole.matrix.row_block_bytes();
  own.matrix.n = std::min(whole.matrix.n - piece.begin * kTileN, (piece.end - piece.begin) * kTileN);
}

void ExpertComputer::compute(const ExpertSlabs& slabs, std::span<const ExpertMailEntry> entries, const int32_t* places,
                             int top_k, const float* x, int in, float* y, int out) {
  const ExpertsOp& op = *slabs.op;
  const LinearLayout& gate_up = slabs.layout->gate_up;
  const LinearLayout& down = slabs.layout->down;
  begins_.assign(1, 0);
  for (const ExpertMailEntry& entry : entries) begins_.push_back(begins_.back() + entry.count);
  const auto rows = static_cast<size_t>(begins_.back());
  float* gathered = grow(x_, rows * in);
  const auto place_of = [&](size_t entry, int row) { return places[entries[entry].first + row]; };
  for (size_t e = 0; e < entries.size(); e++) {
    for (int r = 0; r < entries[e].count; r++) {
      std::memcpy(gathered + static_cast<size_t>(begins_[e] + r) * in,
                  x + static_cast<size_t>(place_of(e, r) / top_k) * in, static_cast<size_t>(in) * sizeof(float));
    }
  }
  const auto features = static_cast<size_t>(down.k);
  float* activated = grow(activated_, rows * features);
  float* results = grow(y_, rows * out);
  const bool silu = op.activation == Activation::silu && gate_up.interleaved;
  std::atomic<uint64_t> read{0};
  const auto run = [&](const LinearLayout& linear, const float* from, int k, float* to, int n, bool glu) {
    plan(linear, static_cast<int>(entries.size()));
    pool_.parallel_for(static_cast<int64_t>(pieces_.size()), [&](int64_t index, int thread) {
      const Piece& piece = pieces_[static_cast<size_t>(index)];
      const auto begin = static_cast<size_t>(begins_[static_cast<size_t>(piece.entry)]);
      Worker& worker = *workers_[static_cast<size_t>(thread)];
      part_of(linear, piece, worker.piece);
      LinearCall call;
      call.layout = &worker.piece;
      call.slab =
          slabs.first + static_cast<size_t>(entries[static_cast<size_t>(piece.entry)].expert) * slabs.layout->stride;
      call.x = from + begin * static_cast<size_t>(k);
      call.x_stride = k;
      call.rows = entries[static_cast<size_t>(piece.entry)].count;
      call.y = to + begin * static_cast<size_t>(n);
      call.y_stride = n;
      if (glu) {
        call.epilogue = Epilogue::silu_mul;
        call.interleaved = true;
        call.intermediate = n;
      }
      millrace::linear(call, worker.alone, worker.scratch, read);
    });
  };
  if (silu) {
    run(gate_up, gathered, in, activated, down.k, true);
  } else {
    float* both = grow(both_, rows * static_cast<size_t>(gate_up.n));
    run(gate_up, gathered, in, both, gate_up.n, false);
    pool_.parallel_for(static_cast<int64_t>(rows), [&](int64_t row, int) {
      const float* from = both + static_cast<size_t>(row) * static_cast<size_t>(gate_up.n);
      float* to = activated + static_cast<size_t>(row) * features;
      if (op.activation != Activation::silu) return activate_expert(op, gate_up.interleaved, features, from, to);
      silu_products(from, from + features, features, to);
    });
  }
  run(down, activated, down.k, results, out, false);
  for (size_t e = 0; e < entries.size(); e++) {
    for (int r = 0; r < entries[e].count; r++) {
      std::memcpy(y + static_cast<size_t>(place_of(e, r)) * out, results + static_cast<size_t>(begins_[e] + r) * out,
                  static_cast<size_t>(out) * sizeof(float));
    }
  }
}

}  // namespace millrace

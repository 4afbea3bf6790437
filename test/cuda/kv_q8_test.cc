// Keys and values of 8 bits on a GPU: what is appended has the twin's bytes, attention is near the twin's, and a row
// has the same bits whatever runs beside it.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/kv_append.h"
#include "check.h"
#include "core/half.h"
#include "cuda/attention.h"
#include "cuda/check.h"
#include "gpu.h"
#include "model/rope.h"

using namespace millrace;
using namespace millrace::cuda;

namespace {

template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& from) : count_(from.size()) {
    cuda::check(cudaMalloc(&data_, std::max<size_t>(1, count_) * sizeof(T)), "memory");
    cuda::check(cudaMemcpy(data_, from.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "a copy");
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  T* data() const { return static_cast<T*>(data_); }
  std::vector<T> read() const {
    std::vector<T> out(count_);
    cuda::check(cudaMemcpy(out.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "a copy");
    return out;
  }

 private:
  void* data_ = nullptr;
  size_t count_;
};

struct Heads {
  int heads, kv_heads, head_dim, window;
};

// Sequences with keys and values of their own; rows that come to them, several of one sequence in ascending order.
struct Problem {
  Heads h;
  int context, stride, rows;
  std::vector<int32_t> tables, sequences, positions;
  std::vector<float> qkv, rope;
  std::vector<std::byte> kv;

  size_t block_bytes() const { return kv_block_bytes({1, 0, h.kv_heads, h.head_dim, 0, false, KvType::q8}); }
  size_t width() const { return static_cast<size_t>(h.heads + 2 * h.kv_heads) * h.head_dim; }

  // `news`: rows of each sequence, whose last has position lengths - 1.
  Problem(const Heads& heads, const std::vector<int>& lengths, const std::vector<int>& news) : h(heads) {
    context = *std::max_element(lengths.begin(), lengths.end());
    stride = (context + kKvBlockTokens - 1) / kKvBlockTokens;
    tables.resize(stride * lengths.size());
    std::iota(tables.begin(), tables.end(), 0);
    std::mt19937_64 random = check::random(static_cast<uint64_t>(context + heads.head_dim));
    std::shuffle(tables.begin(), tables.end(), random);
    RopeSpec spec;
    spec.head_dim = spec.rotary = h.head_dim;
    rope = rope_table(spec, 0, context);
    kv.assign(tables.size() * block_bytes(), std::byte{0xff});  // scales that are NaN where nothing was appended
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> row(static_cast<size_t>(2 * h.kv_heads) * h.head_dim);
    for (size_t s = 0; s < lengths.size(); s++) {
      for (int p = 0; p < lengths[s] - news[s]; p++) {
        for (float& x : row) x = normal(random);
        append_kv(row.data(), row.data() + row.size() / 2, {KvType::q8, h.kv_heads, h.head_dim}, p, block(s, p));
      }
      for (int i = 0; i < news[s]; i++) {
        sequences.push_back(static_cast<int32_t>(s));
        positions.push_back(lengths[s] - news[s] + i);
      }
    }
    rows = static_cast<int>(positions.size());
    qkv.resize(rows * width());
    for (float& x : qkv) x = normal(random);
  }
  std::byte* block(size_t sequence, int position) {
    return kv.data() + tables[sequence * stride + position / kKvBlockTokens] * block_bytes();
  }

  // The twin's: appends, and returns [rows, heads, head_dim].
  std::vector<float> twin() {
    std::vector<float> q = qkv, out(static_cast<size_t>(rows) * h.heads * h.head_dim);
    for (int r = 0; r < rows; r++) {
      float* row = q.data() + r * width();
      vector_ops().rope(row, h.heads + h.kv_heads, h.head_dim, rope.data() + positions[r] * h.head_dim);
      const float* k = row + h.heads * h.head_dim;
      append_kv(k, k + h.kv_heads * h.head_dim, {KvType::q8, h.kv_heads, h.head_dim}, positions[r],
                block(sequences[r], positions[r]));
    }
    AttentionCall call;
    call.rows = rows;
    call.heads = h.heads, call.kv_heads = h.kv_heads, call.head_dim = h.head_dim, call.window = h.window;
    call.q = q.data(), call.out = out.data();
    call.q_stride = static_cast<int64_t>(width()), call.out_stride = static_cast<int64_t>(h.heads) * h.head_dim;
    call.positions = positions, call.sequences = sequences, call.block_tables = tables;
    call.block_table_stride = stride;
    call.type = KvType::q8;
    call.kv = kv.data(), call.block_bytes = block_bytes();
    ThreadPool pool(2);
    AttentionScratch scratch;
    attention(call, pool, scratch);
    return out;
  }
};

// The GPU's rows [first, first + count) of a problem, and the cache after them.
std::vector<float> on_gpu(const Problem& p, bool decode, std::vector<std::byte>& kv, int first = 0, int count = -1) {
  if (count < 0) count = p.rows - first;
  OnDevice<float> qkv(p.qkv), rope(p.rope);
  OnDevice<int32_t> positions(p.positions), sequences(p.sequences), tables(p.tables);
  OnDevice<std::byte> cache(kv);
  const int width = (p.h.heads * p.h.head_dim + 7) / 8 * 8;
  OnDevice<uint16_t> out(std::vector<uint16_t>(static_cast<size_t>(p.rows) * width, 0x7e00));
  AttentionArguments a;
  a.rows = count;
  a.heads = p.h.heads, a.kv_heads = p.h.kv_heads, a.head_dim = p.h.head_dim, a.window = p.h.window;
  a.qkv = qkv.data() + first * p.width();
  a.rope = rope.data();
  a.positions = positions.data() + first, a.sequences = sequences.data() + first, a.block_tables = tables.data();
  a.block_table_stride = p.stride;
  a.kv_type = KvType::q8;
  a.kv = reinterpret_cast<__half*>(cache.data());
  a.kv_block_elements = static_cast<int64_t>(p.block_bytes() / 2);
  a.out = reinterpret_cast<__half*>(out.data()) + static_cast<size_t>(first) * width;
  a.out_stride = width;
  a.max_context = p.context;
  OnDevice<std::byte> partials(std::vector<std::byte>(attention_partials_bytes(a)));
  OnDevice<unsigned> counters(std::vector<unsigned>(attention_counters(a)));
  a.partials = reinterpret_cast<float*>(partials.data());
  a.counters = counters.data();
  cuda::check(decode ? attention_decode(a, nullptr, false) : attention_prefill(a, nullptr, false), "attention");
  cuda::check(cudaDeviceSynchronize(), "attention");
  kv = cache.read();
  const std::vector<uint16_t> halves = out.read();
  std::vector<float> found;
  for (int r = first; r < first + count; r++) {
    for (int i = 0; i < p.h.heads * p.h.head_dim; i++) found.push_back(half_to_float(halves[r * width + i]));
  }
  return found;
}

void check_against_twin(const Heads& heads, const std::vector<int>& lengths, const std::vector<int>& news,
                        bool decode) {
  Problem p(heads, lengths, news);
  std::vector<std::byte> kv = p.kv;
  const std::vector<float> gpu = on_gpu(p, decode, kv);
  const Problem before = p;
  const std::vector<float> twin = p.twin();
  CHECK(kv == p.kv);
  double error = 0, size = 0;
  for (size_t i = 0; i < twin.size(); i++) {
    error += std::pow(static_cast<double>(gpu[i]) - twin[i], 2);
    size += std::pow(static_cast<double>(twin[i]), 2);
  }
  if (!(std::sqrt(error / size) < 2e-3)) {
    std::printf("%d/%d x %d, context %d: %g\n", heads.heads, heads.kv_heads, heads.head_dim, p.context,
                std::sqrt(error / size));
  }
  CHECK(std::sqrt(error / size) < 2e-3);
  // Row after row, each finds what those before it have appended.
  std::vector<std::byte> alone_kv = before.kv;
  std::vector<float> alone;
  for (int r = 0; r < p.rows; r += decode ? 1 : 7) {
    const std::vector<float> own = on_gpu(before, decode, alone_kv, r, std::min(decode ? 1 : 7, p.rows - r));
    alone.insert(alone.end(), own.begin(), own.end());
  }
  CHECK(alone_kv == kv);
  CHECK(alone == gpu);
}

const std::vector<Heads> kHeads = {{32, 8, 128, 0}, {9, 3, 64, 0}, {16, 2, 96, 0},   {8, 8, 80, 40},
                                   {8, 2, 256, 0},  {4, 2, 6, 0},  {12, 1, 128, 90}, {4, 4, 16, 0}};

}  // namespace

TEST(decode_is_near_the_twin_and_its_bits_are_the_rows_own) {
  require_gpus();
  for (const Heads& heads : kHeads) {
    check_against_twin(heads, {1, 17, 300, 1500, 40}, {1, 1, 1, 1, 5}, true);  // the last one with drafts
    check_against_twin(heads, {5000}, {2}, true);
  }
}

TEST(prompts_are_near_the_twin_and_chunks_change_no_bit) {
  require_gpus();
  for (const Heads& heads : kHeads) check_against_twin(heads, {70, 130, 3}, {70, 21, 2}, false);
}

TEST(a_number_that_is_none_is_not_lost) {
  require_gpus();
  for (const bool decode : {true, false}) {
    Problem p({4, 2, 64, 0}, {40}, {1});
    p.qkv[4 * 64 + 5] = std::nanf("");  // of a key
    std::vector<std::byte> kv = p.kv;
    CHECK(std::isnan(on_gpu(p, decode, kv)[0]));
  }
}

// Experts of integer codes on a GPU, bit for bit what the CPU computes: every code, both activations, one row (whose
// thread blocks meet and combine), tiles of few rows and of many.
#include <cuda_runtime.h>

#include <cstring>
#include <string>
#include <vector>

#include "backend/cpu/experts.h"
#include "backend/cpu/route.h"
#include "core/half.h"
#include "cuda/moe/experts.h"
#include "cuda/moe/route.h"
#include "gpu.h"

using namespace millrace;
using namespace millrace::cuda;

namespace {

constexpr int kExperts = 4, kTopK = 2, kMostRows = 40;

void good(cudaError_t status) {
  CHECK_EQ(std::string(cudaGetErrorString(status)), std::string("no error"));
}

template <typename T>
class OnGpu {
 public:
  explicit OnGpu(size_t count) : count_(count) {
    good(cudaMalloc(&data_, count * sizeof(T)));
    good(cudaMemset(data_, 0, count * sizeof(T)));
  }
  explicit OnGpu(const std::vector<T>& from) : OnGpu(from.size()) {
    good(cudaMemcpy(data_, from.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~OnGpu() { cudaFree(data_); }
  OnGpu(const OnGpu&) = delete;
  T* get() const { return data_; }
  std::vector<T> read() const {
    std::vector<T> out(count_);
    good(cudaMemcpy(out.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

// Expert 0 by all, the others by turns; every tenth row is padding, but not the first.
int expert_of(int row, int rank) {
  return rank == row % 2 ? 0 : 1 + row % (kExperts - 1);
}
bool padding(int row) {
  return row % 10 == 9;
}

struct Case {
  MatrixCode code;
  int hidden, features;
  Activation activation;
  bool bias;
};

void check_case(const Case& c, uint64_t seed, std::string& what) {
  const int hidden = c.hidden, features = c.features;
  std::vector<experts::Expert> all;
  std::vector<const std::byte*> addresses;
  std::vector<std::unique_ptr<OnGpu<std::byte>>> slabs;
  for (int e = 0; e < kExperts; e++) {
    all.emplace_back(c.code, hidden, features, c.activation, c.bias, seed + static_cast<uint64_t>(e));
    slabs.push_back(
        std::make_unique<OnGpu<std::byte>>(std::vector<std::byte>(all[e].data(), all[e].data() + all[e].bytes())));
    addresses.push_back(slabs.back()->get());
  }
  const LinearLayout &gate_up = all[0].gate_up, &down = all[0].down;
  const std::vector<float> x = experts::inputs(kMostRows, hidden, seed);
  std::vector<std::vector<float>> answers;
  for (const experts::Expert& e : all) answers.push_back(e.answer(x, kMostRows));

  const int x_stride = static_cast<int>(round_up(hidden, 64)), act_stride = static_cast<int>(round_up(features, 64));
  std::vector<uint16_t> halves(static_cast<size_t>(kMostRows) * x_stride);
  for (int row = 0; row < kMostRows; row++) {
    for (int i = 0; i < hidden; i++) halves[row * x_stride + i] = float_to_half(x[row * hidden + i]);
  }
  const OnGpu<uint16_t> gpu_x(halves);
  const OnGpu<const std::byte*> table(addresses);
  const OnGpu<uint16_t> act(static_cast<size_t>(kMostRows) * kTopK * act_stride);
  std::vector<float> routes(kMostRows * 2 * kTopK);
  std::vector<int32_t> positions(kMostRows);
  for (int row = 0; row < kMostRows; row++) {
    positions[row] = padding(row) ? -1 : row;
    for (int rank = 0; rank < kTopK; rank++) {
      routes[row * 2 * kTopK + rank] = static_cast<float>(expert_of(row, rank));
      routes[row * 2 * kTopK + kTopK + rank] = rank == 0 ? 0.7f : 0.3f;
    }
  }
  const OnGpu<float> gpu_routes(routes);
  const OnGpu<int32_t> gpu_positions(positions);
  const OnGpu<const std::byte*> units(addresses);  // not read where experts have addresses

  for (const int rows : {1, 2, 3, 8, 9, 17, 32, kMostRows}) {
    what = format("%s, group %d, zeros %d, permuted %d, %d x %d, %d rows", name_of(c.code.type), c.code.group,
                  c.code.zeros, c.code.permuted, hidden, features, rows);
    const int places = rows * kTopK;
    const OnGpu<int32_t> counts(3), list_places(places);
    const OnGpu<int4> few(few_tiles(places, kExperts)), many(many_tiles(places, kExperts, kManyRows) + 1);
    const OnGpu<float> y(static_cast<size_t>(places) * hidden), out(static_cast<size_t>(rows) * hidden);
    ExpertList list;
    list.counts = counts.get();
    list.few = few.get();
    list.many = many.get();
    list.places = list_places.get();
    good(list_experts(gpu_routes.get(), rows, kTopK, kExperts, gpu_positions.get(), list, nullptr, nullptr, false));
    ExpertArguments a;
    a.weights.units = units.get();
    a.addresses = table.get();
    a.experts = kExperts;
    a.rows = rows;
    a.top_k = kTopK;
    a.list = list;
    a.listed = true;
    a.matrix = gate_up.segments[0].matrix;
    if (c.bias) a.bias_offset = static_cast<int64_t>(gate_up.bias_offset);
    a.x = reinterpret_cast<const __half*>(gpu_x.get());
    a.x_stride = x_stride;
    a.epilogue = c.activation == Activation::silu ? ExpertEpilogue::silu : ExpertEpilogue::clamped;
    a.act = reinterpret_cast<__half*>(act.get());
    a.act_stride = act_stride;
    a.features = features;
    a.alpha = 1.702f;
    a.limit = 7;
    good(experts_linear(a, nullptr, false));
    a.matrix = down.segments[0].matrix;
    if (c.bias) a.bias_offset = static_cast<int64_t>(down.bias_offset);
    a.x = reinterpret_cast<const __half*>(act.get());
    a.x_stride = act_stride;
    a.x_of_places = true;
    a.epilogue = ExpertEpilogue::store;
    a.y = y.get();
    a.y_stride = hidden;
    good(experts_linear(a, nullptr, false));
    CombineArguments combine;
    combine.y = y.get();
    combine.routes = gpu_routes.get();
    combine.rows = rows;
    combine.top_k = kTopK;
    combine.width = hidden;
    combine.positions = gpu_positions.get();
    combine.out = out.get();
    combine.out_stride = hidden;
    if (rows == 1) {  // in one launch, as decoding does
      a.combine = &combine;
      good(experts_linear(a, nullptr, false));
    } else {
      good(combine_experts(combine, nullptr, false));
    }
    good(cudaDeviceSynchronize());
    const std::vector<float> found = y.read(), sums = out.read();
    for (int row = 0; row < rows; row++) {
      if (padding(row)) continue;
      std::vector<float> both, expected(hidden);
      for (int rank = 0; rank < kTopK; rank++) {
        const float* answer = answers[expert_of(row, rank)].data() + static_cast<size_t>(row) * hidden;
        both.insert(both.end(), answer, answer + hidden);
        if (std::memcmp(answer, found.data() + static_cast<size_t>(row * kTopK + rank) * hidden, hidden * 4) != 0) {
          int n = 0;
          while (answer[n] == found[static_cast<size_t>(row * kTopK + rank) * hidden + n]) n++;
          std::printf("%s: row %d, rank %d, feature %d: %.9g, on the CPU %.9g\n", what.c_str(), row, rank, n,
                      found[static_cast<size_t>(row * kTopK + rank) * hidden + n], answer[n]);
          CHECK(false);
          return;
        }
      }
      combine_row(both.data(), routes.data() + row * 2 * kTopK + kTopK, kTopK, hidden, expected.data());
      CHECK(std::memcmp(expected.data(), sums.data() + static_cast<size_t>(row) * hidden, hidden * 4) == 0);
    }
  }
}

}  // namespace

TEST(experts_have_the_cpus_bits_in_every_code) {
  require_gpus();
  Watchdog watchdog(std::chrono::seconds(120));
  std::string what;
  uint64_t seed = 1;
  for (const MatrixCode& code : experts::codes()) {
    const Activation activation = seed % 2 == 0 ? Activation::silu : Activation::clamped_swiglu;
    watchdog.at(name_of(code.type));
    check_case({code, 416, 112, activation, seed % 3 == 0}, seed * 10, what);
    seed++;
  }
}

TEST(experts_of_a_real_shape_have_the_cpus_bits) {
  require_gpus();
  Watchdog watchdog(std::chrono::seconds(120));
  std::string what;
  check_case({{WeightType::q4, ScaleType::f16, false, false, 128}, 2048, 768, Activation::silu, false}, 1000, what);
  check_case({{WeightType::mxfp4, ScaleType::f16, false, false, 32}, 2880, 2880, Activation::clamped_swiglu, true},
             2000, what);
  check_case({{WeightType::q4_k, ScaleType::f16, false, false, 32}, 2048, 768, Activation::silu, false}, 3000, what);
}

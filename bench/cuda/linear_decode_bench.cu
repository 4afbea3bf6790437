// linear_decode: checks against float64, then times beside what a kernel that only reads takes.
//   cuda_linear_decode_bench [check] [check_wide] [tiny] [tiny_whole] [chain] [matrix] [wide] [many] [plans] [shared]
//       [profile] [--seed N]
// (check, chain, matrix when none is named; check_wide is a part of check).
// Exits with 1 if a check fails.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "bench/usage.h"
#include "core/half.h"
#include "cuda/linear_decode.cuh"
#include "cuda/norm.h"
#include "model/slab_layout.h"

using namespace millrace;
using namespace millrace::cuda;

namespace {

#define OK(call)                                                                              \
  do {                                                                                        \
    const cudaError_t status_ = (call);                                                       \
    if (status_ != cudaSuccess) {                                                             \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status_)); \
      std::exit(1);                                                                           \
    }                                                                                         \
  } while (0)

template <typename T>
struct Device {
  T* data = nullptr;
  size_t count = 0;
  explicit Device(size_t n) : count(n) { OK(cudaMalloc(&data, std::max<size_t>(n, 1) * sizeof(T))); }
  explicit Device(const std::vector<T>& v) : Device(v.size()) { upload(v); }
  ~Device() { cudaFree(data); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  void upload(const std::vector<T>& v) { OK(cudaMemcpy(data, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice)); }
  std::vector<T> download() const {
    std::vector<T> v(count);
    OK(cudaMemcpy(v.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }
  void poison() { OK(cudaMemset(data, 0xff, count * sizeof(T))); }  // NaN
};

std::mt19937_64 random_bits;
float normal() {
  static std::normal_distribution<float> d;
  return d(random_bits);
}

// ---- Checks

__global__ void reference(const float* w, const __half* x, int n, int k, int x_stride, int rows, double* y) {
  const int feature = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (feature >= n || row >= rows) return;
  double sum = 0;
  for (int i = 0; i < k; i++) {
    sum += static_cast<double>(w[static_cast<size_t>(i) * n + feature]) *
           static_cast<double>(__half2float(x[static_cast<size_t>(row) * x_stride + i]));
  }
  y[static_cast<size_t>(row) * n + feature] = sum;
}

int failures = 0, checks = 0;
void expect(bool good, const std::string& what, const char* detail, double figure = 0) {
  checks++;
  if (good) return;
  failures++;
  if (failures < 40) std::printf("FAILED %s: %s %g\n", what.c_str(), detail, figure);
}

std::vector<std::byte> random_slab(MatrixLayout& m, const MatrixCode& code, int n, int k) {
  int k_stored = (k + kTileK - 1) / kTileK * kTileK;
  if (code.permuted) k_stored += 2 * kTileK;
  SlabBuilder builder;
  builder.floats(64);
  m = builder.matrix(code, n, k, k_stored);
  std::vector<std::byte> slab(builder.bytes());
  for (size_t i = 0; i + 8 <= slab.size(); i += 8) {
    const uint64_t v = random_bits();
    std::memcpy(slab.data() + i, &v, 8);
  }
  std::byte* base = slab.data() + m.offset;
  const auto encode = [](bool half, float v) { return half ? float_to_half(v) : float_to_bfloat16(v); };
  if (code.type == WeightType::q4) {
    for (int rb = 0; rb < m.n_blocks(); rb++) {
      for (int g = 0; g < m.groups(); g++) {
        std::byte* header = base + m.group_offset(rb, g);
        for (int i = 0; i < kTileN; i++) {
          const uint16_t scale = encode(code.scale == ScaleType::f16, 0.01f * normal());
          std::memcpy(header + 2 * i, &scale, 2);
          if (code.zeros) header[128 + i] = static_cast<std::byte>(random_bits() % 17);
        }
      }
    }
  } else {
    const size_t bytes = element_bytes(code.type);
    for (size_t i = 0; i < m.bytes; i += bytes) {
      const float v = 0.05f * normal();
      const uint16_t bits = encode(code.type == WeightType::f16, v);
      std::memcpy(base + i, bytes == 4 ? static_cast<const void*>(&v) : &bits, bytes);
    }
  }
  if (code.permuted) {
    std::vector<int32_t> permutation(m.k_stored, kPadding);
    for (int i = 0; i < k; i++) permutation[i] = i;
    std::shuffle(permutation.begin(), permutation.end(), random_bits);
    std::memcpy(slab.data() + m.permutation_offset, permutation.data(), permutation.size() * 4);
  }
  return slab;
}

void check_matrix(const MatrixCode& code, int n, int k) {
  constexpr int kRows = 200;
  MatrixLayout m;
  const std::vector<std::byte> slab = random_slab(m, code, n, k);
  char name[128];
  std::snprintf(name, sizeof name, "%s n %d k %d group %d%s%s%s", name_of(code.type), n, k, code.group,
                code.zeros ? " zeros" : "", code.permuted ? " permuted" : "",
                code.scale == ScaleType::bf16 ? " bf16 scales" : "");
  const std::string what = name;

  const int x_stride = (k + 7) / 8 * 8 + 8;
  std::vector<uint16_t> x(static_cast<size_t>(kRows) * x_stride, 0x7e00);  // NaN beyond k
  for (int row = 0; row < kRows; row++) {
    for (int i = 0; i < k; i++) x[row * x_stride + i] = float_to_half(normal());
    for (int i = 0; i < 3; i++) x[row * x_stride + random_bits() % k] = float_to_half(random_bits() % 2 ? 1e4f : -1e4f);
  }
  const std::vector<float> w = decode_matrix(m, slab.data());
  std::vector<float> transposed(w.size());
  for (int i = 0; i < n; i++) {
    for (int j = 0; j < k; j++) transposed[static_cast<size_t>(j) * n + i] = w[static_cast<size_t>(i) * k + j];
  }
  const Device<float> w_device(transposed);
  const Device<uint16_t> x_device(x);
  const __half* x_half = reinterpret_cast<const __half*>(x_device.data);
  Device<double> sums_device(static_cast<size_t>(kRows) * n);
  reference<<<dim3((n + 127) / 128, kRows), 128>>>(w_device.data, x_half, n, k, x_stride, kRows, sums_device.data);
  OK(cudaDeviceSynchronize());
  const std::vector<double> sums = sums_device.download();
  for (int i = 0; i < 3; i++) {  // the reference itself, on the CPU
    const int row = random_bits() % kRows, feature = random_bits() % n;
    double sum = 0, scale = 0;
    for (int j = 0; j < k; j++) {
      const double term =
          static_cast<double>(w[static_cast<size_t>(feature) * k + j]) * half_to_float(x[row * x_stride + j]);
      sum += term;
      scale += std::abs(term);
    }
    expect(std::abs(sum - sums[static_cast<size_t>(row) * n + feature]) <= 1e-12 * scale, what, "reference");
  }

  const Device<std::byte> slab_device(slab);
  const Device<const std::byte*> units(std::vector<const std::byte*>{nullptr, slab_device.data});

  const int y_stride = n + 5, intermediate = n / 2 - 3, act_stride = n / 2 + 1;
  std::vector<float> start(static_cast<size_t>(kRows) * y_stride);
  for (float& v : start) v = 100 * normal();
  for (const LinearEpilogue epilogue : {LinearEpilogue::store, LinearEpilogue::add, LinearEpilogue::silu_mul}) {
    if (epilogue == LinearEpilogue::silu_mul && n % 16 != 0) continue;
    const bool act_wanted = epilogue == LinearEpilogue::silu_mul, add = epilogue == LinearEpilogue::add;
    const std::string where = what + (act_wanted ? " silu_mul" : add ? " add" : " store");
    // Output of `rows` rows from row `from` on, as bits.
    const auto run = [&](int from, int rows, bool early, int wide_from = kDecodeRows + 1,
                         int shared_from = kDecodeRows + 1) {
      Device<float> y(start.size());
      Device<uint16_t> act(static_cast<size_t>(kRows) * act_stride);
      if (add) {
        y.upload(start);
        if (from > 0) {
          OK(cudaMemcpy(y.data, start.data() + static_cast<size_t>(from) * y_stride, y_stride * 4,
                        cudaMemcpyHostToDevice));
        }
      } else {
        y.poison();
      }
      act.poison();
      LinearArguments a;
      a.weights = {units.data, 1, early};
      a.matrix = m;
      a.x = x_half + static_cast<size_t>(from) * x_stride;
      a.x_stride = x_stride;
      a.rows = rows;
      a.epilogue = epilogue;
      a.y = act_wanted ? nullptr : y.data;
      a.y_stride = y_stride;
      a.act = act_wanted ? reinterpret_cast<__half*>(act.data) : nullptr;
      a.act_stride = act_stride;
      a.intermediate = intermediate;
      DecodeTuning plan;
      plan.wide_from = wide_from;
      plan.shared_from = shared_from;
      OK(linear_decode_tuned(a, plan, nullptr, early));
      OK(cudaDeviceSynchronize());
      std::vector<uint32_t> bits;
      if (act_wanted) {
        const std::vector<uint16_t> out = act.download();
        bits.assign(out.begin(), out.end());
      } else {
        const std::vector<float> out = y.download();
        bits.resize(out.size());
        std::memcpy(bits.data(), out.data(), out.size() * 4);
      }
      return bits;
    };
    const int stride = act_wanted ? act_stride : y_stride, columns = act_wanted ? intermediate : n;
    const std::vector<uint32_t> all = run(0, kRows, true);
    double worst = 0;
    bool guards = true;
    for (int row = 0; row < kRows; row++) {
      double error = 0, size = 0;
      for (int c = 0; c < columns; c++) {
        const uint32_t bits = all[static_cast<size_t>(row) * stride + c];
        const double* s = sums.data() + static_cast<size_t>(row) * n;
        double want = s[c], got;
        if (act_wanted) {
          const double gate = s[c / 8 * 16 + c % 8], up = s[c / 8 * 16 + 8 + c % 8];
          want = std::clamp(gate / (1 + std::exp(-gate)) * up, -65504.0, 65504.0);
          got = half_to_float(static_cast<uint16_t>(bits));
        } else {
          float f;
          std::memcpy(&f, &bits, 4);
          got = f;
          if (add) want += start[static_cast<size_t>(row) * y_stride + c];
        }
        error += (got - want) * (got - want);
        size += want * want;
      }
      const double relative = std::sqrt(error / size);
      worst = relative <= worst ? worst : relative;  // NaN stays
      for (int c = columns; c < stride; c++) {
        const uint32_t bits = all[static_cast<size_t>(row) * stride + c];
        uint32_t before = act_wanted ? 0xffff : 0xffffffff;
        if (add) std::memcpy(&before, &start[static_cast<size_t>(row) * y_stride + c], 4);
        guards &= bits == before;
      }
    }
    expect(worst < (act_wanted ? 1e-3 : 1e-5), where, "relative error", worst);
    expect(guards, where, "wrote beyond its outputs");
    for (const int rows : {1, 3, 8, 9, 17, 33, 65, 200}) {
      const std::vector<uint32_t> some = run(0, rows, rows != 3);
      expect(std::equal(some.begin(), some.begin() + static_cast<size_t>(rows) * stride, all.begin()), where,
             "bits depend on the number of rows:", rows);
      const std::vector<uint32_t> wide = run(0, rows, rows != 3, 1);
      expect(std::equal(wide.begin(), wide.begin() + static_cast<size_t>(rows) * stride, all.begin()), where,
             "the wide kernel has other bits, rows", rows);
      if (rows > 32) continue;
      const std::vector<uint32_t> shared = run(0, rows, rows != 3, kDecodeRows + 1, 1);
      expect(std::equal(shared.begin(), shared.begin() + static_cast<size_t>(rows) * stride, all.begin()), where,
             "the kernel that shares x has other bits, rows", rows);
    }
    for (const int row : {5, 77}) {
      const std::vector<uint32_t> one = run(row, 1, true);
      expect(std::equal(one.begin(), one.begin() + columns, all.begin() + static_cast<size_t>(row) * stride), where,
             "bits depend on the place of row", row);
    }
  }
}

// A linear that norms its rows itself, against rms_norm and the linear, bit for bit.
void check_norms(const MatrixCode& code, int n, int k) {
  SlabBuilder builder;
  const size_t norm_offset = builder.floats(k);
  const MatrixLayout m = builder.matrix(code, n, k, (k + kTileK - 1) / kTileK * kTileK);
  MatrixLayout alone;
  const std::vector<std::byte> matrix = random_slab(alone, code, n, k);
  std::vector<std::byte> slab(builder.bytes());
  std::memcpy(slab.data() + m.offset, matrix.data() + alone.offset, m.bytes);
  std::vector<float> weights(k), rows(static_cast<size_t>(3) * k);
  for (float& v : weights) v = 1 + 0.1f * normal();
  for (float& v : rows) v = 10 * normal();
  std::memcpy(slab.data() + norm_offset, weights.data(), weights.size() * 4);
  const Device<std::byte> slab_device(slab);
  const Device<const std::byte*> units(std::vector<const std::byte*>{slab_device.data});
  const Device<float> x(rows);
  const int x_stride = (k + 63) / 64 * 64;
  Device<uint16_t> normed(static_cast<size_t>(3) * x_stride);
  OK(cudaMemset(normed.data, 0, normed.count * 2));
  Device<float> y(static_cast<size_t>(3) * n), want(static_cast<size_t>(3) * n);
  for (const bool early : {true, false}) {
    for (const int count : {1, 2}) {
      LinearArguments a;
      a.weights = {units.data, 0, early};
      a.matrix = m;
      a.rows = count;
      a.x = reinterpret_cast<const __half*>(normed.data);
      a.x_stride = x_stride;
      a.y = want.data;
      a.y_stride = n;
      want.poison();
      y.poison();
      OK(rms_norm(x.data, k, a.weights, norm_offset, 1e-5f, count, k, reinterpret_cast<__half*>(normed.data), x_stride,
                  nullptr, early));
      OK(linear_decode(a, nullptr, early));
      if (!decode_norms(m, count)) continue;
      a.x = nullptr;
      a.norm_x = x.data;
      a.norm_offset = norm_offset;
      a.norm_epsilon = 1e-5f;
      a.y = y.data;
      OK(linear_decode(a, nullptr, early));
      OK(cudaDeviceSynchronize());
      const std::vector<float> got = y.download(), expected = want.download();
      expect(std::memcmp(got.data(), expected.data(), static_cast<size_t>(count) * n * 4) == 0 && got[0] == got[0],
             "a linear that norms", "rows differ from rms_norm's", k);
    }
  }
}

// One matrix a kind, for compute-sanitizer.
void check_tiny() {
  MatrixCode code;
  code.type = WeightType::q4;
  for (const int group : {128, 48}) {
    code.group = group;
    code.zeros = group == 48;
    check_matrix(code, 192, 576);
    check_norms(code, 192, 576);
  }
  code.permuted = true;
  check_matrix(code, 192, 172);
  code = {};
  code.type = WeightType::bf16;
  check_matrix(code, 192, 172);
  std::printf("checks: %d, failures: %d\n", checks, failures);
}

// Matrices of many and of few row blocks, odd numbers of them, each way to group: for the wide kernel.
void check_wide() {
  for (const int group : {128, 32, 48, 64}) {
    MatrixCode code;
    code.type = WeightType::q4;
    code.group = group;
    code.zeros = group == 32 || group == 48;
    code.scale = group == 64 ? ScaleType::bf16 : ScaleType::f16;
    check_matrix(code, 17408, 576);
    if (group == 128) check_matrix(code, 17344, 1088);
    check_matrix(code, 1000, 4096);
  }
  std::printf("checks: %d, failures: %d\n", checks, failures);
}

// For compute-sanitizer too: so many row blocks that thread blocks take several items, whole.
void check_tiny_whole() {
  MatrixCode code;
  code.type = WeightType::q4;
  code.group = 128;
  check_matrix(code, 16960, 320);
  std::printf("checks: %d, failures: %d\n", checks, failures);
}

void check_all() {
  for (const int k : {64, 172, 576, 2048, 4096}) {
    for (const int group : {32, 48, 128}) {
      MatrixCode code;
      code.type = WeightType::q4;
      code.group = group;
      code.zeros = group == 32;
      check_norms(code, 192, k);
      check_norms(code, 12288, k);
    }
  }
  const int ns[] = {192, 576, 1000};
  int turn = 0;
  for (const int n : ns) {
    for (const int k : {576, 4096}) {
      for (const int group : {16, 32, 48, 64, 128, 256, 0}) {
        for (const bool permuted : {false, true}) {
          for (const bool zeros : {false, true}) {
            if (k == 4096 && n == 1000 && (permuted != zeros)) continue;
            MatrixCode code;
            code.type = WeightType::q4;
            code.scale = turn++ % 3 == 0 ? ScaleType::bf16 : ScaleType::f16;
            code.zeros = zeros;
            code.permuted = permuted;
            code.group = group > 0 ? group : k + (permuted ? 2 * kTileK : 0);
            check_matrix(code, n, k);
          }
        }
      }
    }
    for (const int k : {172, 576, 4096}) {
      for (const WeightType type : {WeightType::f16, WeightType::bf16, WeightType::f32}) {
        MatrixCode code;
        code.type = type;
        check_matrix(code, n, k);
      }
    }
  }
  std::printf("checks: %d, failures: %d\n", checks, failures);
}

// ---- Times

// Random nibbles, scales of 2^-8; float weights are random float16.
__global__ void fill_matrix(uint32_t* words, size_t count, unsigned group_words, unsigned header_words, unsigned seed) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    unsigned v = static_cast<unsigned>(i) * 2654435761u + seed;
    v ^= v >> 15;
    v *= 2246822519u;
    v ^= v >> 13;
    if (group_words > 0) {
      words[i] = i % group_words < header_words ? 0x1c001c00u : v;
    } else {
      words[i] = (v & 0x83ff83ffu) | 0x24002400u;
    }
  }
}

// Reads a matrix and does nothing else: the structure's own cost.
__global__ void __launch_bounds__(512, 2) read_matrix(const uint4* data, size_t count, unsigned* out) {
  const size_t per_block = (count + gridDim.x - 1) / gridDim.x;
  const size_t begin = per_block * blockIdx.x, end = min(count, begin + per_block);
  unsigned sum = 0;
  bool waited = false;
  for (size_t i = begin + threadIdx.x; i < end; i += 8 * 512) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
      v[j] = i + j * 512 < end ? load_once(data + i + j * 512) : uint4{};
    }
    if (!waited) {
      allow_successor();
      wait_for_predecessor();
      waited = true;
    }
#pragma unroll
    for (int j = 0; j < 8; j++) sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (sum == 0x12345678u) *out = sum;
}

struct Shape {
  const char* name;
  int k, n;
  LinearEpilogue epilogue;
};
struct Model {
  const char* name;
  int layers;
  std::vector<Shape> shapes;
};
const std::vector<Model> kModels = {
    {"8B",
     32,
     {{"qkv", 4096, 6144, LinearEpilogue::store},
      {"o", 4096, 4096, LinearEpilogue::add},
      {"gate_up", 4096, 28672, LinearEpilogue::silu_mul},
      {"down", 14336, 4096, LinearEpilogue::add}}},
    {"70B",
     6,
     {{"qkv", 8192, 10240, LinearEpilogue::store},
      {"o", 8192, 8192, LinearEpilogue::add},
      {"gate_up", 8192, 57344, LinearEpilogue::silu_mul},
      {"down", 28672, 8192, LinearEpilogue::add}}},
    {"1.1B",
     22,
     {{"qkv", 2048, 2560, LinearEpilogue::store},
      {"o", 2048, 2048, LinearEpilogue::add},
      {"gate_up", 2048, 11264, LinearEpilogue::silu_mul},
      {"down", 5632, 2048, LinearEpilogue::add}}},
};

cudaStream_t stream;
double time_graph(const std::function<void()>& enqueue, int repeats) {
  OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue();
  cudaGraph_t graph;
  OK(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t exec;
  OK(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  OK(cudaEventCreate(&begin));
  OK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < repeats + 2; i++) {
    OK(cudaEventRecord(begin, stream));
    OK(cudaGraphLaunch(exec, stream));
    OK(cudaEventRecord(end, stream));
    OK(cudaEventSynchronize(end));
    float ms = 0;
    OK(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 2) times.push_back(ms * 1000);
  }
  OK(cudaGraphExecDestroy(exec));
  OK(cudaGraphDestroy(graph));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

struct Bench {
  Device<std::byte> weights{size_t{4300} << 20};
  Device<const std::byte*> units{1};
  Device<uint16_t> x{size_t{256} * 28672}, act{size_t{256} * 28672};
  Device<float> y{size_t{256} * 131072};
  Device<unsigned> out{1};

  Bench() {
    units.upload({weights.data});
    std::vector<uint16_t> v(x.count);
    for (uint16_t& h : v) h = float_to_half(normal());
    x.upload(v);
    OK(cudaMemset(y.data, 0, y.count * 4));
  }

  MatrixLayout place(const Shape& s, MatrixCode code, size_t* at) {
    MatrixLayout m = measure_matrix(code, s.n, s.k, s.k);
    m.offset = *at;
    *at += (m.bytes + 255) / 256 * 256;
    if (*at > weights.count) {
      std::printf("weights do not fit\n");
      std::exit(1);
    }
    const bool q4 = code.type == WeightType::q4;
    fill_matrix<<<1024, 256>>>(reinterpret_cast<uint32_t*>(weights.data + m.offset), m.bytes / 4,
                               q4 ? static_cast<unsigned>(m.group_bytes() / 4) : 0,
                               q4 ? static_cast<unsigned>(m.group_header_bytes() / 4) : 0,
                               static_cast<unsigned>(m.offset));
    OK(cudaGetLastError());
    return m;
  }
  LinearArguments arguments(const Shape& s, const MatrixLayout& m, int rows, bool early) {
    LinearArguments a;
    a.weights = {units.data, 0, early};
    a.matrix = m;
    a.x = reinterpret_cast<const __half*>(x.data);
    a.x_stride = s.k;
    a.rows = rows;
    a.epilogue = s.epilogue;
    a.y = y.data;
    a.y_stride = s.n;
    a.act = reinterpret_cast<__half*>(act.data);
    a.act_stride = s.n / 2;
    a.intermediate = s.n / 2;
    return a;
  }
  // The kernel that shares x against linear_decode's own, bit for bit, in shapes of all its cuts.
  void check_shared() {
    const Shape shapes[] = {{"whole", 4096, 28672, LinearEpilogue::silu_mul},
                            {"head", 4096, 128256, LinearEpilogue::store},
                            {"parts of four, whole blocks", 4096, 6144, LinearEpilogue::add},
                            {"parts of two", 4096, 64 * 141, LinearEpilogue::store},
                            {"parts of four", 14336, 4096, LinearEpilogue::add},
                            {"whole, one round", 1024, 64 * 301, LinearEpilogue::store}};
    for (const Shape& s : shapes) {
      for (const int group : {32, 128, 256}) {
        MatrixCode code;
        code.type = WeightType::q4;
        code.group = group;
        size_t at = 0;
        const MatrixLayout m = place(s, code, &at);
        for (const int rows : {9, 16, 23, 32}) {
          std::vector<std::byte> out[2];
          for (int i = 0; i < 2; i++) {
            OK(cudaMemset(y.data, s.epilogue == LinearEpilogue::add ? 0 : 0xff, y.count * 4));
            OK(cudaMemset(act.data, 0xff, act.count * 2));
            DecodeTuning plan;
            plan.shared_from = i == 0 ? kDecodeRows + 1 : 1;
            const LinearArguments a = arguments(s, m, rows, false);
            OK(linear_decode_tuned(a, plan, nullptr, false));
            OK(cudaDeviceSynchronize());
            const bool half = s.epilogue == LinearEpilogue::silu_mul;
            out[i].resize(static_cast<size_t>(rows) * s.n * (half ? 1 : 4));
            OK(cudaMemcpy(out[i].data(), half ? static_cast<void*>(act.data) : static_cast<void*>(y.data),
                          out[i].size(), cudaMemcpyDeviceToHost));
          }
          expect(out[0] == out[1], std::string(s.name) + " group " + std::to_string(group),
                 "the kernel that shares x has other bits, rows", rows);
        }
      }
    }
    std::printf("checks: %d, failures: %d\n", checks, failures);
  }

  double read_time(const std::vector<MatrixLayout>& matrices) {
    return time_graph(
        [&] {
          for (const MatrixLayout& m : matrices) {
            OK(launch(read_matrix, dim3(264), dim3(512), 0, stream, true,
                      reinterpret_cast<const uint4*>(weights.data + m.offset), m.bytes / 16, out.data));
          }
        },
        15);
  }

  void chain(const Model& model, int group, bool zeros, const std::vector<int>& all_rows,
             const std::vector<DecodeTuning>& plans, const char* label) {
    MatrixCode code;
    code.type = WeightType::q4;
    code.group = group;
    code.zeros = zeros;
    size_t at = 0;
    std::vector<MatrixLayout> matrices;
    size_t bytes = 0;
    for (int layer = 0; layer < model.layers; layer++) {
      for (const Shape& s : model.shapes) {
        matrices.push_back(place(s, code, &at));
        bytes += matrices.back().bytes;
      }
    }
    OK(cudaDeviceSynchronize());
    const auto run = [&](int rows, bool early) {
      return time_graph(
          [&] {
            for (size_t i = 0; i < matrices.size(); i++) {
              const LinearArguments a = arguments(model.shapes[i % model.shapes.size()], matrices[i], rows, early);
              OK(plans.empty() ? linear_decode(a, stream, true)
                               : linear_decode_tuned(a, plans[i % plans.size()], stream, true));
            }
          },
          15);
    };
    if (plans.empty()) {
      const double read = read_time(matrices);
      std::printf("%s g%d%s chain, read only: %.2f us a layer, %.2f TB/s\n", model.name, group, zeros ? " zeros" : "",
                  read / model.layers, bytes / read * 1e-6);
    }
    for (const int rows : all_rows) {
      const double early = run(rows, true);
      const double late = rows == 1 && plans.empty() ? run(rows, false) : 0;
      std::printf("%s g%d%s chain%s, rows %3d: %.2f us a layer, %.2f TB/s", model.name, group, zeros ? " zeros" : "",
                  label, rows, early / model.layers, bytes / early * 1e-6);
      if (late > 0) std::printf("; weights not early: %.2f us", late / model.layers);
      std::printf("\n");
    }
  }

  // One matrix alone, over enough copies that the L2 holds none.
  void matrix(const Shape& s, MatrixCode code, const std::vector<int>& all_rows,
              const std::vector<DecodeTuning>& plans) {
    size_t at = 0;
    std::vector<MatrixLayout> copies;
    while (copies.size() < 4 || at < (size_t{300} << 20)) copies.push_back(place(s, code, &at));
    OK(cudaDeviceSynchronize());
    const double read = read_time(copies) / copies.size();
    std::printf("%s %dx%d %s: read %.2f us;", s.name, s.k, s.n, name_of(code.type), read);
    const auto time = [&](const DecodeTuning* plan, int rows) {
      return time_graph(
                 [&] {
                   for (const MatrixLayout& m : copies) {
                     const LinearArguments a = arguments(s, m, rows, true);
                     OK(plan ? linear_decode_tuned(a, *plan, stream, true) : linear_decode(a, stream, true));
                   }
                 },
                 11) /
             copies.size();
    };
    if (plans.empty()) {
      std::printf(" rows");
      for (const int rows : all_rows) std::printf("  %d: %.2f", rows, time(nullptr, rows));
    } else {
      for (const DecodeTuning& plan : plans) {
        std::printf("  %d/%d/%d:", plan.splits, plan.stripes, plan.stages);
        for (const int rows : all_rows) std::printf(" %.2f", time(&plan, rows));
      }
    }
    std::printf("\n");
  }
};

}  // namespace

int main(int argc, char** argv) {
  const char* usage =
      "cuda_linear_decode_bench [check] [check_wide] [tiny] [tiny_whole] [chain] [matrix] [wide] [many] [plans]\n"
      "  [shared] [profile] [--seed N]\n"
      "Checks linear_decode against float64, then times it beside a kernel that only reads. Without a word: check, "
      "chain\n"
      "and matrix.\n";
  help_if_asked(argc, argv, usage);
  const std::vector<std::string> known = {"check", "check_wide", "tiny",  "tiny_whole", "chain",  "matrix",
                                          "wide",  "many",       "plans", "shared",     "profile"};
  unsigned long seed = std::random_device{}();
  std::vector<std::string> sections;
  for (int i = 1; i < argc; i++) {
    if (std::string(argv[i]) == "--seed" && i + 1 < argc) {
      seed = std::strtoul(argv[++i], nullptr, 10);
    } else if (std::find(known.begin(), known.end(), argv[i]) != known.end()) {
      sections.push_back(argv[i]);
    } else {
      refuse(argv[i], usage);
    }
  }
  const auto wanted = [&](const char* s, bool by_default = true) {
    return sections.empty() ? by_default : std::find(sections.begin(), sections.end(), s) != sections.end();
  };
  std::printf("seed %lu\n", seed);
  random_bits.seed(seed);
  OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  OK(linear_decode_prepare());
  if (wanted("check")) check_all();
  if (wanted("check") || wanted("check_wide", false)) check_wide();
  if (wanted("tiny", false)) check_tiny();
  if (wanted("tiny_whole", false)) check_tiny_whole();
  if (failures > 0) return 1;
  if (sections.size() == 1 && (wanted("tiny", false) || wanted("tiny_whole", false) || wanted("check_wide", false))) {
    return 0;
  }

  Bench bench;
  if (wanted("check") || wanted("shared", false)) bench.check_shared();
  if (failures > 0) return 1;
  {
    OK(cudaMemset(bench.weights.data, 1, bench.weights.count));
    const double us = time_graph(
        [&] {
          OK(launch(read_matrix, dim3(264), dim3(512), 0, stream, false,
                    reinterpret_cast<const uint4*>(bench.weights.data), bench.weights.count / 16, bench.out.data));
        },
        5);
    std::printf("read in one launch: %.2f TB/s\n", bench.weights.count / us * 1e-6);
  }
  if (wanted("chain")) {
    for (const Model& model : kModels) bench.chain(model, 128, false, {1, 2, 8, 16, 32, 64, 128}, {}, "");
    bench.chain(kModels[0], 32, false, {1, 8, 32}, {}, "");
    bench.chain(kModels[0], 64, true, {1, 8, 32}, {}, "");
  }
  if (wanted("plans", false)) {
    // splits, stripes, tile_rows, stages, residents
    const DecodeTuning any{};
    struct Trial {
      const char* label;
      std::vector<DecodeTuning> plans;
    };
    const auto split = [](int splits) { return DecodeTuning{splits, 0, 0, 0, 0}; };
    const auto stripe = [](int stripes) { return DecodeTuning{0, stripes, 0, 0, 0}; };
    for (const Trial& trial : std::vector<Trial>{{" qkv in two", {split(2), any, any, any}},
                                                 {" o whole", {any, split(1), any, any}},
                                                 {" o in four", {any, split(4), any, any}},
                                                 {" down whole", {any, any, any, split(1)}},
                                                 {" down in four", {any, any, any, split(4)}},
                                                 {" gate_up 112", {any, any, stripe(112), any}},
                                                 {" gate_up 448", {any, any, stripe(448), any}},
                                                 {" one thread block an SM", {DecodeTuning{0, 0, 0, 0, 1}}},
                                                 {" stages 1", {DecodeTuning{0, 0, 0, 1, 0}}},
                                                 {" stages 2", {DecodeTuning{0, 0, 0, 2, 0}}}}) {
      bench.chain(kModels[0], 128, false, {1, 8}, trial.plans, trial.label);
    }
    for (const int splits : {1, 2}) {
      bench.chain(kModels[2], 128, false, {1}, {split(splits)}, (" splits " + std::to_string(splits)).c_str());
    }
    bench.chain(kModels[0], 128, false, {16, 32, 64}, {DecodeTuning{0, 0, 8, 0, 0}}, " tiles of 8");
    bench.chain(kModels[0], 128, false, {32, 64, 128}, {DecodeTuning{0, 0, 16, 0, 0}}, " tiles of 16");
  }
  if (wanted("wide", false)) {  // from which row on it pays
    for (const int from : {9, kDecodeRows + 1}) {
      DecodeTuning plan;
      plan.wide_from = from;
      bench.chain(kModels[0], 128, false, {9, 16, 17, 32, 64}, {plan}, from == 9 ? " wide" : " narrow");
      bench.chain(kModels[2], 128, false, {9, 16, 17, 32, 64}, {plan}, from == 9 ? " wide" : " narrow");
    }
  }
  if (wanted("many", false)) {  // rows
    bench.chain(kModels[0], 128, false, {33, 64, 96, 128, 192, 256}, {}, "");
    MatrixCode code;
    code.type = WeightType::q4;
    code.group = 128;
    for (const Shape& s : kModels[0].shapes) bench.matrix(s, code, {48, 64, 96, 128, 256}, {});
    bench.matrix(Shape{"head", 4096, 128256, LinearEpilogue::store}, code, {64, 128}, {});
  }
  if (wanted("shared", false)) {  // A B A B
    for (const int from : {9, kDecodeRows + 1, 9, kDecodeRows + 1}) {
      DecodeTuning plan;
      plan.shared_from = from;
      bench.chain(kModels[0], 128, false, {8, 9, 16, 17, 24, 32}, {plan}, from == 9 ? " shared" : " own");
    }
    MatrixCode code;
    code.type = WeightType::q4;
    code.group = 128;
    DecodeTuning shared, own;
    shared.shared_from = 9;
    own.shared_from = kDecodeRows + 1;
    for (const Shape& s : kModels[0].shapes) bench.matrix(s, code, {8, 16, 32}, {shared, own});
    bench.matrix(Shape{"head", 4096, 128256, LinearEpilogue::store}, code, {8, 16, 32}, {shared, own});
    for (const int from : {9, kDecodeRows + 1}) {
      DecodeTuning plan;
      plan.shared_from = from;
      for (const Model& model : {kModels[1], kModels[2]}) {
        bench.chain(model, 128, false, {9, 16, 32}, {plan}, from == 9 ? " shared" : " own");
      }
      bench.chain(kModels[0], 32, false, {16, 32}, {plan}, from == 9 ? " shared" : " own");
      bench.chain(kModels[0], 64, true, {16, 32}, {plan}, from == 9 ? " shared" : " own");
    }
  }
  if (wanted("profile", false)) {  // for a profiler: each matrix once
    for (const int rows : {1, 16, 32}) {
      size_t at = 0;
      for (const Shape& shape : kModels[0].shapes) {
        MatrixCode code;
        code.type = WeightType::q4;
        code.group = 128;
        const MatrixLayout m = bench.place(shape, code, &at);
        OK(linear_decode(bench.arguments(shape, m, rows, true), stream, false));
        OK(cudaDeviceSynchronize());
      }
    }
  }
  if (wanted("matrix")) {
    MatrixCode code;
    code.type = WeightType::q4;
    code.group = 128;
    for (const Model& model : kModels) {
      for (const Shape& s : model.shapes) bench.matrix(s, code, {1, 8, 16, 32, 64, 128}, {});
    }
    const Shape head{"head", 4096, 128256, LinearEpilogue::store};
    bench.matrix(head, code, {1, 8, 32}, {});
    code.group = 0;
    code.type = WeightType::f16;
    const Shape small{"half head", 4096, 64128, LinearEpilogue::store};
    bench.matrix(small, code, {1, 8, 32, 64}, {});
    code.type = WeightType::bf16;
    bench.matrix(small, code, {1, 8, 32}, {});
    code.type = WeightType::f32;
    bench.matrix(Shape{"quarter head", 4096, 32064, LinearEpilogue::store}, code, {1, 8}, {});
  }
  return failures > 0 ? 1 : 0;
}

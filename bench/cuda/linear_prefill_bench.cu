// Checks of linear_prefill on fresh random inputs against float64, then times at Llama-3-8B's shapes.
//   cuda_linear_prefill_bench [--checks|--quick|--tiny|--times] [--rows n] [--seed n]
// Exits with 1 if a check fails.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "bench/usage.h"
#include "core/half.h"
#include "cuda/linear.h"
#include "model/slab_layout.h"

namespace {

using namespace millrace;
using namespace millrace::cuda;

void must(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

std::mt19937_64 random_bits;
double uniform() {
  return static_cast<double>(random_bits() >> 11) * 0x1p-53;
}
// About normal: the sum of four uniforms.
double normal() {
  const uint64_t bits = random_bits();
  const auto sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
  return (static_cast<double>(sum) * 0x1p-16 - 2) * 1.7320508;
}

template <typename T>
struct DeviceArray {
  explicit DeviceArray(size_t count) : count(count) { must(cudaMalloc(&data, count * sizeof(T)), "cudaMalloc"); }
  explicit DeviceArray(const std::vector<T>& from) : DeviceArray(from.size()) {
    must(cudaMemcpy(data, from.data(), count * sizeof(T), cudaMemcpyHostToDevice), "copy in");
  }
  ~DeviceArray() { cudaFree(data); }
  DeviceArray(const DeviceArray&) = delete;
  void poison() { must(cudaMemset(data, 0xff, count * sizeof(T)), "poison"); }
  std::vector<T> host() const {
    std::vector<T> to(count);
    must(cudaMemcpy(to.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost), "copy out");
    return to;
  }
  T* data = nullptr;
  size_t count;
};

// A matrix of random weights: about normal(0, 0.02), with zero and outlying scales.
struct Matrix {
  MatrixLayout layout;
  std::vector<std::byte> slab;

  Matrix(MatrixCode code, int n, int k) {
    const int group = code.group;
    int k_stored = (k + kTileK - 1) / kTileK * kTileK;
    if (code.permuted) k_stored += 2 * kTileK;  // as groups that are padded to tiles leave it
    code.group = group == 0 ? k_stored : group;
    SlabBuilder builder;
    builder.floats(77);
    layout = builder.matrix(code, n, k, k_stored);
    slab.resize(builder.bytes());
    for (size_t i = 0; i + 8 <= slab.size(); i += 8) {
      const uint64_t bits = random_bits();
      std::memcpy(&slab[i], &bits, 8);
    }
    if (code.permuted) {
      std::vector<int32_t> permutation(k_stored, kPadding);
      for (int i = 0; i < k; i++) permutation[i] = i;
      std::shuffle(permutation.begin(), permutation.end(), random_bits);
      std::memcpy(&slab[layout.permutation_offset], permutation.data(), permutation.size() * 4);
    }
    std::byte* base = slab.data() + layout.offset;
    if (code.type == WeightType::q4) {
      for (int b = 0; b < layout.n_blocks(); b++) {
        for (int g = 0; g < layout.groups(); g++) {
          std::byte* header = base + layout.group_offset(b, g);
          for (int i = 0; i < kTileN; i++) {
            float scale = static_cast<float>(0.001 + 0.004 * uniform());
            const uint64_t dice = random_bits() % 64;
            if (dice == 0) scale = 0;
            if (dice == 1) scale = -scale;
            if (dice == 2) scale *= 64;
            if (dice == 3) scale /= 4096;
            const uint16_t bits = code.scale == ScaleType::f16 ? float_to_half(scale) : float_to_bfloat16(scale);
            std::memcpy(header + 2 * i, &bits, 2);
            if (code.zeros) header[128 + i] = static_cast<std::byte>(random_bits() % 17);
          }
        }
      }
    } else {
      const size_t count = layout.bytes / element_bytes(code.type);
      for (size_t i = 0; i < count; i++) {
        // Features that k does not reach are padding, which must be zero.
        const int within = static_cast<int>(i % 8), lane = static_cast<int>(i / 8 % 32);
        const int slice = static_cast<int>(i / (kTileN * kTileK)) % layout.slices();
        const int feature = slice * kTileK + 2 * (lane % 4) + 8 * (within / 4) + within % 2;
        const float w = !code.permuted && feature >= k ? 0.0f : static_cast<float>(0.02 * normal());
        if (code.type == WeightType::f32) {
          std::memcpy(base + i * 4, &w, 4);
        } else {
          const uint16_t bits = code.type == WeightType::f16 ? float_to_half(w) : float_to_bfloat16(w);
          std::memcpy(base + i * 2, &bits, 2);
        }
      }
    }
  }

  // Output feature's weights in the model's own order, read element by element.
  std::vector<double> row(int feature) const {
    std::vector<double> out(layout.k, 0.0);
    const std::byte* base = slab.data() + layout.offset;
    const int block = feature / kTileN, n = feature % kTileN;
    const int j = n / 16, h = n / 8 % 2, g = n % 8;
    for (int s = 0; s < layout.slices(); s++) {
      for (int c = 0; c < kTileK; c++) {
        int to = s * kTileK + c;
        if (layout.code.permuted) std::memcpy(&to, &slab[layout.permutation_offset + 4 * to], 4);
        if (to < 0 || to >= layout.k) continue;
        const int lane = 4 * g + c % 8 / 2, pair = c / 8, second = c % 2;
        if (layout.code.type == WeightType::q4) {
          uint32_t word;
          std::memcpy(&word, base + layout.tile_offset(block, s) + lane * 16 + j * 4, 4);
          const int q = static_cast<int>(word >> (4 * (4 * second + 2 * pair + h)) & 15);
          const std::byte* header = base + layout.group_offset(block, s * kTileK / layout.code.group);
          uint16_t bits;
          std::memcpy(&bits, header + 2 * tile_index(n), 2);
          const double scale = layout.code.scale == ScaleType::f16 ? half_to_float(bits) : bfloat16_to_float(bits);
          out[to] = scale * (q - (layout.code.zeros ? static_cast<int>(header[128 + tile_index(n)]) : 8));
        } else {
          const size_t bytes = element_bytes(layout.code.type);
          const std::byte* from =
              base + layout.tile_offset(block, s) + ((j * 32 + lane) * 8 + 4 * pair + 2 * h + second) * bytes;
          if (bytes == 4) {
            float w;
            std::memcpy(&w, from, 4);
            out[to] = w;
          } else {
            uint16_t bits;
            std::memcpy(&bits, from, 2);
            out[to] = layout.code.type == WeightType::f16 ? half_to_float(bits) : bfloat16_to_float(bits);
          }
        }
      }
    }
    return out;
  }
};

int failures = 0, checks = 0;
double worst = 0;

void expect(bool good, const std::string& what) {
  checks++;
  if (good) return;
  failures++;
  if (failures <= 40) std::printf("FAILED %s\n", what.c_str());
}

struct Launch {
  const Matrix* matrix;
  const std::byte* const* units;
  LinearEpilogue epilogue;
  bool programmatic;
};

LinearArguments arguments_of(const Launch& l, const __half* x, int x_stride, int rows, void* out, int stride,
                             __half* gathered) {
  LinearArguments a;
  a.weights = {l.units, 1, l.programmatic};
  a.matrix = l.matrix->layout;
  a.x = x;
  a.x_stride = x_stride;
  a.rows = rows;
  a.epilogue = l.epilogue;
  if (l.epilogue == LinearEpilogue::silu_mul) {
    a.act = static_cast<__half*>(out);
    a.act_stride = stride;
    a.intermediate = l.matrix->layout.n / 2 - 3;  // the last features are padding
  } else {
    a.y = static_cast<float*>(out);
    a.y_stride = stride;
  }
  a.gathered = gathered;
  return a;
}

constexpr float kBefore = 0.25f;  // what `add` adds to

void check(MatrixCode code, int n, int k, LinearEpilogue epilogue, const std::vector<int>& row_counts) {
  const Matrix matrix(code, n, k);
  const MatrixLayout& layout = matrix.layout;
  const int most = *std::max_element(row_counts.begin(), row_counts.end());
  char name[160];
  std::snprintf(name, sizeof name, "%s%s%s%s n %d k %d group %d epilogue %d", name_of(code.type),
                code.scale == ScaleType::bf16 ? " bf16 scales" : "", code.zeros ? " zeros" : "",
                code.permuted ? " permuted" : "", n, k, layout.code.group, static_cast<int>(epilogue));

  const int x_stride = (k + 7) / 8 * 8 + 8;
  std::vector<__half> x(static_cast<size_t>(most) * x_stride, __ushort_as_half(0x7fff));  // padding is NaN
  std::vector<double> x_exact(static_cast<size_t>(most) * k);
  for (int r = 0; r < most; r++) {
    for (int c = 0; c < k; c++) {
      const float v = static_cast<float>(normal() * (random_bits() % 512 == 0 ? 50 : 1));
      x[static_cast<size_t>(r) * x_stride + c] = __float2half(v);
      x_exact[static_cast<size_t>(r) * k + c] = __half2float(__float2half(v));
    }
  }
  const DeviceArray<__half> device_x(x);
  const DeviceArray<std::byte> slab(matrix.slab);
  const DeviceArray<const std::byte*> units(std::vector<const std::byte*>{nullptr, slab.data});
  DeviceArray<__half> gathered(std::max<size_t>(1, linear_gathered_bytes(layout, most) / 2));
  gathered.poison();
  const Launch launch{&matrix, units.data, epilogue, true};

  const bool silu = epilogue == LinearEpilogue::silu_mul;
  const int stride = (silu ? n / 2 : n) + 5, wide = silu ? n / 2 - 3 : n;
  std::vector<float> alone_of_last;
  for (const int rows : row_counts) {
    const size_t count = static_cast<size_t>(rows) * stride;
    std::vector<float> out(count);
    // Row 0 of the launch is row (most - rows) of x, so that one row takes several places.
    const auto run = [&](int first, int run_rows, std::vector<float>& to) {
      const size_t run_count = static_cast<size_t>(run_rows) * stride;
      to.assign(run_count, 0);
      const __half* from = device_x.data + static_cast<size_t>(first) * x_stride;
      if (silu) {
        DeviceArray<__half> act(run_count);
        act.poison();
        must(linear_prefill(arguments_of(launch, from, x_stride, run_rows, act.data, stride, gathered.data), nullptr,
                            true),
             "launch");
        must(cudaDeviceSynchronize(), name);
        const std::vector<__half> host = act.host();
        for (size_t i = 0; i < run_count; i++) to[i] = __half2float(host[i]);
      } else {
        DeviceArray<float> y(run_count);
        y.poison();
        if (epilogue == LinearEpilogue::add) {
          std::vector<float> before(run_count, std::nanf(""));
          for (int r = 0; r < run_rows; r++) {
            std::fill_n(before.begin() + static_cast<size_t>(r) * stride, n, kBefore);
          }
          must(cudaMemcpy(y.data, before.data(), run_count * 4, cudaMemcpyHostToDevice), "copy in");
        }
        must(linear_prefill(arguments_of(launch, from, x_stride, run_rows, y.data, stride, gathered.data), nullptr,
                            true),
             "launch");
        must(cudaDeviceSynchronize(), name);
        to = y.host();
      }
    };
    const int first = most - rows;
    run(first, rows, out);

    size_t unwritten = 0, beyond = 0;
    for (int r = 0; r < rows; r++) {
      for (int c = 0; c < stride; c++) {
        const bool nan = std::isnan(out[static_cast<size_t>(r) * stride + c]);
        if (c < wide)
          unwritten += nan;
        else
          beyond += !nan;
      }
    }
    const std::string label = std::string(name) + " rows " + std::to_string(rows);
    expect(unwritten == 0, label + ": " + std::to_string(unwritten) + " of " + std::to_string(count) + " NaN");
    expect(beyond == 0, label + ": " + std::to_string(beyond) + " written beyond the matrix");

    // Sampled features (first, last, random) by sampled rows, relative to the norm over a feature's samples.
    double error = 0, size = 0;
    for (int sample = 0; sample < 20; sample++) {
      const int c = sample == 0 ? 0 : sample == 1 ? wide - 1 : static_cast<int>(random_bits() % wide);
      const std::vector<double> w = matrix.row(silu ? c / 8 * 16 + c % 8 : c);
      const std::vector<double> up = silu ? matrix.row(c / 8 * 16 + 8 + c % 8) : w;
      for (int s = 0; s < 12; s++) {
        const int r = s == 0 ? 0 : s == 1 ? rows - 1 : static_cast<int>(random_bits() % rows);
        const double* xr = &x_exact[static_cast<size_t>(first + r) * k];
        double v = 0, u = 0;
        for (int i = 0; i < k; i++) v += w[i] * xr[i], u += up[i] * xr[i];
        if (silu) v = std::clamp(v / (1 + std::exp(-v)) * u, -65504.0, 65504.0);
        double got = out[static_cast<size_t>(r) * stride + c];
        if (epilogue == LinearEpilogue::add) got -= kBefore;
        error += (got - v) * (got - v);
        size += v * v;
      }
    }
    const double relative = std::sqrt(error / size);
    worst = std::max(worst, relative);
    expect(relative < (silu ? 1e-3 : 2e-4), label + ": relative error " + std::to_string(relative));

    // The last row's bits, alone and in this launch.
    if (alone_of_last.empty()) run(most - 1, 1, alone_of_last);
    size_t differ = 0;
    for (int c = 0; c < wide; c++) differ += out[static_cast<size_t>(rows - 1) * stride + c] != alone_of_last[c];
    expect(differ == 0, label + ": " + std::to_string(differ) + " outputs differ from the row alone");
  }
}

// `quick`: the smaller shapes, for compute-sanitizer. `tiny`: two of them, for its slowest tool.
void run_checks(bool quick, bool tiny) {
  if (tiny) {
    for (const int group : {48, 128}) {
      MatrixCode code;
      code.type = WeightType::q4;
      code.group = group;
      check(code, 576, 576, LinearEpilogue::add, {65});
    }
    std::printf("%d checks, %d failed; largest relative error %.2e\n", checks, failures, worst);
    return;
  }
  const std::vector<int> rows = quick ? std::vector<int>{1, 65, 200} : std::vector<int>{1, 5, 65, 200, 1000, 2048};
  using enum LinearEpilogue;
  for (const WeightType type : {WeightType::f16, WeightType::bf16, WeightType::f32}) {
    MatrixCode code;
    code.type = type;
    check(code, 192, 172, store, rows);
    check(code, 576, 576, add, {1, 200});
    code.permuted = true;
    check(code, 1000, 172, store, {5, 200});
  }
  for (const int n : {192, 576, 1000, 4096}) {
    for (const int k : {172, 576, 4096, 14336}) {
      if (k == 14336 && n != 4096 && n != 192) continue;
      if (quick && (k > 576 || n > 1000)) continue;
      MatrixCode code;
      code.type = WeightType::q4;
      const int groups[] = {16, 32, 64, 128, 0, 48};
      for (const int group : groups) {
        if (k == 14336 && group != 128 && (n == 4096 || group != 0)) continue;
        code.group = group;
        code.zeros = random_bits() % 2;
        code.permuted = random_bits() % 3 == 0;
        code.scale = random_bits() % 4 == 0 ? ScaleType::bf16 : ScaleType::f16;
        const auto epilogue = static_cast<LinearEpilogue>(random_bits() % (n % 16 == 0 ? 3 : 2));
        check(code, n, k, epilogue, n * static_cast<size_t>(k) > 20000000 ? std::vector<int>{65, 1000, 2048} : rows);
      }
    }
  }
  std::printf("%d checks, %d failed; largest relative error %.2e\n", checks, failures, worst);
}

struct Shape {
  const char* name;
  int k, n;
  LinearEpilogue epilogue;
};

void run_times(const std::vector<int>& row_counts) {
  const Shape shapes[] = {{"qkv", 4096, 6144, LinearEpilogue::store},
                          {"o", 4096, 4096, LinearEpilogue::add},
                          {"gate_up", 4096, 28672, LinearEpilogue::silu_mul},
                          {"down", 14336, 4096, LinearEpilogue::add}};
  const int most = *std::max_element(row_counts.begin(), row_counts.end());
  std::printf("%-8s", "M");
  for (const Shape& s : shapes) std::printf("%18s", s.name);
  std::printf("%18s\n", "layer");
  std::vector<__half> x(static_cast<size_t>(most) * 14336);
  for (auto& v : x) v = __float2half(static_cast<float>(normal()));
  const DeviceArray<__half> device_x(x);
  const DeviceArray<float> y(static_cast<size_t>(most) * 6144);
  const DeviceArray<__half> act(static_cast<size_t>(most) * 14336);
  must(cudaMemset(y.data, 0, y.count * 4), "memset");
  // Layers' worth of weights, so that none stays in the L2.
  constexpr int kCopies = 3;
  std::vector<std::vector<const std::byte*>> tables(4);
  std::vector<Matrix> matrices;
  std::vector<const std::byte* const*> units;
  for (const Shape& s : shapes) {
    MatrixCode code;
    code.type = WeightType::q4;
    code.group = 128;
    matrices.emplace_back(code, s.n, s.k);
    std::vector<const std::byte*> table;
    for (int c = 0; c < kCopies; c++) {
      auto* slab = new DeviceArray<std::byte>(matrices.back().slab);
      table.push_back(slab->data);
    }
    units.push_back((new DeviceArray<const std::byte*>(table))->data);
  }
  cudaStream_t stream;
  must(cudaStreamCreate(&stream), "stream");
  cudaEvent_t begin, end;
  must(cudaEventCreate(&begin), "event");
  must(cudaEventCreate(&end), "event");
  const auto enqueue = [&](int shape, int rows, int copy) {
    const Shape& s = shapes[shape];
    LinearArguments a;
    a.weights = {units[shape], copy, true};
    a.matrix = matrices[shape].layout;
    a.x = device_x.data;
    a.x_stride = s.k;
    a.rows = rows;
    a.epilogue = s.epilogue;
    a.y = y.data;
    a.y_stride = s.n;
    a.act = act.data;
    a.act_stride = a.intermediate = 14336;
    must(linear_prefill(a, stream, true), "launch");
  };
  const auto median_of = [&](int repeats, const auto& body) {
    std::vector<float> times;
    for (int i = 0; i < repeats + 2; i++) {
      must(cudaEventRecord(begin, stream), "record");
      body(i);
      must(cudaEventRecord(end, stream), "record");
      must(cudaEventSynchronize(end), "times");
      float ms;
      cudaEventElapsedTime(&ms, begin, end);
      if (i >= 2) times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  };
  for (const int rows : row_counts) {
    std::printf("%-8d", rows);
    double total_flops = 0;
    constexpr int kInner = 6;
    for (int shape = 0; shape < 4; shape++) {
      const double flops = 2.0 * shapes[shape].k * shapes[shape].n * rows;
      total_flops += flops;
      const double us = 1e3 / kInner * median_of(7, [&](int) {
                          for (int i = 0; i < kInner; i++) enqueue(shape, rows, i % kCopies);
                        });
      std::printf("%9.1fus %4.0fTF", us, flops / us * 1e-6);
    }
    const double us = 1e3 / kInner * median_of(7, [&](int) {
                        for (int i = 0; i < kInner; i++) {
                          for (int shape = 0; shape < 4; shape++) enqueue(shape, rows, i % kCopies);
                        }
                      });
    std::printf("%9.1fus %4.0fTF\n", us, total_flops / us * 1e-6);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const char* usage =
      "cuda_linear_prefill_bench [--checks|--quick|--tiny|--times] [--rows N] [--seed N]\n"
      "Checks linear_prefill on random inputs against float64 (--quick, --tiny: fewer), then times it at Llama-3-8B's\n"
      "shapes. Without an option both.\n";
  help_if_asked(argc, argv, usage);
  unsigned long seed = 1;
  bool with_checks = true, with_times = true, quick = false, tiny = false;
  std::vector<int> row_counts = {64, 128, 256, 512, 1024, 1920, 4096};
  for (int i = 1; i < argc; i++) {
    const std::string option = argv[i];
    if (option == "--checks") {
      with_times = false;
    } else if (option == "--times") {
      with_checks = false;
    } else if (option == "--quick") {
      quick = true, with_times = false;
    } else if (option == "--tiny") {
      tiny = true, with_times = false;
    } else if (option == "--rows" && i + 1 < argc) {
      row_counts = {std::atoi(argv[++i])};
    } else if (option == "--seed" && i + 1 < argc) {
      seed = std::strtoul(argv[++i], nullptr, 10);
    } else {
      refuse(option, usage);
    }
  }
  random_bits.seed(seed);
  if (with_checks) run_checks(quick, tiny);
  if (with_times) run_times(row_counts);
  return failures == 0 ? 0 : 1;
}

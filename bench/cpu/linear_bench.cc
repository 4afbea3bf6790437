// Times the CPU linears on weights that rotate through more memory than any cache holds, beside the limits measured in
// the same run: DRAM read bandwidth, and the int16 multiply-accumulates that the cores can do.
//
//   cpu_linear_bench [--threads 1,2] [--kernels avx512vnni,avx2] [--rows 1,8,64] [--shapes 4096x4096] [--group 128]
//                    [--type q4|q4_k|f16|...] [--zeros] [--megabytes 384] [--json]
//
// Each call works on the next copy of the matrix. A line's time is the lowest decile of the calls' times, and so is the
// limit's, which reads the same copies in turn: what else runs on the machine disturbs both alike.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "backend/cpu/linear.h"
#include "bench/usage.h"
#include "core/memory.h"
#include "stream/synthetic.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

using namespace millrace;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Options {
  std::vector<int> threads;
  std::vector<std::string> kernels;
  std::vector<int> rows = {1, 2, 4, 8, 16, 64, 256};
  struct Shape {
    int n, k;
  };
  std::vector<Shape> shapes = {{4096, 4096}, {6144, 4096}, {14336, 4096}, {4096, 14336}};
  int group = 0;  // 128 of q4, of other codes the largest that they have
  WeightType type = WeightType::q4;
  bool zeros = false;
  bool json = false;
  size_t bytes = size_t{384} << 20;  // of weights to rotate over; little of it shows what the caches allow
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == ',') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

constexpr const char* kUsage =
    "cpu_linear_bench [--threads 1,2] [--kernels avx512vnni,avx512,avx2,plain] [--rows 1,8,64]\n"
    "  [--shapes 4096x4096,14336x4096] [--group 128] [--type q4|q4_k|f16|...] [--zeros] [--megabytes 384] [--json]\n"
    "Times the CPU linears beside the DRAM bandwidth and the multiply-accumulates measured in the same run.\n";

[[noreturn]] void usage(const char* problem) {
  std::fprintf(stderr, "%s\n%s", problem, kUsage);
  std::exit(2);
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i++) {
    const std::string name = argv[i];
    if (name == "--json") {
      o.json = true;
      continue;
    }
    if (name == "--zeros") {
      o.zeros = true;
      continue;
    }
    if (i + 1 >= argc) usage(("unknown option or missing value: " + name).c_str());
    const std::string value = argv[++i];
    if (name == "--threads") {
      for (const std::string& part : split(value)) o.threads.push_back(std::max(1, std::atoi(part.c_str())));
    } else if (name == "--kernels") {
      o.kernels = split(value);
    } else if (name == "--rows") {
      o.rows.clear();
      for (const std::string& part : split(value)) o.rows.push_back(std::max(1, std::atoi(part.c_str())));
    } else if (name == "--shapes") {
      o.shapes.clear();
      for (const std::string& part : split(value)) {
        Options::Shape shape{};
        if (std::sscanf(part.c_str(), "%dx%d", &shape.n, &shape.k) != 2 || shape.n < 1 || shape.k < 16) {
          usage("a shape is output features x input features");
        }
        o.shapes.push_back(shape);
      }
    } else if (name == "--group") {
      o.group = std::atoi(value.c_str());
      if (o.group < 16 || o.group % 16 != 0) usage("--group is a multiple of 16");
    } else if (name == "--megabytes") {
      o.bytes = static_cast<size_t>(std::max(1, std::atoi(value.c_str()))) << 20;
    } else if (name == "--type") {
      bool found = false;
      for (int i = 0; i < kWeightTypes; i++) {
        if (value == kCodes[i].name) o.type = static_cast<WeightType>(i), found = true;
      }
      if (!found) usage("--type is a code: q4, q4_k, f16, ...");
    } else {
      usage(("unknown option: " + name).c_str());
    }
  }
  if (o.threads.empty()) {
    const int all = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    o.threads.push_back(1);
    if (all > 1) o.threads.push_back(all);
  }
  if (o.kernels.empty()) o.kernels.emplace_back(selected_kernels());
  return o;
}

// ---- Limits

uint64_t read_all(const std::byte* p, size_t bytes) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i < bytes; i += 64) {
    uint64_t line[8];
    __builtin_prefetch(p + i + 8192);
    std::memcpy(line, p + i, 64);
    for (int j = 0; j < 8; j++) sums[j] ^= line[j];
  }
  uint64_t sum = 0;
  for (const uint64_t s : sums) sum ^= s;
  return sum;
}

// The lowest decile of the times of call(i), i = 0, 1, ..., in seconds: at least `calls` of them, and 0.5 s of them.
template <typename Call>
double time_calls(int calls, Call&& call) {
  std::vector<double> times;
  const double begin = now();
  for (int i = 0; i < calls || (now() - begin < 0.5 && i < 100000); i++) {
    const double start = now();
    call(i);
    times.push_back(now() - start);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 10];
}

// GB/s of plain sequential reading of one copy after the other, in pieces taken by the threads in turn.
double measure_dram(ThreadPool& pool, const std::byte* memory, size_t copy_bytes, size_t copies) {
  constexpr size_t kPiece = size_t{256} << 10;
  std::atomic<uint64_t> sink{0};
  const double seconds = time_calls(20, [&](int call) {
    const std::byte* p = memory + call % copies * copy_bytes;
    pool.parallel_for(static_cast<int64_t>((copy_bytes + kPiece - 1) / kPiece), [&](int64_t i, int) {
      sink ^= read_all(p + i * kPiece, std::min(kPiece, copy_bytes - i * kPiece));
    });
  });
  static volatile uint64_t keep;
  keep = sink.load();
  (void)keep;
  return static_cast<double>(copy_bytes) / seconds / 1e9;
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512vnni"))) void spin_vnni(int64_t rounds) {
  __m512i a0 = _mm512_setzero_si512(), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
  __m512i a8 = a0, a9 = a0, aa = a0, ab = a0;
  const __m512i w = _mm512_set1_epi32(0x00010001);
  for (int64_t i = 0; i < rounds; i++) {
    a0 = _mm512_dpwssd_epi32(a0, w, w), a1 = _mm512_dpwssd_epi32(a1, w, w), a2 = _mm512_dpwssd_epi32(a2, w, w);
    a3 = _mm512_dpwssd_epi32(a3, w, w), a4 = _mm512_dpwssd_epi32(a4, w, w), a5 = _mm512_dpwssd_epi32(a5, w, w);
    a6 = _mm512_dpwssd_epi32(a6, w, w), a7 = _mm512_dpwssd_epi32(a7, w, w), a8 = _mm512_dpwssd_epi32(a8, w, w);
    a9 = _mm512_dpwssd_epi32(a9, w, w), aa = _mm512_dpwssd_epi32(aa, w, w), ab = _mm512_dpwssd_epi32(ab, w, w);
    // Keeps the compiler from folding rounds.
    asm volatile("" : "+v"(a0), "+v"(a1), "+v"(a2), "+v"(a3), "+v"(a4), "+v"(a5));
    asm volatile("" : "+v"(a6), "+v"(a7), "+v"(a8), "+v"(a9), "+v"(aa), "+v"(ab));
  }
}
#endif

// 10^9 int16 multiply-accumulates a second with VNNI, or 0 where there is none.
double measure_vnni(ThreadPool& pool) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bw")) return 0;
  constexpr int64_t kRounds = 1000, kParts = 64;
  const double seconds =
      time_calls(20, [&](int) { pool.parallel_for(kParts, [&](int64_t, int) { spin_vnni(kRounds); }); });
  return static_cast<double>(kParts * kRounds) * 12 * 32 / seconds / 1e9;
#else
  (void)pool;
  return 0;
#endif
}

}  // namespace

int main(int argc, char** argv) {
  help_if_asked(argc, argv, kUsage);
  const Options o = parse(argc, argv);
  if (!o.json) {
    std::printf("%-10s %-6s %-13s %7s %5s %10s %8s %6s %9s %6s\n", "kernels", "type", "shape n x k", "threads", "rows",
                "us", "GB/s", "DRAM", "GMAC/s", "vnni");
  }
  for (const Options::Shape& shape : o.shapes) {
    LinearLayout layout;
    SlabBuilder builder;
    MatrixCode code{o.type, ScaleType::f16, o.zeros && code_of(o.type).zeros, false, 0};
    if (code.traits().grouped()) {
      code.group = o.group != 0 ? o.group : o.type == WeightType::q4 ? 128 : groups_of(o.type).most;
    }
    const int k_stored = static_cast<int>(round_up(shape.k, kTileK));
    layout.n = shape.n;
    layout.k = shape.k;
    layout.segments.push_back({builder.matrix(code, shape.n, shape.k, k_stored), 0});
    const size_t slab_bytes = builder.bytes();
    const size_t copies = std::max<size_t>(1, o.bytes / slab_bytes);
    HostMemory weights(copies * slab_bytes, "the bench's weights");
    const MatrixLayout& matrix = layout.segments[0].matrix;
    for (int block = 0; block < matrix.n_blocks(); block++) {
      fill_row_block(matrix, weights.data() + matrix.offset + block * matrix.row_block_bytes(), 1 + block);
    }
    for (size_t i = 1; i < copies; i++) std::memcpy(weights.data() + i * slab_bytes, weights.data(), slab_bytes);

    for (const int threads : o.threads) {
      ThreadPool pool(threads);
      LinearScratch scratch;
      const double vnni = measure_vnni(pool);
      for (const std::string& kernels : o.kernels) {
        if (!select_kernels(kernels.c_str())) {
          std::fprintf(stderr, "this processor lacks %s\n", kernels.c_str());
          continue;
        }
        for (const int rows : o.rows) {
          std::vector<float> x(static_cast<size_t>(rows) * shape.k), y(static_cast<size_t>(rows) * shape.n);
          for (size_t i = 0; i < x.size(); i++)
            x[i] = static_cast<float>(static_cast<int>(i * 2654435761u >> 24)) - 128;
          std::atomic<uint64_t> bytes{0};
          LinearCall call;
          call.layout = &layout;
          call.x = x.data();
          call.x_stride = shape.k;
          call.rows = rows;
          call.y = y.data();
          call.y_stride = shape.n;
          const double dram = measure_dram(pool, weights.data(), slab_bytes, copies);
          const double best = time_calls(4, [&](int i) {
            call.slab = weights.data() + i % copies * slab_bytes;
            linear(call, pool, scratch, bytes);
          });
          const double gbs = static_cast<double>(layout.segments[0].matrix.bytes) / best / 1e9;
          const double gmacs = static_cast<double>(shape.n) * shape.k * rows / best / 1e9;
          if (o.json) {
            std::printf(
                "{\"kernels\":\"%s\",\"type\":\"%s\",\"group\":%d,\"n\":%d,\"k\":%d,\"threads\":%d,\"rows\":%d,"
                "\"us\":%.2f,\"gbPerSecond\":%.2f,\"dramGbPerSecond\":%.2f,\"gmacPerSecond\":%.1f,"
                "\"vnniGmacPerSecond\":%.1f}\n",
                kernels.c_str(), name_of(o.type), code.group, shape.n, shape.k, threads, rows, best * 1e6, gbs, dram,
                gmacs, vnni);
          } else {
            char name[32];
            std::snprintf(name, sizeof name, "%dx%d", shape.n, shape.k);
            std::printf("%-10s %-6s %-13s %7d %5d %10.1f %8.2f %5.0f%% %9.1f %5.0f%%\n", kernels.c_str(),
                        name_of(o.type), name, threads, rows, best * 1e6, gbs, 100 * gbs / dram, gmacs,
                        vnni > 0 ? 100 * gmacs / vnni : 0.0);
          }
          std::fflush(stdout);
        }
      }
    }
  }
  return 0;
}

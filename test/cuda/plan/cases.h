#pragma once
// What launch plans are tabled over: matrices of models and of awkward sizes, codes, rows, attention's heads; and one
// line of text for each launch, which golden_sm90.txt has of an H100.
#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "cuda/plan/device.h"
#include "model/slab_layout.h"

namespace millrace::plan_cases {

struct Matrix {
  const char* name;
  int n, k;
};
inline const std::vector<Matrix> kMatrices = {
    {"70b.qkv", 10240, 8192},
    {"70b.o", 8192, 8192},
    {"70b.gate_up", 57344, 8192},
    {"70b.down", 8192, 28672},
    {"70b.head", 128256, 8192},
    {"8b.qkv", 6144, 4096},
    {"8b.o", 4096, 4096},
    {"8b.gate_up", 28672, 4096},
    {"8b.down", 4096, 14336},
    {"8b.head", 128256, 4096},
    {"1b.qkv", 3072, 2048},
    {"1b.o", 2048, 2048},
    {"1b.gate_up", 16384, 2048},
    {"1b.down", 2048, 8192},
    {"demo.qkv", 768, 256},
    {"demo.down", 256, 688},
    {"tiny", 64, 64},
    {"awkward", 200, 1000},
    {"tall", 6000, 40},
};

// Group 0: one group a row block.
inline std::vector<MatrixCode> codes() {
  std::vector<MatrixCode> all;
  for (const bool zeros : {false, true}) {
    for (const int group : {16, 32, 48, 64, 128, 192, 256, 0}) {
      all.push_back({.type = WeightType::q4, .zeros = zeros, .group = group});
    }
  }
  all.push_back({.type = WeightType::q4, .scale = ScaleType::bf16, .permuted = true, .group = 128});
  for (const WeightType type : {WeightType::f16, WeightType::bf16, WeightType::f32}) all.push_back({.type = type});
  all.push_back({.type = WeightType::f16, .permuted = true});
  return all;
}
inline MatrixLayout layout(const Matrix& m, MatrixCode code) {
  const int k_stored = (m.k + kTileK - 1) / kTileK * kTileK;
  if (code.type == WeightType::q4 && code.group == 0) code.group = k_stored;
  return measure_matrix(code, m.n, m.k, k_stored);
}
inline std::string text(const MatrixCode& code) {
  std::string s = name_of(code.type);
  if (code.type == WeightType::q4) s += format(".%d%s", code.group, code.zeros ? ".zeros" : "");
  return code.permuted ? s + ".permuted" : s;
}

struct Heads {
  int heads, kv_heads, head_dim;
};
inline const std::vector<Heads> kHeads = {
    {64, 8, 128}, {32, 8, 128}, {32, 8, 64},  {32, 32, 128}, {8, 4, 32},   {9, 3, 64},  {6, 2, 2},    {28, 4, 128},
    {16, 2, 80},  {8, 1, 96},   {12, 12, 66}, {16, 16, 256}, {16, 4, 200}, {71, 1, 64}, {64, 1, 128}, {40, 40, 130},
};
inline const std::vector<int> kContexts = {16, 512, 1024, 2048, 4096, 32768, 131072};

// One launch. What a kernel has no use for stays zero.
struct Launch {
  std::string kernel;
  int grid[3] = {1, 1, 1};
  int threads = 0, cluster = 1, dynamic_bytes = 0;
  bool packed = false;
  std::vector<int> numbers;  // of the kernel's own parameters, in the order of the names at each use
};
inline std::string text(const Launch& l) {
  std::string s = format("%s grid %d %d %d threads %d cluster %d%s bytes %d:", l.kernel.c_str(), l.grid[0], l.grid[1],
                         l.grid[2], l.threads, l.cluster, l.packed ? " packed" : "", l.dynamic_bytes);
  for (const int number : l.numbers) s += format(" %d", number);
  return s;
}

inline void put(const cuda::LaunchShape& shape, Launch& to) {
  for (int i = 0; i < 3; i++) to.grid[i] = shape.grid[i];
  to.threads = shape.threads;
  to.cluster = shape.cluster;
  to.packed = shape.packed;
  to.dynamic_bytes = shape.dynamic_bytes;
}

inline uint64_t hash(uint64_t seed, const std::string& s) {  // FNV-1a
  for (const char c : s) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return seed;
}

// The golden file's text, from functions that tell the launches of linears (decode: with rows that it norms itself, or
// nothing where it does not) and of attention: a hash of all rows' launches, and of some cases the launches themselves,
// a line for each run of equal ones.
template <class Decode, class Prefill, class AttentionDecode, class AttentionPrefill>
std::string golden(const Decode& decode, const Prefill& prefill, const AttentionDecode& attention_decode,
                   const AttentionPrefill& attention_prefill) {
  std::string out;
  const auto runs = [&](const std::string& title, bool whole, int most, int step, const auto& launch_of) {
    uint64_t all = 0xcbf29ce484222325ull;
    std::string lines, line;
    int first = 1, last = 1;
    const auto end = [&] {
      if (!line.empty()) lines += format("  %d..%d: %s\n", first, last, line.c_str());
    };
    for (int rows = 1; rows <= most; rows += rows < 256 ? 1 : step) {
      std::string now = launch_of(rows);
      all = hash(all, now);
      if (now != line) {
        end();
        line = std::move(now);
        first = rows;
      }
      last = rows;
    }
    end();
    out += format("%s %016llx\n", title.c_str(), static_cast<unsigned long long>(all)) + (whole ? lines : "");
  };
  for (const Matrix& matrix : kMatrices) {
    for (const MatrixCode& code : codes()) {
      const MatrixLayout m = layout(matrix, code);
      const bool whole = code == MatrixCode{.type = WeightType::q4, .zeros = true, .group = 128};
      const std::string title = format("%s %s ", matrix.name, text(code).c_str());
      runs(title + "decode", whole, 256, 1, [&](int rows) { return text(decode(m, rows, false)); });
      runs(title + "normed", whole, 2, 1, [&](int rows) { return text(decode(m, rows, true)); });
      runs(title + "prefill", false, 4096, 93, [&](int rows) { return text(prefill(m, rows)); });
    }
  }
  for (const Heads& h : kHeads) {
    for (const int context : kContexts) {
      const std::string title = format("%d/%d x %d, context %d ", h.heads, h.kv_heads, h.head_dim, context);
      for (const KvType type : {KvType::f16, KvType::q8}) {
        runs(title + (type == KvType::q8 ? "decode q8" : "decode"), false, 256, 1,
             [&](int rows) { return text(attention_decode(h, context, rows, type)); });
      }
    }
    runs(format("%d/%d x %d prefill", h.heads, h.kv_heads, h.head_dim), false, 4096, 93,
         [&](int rows) { return text(attention_prefill(h, rows)); });
  }
  return out;
}

}  // namespace millrace::plan_cases

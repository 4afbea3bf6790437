#include "backend/cpu/linear.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <string>
#include <vector>

#include "backend/cpu/linear_kernels.h"
#include "core/error.h"
#include "core/memory.h"

namespace millrace {

namespace {

// ---- Choice of the instruction set

// Best first.
std::vector<const LinearKernels*> usable_kernels() {
  std::vector<const LinearKernels*> usable;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512vnni")) usable.push_back(&kLinearAvx512Vnni);
  if (avx512) usable.push_back(&kLinearAvx512);
  if (avx2) usable.push_back(&kLinearAvx2);
#endif
  usable.push_back(&kLinearPlain);
  return usable;
}

const LinearKernels* find_kernels(const char* name) {
  for (const LinearKernels* kernels : usable_kernels()) {
    if (std::strcmp(kernels->name, name) == 0) return kernels;
  }
  return nullptr;
}

std::atomic<const LinearKernels*>& selection() {
  static std::atomic<const LinearKernels*> selected = [] {
    const char* wanted = std::getenv("MILLRACE_CPU_KERNELS");
    if (wanted == nullptr || *wanted == '\0') return usable_kernels().front();
    const LinearKernels* kernels = find_kernels(wanted);
    if (kernels != nullptr) return kernels;
    std::string names;
    for (const LinearKernels* usable : usable_kernels()) names += std::string(names.empty() ? "" : ", ") + usable->name;
    throw Error(code::kInvalidArgument, format("MILLRACE_CPU_KERNELS is \"%s\", which this processor lacks", wanted),
                "unset it or choose one of " + names);
  }();
  return selected;
}

// ---- Scratch

// Grows to the largest request; contents are lost then.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { release(); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void reserve(size_t count) {
    if (count <= size_) return;
    release();
    data_ = static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64}));
    size_ = count;
  }
  T* data() const { return data_; }

 private:
  void release() {
    if (data_ != nullptr) ::operator delete(data_, std::align_val_t{64});
    data_ = nullptr;
    size_ = 0;
  }
  T* data_ = nullptr;
  size_t size_ = 0;
};

// Activations as one or several matrices of a call want them.
struct Prepared {
  bool integer = false;  // int16, for integer codes
  const int32_t* permutation = nullptr;
  int chunk_rows = 0;  // integer: that one kernel call takes
  int group = 0;       // integer
  int block = 0;       // integer: stored input features that share an activation scale
  int blocks = 0;      // integer
  int k_stored = 0;
  // integer: chunks of rows; see Q4RowBlock for what is in a chunk.
  Buffer<int16_t> x;
  Buffer<float> scales;
  Buffer<int32_t> sums;
  // float: rows of 2 * k_stored; see DenseRowBlock.
  Buffer<float> spread;
};

// A run of row blocks of one segment, for a range of rows.
struct Run {
  int segment = 0;
  int block_begin = 0, block_end = 0;
  int row_begin = 0, row_end = 0;
};

}  // namespace

struct LinearScratch::Data {
  std::vector<std::unique_ptr<Prepared>> prepared;  // kept from call to call; the first `used` belong to this one
  size_t used = 0;
  std::vector<Prepared*> of_segment;
  std::vector<Run> runs;
  Buffer<float> gathered;  // [threads, k_stored]
  Buffer<float> gate_up;   // [rows, n] of a silu_mul that is not interleaved
};

LinearScratch::LinearScratch() : data_(std::make_unique<Data>()) {}
LinearScratch::~LinearScratch() = default;

namespace {

// ---- Activations

bool use_many(const LinearKernels& kernels, int rows) {
  return kernels.q4_many != nullptr && rows > kernels.q4_rows;
}

// Rows of a kernel call: chunks of about the same size.
int chunk_rows_of(const LinearKernels& kernels, const MatrixCode& code, int rows) {
  const int most = !code.traits().integer()      ? kLinearDenseRows
                   : code.type != WeightType::q4 ? kernels.code_rows
                   : use_many(kernels, rows)     ? kLinearRows
                                                 : kernels.q4_rows;
  const int chunks = (rows + most - 1) / most;
  return (rows + chunks - 1) / chunks;
}

// The largest divisor of a group that is a multiple of 16 and at most 128.
int activation_block(int group) {
  for (int block = kLinearMaxBlock; block > kTileK; block -= kTileK) {
    if (group % block == 0) return block;
  }
  return kTileK;
}

Prepared* prepared_for(LinearScratch::Data& data, const MatrixLayout& m, const std::byte* slab, int chunk_rows) {
  const bool integer = m.code.traits().integer();
  const int32_t* permutation =
      m.code.permuted ? reinterpret_cast<const int32_t*>(slab + m.permutation_offset) : nullptr;
  const int group = integer ? std::min(m.code.group, m.k_stored) : 0;
  for (size_t i = 0; i < data.used; i++) {
    Prepared& p = *data.prepared[i];
    if (p.integer == integer && p.permutation == permutation && p.group == group && p.k_stored == m.k_stored &&
        p.chunk_rows == chunk_rows) {
      return &p;
    }
  }
  if (data.used == data.prepared.size()) data.prepared.push_back(std::make_unique<Prepared>());
  Prepared& p = *data.prepared[data.used++];
  p.integer = integer;
  p.chunk_rows = chunk_rows;
  p.permutation = permutation;
  p.group = group;
  p.k_stored = m.k_stored;
  p.block = integer ? activation_block(group) : 0;
  p.blocks = 0;
  if (integer) {
    const int last = m.k_stored % group;
    p.blocks = m.k_stored / group * (group / p.block) + (last + p.block - 1) / p.block;
  }
  return &p;
}

void reserve(Prepared& p, int rows) {
  const size_t n = static_cast<size_t>(rows);
  if (p.integer) {
    p.x.reserve(n * p.k_stored);
    p.scales.reserve(n * p.blocks);
    p.sums.reserve(n * p.blocks);
  } else {
    p.spread.reserve(n * p.k_stored * 2);
  }
}

void prepare_row(const LinearKernels& kernels, const LinearCall& call, Prepared& p, int row, float* gathered) {
  const float* x = call.x + row * call.x_stride;
  const int k = call.layout->k;
  if (p.permutation != nullptr) {
    for (int i = 0; i < p.k_stored; i++) gathered[i] = p.permutation[i] == kPadding ? 0.0f : x[p.permutation[i]];
    x = gathered;
  } else if (p.k_stored != k) {
    std::memcpy(gathered, x, static_cast<size_t>(k) * sizeof(float));
    std::fill(gathered + k, gathered + p.k_stored, 0.0f);
    x = gathered;
  }
  if (!p.integer) {
    float* out = p.spread.data() + static_cast<size_t>(row) * p.k_stored * 2;
    for (int s = 0; s < p.k_stored; s += kTileK) {
      for (int t = 0; t < 4; t++, out += 8) {
        const float* a = x + s + 2 * t;
        out[0] = out[2] = a[0];
        out[1] = out[3] = a[1];
        out[4] = out[6] = a[8];
        out[5] = out[7] = a[9];
      }
    }
    return;
  }
  const int first = row / p.chunk_rows * p.chunk_rows;  // of the chunk
  const int chunk = std::min(p.chunk_rows, call.rows - first);
  int16_t* q = p.x.data() + static_cast<size_t>(first) * p.k_stored;
  float* scale = p.scales.data() + static_cast<size_t>(first) * p.blocks + (row - first);
  int32_t* sum = p.sums.data() + static_cast<size_t>(first) * p.blocks + (row - first);
  for (int begin = 0; begin < p.k_stored;) {
    const int group_end = std::min((begin / p.group + 1) * p.group, p.k_stored);
    const int count = std::min(p.block, group_end - begin);
    kernels.quantize(x + begin, count, q + (row - first) * count, scale, sum);
    q += static_cast<ptrdiff_t>(chunk) * count;
    scale += chunk;
    sum += chunk;
    begin += count;
  }
}

// ---- Epilogues

// silu(gate) * up. exp is written out, so that every build and machine gives the same bits: relative error below 1e-6
// where the result is above 1e-35.
inline float silu_mul(float gate, float up) {
  constexpr float kLog2e = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  float t = -gate;
  t = t > 88.0f ? 88.0f : t;
  t = t < -87.0f ? -87.0f : t;
  const float shifted = t * kLog2e + 0x1.8p23f;  // the nearest integer, in the low mantissa bits
  const float n = shifted - 0x1.8p23f;
  const float r = (t - n * kLn2High) - n * kLn2Low;
  float e = 1.0f / 5040;
  e = e * r + 1.0f / 720;
  e = e * r + 1.0f / 120;
  e = e * r + 1.0f / 24;
  e = e * r + 1.0f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  e *= std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) - 0x4b400000u + 127u) << 23);
  return gate / (1.0f + e) * up;
}

// Writes one row's 64 results of a row block, given in the order of tile_index().
void write_row(const LinearCall& call, const LinearLayout::Segment& segment, int row_block, const float* sums,
               const float* bias, float* y) {
  float v[kTileN];  // in the order of output features
  for (int j = 0; j < 4; j++) {
    for (int g = 0; g < 8; g++) {
      v[16 * j + g] = sums[8 * g + j];
      v[16 * j + 8 + g] = sums[8 * g + 4 + j];
    }
  }
  const int begin = row_block * kTileN;
  const int count = std::min(kTileN, segment.matrix.n - begin);
  const int out = segment.out_begin + begin;
  if (bias != nullptr) {
    for (int i = 0; i < count; i++) v[i] += bias[out + i];
  }
  if (call.epilogue == Epilogue::silu_mul && call.interleaved) {
    float z[kTileN / 2];
    for (int j = 0; j < 4; j++) {
      for (int g = 0; g < 8; g++) z[8 * j + g] = silu_mul(v[16 * j + g], v[16 * j + 8 + g]);
    }
    const int first = out / 2;
    const int features = std::min(count / 2, call.intermediate - first);
    for (int i = 0; i < features; i++) y[first + i] = z[i];
  } else if (call.epilogue == Epilogue::add) {
    for (int i = 0; i < count; i++) y[out + i] += v[i];
  } else {
    for (int i = 0; i < count; i++) y[out + i] = v[i];
  }
}

// ---- One run

// Of a Q4RowBlock or a CodeRowBlock, whose fields of the same name mean the same.
template <typename RowBlock>
void run_integer(void (*kernel)(const RowBlock&), RowBlock task, const LinearCall& call,
                 const LinearLayout::Segment& segment, const Prepared& p, const Run& run, const float* bias, float* y,
                 int64_t y_stride) {
  const MatrixLayout& m = segment.matrix;
  alignas(64) float sums[kLinearRows * kTileN];
  task.slices = m.slices();
  task.group_tiles = p.group / kTileK;
  task.zeros = m.code.zeros;
  task.bf16_scales = m.code.scale == ScaleType::bf16;
  task.out = sums;
  for (int block = run.block_begin; block < run.block_end; block++) {
    task.weights = call.slab + m.offset + static_cast<size_t>(block) * m.row_block_bytes();
    for (int row = run.row_begin; row < run.row_end; row += p.chunk_rows) {
      task.rows = std::min(p.chunk_rows, run.row_end - row);
      task.x = p.x.data() + static_cast<size_t>(row) * p.k_stored;
      task.scales = p.scales.data() + static_cast<size_t>(row) * p.blocks;
      task.sums = p.sums.data() + static_cast<size_t>(row) * p.blocks;
      kernel(task);
      for (int i = 0; i < task.rows; i++) {
        write_row(call, segment, block, sums + i * kTileN, bias, y + (row + i) * y_stride);
      }
    }
  }
}

// e4m3: some groups at a time become float32 tiles, which all rows are multiplied with.
void run_widened(const LinearKernels& kernels, const LinearCall& call, const LinearLayout::Segment& segment,
                 const Prepared& p, const Run& run, const float* bias, float* y, int64_t y_stride) {
  constexpr int kTiles = 16;
  const MatrixLayout& m = segment.matrix;
  const int per_group = m.code.group / kTileK, rows = run.row_end - run.row_begin;
  alignas(64) float tiles[kTiles * kTileN * kTileK];
  std::vector<float> sums(static_cast<size_t>(rows) * kTileN);
  alignas(64) float part[kLinearDenseRows * kTileN];
  for (int block = run.block_begin; block < run.block_end; block++) {
    const std::byte* matrix = call.slab + m.offset;
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int begin = 0; begin < m.slices(); begin += kTiles) {
      const int end = std::min(begin + kTiles, m.slices());
      if (kernels.e4m3 != nullptr && rows <= kLinearE4m3Rows) {
        E4m3RowBlock few;
        few.weights = matrix + m.group_offset(block, begin / per_group);
        few.slices = end - begin;
        few.group_tiles = per_group;
        few.rows = rows;
        few.x_stride = static_cast<int64_t>(p.k_stored) * 2;
        few.x = p.spread.data() + run.row_begin * few.x_stride + static_cast<ptrdiff_t>(begin) * 2 * kTileK;
        few.out = part;
        kernels.e4m3(few);
        for (int i = 0; i < rows * kTileN; i++) sums[static_cast<size_t>(i)] += part[i];
        continue;
      }
      for (int s = begin; s < end; s += per_group) {
        kernels.widen(matrix + m.group_offset(block, s / per_group), matrix + m.tile_offset(block, s),
                      std::min(per_group, end - s), tiles + static_cast<ptrdiff_t>(s - begin) * kTileN * kTileK);
      }
      DenseRowBlock task;
      task.weights = reinterpret_cast<const std::byte*>(tiles);
      task.slices = end - begin;
      task.x_stride = static_cast<int64_t>(p.k_stored) * 2;
      task.out = part;
      for (int row = 0; row < rows; row += kLinearDenseRows) {
        task.rows = std::min(kLinearDenseRows, rows - row);
        task.x = p.spread.data() + (run.row_begin + row) * task.x_stride + static_cast<ptrdiff_t>(begin) * 2 * kTileK;
        kernels.f32(task);
        for (int i = 0; i < task.rows * kTileN; i++) sums[static_cast<size_t>(row) * kTileN + i] += part[i];
      }
    }
    for (int row = 0; row < rows; row++) {
      write_row(call, segment, block, sums.data() + static_cast<size_t>(row) * kTileN, bias,
                y + (run.row_begin + row) * y_stride);
    }
  }
}

void run_dense(const LinearKernels& kernels, const LinearCall& call, const LinearLayout::Segment& segment,
               const Prepared& p, const Run& run, const float* bias, float* y, int64_t y_stride) {
  const MatrixLayout& m = segment.matrix;
  const auto kernel = m.code.type == WeightType::f16    ? kernels.f16
                      : m.code.type == WeightType::bf16 ? kernels.bf16
                                                        : kernels.f32;
  alignas(64) float sums[kLinearDenseRows * kTileN];
  DenseRowBlock task;
  task.slices = m.slices();
  task.x_stride = static_cast<int64_t>(p.k_stored) * 2;
  task.out = sums;
  for (int block = run.block_begin; block < run.block_end; block++) {
    task.weights = call.slab + m.offset + static_cast<size_t>(block) * m.row_block_bytes();
    for (int row = run.row_begin; row < run.row_end; row += kLinearDenseRows) {
      task.rows = std::min(kLinearDenseRows, run.row_end - row);
      task.x = p.spread.data() + row * task.x_stride;
      kernel(task);
      for (int i = 0; i < task.rows; i++) {
        write_row(call, segment, block, sums + i * kTileN, bias, y + (row + i) * y_stride);
      }
    }
  }
}

// ---- The split over threads

// Below this a loop costs more to hand out than to run.
constexpr double kSerialNanoseconds = 4000.0;

double estimate_nanoseconds(double weight_bytes, double macs) {
  return std::max(weight_bytes / 20.0, macs / 100.0);
}

// Row blocks in runs of consecutive ones, since a thread reads fastest straight on: long runs first, short ones at
// the end, so that the threads finish together. With many rows and few row blocks the rows are split too.
void plan_runs(LinearScratch::Data& data, const LinearCall& call, int threads, int row_chunk) {
  data.runs.clear();
  const auto& segments = call.layout->segments;
  int total = 0;
  for (const auto& segment : segments) total += segment.matrix.n_blocks();
  int panels = 1;
  if (threads > 1 && total < 4 * threads) {
    const int wanted = (4 * threads + total - 1) / total;
    panels = std::max(1, std::min(wanted, call.rows / row_chunk));
  }
  const int chunks = (call.rows + row_chunk - 1) / row_chunk;
  const int panel_rows = (chunks + panels - 1) / panels * row_chunk;
  int remaining = total * panels;
  for (int row = 0; row < call.rows; row += panel_rows) {
    const int row_end = std::min(row + panel_rows, call.rows);
    for (int s = 0; s < static_cast<int>(segments.size()); s++) {
      const MatrixLayout& m = segments[s].matrix;
      const int least = static_cast<int>(std::clamp<size_t>(65536 / (m.row_block_bytes() * (row_end - row)), 1, 1024));
      for (int block = 0; block < m.n_blocks();) {
        const int count = threads == 1 ? m.n_blocks() : std::max(least, remaining / (4 * threads));
        const int end = std::min(block + count, m.n_blocks());
        data.runs.push_back({s, block, end, row, row_end});
        remaining -= end - block;
        block = end;
      }
    }
  }
}

}  // namespace

void linear(const LinearCall& call, ThreadPool& pool, LinearScratch& scratch, std::atomic<uint64_t>& weight_bytes) {
  if (call.rows <= 0) return;
  const LinearKernels& kernels = linear_kernels();
  const LinearLayout& layout = *call.layout;
  LinearScratch::Data& data = scratch.data();

  data.used = 0;
  data.of_segment.clear();
  double bytes = 0, macs = 0;
  int k_stored = 0;
  int row_chunk = 1;  // rows are split between chunks of every matrix
  for (const auto& segment : layout.segments) {
    const MatrixLayout& m = segment.matrix;
    const int chunk_rows = chunk_rows_of(kernels, m.code, call.rows);
    data.of_segment.push_back(prepared_for(data, m, call.slab, chunk_rows));
    bytes += static_cast<double>(m.bytes);
    macs += static_cast<double>(m.n) * m.k_stored * call.rows;
    k_stored = std::max(k_stored, m.k_stored);
    if (m.code.traits().integer()) row_chunk = std::lcm(row_chunk, chunk_rows);
  }
  const int threads = pool.threads();
  data.gathered.reserve(static_cast<size_t>(threads) * k_stored);
  for (size_t i = 0; i < data.used; i++) reserve(*data.prepared[i], call.rows);

  const bool parallel = threads > 1 && estimate_nanoseconds(bytes, macs) > kSerialNanoseconds;
  const int64_t rows_to_prepare = static_cast<int64_t>(data.used) * call.rows;
  const auto prepare = [&](int64_t index, int thread) {
    prepare_row(kernels, call, *data.prepared[index / call.rows], static_cast<int>(index % call.rows),
                data.gathered.data() + static_cast<size_t>(thread) * k_stored);
  };
  if (parallel && rows_to_prepare > 1 && rows_to_prepare * k_stored > 32768) {
    pool.parallel_for(rows_to_prepare, prepare);
  } else {
    for (int64_t i = 0; i < rows_to_prepare; i++) prepare(i, 0);
  }

  const float* bias = layout.has_bias ? reinterpret_cast<const float*>(call.slab + layout.bias_offset) : nullptr;
  float* y = call.y;
  int64_t y_stride = call.y_stride;
  const bool apart = call.epilogue == Epilogue::silu_mul && !call.interleaved;
  if (apart) {
    data.gate_up.reserve(static_cast<size_t>(call.rows) * layout.n);
    y = data.gate_up.data();
    y_stride = layout.n;
  }

  plan_runs(data, call, parallel ? threads : 1, row_chunk > 1 || call.rows == 1 ? row_chunk : kLinearDenseRows);
  const auto body = [&](int64_t index, int) {
    const Run& run = data.runs[index];
    const LinearLayout::Segment& segment = layout.segments[run.segment];
    const Prepared& p = *data.of_segment[run.segment];
    const MatrixCode& code = segment.matrix.code;
    if (code.type == WeightType::q4) {
      Q4RowBlock task;
      task.block_tiles = p.block / kTileK;
      run_integer(use_many(kernels, call.rows) ? kernels.q4_many : kernels.q4, task, call, segment, p, run, bias, y,
                  y_stride);
    } else if (p.integer) {
      CodeRowBlock task;
      task.code = &code.traits();
      run_integer(kernels.code, task, call, segment, p, run, bias, y, y_stride);
    } else if (code.traits().levels == Levels::e4m3) {
      run_widened(kernels, call, segment, p, run, bias, y, y_stride);
    } else {
      run_dense(kernels, call, segment, p, run, bias, y, y_stride);
    }
    if (run.row_begin == 0) {
      weight_bytes.fetch_add((run.block_end - run.block_begin) * segment.matrix.row_block_bytes(),
                             std::memory_order_relaxed);
    }
  };
  const auto count = static_cast<int64_t>(data.runs.size());
  if (parallel) {
    pool.parallel_for(count, body);
  } else {
    for (int64_t i = 0; i < count; i++) body(i, 0);
  }

  if (apart) {
    const auto combine = [&](int64_t row, int) {
      const float* gate = y + row * y_stride;
      const float* up = gate + call.intermediate;
      float* out = call.y + row * call.y_stride;
      for (int i = 0; i < call.intermediate; i++) out[i] = silu_mul(gate[i], up[i]);
    };
    if (parallel && call.rows > 1) {
      pool.parallel_for(call.rows, combine);
    } else {
      for (int row = 0; row < call.rows; row++) combine(row, 0);
    }
  }
}

const char* selected_kernels() {
  return selection().load(std::memory_order_relaxed)->name;
}

const LinearKernels& linear_kernels() {
  return *selection().load(std::memory_order_relaxed);
}

bool select_kernels(const char* name) {
  const LinearKernels* kernels = find_kernels(name);
  if (kernels == nullptr) return false;
  selection().store(kernels, std::memory_order_relaxed);
  return true;
}

}  // namespace millrace

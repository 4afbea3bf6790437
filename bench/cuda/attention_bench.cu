// Checks attention, RMSNorm and the embedding gather against float64 on the CPU, then times them beside the memory's
// read peak measured in the same run. Exits with 1 when a check fails.
//
//   cuda_attention_bench [--checks] [--times] [--decode] [--profile] [--quick] [--seed N]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench/usage.h"
#include "core/half.h"
#include "cuda/attention.h"
#include "cuda/attention_prefill.cuh"
#include "cuda/embed.h"
#include "cuda/norm.h"

using namespace millrace;
using namespace millrace::cuda;

namespace {

// Of a head's output, by norm. Prefill rounds queries to float16, which a small head does not average away.
double tolerance_of(int head_dim, bool prefill) {
  return prefill && head_dim < 64 ? 4e-3 : 2e-3;
}
constexpr uint16_t kPoison = 0x7e5a;  // a NaN
cudaStream_t bench_stream;

void must(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::printf("FAILED  %s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

int checks_failed = 0, checks_passed = 0;
void check(bool good, const std::string& what) {
  good ? checks_passed++ : checks_failed++;
  if (!good && checks_failed < 60) std::printf("FAILED  %s\n", what.c_str());
}

template <typename T>
struct Device {
  T* data = nullptr;
  size_t size = 0;
  Device() = default;
  explicit Device(size_t n) : size(n) { must(cudaMalloc(&data, std::max<size_t>(n, 1) * sizeof(T)), "cudaMalloc"); }
  explicit Device(const std::vector<T>& host) : Device(host.size()) { upload(host); }
  Device(Device&& other) noexcept : data(std::exchange(other.data, nullptr)), size(other.size) {}
  Device& operator=(Device&&) = delete;
  ~Device() { cudaFree(data); }
  void upload(const std::vector<T>& host) {
    must(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  std::vector<T> download() const {
    std::vector<T> host(size);
    must(cudaMemcpy(host.data(), data, size * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return host;
  }
};

void parallel(int count, const std::function<void(int)>& body) {
  const int threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> all;
  for (int t = 0; t < threads; t++) {
    all.emplace_back([&, t] {
      for (int i = t; i < count; i += threads) body(i);
    });
  }
  for (std::thread& thread : all) thread.join();
}

struct Shape {
  int heads, kv_heads, head_dim, window = 0;
  std::string name() const {
    return std::to_string(heads) + "/" + std::to_string(kv_heads) + "/" + std::to_string(head_dim) +
           (window > 0 ? " window " + std::to_string(window) : "");
  }
};

struct Row {
  int sequence, position;
};

std::vector<float> rope_rows(int positions, int head_dim) {
  std::vector<float> table(static_cast<size_t>(positions) * head_dim);
  parallel(positions, [&](int p) {
    for (int i = 0; i < head_dim / 2; i++) {
      const double angle = p * std::pow(10000.0, -2.0 * i / head_dim);
      table[static_cast<size_t>(p) * head_dim + i] = static_cast<float>(std::cos(angle));
      table[static_cast<size_t>(p) * head_dim + head_dim / 2 + i] = static_cast<float>(std::sin(angle));
    }
  });
  return table;
}

// A launch with its cache: known keys before each sequence's first row, NaN everywhere else.
struct World {
  Shape shape;
  std::vector<Row> rows;
  int max_context, stride, blocks;
  size_t block_elements, row_floats;
  std::vector<int32_t> positions, sequences, tables;
  std::vector<float> qkv, rope;
  std::vector<uint16_t> cache, expected_cache;

  World(const Shape& s, const std::vector<Row>& r, int context, std::mt19937& random)
      : shape(s), rows(r), max_context(context) {
    int sequence_count = 1;
    for (const Row& row : rows) sequence_count = std::max(sequence_count, row.sequence + 1);
    std::vector<int> length(sequence_count, 0), known(sequence_count, 1 << 30);
    for (const Row& row : rows) {
      positions.push_back(row.position);
      sequences.push_back(row.sequence);
      if (row.position < 0) continue;
      length[row.sequence] = std::max(length[row.sequence], row.position + 1);
      known[row.sequence] = std::min(known[row.sequence], row.position);
    }
    stride = (max_context + 15) / 16 + 1;
    blocks = 2;
    for (int n : length) blocks += (n + 15) / 16;
    std::vector<int32_t> ids(blocks - 1);
    std::iota(ids.begin(), ids.end(), 1);  // block 0 stays poisoned: what unused entries name
    std::shuffle(ids.begin(), ids.end(), random);
    tables.assign(static_cast<size_t>(sequence_count) * stride, 0);
    block_elements = size_t{2} * shape.kv_heads * 16 * shape.head_dim;
    row_floats = static_cast<size_t>(shape.heads + 2 * shape.kv_heads) * shape.head_dim;
    cache.assign(blocks * block_elements, kPoison);
    int next = 0;
    std::normal_distribution<float> normal;
    std::vector<uint16_t> noise(1 << 16);
    for (uint16_t& x : noise) x = float_to_half(normal(random));
    for (int q = 0; q < sequence_count; q++) {
      for (int b = 0; b * 16 < length[q]; b++) tables[static_cast<size_t>(q) * stride + b] = ids[next++];
      const int oldest = shape.window > 0 ? std::max(0, known[q] - shape.window + 1) : 0;
      for (int p = oldest; p < std::min(known[q], length[q]); p++) {
        for (int h = 0; h < 2 * shape.kv_heads; h++) {
          uint16_t* to = head(cache, q, p, h);
          const size_t offset = random() % (noise.size() - 256);
          std::memcpy(to, &noise[offset], shape.head_dim * 2);
        }
      }
    }
    qkv.resize(rows.size() * row_floats);
    for (float& x : qkv) x = normal(random) * 1.3f;
    rope = rope_rows(max_context, shape.head_dim);
    expected_cache = cache;
    const int half = shape.head_dim / 2;
    for (size_t r = 0; r < rows.size(); r++) {
      if (rows[r].position < 0) continue;
      for (int h = 0; h < shape.kv_heads; h++) {
        const float* k = &qkv[r * row_floats + static_cast<size_t>(shape.heads + h) * shape.head_dim];
        const float* v = k + static_cast<size_t>(shape.kv_heads) * shape.head_dim;
        uint16_t* to_k = head(expected_cache, rows[r].sequence, rows[r].position, h);
        uint16_t* to_v = head(expected_cache, rows[r].sequence, rows[r].position, shape.kv_heads + h);
        for (int i = 0; i < half; i++) {
          const float c = angle(rows[r].position, i), s = angle(rows[r].position, half + i);
          const float ac = k[i] * c, bs = k[i + half] * s, bc = k[i + half] * c, as = k[i] * s;
          to_k[i] = float_to_half(ac - bs);
          to_k[i + half] = float_to_half(bc + as);
        }
        for (int i = 0; i < shape.head_dim; i++) to_v[i] = float_to_half(v[i]);
      }
    }
  }

  float angle(int position, int i) const { return rope[static_cast<size_t>(position) * shape.head_dim + i]; }
  uint16_t* head(std::vector<uint16_t>& of, int sequence, int position, int kv) const {
    return &of[tables[static_cast<size_t>(sequence) * stride + position / 16] * block_elements +
               (static_cast<size_t>(kv) * 16 + position % 16) * shape.head_dim];
  }

  // [rows, heads, head_dim] in float64.
  std::vector<double> reference() {
    std::vector<float> wide(expected_cache.size());
    parallel(blocks, [&](int b) {
      for (size_t i = b * block_elements; i < (b + 1) * block_elements; i++) wide[i] = half_to_float(expected_cache[i]);
    });
    const int dim = shape.head_dim, half = dim / 2, group = shape.heads / shape.kv_heads;
    std::vector<double> out(rows.size() * shape.heads * dim, 0.0);
    parallel(static_cast<int>(rows.size()) * shape.heads, [&](int index) {
      const int r = index / shape.heads, h = index % shape.heads;
      const Row row = rows[r];
      if (row.position < 0) return;
      const float* x = &qkv[r * row_floats + static_cast<size_t>(h) * dim];
      std::vector<float> q(dim);
      for (int i = 0; i < half; i++) {
        const double c = angle(row.position, i), s = angle(row.position, half + i),
                     scale = 1.0 / std::sqrt(double(dim));
        q[i] = static_cast<float>((x[i] * c - x[i + half] * s) * scale);
        q[i + half] = static_cast<float>((x[i + half] * c + x[i] * s) * scale);
      }
      const int low = shape.window > 0 ? std::max(0, row.position - shape.window + 1) : 0;
      std::vector<double> score(row.position + 1);
      const auto at = [&](int p, int kv) {
        return &wide[tables[static_cast<size_t>(row.sequence) * stride + p / 16] * block_elements +
                     (static_cast<size_t>(kv) * 16 + p % 16) * dim];
      };
      double highest = -INFINITY, sum = 0.0;
      for (int p = low; p <= row.position; p++) {
        const float* k = at(p, h / group);
        double dot = 0.0;
        for (int i = 0; i < dim; i++) dot += static_cast<double>(q[i]) * k[i];
        score[p] = dot;
        highest = std::max(highest, dot);
      }
      double* o = &out[static_cast<size_t>(index) * dim];
      for (int p = low; p <= row.position; p++) {
        const double weight = std::exp(score[p] - highest);
        const float* v = at(p, shape.kv_heads + h / group);
        sum += weight;
        for (int i = 0; i < dim; i++) o[i] += weight * v[i];
      }
      for (int i = 0; i < dim; i++) o[i] /= sum;
    });
    return out;
  }
};

// A World on the device.
struct Fixture {
  World& world;
  int width, stride;  // of a row of output
  Device<int32_t> positions, sequences, tables;
  Device<float> qkv, rope;
  Device<uint16_t> cache, out;
  AttentionArguments arguments;

  explicit Fixture(World& w)
      : world(w),
        width(w.shape.heads * w.shape.head_dim),
        stride((width + 7) / 8 * 8),
        positions(w.positions),
        sequences(w.sequences),
        tables(w.tables),
        qkv(w.qkv),
        rope(w.rope),
        cache(w.cache),
        out(w.rows.size() * stride) {
    arguments.rows = static_cast<int>(w.rows.size());
    arguments.heads = w.shape.heads;
    arguments.kv_heads = w.shape.kv_heads;
    arguments.head_dim = w.shape.head_dim;
    arguments.window = w.shape.window;
    arguments.qkv = qkv.data;
    arguments.rope = rope.data;
    arguments.positions = positions.data;
    arguments.sequences = sequences.data;
    arguments.block_tables = tables.data;
    arguments.block_table_stride = w.stride;
    arguments.kv = reinterpret_cast<__half*>(cache.data);
    arguments.kv_block_elements = static_cast<int64_t>(w.block_elements);
    arguments.out = reinterpret_cast<__half*>(out.data);
    arguments.out_stride = stride;
    arguments.max_context = w.max_context;
    poison();
  }
  std::vector<uint16_t> output() const {  // [rows, width]
    const std::vector<uint16_t> padded = out.download();
    std::vector<uint16_t> rows(world.rows.size() * width);
    for (size_t r = 0; r < world.rows.size(); r++) std::copy_n(&padded[r * stride], width, &rows[r * width]);
    return rows;
  }
  void poison() { out.upload(std::vector<uint16_t>(out.size, kPoison)); }
  void reset_cache() { cache.upload(world.cache); }
  AttentionArguments from_row(int row, int count) const {
    AttentionArguments a = arguments;
    a.rows = count;
    a.qkv += static_cast<size_t>(row) * world.row_floats;
    a.positions += row;
    a.sequences += row;
    a.out += static_cast<size_t>(row) * stride;
    return a;
  }
};

struct DecodeScratch {
  Device<float> partials;
  Device<unsigned> counters;
  explicit DecodeScratch(AttentionArguments& a)
      : partials(attention_partials_bytes(a) / 4), counters(attention_counters(a)) {
    must(cudaMemset(partials.data, 0xff, partials.size * 4), "poison");
    must(cudaMemset(counters.data, 0, counters.size * 4), "zero");
    a.partials = partials.data;
    a.counters = counters.data;
  }
  bool zero() const {
    for (unsigned c : counters.download()) {
      if (c != 0) return false;
    }
    return true;
  }
};

double compare(const World& world, const std::vector<double>& reference, const std::vector<uint16_t>& out,
               const std::string& what) {
  const double tolerance = tolerance_of(world.shape.head_dim, what.starts_with("prefill"));
  const int dim = world.shape.head_dim;
  double worst = 0.0;
  int untouched = 0;
  for (size_t head = 0; head < world.rows.size() * world.shape.heads; head++) {
    if (world.rows[head / world.shape.heads].position < 0) {
      for (int i = 0; i < dim; i++) untouched += out[head * dim + i] != kPoison;
      continue;
    }
    double error = 0.0, norm = 0.0;
    for (int i = 0; i < dim; i++) {
      const double difference = half_to_float(out[head * dim + i]) - reference[head * dim + i];
      error += difference * difference;
      norm += reference[head * dim + i] * reference[head * dim + i];
    }
    const double relative = std::sqrt(error / norm);
    if (!(relative < tolerance) && checks_failed < 20) {
      const Row row = world.rows[head / world.shape.heads];
      std::printf("        row %d (sequence %d, position %d) head %d: error %.2e, out %g %g %g, expected %g %g %g\n",
                  static_cast<int>(head / world.shape.heads), row.sequence, row.position,
                  static_cast<int>(head % world.shape.heads), relative, half_to_float(out[head * dim]),
                  half_to_float(out[head * dim + 1]), half_to_float(out[head * dim + 2]), reference[head * dim],
                  reference[head * dim + 1], reference[head * dim + 2]);
      checks_failed++;
    }
    worst = std::isnan(relative) ? INFINITY : std::max(worst, relative);
  }
  check(worst < tolerance, what + ": error " + std::to_string(worst));
  check(untouched == 0, what + ": padding rows written");
  return worst;
}

size_t differing(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b) {
  size_t count = 0;
  for (size_t i = 0; i < a.size(); i++) count += a[i] != b[i];
  return count;
}

void check_decode(const Shape& shape, const std::vector<Row>& rows, int max_context, bool each_alone,
                  std::mt19937& random) {
  World world(shape, rows, max_context, random);
  Fixture fixture(world);
  const std::string what = "decode " + shape.name() + ", " + std::to_string(rows.size()) + " rows";
  AttentionArguments a = fixture.arguments;
  DecodeScratch scratch(a);
  must(attention_decode(a, bench_stream, false), "attention_decode");
  must(cudaDeviceSynchronize(), what.c_str());
  const std::vector<uint16_t> out = fixture.output();
  const double worst = compare(world, world.reference(), out, what);
  const size_t cache_differs = differing(fixture.cache.download(), world.expected_cache);
  check(cache_differs == 0, what + ": cache differs in " + std::to_string(cache_differs) + " elements");
  check(scratch.zero(), what + ": counters");

  // The same again, in a larger bucket, by early reads and programmatic launches.
  size_t differs = 0;
  for (int variant = 0; variant < 2; variant++) {
    fixture.reset_cache();
    fixture.poison();
    AttentionArguments b = fixture.arguments;
    b.max_context = max_context + (variant == 0 ? 0 : 5000);  // the rope table is not read there
    DecodeScratch larger(b);
    b.early = true;
    must(cudaDeviceSynchronize(), "reset");
    must(attention_decode(b, bench_stream, true), "attention_decode");
    must(cudaDeviceSynchronize(), what.c_str());
    differs += differing(fixture.output(), out);
    check(larger.zero(), what + ": counters of the larger bucket");
  }
  check(differs == 0, what + ": bits differ in a larger bucket or with early reads");
  differs = 0;
  if (each_alone) {
    fixture.poison();
    for (size_t r = 0; r < rows.size(); r++) {
      AttentionArguments b = fixture.from_row(static_cast<int>(r), 1);
      b.partials = a.partials;
      b.counters = a.counters;
      must(attention_decode(b, bench_stream, r % 2 == 0), "attention_decode");
    }
    must(cudaDeviceSynchronize(), what.c_str());
    differs = differing(fixture.output(), out);
    check(differs == 0, what + ": " + std::to_string(differs) + " elements differ when rows run alone");
  }
  std::printf("%-44s error %.1e  cache exact: %s  bits: %s\n", what.c_str(), worst, cache_differs == 0 ? "yes" : "NO",
              differs == 0 ? "same" : "DIFFER");
}

struct Chunk {
  int begin, end;  // positions; one sequence
};

void check_prefill(const Shape& shape, const std::vector<Chunk>& chunks, int max_context,
                   const std::vector<int>& pieces, std::mt19937& random) {
  std::vector<Row> rows;
  for (size_t q = 0; q < chunks.size(); q++) {
    for (int p = chunks[q].begin; p < chunks[q].end; p++) rows.push_back({static_cast<int>(q), p});
  }
  for (int i = 0; i < 3; i++) rows.push_back({0, -1});
  World world(shape, rows, max_context, random);
  Fixture fixture(world);
  const std::string what =
      "prefill " + shape.name() + ", " + std::to_string(rows.size()) + " rows of " + std::to_string(chunks.size());
  must(attention_prefill(fixture.arguments, bench_stream, false), "attention_prefill");
  must(cudaDeviceSynchronize(), what.c_str());
  const std::vector<uint16_t> out = fixture.output();
  const double worst = compare(world, world.reference(), out, what);
  const size_t cache_differs = differing(fixture.cache.download(), world.expected_cache);
  check(cache_differs == 0, what + ": cache differs in " + std::to_string(cache_differs) + " elements");
  size_t total = 0;
  for (const int piece : pieces) {
    fixture.reset_cache();
    fixture.poison();
    for (int row = 0; row < static_cast<int>(rows.size()); row += piece) {
      const int count = std::min(piece, static_cast<int>(rows.size()) - row);
      must(attention_prefill(fixture.from_row(row, count), bench_stream, piece != 3), "attention_prefill");
    }
    must(cudaDeviceSynchronize(), what.c_str());
    const size_t differs = differing(fixture.output(), out);
    check(differs == 0,
          what + ": " + std::to_string(differs) + " elements differ in pieces of " + std::to_string(piece));
    check(differing(fixture.cache.download(), world.expected_cache) == 0, what + ": cache of pieces");
    total += differs;
  }
  std::printf("%-44s error %.1e  cache exact: %s  bits: %s\n", what.c_str(), worst, cache_differs == 0 ? "yes" : "NO",
              total == 0 ? "same" : "DIFFER");
}

void check_norm(int width, int stride, int rows, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(rows) * stride), w(width);
  for (float& v : x) v = normal(random);
  for (float& v : w) v = 1.0f + 0.3f * normal(random);
  for (int r = 0; r < rows; r++) x[static_cast<size_t>(r) * stride + r % width] = 1e4f;  // outliers
  x[0] = 1e9f;  // 1e9 / (1e9 / sqrt(width)) * w: beyond float16 with the weight below
  w[0] = 1e5f;
  std::vector<int32_t> indices(rows + 2);
  for (int i = 0; i < rows + 2; i++) indices[i] = i % 5 == 3 ? -1 : static_cast<int>(random() % rows);
  indices[0] = 0;
  const size_t norm_offset = 256;
  std::vector<std::byte> slab(norm_offset + width * 4);
  std::memcpy(slab.data() + norm_offset, w.data(), width * 4);
  Device<std::byte> device_slab(slab);
  Device<const std::byte*> units(std::vector<const std::byte*>{nullptr, device_slab.data});
  Device<float> device_x(x);
  Device<int32_t> device_indices(indices);
  const int y_stride = (width + 7) / 8 * 8;
  double worst = 0.0;
  int bad = 0;
  for (const bool indexed : {false, true}) {
    const int count = indexed ? rows + 2 : rows;
    Device<uint16_t> y(std::vector<uint16_t>(static_cast<size_t>(count) * y_stride, kPoison));
    Weights weights{units.data, 1, indexed};
    must(rms_norm(device_x.data, stride, weights, norm_offset, 1e-5f, count, width, reinterpret_cast<__half*>(y.data),
                  y_stride, bench_stream, indexed, indexed ? device_indices.data : nullptr),
         "rms_norm");
    must(cudaDeviceSynchronize(), "rms_norm");
    const std::vector<uint16_t> out = y.download();
    for (int i = 0; i < count; i++) {
      const int row = indexed ? indices[i] : i;
      double squares = 0.0;
      for (int d = 0; d < width && row >= 0; d++) squares += std::pow(x[static_cast<size_t>(row) * stride + d], 2.0);
      const double inverse = 1.0 / std::sqrt(squares / width + 1e-5);
      for (int d = 0; d < y_stride; d++) {
        const uint16_t got = out[static_cast<size_t>(i) * y_stride + d];
        if (row < 0 || d >= width) {
          bad += got != kPoison;
          continue;
        }
        const double expected =
            std::clamp(x[static_cast<size_t>(row) * stride + d] * inverse * w[d], -65504.0, 65504.0);
        const double error = std::fabs(half_to_float(got) - expected) / (std::fabs(expected) + 1e-4);
        worst = error < 1.0 ? std::max(worst, error) : INFINITY;
      }
    }
  }
  check(worst < 1e-3 && bad == 0, "norm of " + std::to_string(width) + ": error " + std::to_string(worst));
  std::printf("%-44s error %.1e\n", ("norm " + std::to_string(rows) + " x " + std::to_string(width)).c_str(), worst);
}

void check_embed(WeightType type, int hidden, std::mt19937& random) {
  const int vocab = 50, rows = 40, stride = hidden + 4;
  const size_t element = type == WeightType::f32 ? 4 : 2;
  std::byte* table = nullptr;
  must(cudaHostAlloc(&table, vocab * hidden * element, cudaHostAllocMapped), "cudaHostAlloc");
  std::vector<float> values(vocab * hidden);
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < values.size(); i++) {
    const float x = normal(random);
    const uint16_t bits = type == WeightType::f16 ? float_to_half(x) : float_to_bfloat16(x);
    values[i] = type == WeightType::f32 ? x : type == WeightType::f16 ? half_to_float(bits) : bfloat16_to_float(bits);
    type == WeightType::f32 ? std::memcpy(table + i * 4, &x, 4) : std::memcpy(table + i * 2, &bits, 2);
  }
  std::vector<int32_t> tokens(rows);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % (vocab + 3)) - 3;
  std::byte* mapped = nullptr;
  must(cudaHostGetDevicePointer(reinterpret_cast<void**>(&mapped), table, 0), "cudaHostGetDevicePointer");
  Device<int32_t> device_tokens(tokens);
  Device<float> out(std::vector<float>(rows * stride, NAN));
  must(embed(mapped, type, device_tokens.data, rows, hidden, out.data, stride, bench_stream, false), "embed");
  must(cudaDeviceSynchronize(), "embed");
  const std::vector<float> got = out.download();
  int bad = 0;
  for (int r = 0; r < rows; r++) {
    for (int d = 0; d < stride; d++) {
      const float x = got[r * stride + d];
      const float expected = tokens[r] < 0 ? 0.0f : values[std::max(tokens[r], 0) * hidden + std::min(d, hidden - 1)];
      bad += d < hidden ? x != expected : !std::isnan(x);
    }
  }
  check(bad == 0, "embed of " + std::to_string(hidden) + ": " + std::to_string(bad) + " elements");
  cudaFreeHost(table);
}

void run_checks(unsigned seed, bool quick) {
  std::mt19937 random(seed);
  const std::vector<int> edges = {0, 1, 15, 16, 255, 256, 257, 1000, 8191};
  for (const Shape& shape : {Shape{32, 8, 128},
                             {9, 3, 64},
                             {8, 4, 8},
                             {14, 2, 64},
                             {5, 5, 80},
                             {6, 2, 10},
                             {16, 1, 256},
                             {4, 2, 96},
                             {32, 8, 128, 300},
                             {8, 4, 64, 17}}) {
    if (quick && shape.head_dim == 128 && shape.window == 0) continue;
    // Edges, with padding between; then drafts of one sequence beside single rows; then a crowd.
    std::vector<Row> rows;
    for (size_t i = 0; i < edges.size(); i++) {
      if (quick && edges[i] > 1000) continue;
      rows.push_back({static_cast<int>(i), edges[i]});
      if (i % 3 == 2) rows.push_back({0, -1});
    }
    check_decode(shape, rows, quick ? 1024 : 8192, true, random);
    rows.clear();
    for (int p = 250; p < 262; p++) rows.push_back({0, p});
    rows.push_back({1, 40});
    rows.push_back({2, 0});
    rows.push_back({2, 1});
    check_decode(shape, rows, 512, true, random);
    rows.clear();
    const int crowd = quick ? 20 : 64;
    for (int i = 0; i < crowd - 36 && !quick; i++) rows.push_back({i + 1, static_cast<int>(random() % 1500)});
    for (int p = 500; p < 535; p++) rows.push_back({0, p});  // a draft longer than a warp
    rows.push_back({0, -1});
    check_decode(shape, rows, 1536, true, random);
    if (quick) continue;
    for (int i = 0; i < 7; i++) rows.push_back({100 + i, static_cast<int>(random() % 600)});  // 71: appended first
    check_decode(shape, rows, 1536, true, random);
  }
  check_decode({8, 2, 64}, {{0, 20000}, {1, 4095}, {2, 4096}}, 20480, true, random);  // splits merged twice
  for (const Shape& shape : {Shape{32, 8, 128},
                             {9, 3, 64},
                             {8, 4, 8},
                             {14, 2, 64},
                             {5, 5, 80},
                             {6, 2, 10},
                             {16, 1, 256},
                             {32, 8, 128, 300},
                             {8, 4, 64, 17}}) {
    if (quick) {
      check_prefill(shape, {{0, 40}, {60, 100}}, 512, {64}, random);
      continue;
    }
    check_prefill(shape, {{0, 200}, {1000, 1065}, {255, 258}, {0, 1}, {0, 17}, {8150, 8192}}, 8192, {1, 3, 64}, random);
  }
  for (const Shape& shape : {Shape{32, 8, 128}, {32, 4, 64}}) {  // enough rows for the large tiles
    if (!quick) check_prefill(shape, {{0, 900}, {64, 300}}, 1024, {64, 331}, random);
  }
  for (const int width : {4096, 576, 64, 5, 8192}) check_norm(width, width + 8, 11, random);
  check_norm(20000, 20001, 3, random);
  for (const WeightType type : {WeightType::f16, WeightType::bf16, WeightType::f32}) {
    for (const int hidden : {4096, 64, 7}) check_embed(type, hidden, random);
  }
  std::printf("%d checks passed, %d failed\n\n", checks_passed, checks_failed);
}

// ---- Times.

bool profile = false;  // a few plain launches of one case instead, for a profiler

// Median over graph replays of the time of one of `count` calls, in microseconds.
double time_graph(int count, const std::function<void(int, cudaStream_t)>& enqueue, int repeats = 12) {
  cudaStream_t stream;
  must(cudaStreamCreate(&stream), "stream");
  if (profile) {
    for (int i = 0; i < std::min(count, 2); i++) enqueue(i, stream);
    must(cudaStreamSynchronize(stream), "profiled launches");
    return 1.0;
  }
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < count; i++) enqueue(i, stream);
  must(cudaStreamEndCapture(stream, &graph), "capture");
  must(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  cudaEvent_t begin, end;
  must(cudaEventCreate(&begin), "event");
  must(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < repeats + 2; i++) {
    must(cudaEventRecord(begin, stream), "record");
    must(cudaGraphLaunch(executable, stream), "graph");
    must(cudaEventRecord(end, stream), "record");
    must(cudaEventSynchronize(end), "graph");
    float ms = 0;
    must(cudaEventElapsedTime(&ms, begin, end), "elapsed");
    if (i >= 2) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  return times[times.size() / 2] * 1e3 / count;
}

__global__ void read_kernel(const uint4* from, size_t count, uint32_t* sink) {
  uint32_t x = 0;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += 8 * size_t{gridDim.x} * blockDim.x) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const size_t at = i + j * size_t{gridDim.x} * blockDim.x;
      v[j] = at < count ? load_once(from + at) : uint4{};
    }
#pragma unroll
    for (int j = 0; j < 8; j++) x ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (x == 0x12345678) *sink = x;
}

__global__ void noise_kernel(uint32_t* to, size_t words) {  // halves in (-2, 2)
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < words; i += size_t{gridDim.x} * blockDim.x) {
    uint64_t z = i * 0x9e3779b97f4a7c15ull + 0x1234567;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    to[i] = static_cast<uint32_t>(z >> 32) & 0xbfffbfffu;
  }
}

struct BenchAttention {
  Shape shape{32, 8, 128};
  Device<float> qkv, rope;
  Device<uint16_t> out;
  std::vector<float> host_qkv(int rows) const {
    std::vector<float> x(static_cast<size_t>(rows) * (shape.heads + 2 * shape.kv_heads) * shape.head_dim);
    uint32_t state = 1;
    for (float& v : x) v = static_cast<float>(static_cast<int32_t>(state = state * 1664525u + 1013904223u)) * 0x1p-31f;
    return x;
  }
  BenchAttention(int rows, int context)
      : qkv(host_qkv(rows)),
        rope(rope_rows(context, shape.head_dim)),
        out(size_t(rows) * shape.heads * shape.head_dim) {}
};

void time_decode(uint16_t* pool, size_t pool_halves, int rows, int context, int bucket, double peak) {
  BenchAttention bench(rows, context);
  const size_t block = size_t{2} * 8 * 16 * 128;
  const int per_row = (context + 15) / 16;
  const size_t layer = block * per_row * rows;
  const int layers = static_cast<int>(std::min<size_t>(pool_halves / layer, 256));
  std::vector<int32_t> tables(size_t(rows) * per_row), positions(rows, context - 1), sequences(rows);
  std::iota(tables.begin(), tables.end(), 0);
  std::mt19937 random(7);
  std::shuffle(tables.begin(), tables.end(), random);
  std::iota(sequences.begin(), sequences.end(), 0);
  Device<int32_t> d_tables(tables), d_positions(positions), d_sequences(sequences);
  AttentionArguments a;
  a.rows = rows;
  a.heads = 32, a.kv_heads = 8, a.head_dim = 128;
  a.qkv = bench.qkv.data, a.rope = bench.rope.data;
  a.positions = d_positions.data, a.sequences = d_sequences.data, a.block_tables = d_tables.data;
  a.block_table_stride = per_row;
  a.kv_block_elements = block;
  a.out = reinterpret_cast<__half*>(bench.out.data);
  a.out_stride = 32 * 128;
  a.max_context = bucket;
  DecodeScratch scratch(a);
  Device<float> norm_x(std::vector<float>(4096, 0.5f));
  Device<uint16_t> norm_y(4096);
  Device<const std::byte*> units(std::vector<const std::byte*>{reinterpret_cast<const std::byte*>(norm_x.data)});
  double us[4];
  for (int variant = 0; variant < 4; variant++) {
    us[variant] = time_graph(layers, [&](int i, cudaStream_t stream) {
      AttentionArguments b = a;
      b.kv = reinterpret_cast<__half*>(pool) + static_cast<size_t>(i) * layer;
      b.early = variant >= 2;
      if (variant == 3) {  // beside a small kernel, as in a pass
        must(rms_norm(norm_x.data, 4096, Weights{units.data, 0, true}, 0, 1e-5f, 1, 4096,
                      reinterpret_cast<__half*>(norm_y.data), 4096, stream, true),
             "rms_norm");
      }
      must(attention_decode(b, stream, variant > 0), "attention_decode");
    });
  }
  const double bytes = static_cast<double>(layer) * 2;
  std::printf(
      "decode  %2d rows at %5d (bucket %5d, %3d layers)  plain %7.2f  programmatic %7.2f  early %7.2f  with norm "
      "%7.2f us | %5.0f GB/s, %3.0f %% of peak\n",
      rows, context, bucket, layers, us[0], us[1], us[2], us[3], bytes / us[2] * 1e-3,
      100 * bytes / us[2] * 1e-3 / peak);
}

void time_prefill(uint16_t* pool, size_t pool_halves, int rows) {
  BenchAttention bench(rows, rows);
  const size_t block = size_t{2} * 8 * 16 * 128;
  const int blocks = (rows + 15) / 16;
  const int layers = static_cast<int>(std::min<size_t>(pool_halves / (block * blocks), rows > 4000 ? 3 : 8));
  std::vector<int32_t> table(blocks), positions(rows), sequences(rows, 0);
  std::iota(table.begin(), table.end(), 0);
  std::mt19937 random(7);
  std::shuffle(table.begin(), table.end(), random);
  std::iota(positions.begin(), positions.end(), 0);
  Device<int32_t> d_table(table), d_positions(positions), d_sequences(sequences);
  AttentionArguments a;
  a.rows = rows;
  a.heads = 32, a.kv_heads = 8, a.head_dim = 128;
  a.qkv = bench.qkv.data, a.rope = bench.rope.data;
  a.positions = d_positions.data, a.sequences = d_sequences.data, a.block_tables = d_table.data;
  a.block_table_stride = blocks;
  a.kv_block_elements = block;
  a.out = reinterpret_cast<__half*>(bench.out.data);
  a.out_stride = 32 * 128;
  a.max_context = rows;
  const auto timed = [&](auto call) {
    return time_graph(
        layers,
        [&](int i, cudaStream_t stream) {
          AttentionArguments b = a;
          b.kv = reinterpret_cast<__half*>(pool) + static_cast<size_t>(i) * block * blocks;
          must(call(b, stream, true), "attention_prefill");
        },
        8);
  };
  const double flops = 2.0 * 32 * 128 * rows * (rows + 1.0);
  const auto show = [&](const char* name, double us) {
    std::printf("prefill %5d rows  %-26s %9.1f us  %5.0f TFLOP/s\n", rows, name, us, flops / us * 1e-6);
  };
  const auto tiles_of = [](int tile_rows) {
    int tile = 0;
    while (kPrefillTiles[tile].dim != 128 || !kPrefillTiles[tile].exact || kPrefillTiles[tile].rows() != tile_rows) {
      tile++;
    }
    return [tile](const AttentionArguments& b, cudaStream_t stream, bool programmatic) {
      return attention_prefill_tiles(b, tile, stream, programmatic);
    };
  };
  show("attention_prefill", timed(attention_prefill));
  show("  append alone", timed(append_kv));
  show("  tiles of 128 rows", timed(tiles_of(128)));
  show("  tiles of 64 rows", timed(tiles_of(64)));
}

void time_small() {
  const int width = 4096, vocab = 32000;
  Device<float> x(std::vector<float>(size_t{1920} * width, 0.7f));
  Device<uint16_t> y(size_t{1920} * width);
  Device<const std::byte*> units(std::vector<const std::byte*>{reinterpret_cast<const std::byte*>(x.data)});
  std::byte* table = nullptr;
  must(cudaHostAlloc(&table, size_t{vocab} * width * 2, cudaHostAllocMapped), "cudaHostAlloc");
  std::memset(table, 0x3c, size_t{vocab} * width * 2);
  std::mt19937 random(3);
  std::vector<int32_t> tokens(1920 * 16);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocab);
  Device<int32_t> d_tokens(tokens);
  for (const int rows : {1, 64, 1920}) {
    const double norm = time_graph(64, [&](int, cudaStream_t stream) {
      must(rms_norm(x.data, width, Weights{units.data, 0, true}, 0, 1e-5f, rows, width,
                    reinterpret_cast<__half*>(y.data), width, stream, true),
           "rms_norm");
    });
    const double gather = time_graph(16, [&](int i, cudaStream_t stream) {
      must(embed(table, WeightType::f16, d_tokens.data + i * rows, rows, width, x.data, width, stream, true), "embed");
    });
    std::printf("%4d rows of 4096: norm %6.2f us (%5.0f GB/s), embed from host %7.2f us (%4.1f GB/s)\n", rows, norm,
                rows * width * 6.0 / norm * 1e-3, gather, rows * width * 2.0 / gather * 1e-3);
  }
  cudaFreeHost(table);
}

void run_times(bool decode_only) {
  const size_t pool_bytes = size_t{2} << 30;
  Device<uint16_t> pool(pool_bytes / 2);
  noise_kernel<<<1024, 256>>>(reinterpret_cast<uint32_t*>(pool.data), pool_bytes / 4);
  Device<uint32_t> sink(1);
  const double read = time_graph(4, [&](int, cudaStream_t stream) {
    read_kernel<<<132 * 8, 256, 0, stream>>>(reinterpret_cast<const uint4*>(pool.data), pool_bytes / 16, sink.data);
  });
  const double peak = pool_bytes / read * 1e-3;
  std::printf("memory read peak %.0f GB/s\n", peak);
  if (profile) {
    time_decode(pool.data, pool.size, 64, 1024, 1024, peak);
    time_prefill(pool.data, pool.size, 1920);
    return;
  }
  time_decode(pool.data, pool.size, 1, 128, 256, peak);
  time_decode(pool.data, pool.size, 1, 128, 4096, peak);
  time_decode(pool.data, pool.size, 1, 256, 256, peak);
  time_decode(pool.data, pool.size, 1, 1024, 1024, peak);
  time_decode(pool.data, pool.size, 1, 8192, 8192, peak);
  time_decode(pool.data, pool.size, 1, 32768, 32768, peak);
  time_decode(pool.data, pool.size, 16, 1024, 1024, peak);
  time_decode(pool.data, pool.size, 64, 256, 256, peak);
  time_decode(pool.data, pool.size, 64, 1024, 1024, peak);
  if (decode_only) return;
  for (const int rows : {128, 512, 1024, 1536, 1920, 8192}) time_prefill(pool.data, pool.size, rows);
  time_small();
}

}  // namespace

int main(int argc, char** argv) {
  const char* usage =
      "cuda_attention_bench [--checks] [--times] [--decode] [--profile] [--quick] [--seed N]\n"
      "Checks attention, RMSNorm and the embedding gather against float64 (--quick: fewer), then times them beside "
      "the\n"
      "memory's read peak (--decode: rows that decode alone; --profile: each once). Without an option both.\n";
  help_if_asked(argc, argv, usage);
  bool checks = false, times = false, quick = false, decode = false;
  unsigned seed = std::random_device{}();
  for (int i = 1; i < argc; i++) {
    const std::string option = argv[i];
    if (option == "--checks") {
      checks = true;
    } else if (option == "--times") {
      times = true;
    } else if (option == "--decode") {
      times = decode = true;
    } else if (option == "--profile") {
      times = profile = true;
    } else if (option == "--quick") {
      quick = true;
    } else if (option == "--seed" && i + 1 < argc) {
      seed = static_cast<unsigned>(std::atoi(argv[++i]));
    } else {
      refuse(option, usage);
    }
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::printf("seed %u\n", seed);
  must(cudaStreamCreate(&bench_stream), "cudaStreamCreate");
  if (checks || !times) run_checks(seed, quick);
  if (times || !checks) run_times(decode);
  return checks_failed == 0 ? 0 : 1;
}

// Whole passes of small random models against a float64 reference of the test's own, and the bit promises.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/linear.h"
#include "check.h"
#include "core/error.h"
#include "core/half.h"
#include "core/memory.h"
#include "dense.h"

using namespace millrace;

namespace {

struct Shape {
  int hidden = 64, layers = 2, heads = 4, kv_heads = 2, head_dim = 16, intermediate = 100, vocab = 77;
  MatrixCode code{WeightType::f32};
  bool interleaved = true;
  bool bias = false;
  WeightType embedding = WeightType::f32;
  int max_rows = 512, max_context = 1024;
};

// Weights as the reference sees them (row-major [n, k], float64) beside the same weights in slabs.
struct Model {
  DenseSpec spec;
  std::vector<UnitLayout> units;
  std::vector<HostMemory> slabs;
  std::vector<std::byte> embedding_rows;
  WeightType embedding_type;

  struct Layer {
    std::vector<double> attention_norm, qkv, qkv_bias, o, feed_forward_norm, gate, up, down;
  };
  std::vector<double> embedding;
  std::vector<Layer> layers;
  std::vector<double> final_norm, head;
};

class Builder {
 public:
  explicit Builder(const Shape& shape) : shape_(shape), random_(check::random(17)) {}

  Model build() {
    DenseSpec& spec = model_.spec;
    spec.vocab = shape_.vocab;
    spec.hidden = shape_.hidden;
    spec.layers = shape_.layers;
    spec.heads = shape_.heads;
    spec.kv_heads = shape_.kv_heads;
    spec.head_dim = shape_.head_dim;
    spec.intermediate = shape_.intermediate;
    spec.max_position = shape_.max_context;
    check_program(dense_program(spec));
    model_.embedding_type = shape_.embedding;
    build_embedding();
    for (int l = 0; l < shape_.layers; l++) build_layer();
    UnitLayout head;
    start();
    head.vectors.push_back(norm(model_.final_norm));
    model_.head = weights(spec.vocab, spec.hidden);
    head.linears.push_back(linear({{&model_.head, spec.vocab}}, spec.hidden));
    finish(head);
    return std::move(model_);
  }

 private:
  struct Matrix {
    std::vector<double>* weights;
    int n;
  };

  double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(random_); }

  void build_embedding() {
    const size_t count = static_cast<size_t>(shape_.vocab) * shape_.hidden;
    const size_t bytes = element_bytes(shape_.embedding);
    model_.embedding_rows.resize(count * bytes);
    for (size_t i = 0; i < count; i++) {
      const float value = static_cast<float>(uniform(-1, 1));
      if (shape_.embedding == WeightType::f32) {
        model_.embedding.push_back(value);
        std::memcpy(&model_.embedding_rows[i * bytes], &value, bytes);
      } else {
        const bool half = shape_.embedding == WeightType::f16;
        const uint16_t bits = half ? float_to_half(value) : float_to_bfloat16(value);
        model_.embedding.push_back(half ? half_to_float(bits) : bfloat16_to_float(bits));
        std::memcpy(&model_.embedding_rows[i * bytes], &bits, bytes);
      }
    }
  }

  void build_layer() {
    const DenseSpec& spec = model_.spec;
    Model::Layer layer;
    UnitLayout attention;
    start();
    attention.vectors.push_back(norm(layer.attention_norm));
    layer.qkv = weights(spec.qkv_width(), spec.hidden);
    attention.linears.push_back(linear({{&layer.qkv, spec.qkv_width()}}, spec.hidden));
    if (shape_.bias) {
      attention.linears[0].has_bias = true;
      attention.linears[0].bias_offset = builder_.floats(spec.qkv_width());
      for (int i = 0; i < spec.qkv_width(); i++) layer.qkv_bias.push_back(static_cast<float>(uniform(-0.5, 0.5)));
      floats_.push_back({attention.linears[0].bias_offset, layer.qkv_bias});
    }
    layer.o = weights(spec.hidden, spec.query_width());
    attention.linears.push_back(linear({{&layer.o, spec.hidden}}, spec.query_width()));
    finish(attention);

    UnitLayout feed_forward;
    start();
    feed_forward.vectors.push_back(norm(layer.feed_forward_norm));
    layer.gate = weights(spec.intermediate, spec.hidden);
    layer.up = weights(spec.intermediate, spec.hidden);
    std::vector<double> both;
    if (shape_.interleaved) {
      const int padded = (spec.intermediate + 7) / 8 * 8;
      both.assign(static_cast<size_t>(2) * padded * spec.hidden, 0.0);
      for (int i = 0; i < spec.intermediate; i++) {
        const size_t to = static_cast<size_t>(16 * (i / 8) + i % 8) * spec.hidden;
        for (int k = 0; k < spec.hidden; k++) {
          both[to + k] = layer.gate[static_cast<size_t>(i) * spec.hidden + k];
          both[to + 8 * spec.hidden + k] = layer.up[static_cast<size_t>(i) * spec.hidden + k];
        }
      }
      feed_forward.linears.push_back(linear({{&both, 2 * padded}}, spec.hidden));
      feed_forward.linears[0].interleaved = true;
      for (int i = 0; i < spec.intermediate; i++) {  // as quantised
        const size_t from = static_cast<size_t>(16 * (i / 8) + i % 8) * spec.hidden;
        for (int k = 0; k < spec.hidden; k++) {
          layer.gate[static_cast<size_t>(i) * spec.hidden + k] = both[from + k];
          layer.up[static_cast<size_t>(i) * spec.hidden + k] = both[from + 8 * spec.hidden + k];
        }
      }
    } else {
      feed_forward.linears.push_back(
          linear({{&layer.gate, spec.intermediate}, {&layer.up, spec.intermediate}}, spec.hidden));
    }
    layer.down = weights(spec.hidden, spec.intermediate);
    feed_forward.linears.push_back(linear({{&layer.down, spec.hidden}}, spec.intermediate));
    finish(feed_forward);
    model_.layers.push_back(std::move(layer));
  }

  std::vector<double> weights(int n, int k) {
    std::vector<double> w(static_cast<size_t>(n) * k);
    const double range = std::sqrt(3.0 / k);
    for (double& x : w) x = uniform(-range, range);
    return w;
  }

  // ---- One slab: layouts first, bytes when its size is known.
  void start() {
    builder_ = SlabBuilder();
    floats_.clear();
    matrices_.clear();
  }

  size_t norm(std::vector<double>& weight) {
    for (int i = 0; i < shape_.hidden; i++) weight.push_back(static_cast<float>(uniform(0.5, 1.5)));
    const size_t offset = builder_.floats(shape_.hidden);
    floats_.push_back({offset, weight});
    return offset;
  }

  // Rounds each matrix to what its code can say, and lays it out.
  LinearLayout linear(const std::vector<Matrix>& matrices, int k) {
    LinearLayout layout;
    layout.k = k;
    const int k_stored = static_cast<int>(round_up(k, kTileK));
    for (const Matrix& matrix : matrices) {
      const MatrixLayout m = builder_.matrix(shape_.code, matrix.n, k, k_stored);
      layout.segments.push_back({m, layout.n});
      layout.n += matrix.n;
      matrices_.push_back(encode(m, *matrix.weights));
    }
    return layout;
  }

  struct Encoded {
    size_t offset;
    std::vector<std::byte> bytes;
  };

  Encoded encode(const MatrixLayout& m, std::vector<double>& w) {
    Encoded out{m.offset, std::vector<std::byte>(m.bytes)};
    for (int rb = 0; rb < m.n_blocks(); rb++) {
      if (m.code.type == WeightType::q4) {
        for (int g = 0; g < m.groups(); g++) encode_group(m, rb, g, w, out.bytes.data());
        continue;
      }
      for (int s = 0; s < m.slices(); s++) {
        float tile[kTileN * kTileK] = {};
        for (int n = 0; n < kTileN; n++) {
          for (int k = 0; k < kTileK; k++) {
            double* x = at(m, w, rb * kTileN + n, s * kTileK + k);
            if (x == nullptr) continue;
            float value = static_cast<float>(*x);
            if (m.code.type == WeightType::f16) value = half_to_float(float_to_half(value));
            if (m.code.type == WeightType::bf16) value = bfloat16_to_float(float_to_bfloat16(value));
            *x = tile[n * kTileK + k] = value;
          }
        }
        std::byte* destination = out.bytes.data() + m.tile_offset(rb, s);
        if (m.code.type == WeightType::f32) {
          encode_float_tile(tile, reinterpret_cast<float*>(destination));
        } else {
          uint16_t bits[kTileN * kTileK];
          for (int i = 0; i < kTileN * kTileK; i++) {
            bits[i] = m.code.type == WeightType::f16 ? float_to_half(tile[i]) : float_to_bfloat16(tile[i]);
          }
          encode_float_tile(bits, reinterpret_cast<uint16_t*>(destination));
        }
      }
    }
    return out;
  }

  static double* at(const MatrixLayout& m, std::vector<double>& w, int n, int k) {
    return n < m.n && k < m.k ? &w[static_cast<size_t>(n) * m.k + k] : nullptr;
  }

  void encode_group(const MatrixLayout& m, int rb, int group, std::vector<double>& w, std::byte* bytes) {
    const int begin = group * m.code.group, end = std::min(m.k_stored, begin + m.code.group);
    std::vector<uint8_t> q(static_cast<size_t>(kTileN) * (end - begin));
    for (int n = 0; n < kTileN; n++) {
      double low = 0, high = 0;
      for (int k = begin; k < end; k++) {
        if (const double* x = at(m, w, rb * kTileN + n, k)) {
          low = std::min(low, *x);
          high = std::max(high, *x);
        }
      }
      const double range = m.code.zeros ? (high - low) / 15 : std::max(high / 7, -low / 8);
      const uint16_t scale_bits = float_to_half(static_cast<float>(range > 0 ? range : 1.0));
      const double scale = half_to_float(scale_bits);
      const int zero = m.code.zeros ? std::clamp(static_cast<int>(std::lround(-low / scale)), 0, 15) : 8;
      std::byte* header = bytes + m.group_offset(rb, group);
      std::memcpy(header + 2 * tile_index(n), &scale_bits, 2);
      if (m.code.zeros) header[128 + tile_index(n)] = static_cast<std::byte>(zero);
      for (int k = begin; k < end; k++) {
        double* x = at(m, w, rb * kTileN + n, k);
        const int value = x ? std::clamp(static_cast<int>(std::lround(*x / scale)) + zero, 0, 15) : zero;
        q[static_cast<size_t>(n) * (end - begin) + k - begin] = static_cast<uint8_t>(value);
        if (x) *x = scale * (value - zero);
      }
    }
    for (int k = begin; k < end; k += kTileK) {
      uint8_t tile[kTileN * kTileK];
      for (int n = 0; n < kTileN; n++) {
        std::memcpy(tile + n * kTileK, &q[static_cast<size_t>(n) * (end - begin) + k - begin], kTileK);
      }
      encode_tile(WeightType::q4, tile, bytes + m.tile_offset(rb, k / kTileK));
    }
  }

  void finish(UnitLayout& unit) {
    unit.bytes = builder_.bytes();
    HostMemory slab(unit.bytes, "a slab");
    for (const auto& [offset, values] : floats_) {
      for (size_t i = 0; i < values.size(); i++) {
        const float value = static_cast<float>(values[i]);
        std::memcpy(slab.data() + offset + i * sizeof(float), &value, sizeof(float));
      }
    }
    for (const Encoded& matrix : matrices_) {
      std::memcpy(slab.data() + matrix.offset, matrix.bytes.data(), matrix.bytes.size());
    }
    model_.units.push_back(unit);
    model_.slabs.push_back(std::move(slab));
  }

  const Shape shape_;
  std::mt19937_64 random_;
  Model model_;
  SlabBuilder builder_;
  std::vector<std::pair<size_t, std::vector<double>>> floats_;
  std::vector<Encoded> matrices_;
};

// ---- The reference: every position of one sequence, float64, straight from the definition.

std::vector<double> multiply(const std::vector<double>& w, std::span<const double> x) {
  std::vector<double> y(w.size() / x.size(), 0.0);
  for (size_t n = 0; n < y.size(); n++) {
    for (size_t k = 0; k < x.size(); k++) y[n] += w[n * x.size() + k] * x[k];
  }
  return y;
}

std::vector<double> rms_norm(const std::vector<double>& x, const std::vector<double>& weight, double epsilon) {
  double squares = 0;
  for (double v : x) squares += v * v;
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); i++) y[i] = x[i] / std::sqrt(squares / x.size() + epsilon) * weight[i];
  return y;
}

void rotate(double* head, int head_dim, int position, double theta) {
  for (int i = 0; i < head_dim / 2; i++) {
    const double angle = position * std::pow(theta, -2.0 * i / head_dim);
    const double a = head[i], b = head[i + head_dim / 2];
    head[i] = a * std::cos(angle) - b * std::sin(angle);
    head[i + head_dim / 2] = b * std::cos(angle) + a * std::sin(angle);
  }
}

// Logits [positions, vocab]. The cache keeps keys and values in float16: with `rounded_kv` so does the reference, and
// what is left is the product's own error.
std::vector<std::vector<double>> reference(const Model& model, const std::vector<int>& tokens,
                                           bool rounded_kv = false) {
  const DenseSpec& spec = model.spec;
  const int d = spec.head_dim, group = spec.heads / spec.kv_heads;
  std::vector<std::vector<double>> x;
  for (int token : tokens) {
    const auto row = model.embedding.begin() + static_cast<size_t>(token) * spec.hidden;
    x.emplace_back(row, row + spec.hidden);
  }
  for (const Model::Layer& layer : model.layers) {
    std::vector<std::vector<double>> qkv;
    for (size_t p = 0; p < x.size(); p++) {
      qkv.push_back(multiply(layer.qkv, rms_norm(x[p], layer.attention_norm, spec.rms_epsilon)));
      for (size_t i = 0; i < layer.qkv_bias.size(); i++) qkv[p][i] += layer.qkv_bias[i];
      for (int h = 0; h < spec.heads + spec.kv_heads; h++) {
        rotate(&qkv[p][h * d], d, static_cast<int>(p), spec.rope.theta);
      }
      for (size_t i = spec.query_width(); rounded_kv && i < qkv[p].size(); i++) {
        qkv[p][i] = half_to_float(float_to_half(static_cast<float>(qkv[p][i])));
      }
    }
    for (size_t p = 0; p < x.size(); p++) {
      std::vector<double> attended(spec.query_width(), 0.0);
      for (int h = 0; h < spec.heads; h++) {
        const int k_at = spec.query_width() + h / group * d, v_at = k_at + spec.kv_width();
        std::vector<double> score(p + 1, 0.0);
        double highest = -1e300, sum = 0;
        for (size_t j = 0; j <= p; j++) {
          for (int i = 0; i < d; i++) score[j] += qkv[p][h * d + i] * qkv[j][k_at + i] / std::sqrt(d);
          highest = std::max(highest, score[j]);
        }
        for (double& s : score) sum += s = std::exp(s - highest);
        for (size_t j = 0; j <= p; j++) {
          for (int i = 0; i < d; i++) attended[h * d + i] += score[j] / sum * qkv[j][v_at + i];
        }
      }
      const std::vector<double> o = multiply(layer.o, attended);
      for (int i = 0; i < spec.hidden; i++) x[p][i] += o[i];
      const std::vector<double> normed = rms_norm(x[p], layer.feed_forward_norm, spec.rms_epsilon);
      std::vector<double> gate = multiply(layer.gate, normed);
      const std::vector<double> up = multiply(layer.up, normed);
      for (size_t i = 0; i < gate.size(); i++) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const std::vector<double> down = multiply(layer.down, gate);
      for (int i = 0; i < spec.hidden; i++) x[p][i] += down[i];
    }
  }
  std::vector<std::vector<double>> logits;
  for (const auto& row : x) logits.push_back(multiply(model.head, rms_norm(row, model.final_norm, spec.rms_epsilon)));
  return logits;
}

// ---- Passes through the backend.

using Logits = std::vector<std::vector<float>>;

class Runner {
 public:
  Runner(const Model& model, const Shape& shape, int threads, int max_sequences = 6)
      : model_(model), backend_(create_cpu_backend(threads)), stream_(backend_->create_stream()) {
    stride_ = (shape.max_context + kKvBlockTokens - 1) / kKvBlockTokens;
    const int blocks = stride_ * max_sequences;
    const size_t kv_bytes = kv_block_bytes(model.spec) * blocks * model.spec.layers;
    kv_ = backend_->allocate(kv_bytes, "kv");
    // Never-written positions must not matter: NaN everywhere.
    std::memset(kv_->data(), 0xff, kv_bytes);
    ExecutorConfig config;
    config.program = dense_program(model.spec);
    config.units = model.units;
    config.tables = {{model.embedding_rows.data(), model.embedding_type}};
    config.kv = {{kv_->data(), {}, blocks}};
    config.max_rows = shape.max_rows;
    config.max_logit_rows = shape.max_rows;
    config.max_context = shape.max_context;
    executor_ = backend_->create_executor(config);
    for (size_t u = 0; u < model.units.size(); u++) {
      executor_->set_unit(*stream_, static_cast<int>(u), model.slabs[u].data());
    }
    // Blocks of a sequence are scattered over the cache.
    std::vector<int32_t> ids(blocks);
    std::iota(ids.begin(), ids.end(), 0);
    std::mt19937_64 random = check::random(5);
    std::shuffle(ids.begin(), ids.end(), random);
    tables_ = ids;
  }
  ~Runner() { stream_->synchronize(); }

  struct Chunk {
    int sequence;
    std::vector<int> tokens;
    int begin;
  };

  // Runs one step and returns the logits of all its rows.
  Logits step(const std::vector<Chunk>& chunks) {
    Logits out;
    std::vector<LogitRequest> requests;
    int rows = 0;
    for (const Chunk& chunk : chunks) rows += static_cast<int>(chunk.tokens.size());
    for (int r = 0; r < rows; r++) {
      LogitRequest request;
      request.row = r;
      request.keep_logits = true;
      request.sample = false;
      requests.push_back(request);
    }
    const StepOutput output = step(chunks, requests);
    for (int r = 0; r < rows; r++) {
      const auto row = output.logits.begin() + static_cast<size_t>(r) * model_.spec.vocab;
      out.emplace_back(row, row + model_.spec.vocab);
    }
    return out;
  }

  StepOutput step(const std::vector<Chunk>& chunks, const std::vector<LogitRequest>& requests,
                  const std::vector<LogitAdjustment>& adjustments = {}) {
    std::vector<int32_t> tokens, positions, sequences;
    Step step;
    for (const Chunk& chunk : chunks) {
      for (size_t i = 0; i < chunk.tokens.size(); i++) {
        tokens.push_back(chunk.tokens[i]);
        positions.push_back(chunk.begin + static_cast<int>(i));
        sequences.push_back(chunk.sequence);
      }
      if (chunk.tokens.size() == 1 && step.decode_rows == step.rows) step.decode_rows++;
      step.rows += static_cast<int>(chunk.tokens.size());
    }
    step.tokens = tokens;
    step.positions = positions;
    step.sequences = sequences;
    step.block_tables = tables_;
    step.block_table_stride = stride_;
    step.logits = requests;
    step.adjustments = adjustments;
    StepOutput output;
    executor_->begin(*stream_, step, output);
    executor_->embed(*stream_);
    for (int l = 0; l < model_.spec.layers; l++) {
      executor_->run(*stream_, attention_unit(l));
      executor_->run(*stream_, feed_forward_unit(l));
    }
    executor_->run(*stream_, head_unit(model_.spec));
    executor_->sample(*stream_);
    executor_->end(*stream_);
    stream_->synchronize();
    return output;
  }

  // One sequence alone, in chunks.
  Logits run(const std::vector<int>& tokens, size_t chunk, int sequence = 0) {
    Logits out;
    for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
      const size_t end = std::min(tokens.size(), begin + chunk);
      for (auto& row : step({{sequence, {tokens.begin() + begin, tokens.begin() + end}, static_cast<int>(begin)}})) {
        out.push_back(std::move(row));
      }
    }
    return out;
  }

  Executor& executor() { return *executor_; }
  Stream& stream() { return *stream_; }
  Backend& backend() { return *backend_; }

 private:
  const Model& model_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Memory> kv_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Stream> stream_;
  std::vector<int32_t> tables_;
  int stride_;
};

std::vector<int> random_tokens(int count, int vocab, uint64_t stream) {
  std::mt19937_64 random = check::random(stream);
  std::vector<int> tokens(count);
  for (int& t : tokens) t = static_cast<int>(random() % vocab);
  return tokens;
}

// Largest difference over the largest magnitude of a row, worst row.
double relative_error(const Logits& found, const std::vector<std::vector<double>>& expected) {
  double worst = 0;
  for (size_t r = 0; r < expected.size(); r++) {
    double difference = 0, magnitude = 0;
    for (size_t i = 0; i < expected[r].size(); i++) {
      const double d = std::abs(found[r][i] - expected[r][i]);
      difference = d <= difference ? difference : d;  // keeps a NaN
      magnitude = std::max(magnitude, std::abs(expected[r][i]));
    }
    worst = std::max(worst, std::isnan(difference) ? 1e30 : difference / magnitude);
  }
  return worst;
}

bool same_bits(const Logits& a, const Logits& b) {
  if (a.size() != b.size()) return false;
  for (size_t r = 0; r < a.size(); r++) {
    if (std::memcmp(a[r].data(), b[r].data(), a[r].size() * sizeof(float)) != 0) return false;
  }
  return true;
}

std::vector<int> slice(const std::vector<int>& tokens, size_t begin, size_t end) {
  return {tokens.begin() + begin, tokens.begin() + end};
}

Shape q4_shape(bool zeros) {
  Shape shape;
  shape.code = {WeightType::q4, ScaleType::f16, zeros, false, 32};
  return shape;
}

void check_against_reference(const char* what, const Shape& shape, int length, double bound) {
  const Model model = Builder(shape).build();
  const std::vector<int> tokens = random_tokens(length, shape.vocab, 1);
  Runner runner(model, shape, 2);
  const Logits found = runner.run(tokens, 16);
  const double error = relative_error(found, reference(model, tokens));
  const double own_error = relative_error(found, reference(model, tokens, true));
  std::printf("  %s: relative error %.1e, %.1e beside rounded keys and values\n", what, error, own_error);
  CHECK(error < 2e-3);
  CHECK(own_error < bound);
}

}  // namespace

TEST(float_models_match_the_reference) {
  Shape shape;
  check_against_reference("f32", shape, 40, 1e-3);
  shape.interleaved = false;
  shape.bias = true;
  check_against_reference("f32, gate and up apart, biases", shape, 20, 1e-3);
  shape.code.type = WeightType::f16;
  shape.embedding = WeightType::f16;
  check_against_reference("f16", shape, 20, 1e-3);
  shape.code.type = WeightType::bf16;
  shape.embedding = WeightType::bf16;
  check_against_reference("bf16", shape, 20, 1e-3);
}

TEST(q4_models_match_the_reference) {
  check_against_reference("q4 symmetric", q4_shape(false), 40, 2e-3);
  Shape shape = q4_shape(true);
  check_against_reference("q4 zeros", shape, 40, 2e-3);
  shape.interleaved = false;
  check_against_reference("q4 zeros, gate and up apart", shape, 40, 2e-3);
}

TEST(head_sizes_and_groups_of_all_kinds_match_the_reference) {
  for (const auto& [heads, kv_heads, head_dim] :
       std::vector<std::array<int, 3>>{{8, 4, 8}, {3, 1, 64}, {2, 2, 80}, {4, 1, 128}, {5, 1, 6}, {40, 1, 16}}) {
    Shape shape;
    shape.heads = heads;
    shape.kv_heads = kv_heads;
    shape.head_dim = head_dim;
    check_against_reference(format("%d heads, %d kv heads of %d", heads, kv_heads, head_dim).c_str(), shape, 36, 1e-3);
  }
}

TEST(long_contexts_match_the_reference) {
  Shape shape;
  shape.layers = 1;
  shape.intermediate = 16;
  check_against_reference("600 positions", shape, 600, 1e-3);
}

TEST(every_instruction_set_matches_the_reference) {
  const std::string chosen = selected_kernels();
  for (const char* name : {"plain", "avx2", "avx512", "avx512vnni"}) {
    if (!select_kernels(name)) continue;
    check_against_reference(name, q4_shape(true), 300, 2e-3);
  }
  CHECK(select_kernels(chosen.c_str()));
}

TEST(steps_that_mix_prefill_and_decode_match_the_reference) {
  const Shape shape = q4_shape(true);
  const Model model = Builder(shape).build();
  const std::vector<int> a = random_tokens(30, shape.vocab, 1), b = random_tokens(25, shape.vocab, 2);
  Runner runner(model, shape, 2);
  Logits of_a = runner.run(slice(a, 0, 20), 20, 3);
  Logits of_b;
  for (int i = 0; i < 10; i++) {
    // One token of a beside a chunk of b.
    const size_t begin = std::min<size_t>(b.size(), i * 4), end = std::min<size_t>(b.size(), begin + 4);
    std::vector<Runner::Chunk> chunks = {{3, slice(a, 20 + i, 21 + i), 20 + i}};
    if (begin < end) chunks.push_back({1, slice(b, begin, end), static_cast<int>(begin)});
    Logits both = runner.step(chunks);
    of_a.push_back(both[0]);
    of_b.insert(of_b.end(), both.begin() + 1, both.end());
  }
  CHECK(relative_error(of_a, reference(model, a)) < 2e-3);
  CHECK(relative_error(of_b, reference(model, b)) < 2e-3);
}

TEST(a_row_has_the_same_bits_in_every_chunk_and_crowd) {
  for (const Shape& base : {q4_shape(true), Shape{}}) {
    Shape shape = base;
    shape.heads = 6;  // groups of three: no multiple of a kernel's tile
    const Model model = Builder(shape).build();
    const std::vector<int> tokens = random_tokens(300, shape.vocab, 1);
    Runner one(model, shape, 1);
    const Logits expected = one.run(tokens, 300);
    for (int threads : {1, 4}) {
      Runner runner(model, shape, threads);
      for (size_t chunk : {1, 3, 7, 16, 64, 300}) CHECK(same_bits(runner.run(tokens, chunk, 2), expected));
      // With neighbours before and behind it, of other lengths, at other offsets.
      const std::vector<int> n1 = random_tokens(290, shape.vocab, 8), n2 = random_tokens(40, shape.vocab, 9);
      Logits crowd;
      runner.step({{0, slice(n1, 0, 280), 0}});
      for (int i = 0; i < 5; i++) {
        const int begin = i * 60;
        const Logits all = runner.step({{0, slice(n1, 280 + i, 281 + i), 280 + i},
                                        {1, slice(tokens, begin, begin + 60), begin},
                                        {4, slice(n2, i * 8, i * 8 + 8), i * 8}});
        crowd.insert(crowd.end(), all.begin() + 1, all.begin() + 61);
      }
      CHECK(same_bits(crowd, expected));
    }
  }
}

TEST(units_are_read_through_the_table_in_stream_order) {
  const Shape shape = q4_shape(true);
  const Model model = Builder(shape).build();
  const std::vector<int> tokens = random_tokens(20, shape.vocab, 1);
  Runner runner(model, shape, 2);
  const Logits expected = runner.run(tokens, 20);
  // All units through one slot, which is poisoned behind them; so is where they were until now.
  std::vector<std::vector<std::byte>> sources;
  for (const HostMemory& slab : model.slabs) {
    sources.emplace_back(slab.data(), slab.data() + slab.size());
    std::memset(slab.data(), 0xff, slab.size());
  }
  size_t largest = 0;
  for (const UnitLayout& unit : model.units) largest = std::max(largest, unit.bytes);
  HostMemory slot(largest, "a slot");
  std::vector<int32_t> ids(tokens.begin(), tokens.end()), positions(20), sequences(20, 1), tables(128);
  std::iota(positions.begin(), positions.end(), 0);
  std::iota(tables.begin(), tables.end(), 0);
  std::vector<LogitRequest> requests;
  for (int r = 0; r < 20; r++) requests.push_back({.row = r, .sample = false, .keep_logits = true});
  Step step;
  step.rows = 20;
  step.tokens = ids;
  step.positions = positions;
  step.sequences = sequences;
  step.block_tables = tables;
  step.block_table_stride = 64;
  step.logits = requests;
  StepOutput output;
  Executor& executor = runner.executor();
  Stream& stream = runner.stream();
  executor.begin(stream, step, output);
  executor.embed(stream);
  for (int u = 0; u < unit_count(model.spec); u++) {
    stream.copy(slot.data(), sources[u].data(), model.units[u].bytes);
    executor.set_unit(stream, u, slot.data());
    executor.run(stream, u);
    stream.fill(slot.data(), 0xff, largest);
  }
  executor.sample(stream);
  executor.end(stream);
  stream.synchronize();
  REQUIRE(output.logits.size() == 20u * shape.vocab);
  for (int r = 0; r < 20; r++) {
    CHECK(std::memcmp(&output.logits[r * shape.vocab], expected[r].data(), shape.vocab * sizeof(float)) == 0);
  }
}

TEST(a_step_reads_each_weight_once_whatever_its_rows) {
  const Shape shape = q4_shape(true);
  const Model model = Builder(shape).build();
  Runner runner(model, shape, 2);
  size_t matrices = 0;
  for (const UnitLayout& unit : model.units) {
    for (const LinearLayout& linear : unit.linears) {
      for (const auto& segment : linear.segments) matrices += segment.matrix.bytes;
    }
  }
  uint64_t before = runner.executor().counters().weight_bytes_read;
  for (size_t rows : {1, 8}) {
    runner.run(random_tokens(static_cast<int>(rows), shape.vocab, 1), rows);
    const uint64_t after = runner.executor().counters().weight_bytes_read;
    CHECK_EQ(after - before, matrices);
    before = after;
  }
}

TEST(sample_answers_each_request_in_its_own_way) {
  const Shape shape = q4_shape(true);
  const Model model = Builder(shape).build();
  const std::vector<int> tokens = random_tokens(6, shape.vocab, 1);
  Runner runner(model, shape, 2);
  const Logits logits = runner.run(tokens, 6);
  std::vector<LogitRequest> requests(5);
  requests[0] = {.row = 0, .want_logprob = true};
  requests[1] = {.row = 0, .keep_logits = true, .want_logprob = true, .target = 5};
  requests[2] = {.row = 1};
  requests[3] = {.row = 5, .want_logprob = true, .temperature = 1.0f, .seed = 3, .counter = 9};
  requests[4] = {.row = 5, .sample = false, .keep_logits = true, .want_logprob = true};
  const StepOutput output = runner.step({{2, tokens, 0}}, requests);
  const auto logprob = [&](int row, int token) {
    double sum = 0;
    for (float x : logits[row]) sum += std::exp(static_cast<double>(x) - logits[row][token]);
    return -std::log(sum);
  };
  const auto best = [&](int row) {
    return static_cast<int>(std::max_element(logits[row].begin(), logits[row].end()) - logits[row].begin());
  };
  REQUIRE(output.tokens.size() == 5 && output.logprobs.size() == 5);
  CHECK_EQ(output.tokens[0], best(0));
  CHECK_NEAR(output.logprobs[0], logprob(0, best(0)), 1e-5);
  CHECK_EQ(output.tokens[1], 5);
  CHECK_NEAR(output.logprobs[1], logprob(0, 5), 1e-5);
  CHECK_EQ(output.tokens[2], best(1));
  CHECK(std::isnan(output.logprobs[2]));
  REQUIRE(output.tokens[3] >= 0 && output.tokens[3] < shape.vocab);
  CHECK_NEAR(output.logprobs[3], logprob(5, output.tokens[3]), 1e-5);
  CHECK_EQ(output.tokens[4], -1);
  REQUIRE(output.logits.size() == 2u * shape.vocab);
  CHECK(std::memcmp(output.logits.data(), logits[0].data(), shape.vocab * sizeof(float)) == 0);
  CHECK(std::memcmp(&output.logits[shape.vocab], logits[5].data(), shape.vocab * sizeof(float)) == 0);
}

// Requests of one row, each with adjustments of its own: none sees another's, and log-probabilities see none.
TEST(adjustments_belong_to_their_request) {
  const Shape shape = q4_shape(true);
  const Model model = Builder(shape).build();
  const std::vector<int> tokens = random_tokens(4, shape.vocab, 2);
  Runner runner(model, shape, 3);
  const Logits logits = runner.run(tokens, 4);
  std::vector<int> order(shape.vocab);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[3][a] > logits[3][b]; });
  const float forbidden = -std::numeric_limits<float>::infinity();
  const std::vector<LogitAdjustment> adjustments = {
      {order[0], 0, 0, forbidden}, {order[9], 0, 0, 100.0f}, {order[0], 1, 2, 0.0f}, {order[1], 1, 1, 0.0f}};
  std::vector<LogitRequest> requests = {
      {.row = 3, .want_logprob = true},
      {.row = 3, .want_logprob = true, .adjustments_begin = 0, .adjustments = 1},
      {.row = 3, .want_logprob = true, .adjustments_begin = 1, .adjustments = 1, .top_logprobs = 3},
      {.row = 3, .frequency_penalty = 1000.0f, .adjustments_begin = 2, .adjustments = 2},
      {.row = 3, .presence_penalty = 1000.0f, .adjustments_begin = 3, .adjustments = 1, .top_logprobs = 1}};
  const StepOutput output = runner.step({{2, tokens, 0}}, requests, adjustments);
  CHECK_EQ(output.tokens[0], order[0]);
  CHECK_EQ(output.tokens[1], order[1]);
  CHECK_EQ(output.tokens[2], order[9]);
  CHECK_EQ(output.tokens[3], order[2]);
  CHECK_EQ(output.tokens[4], order[0]);
  CHECK(output.top_tokens == std::vector<int32_t>({order[0], order[1], order[2], order[0]}));
  CHECK_EQ(output.top_logprobs[0], output.logprobs[0]);
  CHECK_EQ(output.top_logprobs[1], output.logprobs[1]);
  CHECK_EQ(output.top_logprobs[3], output.logprobs[0]);
  requests[4].adjustments = 2;
  CHECK_THROWS_CODE(runner.step({{2, tokens, 0}}, requests, adjustments), "INTERNAL");
  CHECK_THROWS_CODE(runner.step({{2, tokens, 0}}, {{.row = 3}}, {{shape.vocab}}), "INTERNAL");
}

TEST(a_row_of_nan_is_reported_and_spares_its_neighbours) {
  Shape shape;
  Model model = Builder(shape).build();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(&model.embedding_rows[size_t{3} * shape.hidden * sizeof(float)], &nan, sizeof nan);
  Runner runner(model, shape, 2);
  const std::vector<LogitRequest> requests = {{.row = 0, .want_logprob = true}, {.row = 1, .want_logprob = true}};
  const StepOutput output = runner.step({{0, {3}, 0}, {1, {4}, 0}}, requests);
  CHECK_EQ(output.tokens[0], -1);
  CHECK(std::isnan(output.logprobs[0]));
  CHECK(output.tokens[1] >= 0);
  CHECK(std::isfinite(output.logprobs[1]));
}

TEST(a_step_that_does_not_fit_is_refused_whole) {
  const Shape shape;
  const Model model = Builder(shape).build();
  Runner runner(model, shape, 1);
  const char* refused = "INTERNAL";
  CHECK_THROWS_CODE(runner.step({{0, {shape.vocab}, 0}}), refused);
  CHECK_THROWS_CODE(runner.step({{0, {-1}, 0}}), refused);
  CHECK_THROWS_CODE(runner.step({{0, {1}, shape.max_context}}), refused);
  CHECK_THROWS_CODE(runner.step({{6, {1}, 0}}), refused);
  CHECK_THROWS_CODE(runner.step({{-1, {1}, 0}}), refused);
  CHECK_THROWS_CODE(runner.step({{0, std::vector<int>(shape.max_rows + 1, 1), 0}}), refused);
  CHECK_THROWS_CODE(runner.step({}), refused);
  CHECK_THROWS_CODE(runner.step({{0, {1, 2}, 0}}, {{.row = 1}, {.row = 0}}), refused);
  CHECK_THROWS_CODE(runner.step({{0, {1}, 0}}, {{.row = 1}}), refused);
  CHECK_THROWS_CODE(runner.step({{0, {1}, 0}}, {{.row = 0, .target = shape.vocab}}), refused);
  // A block table too short for its positions, and one that names no block.
  std::vector<int32_t> tokens(1, 1), positions(1, kKvBlockTokens), sequences(1, 0), table = {0, 1};
  Step step;
  step.rows = 1;
  step.tokens = tokens;
  step.positions = positions;
  step.sequences = sequences;
  step.block_tables = table;
  step.block_table_stride = 1;
  StepOutput output;
  CHECK_THROWS_CODE(runner.executor().begin(runner.stream(), step, output), refused);
  step.block_table_stride = 2;
  for (int32_t block : {-1, 1 << 20}) {
    table[1] = block;
    CHECK_THROWS_CODE(runner.executor().begin(runner.stream(), step, output), refused);
  }
  CHECK_EQ(runner.run({1, 2, 3}, 3).size(), 3u);  // still works
}

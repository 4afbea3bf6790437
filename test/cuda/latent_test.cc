// Latent attention on a GPU against the twin, over caches of random latents: numbers, and the bits that rows have
// alone, in crowds and in chunks, with weights that stay and weights that come.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>

#include "backend/cpu/cpu_backend.h"
#include "check.h"
#include "core/half.h"
#include "cuda/cuda_backend.h"
#include "gpu.h"
#include "stream/synthetic.h"

using namespace millrace;

namespace {

constexpr int kHidden = 256, kVocab = 256, kMostRows = 64;

struct Shape {
  int heads, rank, nope, rotary, value_dim;
  bool interleaved;
};

// The residual stream becomes what attention finds alone, so that nothing beside it hides its errors.
Program program_of(const Shape& shape) {
  enum Value : int { residual, logits, q, latent, out };
  Program p;
  p.vocab = kVocab;
  p.max_position = 8192;
  const int queries = shape.heads * (shape.nope + shape.rotary), key = shape.rank + shape.rotary;
  p.values = {kHidden, kVocab, queries, key, shape.heads * shape.value_dim};
  p.logits = logits;
  p.tables = {kHidden};
  p.embed = {GatherOp{0, residual}};
  KvClass kv;
  kv.layers = 2, kv.kv_heads = 1, kv.head_dim = key, kv.latent = true;
  p.kv = {kv};
  p.ropes.resize(1);
  p.ropes[0].head_dim = p.ropes[0].rotary = shape.rotary;
  for (int layer = 0; layer < 2; layer++) {
    LatentOp op;
    op.q = q, op.latent = latent, op.out = out, op.linear = 2;
    op.heads = shape.heads, op.rank = shape.rank, op.nope = shape.nope, op.rotary = shape.rotary;
    op.value_dim = shape.value_dim, op.kv_layer = layer, op.interleaved = shape.interleaved;
    op.scale =
        4.0f / std::sqrt(static_cast<float>(shape.nope + shape.rotary));  // few positions have most of the weight
    ProgramUnit unit;
    unit.name = "attention " + std::to_string(layer);
    unit.layer = layer;
    unit.linears = {{kHidden, {queries}},
                    {kHidden, {key}},
                    {shape.rank, {shape.heads * (shape.nope + shape.value_dim)}},
                    {shape.heads * shape.value_dim, {kHidden}}};
    unit.ops = {LinearOp{residual, q, 0}, LinearOp{residual, latent, 1}, op, LinearOp{out, residual, 3, layer > 0}};
    p.units.push_back(unit);
  }
  ProgramUnit head;
  head.name = "head";
  head.layer = 1;
  head.head = true;
  head.linears = {{kHidden, {kVocab}}};
  head.ops = {LinearOp{residual, logits, 0}};
  p.units.push_back(head);
  return p;
}

struct Row {
  int token, sequence, position;
};

// A cache of `blocks` blocks: sequences share what is older than their last 64 positions, and have blocks of their own
// there.
struct Cache {
  int context, shared;
  std::vector<uint16_t> halves;  // of both layers

  Cache(const Program& program, int longest) : context(longest), shared((longest + 15) / 16) {
    halves.resize(static_cast<size_t>(blocks()) * kv_block_bytes(program.kv[0]) / 2 * 2);
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal;
    for (uint16_t& half : halves) half = float_to_half(normal(random));
  }
  static constexpr int kOwn = 6;
  int blocks() const { return shared + kMostRows * kOwn; }
  int block(int sequence, int index, int last) const {
    if (index > last - kOwn) return shared + sequence * kOwn + index % kOwn;
    return (index * 7 + sequence * 5) % shared;
  }
};

// Input features of what makes keys and values in an order of their own (act-order), behind each slab.
struct Slabs {
  std::vector<UnitLayout> units;
  std::vector<std::vector<std::byte>> bytes;
};
Slabs slabs_of(const HostModel& host, bool permuted) {
  Slabs slabs{host.units(), {}};
  for (size_t u = 0; u < slabs.units.size(); u++) {
    UnitLayout& unit = slabs.units[u];
    slabs.bytes.emplace_back(host.slab(static_cast<int>(u)), host.slab(static_cast<int>(u)) + unit.bytes);
    if (!permuted || unit.linears.size() < 4) continue;
    MatrixLayout& matrix = unit.linears[2].segments.front().matrix;
    std::vector<int32_t> order(static_cast<size_t>(matrix.k_stored));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937_64(u));
    matrix.code.permuted = true;
    matrix.permutation_offset = unit.bytes;
    unit.bytes = round_up(unit.bytes + order.size() * sizeof(int32_t), kSlabAlignment);
    slabs.bytes.back().resize(unit.bytes);
    std::memcpy(slabs.bytes.back().data() + matrix.permutation_offset, order.data(), order.size() * sizeof(int32_t));
  }
  return slabs;
}

// A device that has the model and starts each pass with the same cache.
class Computer {
 public:
  Computer(std::unique_ptr<Backend> backend, const HostModel& host, const Slabs& slabs, const Cache& cache,
           int max_context, bool permanent)
      : backend_(std::move(backend)), cache_(cache), host_(host), stream_(backend_->create_stream()) {
    kv_ = backend_->allocate(cache.halves.size() * sizeof(uint16_t), "the cache");
    ExecutorConfig config;
    config.program = host.program();
    config.units = slabs.units;
    for (const TableLayout& table : host.tables())
      config.tables.push_back({host.embedding() + table.offset, table.type});
    KvMemory kv;
    kv.data = kv_->data();
    kv.blocks = cache.blocks();
    config.kv = {kv};
    config.max_rows = config.max_logit_rows = kMostRows;
    config.max_context = max_context;
    executor_ = backend_->create_executor(config);
    for (size_t unit = 0; unit < host.units().size(); unit++) {
      const std::vector<std::byte>& bytes = slabs.bytes[unit];
      slabs_.push_back(backend_->allocate(bytes.size(), "a slab"));
      stream_->copy(slabs_.back()->data(), bytes.data(), bytes.size());
      stream_->synchronize();
      executor_->set_unit(*stream_, static_cast<int>(unit), slabs_.back()->data(), permanent);
    }
    reset();
  }

  void reset() {
    stream_->copy(kv_->data(), reinterpret_cast<const std::byte*>(cache_.halves.data()),
                  cache_.halves.size() * sizeof(uint16_t));
    stream_->synchronize();
  }

  // Logits of all rows.
  std::vector<float> run(const std::vector<Row>& rows, bool decode) {
    Step step;
    step.rows = static_cast<int>(rows.size());
    step.decode_rows = decode ? step.rows : 0;
    std::vector<int32_t> tokens, positions, sequences, tables;
    std::vector<int> lasts;  // of each sequence, its last block
    std::vector<int> names;
    for (const Row& row : rows) {
      if (names.empty() || names.back() != row.sequence) names.push_back(row.sequence), lasts.push_back(0);
      lasts.back() = row.position / kKvBlockTokens;
      tokens.push_back(row.token);
      positions.push_back(row.position);
      sequences.push_back(static_cast<int32_t>(names.size()) - 1);
    }
    step.block_table_stride = *std::max_element(lasts.begin(), lasts.end()) + 1;
    for (size_t s = 0; s < names.size(); s++) {
      for (int b = 0; b < step.block_table_stride; b++) {
        tables.push_back(b > lasts[s] ? 0 : cache_.block(names[s], b, decode ? lasts[s] : (cache_.context - 1) / 16));
      }
    }
    std::vector<LogitRequest> requests(rows.size());
    for (size_t r = 0; r < rows.size(); r++) {
      requests[r].row = static_cast<int32_t>(r);
      requests[r].keep_logits = true;
      requests[r].sample = false;
    }
    step.tokens = tokens;
    step.positions = positions;
    step.sequences = sequences;
    step.block_tables = tables;
    step.logits = requests;
    StepOutput& output = outputs_[passes_++ % 2];  // an executor knows its passes by them
    executor_->begin(*stream_, step, output);
    executor_->embed(*stream_);
    for (size_t unit = 0; unit < host_.units().size(); unit++) executor_->run(*stream_, static_cast<int>(unit));
    executor_->sample(*stream_);
    executor_->end(*stream_);
    stream_->synchronize();
    executor_->collect(output);
    return output.logits;
  }

 private:
  std::unique_ptr<Backend> backend_;
  const Cache& cache_;
  const HostModel& host_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Memory> kv_;
  std::vector<std::unique_ptr<Memory>> slabs_;
  std::unique_ptr<Executor> executor_;
  StepOutput outputs_[2];
  int passes_ = 0;
};

std::shared_ptr<const HostModel> model_of(const Shape& shape, WeightType type) {
  SyntheticOptions options;
  options.layers = type;
  options.group = 32;
  options.zeros = true;
  options.head = WeightType::f32;
  options.embedding = WeightType::f32;
  ThreadPool pool(2);
  return synthetic_model(program_of(shape), options, pool);
}

// Of decode rows, each of a sequence of its own: the first sees all of the context, the others parts of it.
std::vector<Row> decode_rows(int rows, int context) {
  std::vector<Row> out;
  for (int r = 0; r < rows; r++) out.push_back({(r * 37 + 5) % kVocab, r, r == 0 ? context - 1 : (r * 977) % context});
  return out;
}
std::vector<Row> prompt_rows(int rows, int context) {
  std::vector<Row> out;
  for (int r = 0; r < rows; r++) out.push_back({(r * 37 + 5) % kVocab, 0, context - rows + r});
  return out;
}

double relative_error(const std::vector<float>& found, const std::vector<float>& expected) {
  if (found.size() != expected.size() || found.empty()) return INFINITY;
  double difference = 0, size = 0;
  for (size_t i = 0; i < found.size(); i++) {
    difference += std::pow(static_cast<double>(found[i]) - expected[i], 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(difference / size);
}

std::unique_ptr<Backend> twin() {
  return create_cpu_backend(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
}

void check_shape(const Shape& shape, WeightType type, int context, const std::vector<int>& counts, const char* name,
                 bool permuted = false) {
  const auto host = model_of(shape, type);
  const Cache cache(host->program(), context);
  const Slabs slabs = slabs_of(*host, permuted);
  Computer cpu(twin(), *host, slabs, cache, context, true);
  Computer gpu(create_cuda_backend(0), *host, slabs, cache, context, true);
  Computer other(create_cuda_backend(0), *host, slabs, cache, 8192,
                 false);  // weights may not be read early, contexts are longer
  double worst = 0;
  for (const bool decode : {true, false}) {
    for (const int count : counts) {
      const std::vector<Row> rows =
          decode ? decode_rows(count, context) : prompt_rows(std::min(count, context), context);
      const auto fresh = [&](Computer& computer, const std::vector<Row>& of) {
        computer.reset();
        return computer.run(of, decode);
      };
      const std::vector<float> found = fresh(gpu, rows);
      worst = std::max(worst, relative_error(found, fresh(cpu, rows)));
      CHECK(fresh(gpu, rows) == found);
      CHECK(fresh(other, rows) == found);
      if (rows.size() < 2) continue;
      // Decode rows alone; a prompt in two chunks.
      std::vector<float> apart;
      gpu.reset();
      const auto add = [&](std::vector<Row> of) {
        const std::vector<float> own = gpu.run(of, decode);
        apart.insert(apart.end(), own.begin(), own.end());
      };
      if (decode) {
        for (const Row& row : rows) add({row});
      } else {
        const auto middle = rows.begin() + static_cast<ptrdiff_t>(rows.size() / 3);
        if (middle != rows.begin()) add({rows.begin(), middle});
        add({middle, rows.end()});
      }
      CHECK(apart == found);
    }
  }
  std::printf("%s, %s, %d positions: relative error %.1e\n", name, name_of(type), context, worst);
  CHECK(worst < 4e-3);
}

}  // namespace

TEST(heads_ranks_and_contexts) {
  require_gpus();
  const std::vector<int> few = {1, 2, 17, 64};
  check_shape({16, 512, 128, 64, 128, true}, WeightType::q4, 100, few, "16 heads of 512");
  check_shape({16, 512, 128, 64, 128, true}, WeightType::q4, 4096, few, "16 heads of 512");
  check_shape({20, 512, 192, 64, 256, true}, WeightType::q4, 1000, few, "20 heads of 512");
  check_shape({20, 512, 192, 64, 256, false}, WeightType::q4, 4001, few, "20 heads of 512");
  check_shape({64, 512, 128, 64, 128, true}, WeightType::q4, 1500, {1, 9, 64}, "64 heads of 512");
  check_shape({128, 512, 128, 64, 128, true}, WeightType::q4, 700, {1, 40}, "128 heads of 512");
  check_shape({40, 256, 64, 32, 64, true}, WeightType::q4, 900, few, "40 heads of 256");
  check_shape({16, 64, 32, 32, 32, true}, WeightType::q4, 65, few, "16 heads of 64");
  check_shape({4, 96, 48, 16, 80, false}, WeightType::f16, 64, few, "4 heads of 96");
  check_shape({33, 160, 16, 16, 16, true}, WeightType::f16, 129, few, "33 heads of 160");
}

TEST(weights_of_every_code) {
  require_gpus();
  for (int type = 0; type < kWeightTypes; type++) {
    check_shape({16, 256, 48, 16, 80, true}, static_cast<WeightType>(type), 200, {1, 33}, "16 heads of 256");
  }
}

TEST(weights_in_an_order_of_their_own) {
  require_gpus();
  for (const WeightType type : {WeightType::q4, WeightType::q8, WeightType::f16}) {
    check_shape({20, 256, 48, 16, 80, true}, type, 300, {1, 33}, "20 heads, act-order", true);
  }
}

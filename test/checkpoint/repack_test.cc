#include "checkpoint/repack.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <stdexcept>
#include <thread>

#include "check.h"
#include "checkpoint/linear_reader.h"
#include "core/error.h"
#include "core/memory.h"
#include "tiny_model.h"

using namespace millrace;
using namespace millrace::testing;

namespace {

struct Packed {
  SlabPlan plan;
  std::vector<std::vector<std::byte>> slabs;
  std::vector<std::byte> embedding;
  RepackReport report;
};

// Slabs start out full of garbage: every byte must be written.
Packed pack(const Checkpoint& checkpoint, const ModelSource& source, int threads = 2, uint8_t garbage = 0xa5,
            const RepackOptions& options = {}) {
  Packed packed;
  packed.plan = plan_slabs(checkpoint, source);
  std::vector<std::byte*> slabs;
  for (const UnitLayout& unit : packed.plan.units)
    packed.slabs.emplace_back(unit.bytes, static_cast<std::byte>(garbage));
  for (auto& slab : packed.slabs) slabs.push_back(slab.data());
  packed.embedding.resize(packed.plan.embedding_bytes, static_cast<std::byte>(garbage));
  ThreadPool pool(threads);
  packed.report = repack(checkpoint, packed.plan, slabs, packed.embedding.data(), pool, options);
  return packed;
}

// A linear of a slab as one matrix [n, k].
std::vector<float> decode(const LinearLayout& linear, const std::byte* slab) {
  std::vector<float> out;
  for (const LinearLayout::Segment& segment : linear.segments) {
    CHECK_EQ(static_cast<size_t>(segment.out_begin) * linear.k, out.size());
    CHECK_EQ(segment.matrix.k, linear.k);
    const std::vector<float> part = decode_matrix(segment.matrix, slab);
    out.insert(out.end(), part.begin(), part.end());
  }
  CHECK_EQ(static_cast<size_t>(linear.n) * linear.k, out.size());
  return out;
}

std::vector<float> floats_at(const std::byte* slab, size_t offset, size_t count) {
  std::vector<float> out(count);
  std::memcpy(out.data(), slab + offset, count * sizeof(float));
  return out;
}

// Row `row` of the linear (its place given by `place`) holds row i of `dense`, and so does the bias.
void check_linear(const LinearLayout& layout, const std::byte* slab, const Dense& dense, const std::string& name,
                  const std::function<int(int)>& place) {
  const std::vector<float> decoded = decode(layout, slab);
  REQUIRE(layout.k == dense.k);
  int wrong = 0;
  for (int n = 0; n < dense.n; n++) {
    for (int k = 0; k < dense.k; k++) {
      const float found = decoded[static_cast<size_t>(place(n)) * dense.k + k];
      if (found != dense.at(n, k) && wrong++ == 0) {
        check::fail(__FILE__, __LINE__,
                    name + " [" + std::to_string(n) + ", " + std::to_string(k) + "]: expected " +
                        std::to_string(dense.at(n, k)) + ", found " + std::to_string(found));
      }
    }
  }
  CHECK_EQ(wrong, 0);
  if (!dense.bias.empty()) CHECK(layout.has_bias);
  if (layout.has_bias) {
    const std::vector<float> bias = floats_at(slab, layout.bias_offset, static_cast<size_t>(layout.n));
    for (int n = 0; n < dense.n; n++) CHECK_EQ(bias[place(n)], dense.bias.empty() ? 0.0f : dense.bias[n]);
  }
}

// All of a model's slabs against what its tensors mean.
void check_model(const TinyModel& model, const Packed& packed) {
  const DenseSpec& spec = model.source.spec;
  REQUIRE(packed.plan.units.size() == static_cast<size_t>(unit_count(spec)));
  const auto at = [](int first) { return [first](int n) { return first + n; }; };
  for (int l = 0; l < spec.layers; l++) {
    const std::string layer = std::to_string(l) + ".";
    const UnitLayout& attention = packed.plan.units[attention_unit(l)];
    const std::byte* slab = packed.slabs[attention_unit(l)].data();
    CHECK(floats_at(slab, attention.vectors[0], spec.hidden) == model.norms.at(layer + "attention"));
    if (spec.qk_norm) {
      CHECK(floats_at(slab, attention.vectors[1], spec.head_dim) == model.norms.at(layer + "query"));
      CHECK(floats_at(slab, attention.vectors[2], spec.head_dim) == model.norms.at(layer + "key"));
    }
    check_linear(attention.linears[0], slab, model.linears.at(layer + "query"), layer + "query", at(0));
    check_linear(attention.linears[0], slab, model.linears.at(layer + "key"), layer + "key", at(spec.query_width()));
    check_linear(attention.linears[0], slab, model.linears.at(layer + "value"), layer + "value",
                 at(spec.query_width() + spec.kv_width()));
    check_linear(attention.linears[1], slab, model.linears.at(layer + "output"), layer + "output", at(0));

    const UnitLayout& unit = packed.plan.units[feed_forward_unit(l)];
    slab = packed.slabs[feed_forward_unit(l)].data();
    CHECK(floats_at(slab, unit.vectors[0], spec.hidden) == model.norms.at(layer + "feed_forward"));
    const bool interleaved = unit.linears[0].interleaved;
    const int padded = (spec.intermediate + 7) / 8 * 8;
    CHECK_EQ(unit.linears[0].n, 2 * (interleaved ? padded : spec.intermediate));
    check_linear(unit.linears[0], slab, model.linears.at(layer + "gate"), layer + "gate",
                 [&](int n) { return interleaved ? 16 * (n / 8) + n % 8 : n; });
    check_linear(unit.linears[0], slab, model.linears.at(layer + "up"), layer + "up",
                 [&](int n) { return interleaved ? 16 * (n / 8) + 8 + n % 8 : spec.intermediate + n; });
    if (interleaved) {
      const std::vector<float> decoded = decode(unit.linears[0], slab);
      for (int n = spec.intermediate; n < padded; n++) {
        for (int k = 0; k < spec.hidden; k++) {
          CHECK_EQ(decoded[static_cast<size_t>(16 * (n / 8) + n % 8) * spec.hidden + k], 0.0f);
          CHECK_EQ(decoded[static_cast<size_t>(16 * (n / 8) + 8 + n % 8) * spec.hidden + k], 0.0f);
        }
      }
    }
    check_linear(unit.linears[1], slab, model.linears.at(layer + "down"), layer + "down", at(0));
  }
  const UnitLayout& head = packed.plan.units[head_unit(spec)];
  const std::byte* slab = packed.slabs[head_unit(spec)].data();
  CHECK(floats_at(slab, head.vectors[0], spec.hidden) == model.norms.at("final"));
  check_linear(head.linears[0], slab, model.linears.at("head"), "head", at(0));
}

void check_float_padding(const MatrixLayout& m, const std::byte* data) {
  const size_t bytes = element_bytes(m.code.type);
  for (int block = 0; block < m.n_blocks(); block++) {
    for (int s = 0; s < m.slices(); s++) {
      const std::byte* tile = data + m.tile_offset(block, s);
      for (int e = 0; e < kTileN * kTileK; e++) {
        const int i = e % 8, lane = e / 8 % 32, j = e / 256;
        const int n = block * kTileN + 16 * j + 8 * ((i / 2) % 2) + lane / 4;
        const int k = s * kTileK + 2 * (lane % 4) + 8 * (i / 4) + i % 2;
        if (n < m.n && k < m.k) continue;
        for (size_t b = 0; b < bytes; b++) CHECK_EQ(tile[e * bytes + b], std::byte{0});
      }
    }
  }
}

// Padding is stored as weight zero by itself: q equal to the zero point in a real output feature, and scale zero in a
// padded one, so that a kernel may compute over all of a tile.
void check_padding(const MatrixLayout& m, const std::byte* slab) {
  if (!m.grouped()) {
    check_float_padding(m, slab + m.offset);
    return;
  }
  std::vector<int32_t> permutation(m.k_stored);
  for (int i = 0; i < m.k_stored; i++) permutation[i] = i < m.k ? i : kPadding;
  if (m.code.permuted) std::memcpy(permutation.data(), slab + m.permutation_offset, permutation.size() * 4);
  int seen = 0;
  for (const int32_t feature : permutation) seen += feature != kPadding;
  CHECK_EQ(seen, m.k);
  const std::byte* data = slab + m.offset;
  for (int block = 0; block < m.n_blocks(); block++) {
    for (int s = 0; s < m.slices(); s++) {
      uint8_t q[kTileN * kTileK];
      decode_tile(m.code.type, data + m.tile_offset(block, s), q);
      const std::byte* group = data + m.group_offset(block, s * kTileK / m.code.group);
      for (int n = 0; n < kTileN; n++) {
        const int zero = m.code.zeros ? static_cast<int>(group[128 + tile_index(n)]) : m.code.traits().zero;
        uint16_t scale;
        std::memcpy(&scale, group + 2 * tile_index(n), 2);
        const bool padded = block * kTileN + n >= m.n;
        if (padded) CHECK_EQ(scale, 0);
        for (int k = 0; k < kTileK; k++) {
          if (padded || permutation[s * kTileK + k] == kPadding) CHECK_EQ(q[n * kTileK + k], zero);
        }
      }
    }
  }
}

void check_all_padding(const Packed& packed) {
  for (size_t u = 0; u < packed.plan.units.size(); u++) {
    for (const LinearLayout& linear : packed.plan.units[u].linears) {
      for (const LinearLayout::Segment& segment : linear.segments)
        check_padding(segment.matrix, packed.slabs[u].data());
    }
  }
}

struct Written {
  TempFolder folder;
  std::unique_ptr<Checkpoint> checkpoint;
};

std::unique_ptr<Written> write(const TinyModel& model, bool aligned = true) {
  auto written = std::make_unique<Written>();
  model.writer.write(written->folder / "model.safetensors", aligned);
  written->checkpoint = std::make_unique<Checkpoint>(std::vector<std::string>{written->folder / "model.safetensors"});
  return written;
}

// Builds, writes, packs and checks; the slabs must not depend on threads or on what the memory held.
Packed round_trip(TinyModel& model, bool aligned = true) {
  const auto written = write(model, aligned);
  Packed packed = pack(*written->checkpoint, model.source);
  check_model(model, packed);
  check_all_padding(packed);
  const Packed again = pack(*written->checkpoint, model.source, 1, 0x3c);
  CHECK(again.slabs == packed.slabs);
  CHECK(again.embedding == packed.embedding);
  return packed;
}

const DenseSpec kSpec = tiny_spec(192, 5, 1, 40, 264, 104);

// The call throws this code and names all of `words`.
void refused(const std::function<void()>& call, const char* code, const std::vector<std::string>& words) {
  try {
    call();
  } catch (const Error& error) {
    const std::string message = error.what();
    if (std::string(error.code()) != code) check::fail(__FILE__, __LINE__, std::string(error.code()) + ": " + message);
    for (const std::string& word : words) {
      if (message.find(word) == std::string::npos) check::fail(__FILE__, __LINE__, "'" + word + "' not in: " + message);
    }
    return;
  }
  check::fail(__FILE__, __LINE__, "not refused: " + (words.empty() ? std::string() : words[0]));
}

}  // namespace

TEST(gptq_round_trips_at_any_group_size) {
  uint64_t seed = check::seed() * 1000;
  for (const int version : {1, 2}) {
    for (const Zeros zeros : {Zeros::symmetric, Zeros::random}) {
      for (const int group : {8, 16, 32, 40, 64, 128, 1024, -1}) {
        for (const Order order : {Order::absent, Order::act_order}) {
          TinyModel model(seed++);
          model.build(kSpec, gptq(group, zeros, order, version), {{"head", plain("F16")}});
          const Packed packed = round_trip(model, seed % 2 == 0);
          for (const UnitLayout& unit : packed.plan.units) {
            for (const LinearLayout& linear : unit.linears) {
              for (const auto& segment : linear.segments) {
                if (segment.matrix.code.type == WeightType::q4)
                  CHECK_EQ(segment.matrix.code.zeros, zeros == Zeros::random);
              }
            }
          }
        }
      }
    }
  }
}

TEST(eight_bits_round_trip_at_any_group_size) {
  uint64_t seed = check::seed() * 1000 + 7000;
  for (const LinearFormat format : {LinearFormat::gptq, LinearFormat::compressed_tensors}) {
    for (const Zeros zeros : {Zeros::symmetric, Zeros::random}) {
      for (const int group : {8, 16, 32, 40, 64, 96, 128, 1024, -1}) {
        for (const Order order : {Order::absent, Order::act_order}) {
          TinyModel model(seed++);
          LinearKind kind = of_format(format, gptq(group, zeros, order, 1 + static_cast<int>(seed % 2)));
          kind.bits = 8;
          kind.dtype = seed % 3 == 0 ? "BF16" : "F16";
          model.build(kSpec, kind, {{"0.output", gptq(64)}});
          const Packed packed = round_trip(model, seed % 2 == 0);
          const MatrixCode& code = packed.plan.units[0].linears[0].segments[0].matrix.code;
          CHECK(code.type == WeightType::q8);
          CHECK_EQ(code.zeros, zeros == Zeros::random);
          CHECK(code.group == 32 || code.group == 64);
          if (order == Order::absent && group % 32 == 0) CHECK(!code.permuted);
          CHECK(packed.plan.units[0].linears[1].segments[0].matrix.code.type == WeightType::q4);
        }
      }
    }
  }
}

TEST(awq_round_trips_at_any_group_size) {
  uint64_t seed = check::seed() * 1000 + 300;
  for (const Zeros zeros : {Zeros::symmetric, Zeros::eights, Zeros::random}) {
    for (const int group : {8, 16, 32, 40, 64, 128, 1024, -1}) {
      TinyModel model(seed++);
      LinearKind kind = of_format(LinearFormat::awq, gptq(group, zeros));
      kind.dtype = seed % 3 == 0 ? "BF16" : "F16";
      kind.bias = seed % 2 == 0;
      model.build(kSpec, kind, {{"head", of_format(LinearFormat::awq, gptq(group, zeros))}});
      const Packed packed = round_trip(model, seed % 2 == 0);
      for (const UnitLayout& unit : packed.plan.units) {
        CHECK_EQ(unit.linears[0].segments[0].matrix.code.zeros, zeros == Zeros::random);
      }
    }
  }
}

TEST(compressed_tensors_round_trips_at_any_group_size) {
  uint64_t seed = check::seed() * 1000 + 400;
  for (const Zeros zeros : {Zeros::symmetric, Zeros::eights, Zeros::random}) {
    for (const int group : {8, 16, 32, 40, 64, 128, 1024, -1}) {
      for (const Order order : {Order::absent, Order::sequential, Order::act_order}) {
        TinyModel model(seed++);
        LinearKind kind = of_format(LinearFormat::compressed_tensors, gptq(group, zeros, order));
        kind.dtype = seed % 3 == 0 ? "BF16" : "F16";
        // A vocabulary that is no multiple of 8, so that a word of the head's zeros is padded.
        model.build(tiny_spec(192, 5, 1, 40, 264, 107), kind);
        const Packed packed = round_trip(model, seed % 2 == 0);
        for (const UnitLayout& unit : packed.plan.units) {
          const MatrixCode& code = unit.linears[0].segments[0].matrix.code;
          CHECK_EQ(code.zeros, zeros == Zeros::random);
          if (order != Order::act_order && group % 16 == 0) CHECK(!code.permuted);
        }
      }
    }
  }
}

TEST(normed_heads_have_their_weights_in_the_slab) {
  for (const char* dtype : {"F16", "BF16", "F32"}) {
    TinyModel model(check::seed() + 450);
    DenseSpec spec = kSpec;
    spec.qk_norm = true;
    model.build(spec, gptq(32, Zeros::random), {}, "F16", false, dtype);
    const Packed packed = round_trip(model);
    // Without them, nothing else moves into other bytes: they stand between norm and first linear.
    model.source.spec.qk_norm = false;
    const auto written = write(model);
    const Packed without = pack(*written->checkpoint, model.source);
    CHECK_EQ(packed.plan.units[0].bytes, without.plan.units[0].bytes + 2 * kSlabAlignment);
    CHECK_EQ(packed.plan.units[1].bytes, without.plan.units[1].bytes);
  }
}

// K = 576 in groups of 128: the last group is short.
TEST(gptq_with_a_short_last_group) {
  for (const Order order : {Order::sequential, Order::act_order, Order::uneven}) {
    for (const Zeros zeros : {Zeros::symmetric, Zeros::random}) {
      TinyModel model(check::seed() * 1000 + 500 + static_cast<int>(order));
      model.build(tiny_spec(576, 3, 1, 64, 200, 192), gptq(128, zeros, order), {{"head", gptq(128, zeros, order)}},
                  "BF16");
      const Packed packed = round_trip(model);
      const MatrixLayout& qkv = packed.plan.units[0].linears[0].segments[0].matrix;
      CHECK_EQ(qkv.code.permuted, order != Order::sequential);
      if (order == Order::sequential) {
        CHECK_EQ(qkv.k_stored, 576);
        CHECK_EQ(qkv.groups(), 5);
      }
    }
  }
}

TEST(sequential_g_idx_needs_no_permutation) {
  for (const Order order : {Order::absent, Order::sequential}) {
    TinyModel model(check::seed() + 40);
    model.build(kSpec, gptq(64, Zeros::random, order));
    const Packed packed = round_trip(model);
    const MatrixLayout& m = packed.plan.units[0].linears[0].segments[0].matrix;
    CHECK(!m.code.permuted);
    CHECK_EQ(m.code.group, 64);
    CHECK_EQ(m.k_stored, 192);
  }
  // Groups that are no multiple of a tile's 16 input features are padded, each by itself.
  TinyModel model(check::seed() + 41);
  model.build(kSpec, gptq(40));
  const MatrixLayout m = round_trip(model).plan.units[0].linears[0].segments[0].matrix;
  CHECK(m.code.permuted);
  CHECK_EQ(m.code.group, 48);
  CHECK_EQ(m.k_stored, 4 * 48 + 32);
}

// A whole number of words, but half a tile.
TEST(k_may_be_an_odd_multiple_of_8) {
  for (const int group : {32, -1, 8}) {
    for (const Order order : {Order::sequential, Order::act_order}) {
      TinyModel model(check::seed() + 60 + static_cast<uint64_t>(group));
      model.build(tiny_spec(88, 3, 1, 24, 72, 24), gptq(group, Zeros::random, order));
      round_trip(model);
    }
  }
}

TEST(a_group_without_features_is_left_out) {
  TinyModel model(check::seed() + 70);
  LinearKind kind = gptq(32);
  model.build(kSpec, kind);
  // All of the query's input features in group 3 of 6.
  Dense& query = model.linears["0.query"];
  LinearSource& source = model.source.layers[0].query;
  const std::vector<int32_t> threes(192, 3);
  source.g_idx = "threes";
  model.writer.add<int32_t>("threes", "I32", {192}, threes);
  const auto written = write(model);
  const Checkpoint& c = *written->checkpoint;
  const std::byte* scales = c.data(c.require(source.scales));
  const std::byte* words = c.data(c.require(source.weight));
  for (int n = 0; n < query.n; n++) {
    for (int k = 0; k < query.k; k++) {
      uint16_t scale;
      uint32_t word;
      std::memcpy(&scale, scales + (static_cast<size_t>(3) * query.n + n) * 2, 2);
      std::memcpy(&word, words + (static_cast<size_t>(k / 8) * query.n + n) * 4, 4);
      query.weight[static_cast<size_t>(n) * query.k + k] =
          half_to_float(scale) * static_cast<float>(static_cast<int>((word >> (4 * (k % 8))) & 15) - 8);
    }
  }
  const Packed packed = pack(c, model.source);
  check_model(model, packed);
  CHECK_EQ(packed.plan.units[0].linears[0].segments[0].matrix.k_stored, 192);
  CHECK(!packed.plan.units[0].linears[0].segments[0].matrix.code.permuted);
}

TEST(zeros_that_are_all_8_are_dropped) {
  for (const int version : {1, 2}) {
    TinyModel model(check::seed() + 80);
    model.build(kSpec, gptq(64, Zeros::eights, Order::sequential, version));
    for (const UnitLayout& unit : round_trip(model).plan.units) CHECK(!unit.linears[0].segments[0].matrix.code.zeros);
  }
}

TEST(plain_linears_round_trip) {
  for (const char* dtype : {"F16", "BF16", "F32"}) {
    for (const bool tied : {false, true}) {
      for (const bool bias : {false, true}) {
        TinyModel model(check::seed() + 90 + static_cast<uint64_t>(tied));
        LinearKind kind = plain(dtype);
        kind.bias = bias;
        model.build(tiny_spec(100, 6, 2, 18, 171, 77, 2), kind, {}, dtype, tied, tied ? "F32" : "F64");
        const Packed packed = round_trip(model, tied);
        CHECK(packed.plan.units[0].linears[0].segments.size() == 1);
        CHECK(packed.plan.units[1].linears[0].interleaved);
        const auto written = write(model);
        const Tensor& embedding = written->checkpoint->require("embed.weight");
        CHECK_EQ(packed.plan.embedding_bytes, embedding.bytes);
        CHECK(std::memcmp(packed.embedding.data(), written->checkpoint->data(embedding), embedding.bytes) == 0);
      }
    }
  }
}

TEST(interleaved_heads_come_in_order_in_every_format) {
  for (const int rotary : {40, 16}) {
    for (LinearKind kind : {plain("F16"), gptq(32, Zeros::random, Order::act_order),
                            of_format(LinearFormat::awq, gptq(32, Zeros::random)),
                            of_format(LinearFormat::compressed_tensors, gptq(32, Zeros::random))}) {
      kind.bias = true;
      TinyModel model(check::seed() + 95);
      model.build(kSpec, kind);
      DenseLayer& layer = model.source.layers[0];
      for (auto [linear, name] : {std::pair{&layer.query, "0.query"}, {&layer.key, "0.key"}}) {
        linear->heads = {kSpec.head_dim, rotary, true};
        Dense& dense = model.linears.at(name);
        const Dense stored = dense;
        for (int n = 0; n < dense.n; n++) {
          // Rows 2 i and 2 i + 1 are elements i and i + head_dim / 2 of their head; what is not rotated stands between.
          const int within = n % kSpec.head_dim, half = kSpec.head_dim / 2, rest = half - rotary / 2;
          const int beyond = within - rotary;
          const int to =
              n - within +
              (beyond < 0 ? within / 2 + within % 2 * half : rotary / 2 + beyond % rest + beyond / rest * half);
          dense.bias[to] = stored.bias[n];
          for (int k = 0; k < dense.k; k++) dense.weight[static_cast<size_t>(to) * dense.k + k] = stored.at(n, k);
        }
      }
      round_trip(model);
    }
  }
}

TEST(parts_of_one_tensor_are_linears_of_their_own_in_every_format) {
  for (LinearKind kind :
       {plain("BF16"), gptq(32, Zeros::random, Order::act_order), of_format(LinearFormat::awq, gptq(32, Zeros::random)),
        of_format(LinearFormat::compressed_tensors, gptq(32))}) {
    kind.bias = true;
    TinyModel model(check::seed() + 96);
    model.build(kSpec, kind);
    DenseLayer& layer = model.source.layers[0];
    const int n = kSpec.intermediate;
    const LinearSource both = model.add_linear("0.gate_up", kind, 2 * n, kSpec.hidden);
    const Dense whole = model.linears.at("0.gate_up");
    model.linears.erase("0.gate_up");
    for (auto [linear, name, begin] : {std::tuple{&layer.gate, "0.gate", 0}, {&layer.up, "0.up", n}}) {
      *linear = both;
      linear->rows = {begin, 2 * n};
      Dense& dense = model.linears.at(name);
      std::copy_n(whole.weight.begin() + static_cast<ptrdiff_t>(begin) * whole.k, dense.weight.size(),
                  dense.weight.begin());
      dense.bias.assign(whole.bias.begin() + begin, whole.bias.begin() + begin + n);
    }
    round_trip(model);
    layer.up.rows = {n + 1, 2 * n};
    const auto written = write(model);
    refused([&] { plan_slabs(*written->checkpoint, model.source); }, code::kInvalidArgument, {"output features"});
  }
}

namespace {

double relative_rms(const std::vector<float>& found, const std::vector<float>& expected) {
  double error = 0, whole = 0;
  for (size_t i = 0; i < expected.size(); i++) {
    error += std::pow(static_cast<double>(found[i]) - expected[i], 2);
    whole += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(error / whole);
}

// [rows, n] of random rows times W^T.
std::vector<float> project(const std::vector<float>& rows, const std::vector<float>& weights, int k) {
  std::vector<float> out;
  for (size_t r = 0; r < rows.size(); r += static_cast<size_t>(k)) {
    for (size_t n = 0; n < weights.size(); n += static_cast<size_t>(k)) {
      double sum = 0;
      for (int i = 0; i < k; i++) sum += static_cast<double>(rows[r + i]) * weights[n + i];
      out.push_back(static_cast<float>(sum));
    }
  }
  return out;
}

}  // namespace

// 4 bits of normal weights cost about 9 % of their size, 8 bits a sixteenth of that; what the report says of weights
// and logits is what is measured.
TEST(a_head_made_4_or_8_bits_is_as_far_off_as_reported) {
  const struct {
    const char* dtype;
    int hidden, heads, head_dim;
    bool tied;
    int group, bits;
  } cases[] = {{"F16", 256, 4, 64, false, 128, 4},  {"F16", 256, 4, 64, false, 128, 8},
               {"BF16", 192, 3, 64, false, 64, 4},  {"BF16", 192, 3, 64, false, 64, 8},
               {"F32", 72, 3, 24, false, 16, 4},    {"F32", 72, 3, 24, false, 16, 8},
               {"BF16", 640, 10, 64, true, 128, 4}, {"BF16", 640, 10, 64, true, 128, 8}};
  for (const auto& c : cases) {
    TinyModel model(check::seed() + 300 + static_cast<uint64_t>(c.hidden));
    model.build(tiny_spec(c.hidden, c.heads, 1, c.head_dim, 264, 203), plain(c.dtype), {}, c.dtype, c.tied);
    const auto written = write(model);
    const Packed stored = pack(*written->checkpoint, model.source);
    CHECK(!stored.report.head.made);
    DenseSource source = model.source;
    source.head.make_bits = c.bits;
    const Packed packed = pack(*written->checkpoint, source);
    const int unit = head_unit(source.spec);
    const MatrixLayout& matrix = packed.plan.units[unit].linears[0].segments.at(0).matrix;
    CHECK(matrix.code.type == (c.bits == 4 ? WeightType::q4 : WeightType::q8));
    CHECK(!matrix.code.zeros && !matrix.code.permuted);
    CHECK_EQ(matrix.code.group, c.bits == 4 ? c.group : 64);
    CHECK(packed.plan.units[unit].bytes < stored.plan.units[unit].bytes * static_cast<size_t>(c.bits) / 12);
    check_padding(matrix, packed.slabs[unit].data());
    for (int u = 0; u < unit; u++) CHECK(packed.slabs[u] == stored.slabs[u]);

    const Dense& head = model.linears.at("head");
    const std::vector<float> weights = decode(packed.plan.units[unit].linears[0], packed.slabs[unit].data());
    const double error = relative_rms(weights, head.weight);
    CHECK(packed.report.head.made);
    CHECK(std::fabs(packed.report.head.weights - error) < 1e-6);
    const double nibble = c.bits == 4 ? 1 : 1.0 / 16;
    CHECK(error > 0.05 * nibble && error < 0.1 * nibble);
    std::vector<float> rows = model.normal(static_cast<size_t>(64) * c.hidden, 1.0f);
    for (size_t i = 0; i < rows.size(); i++) rows[i] *= model.norms.at("final")[i % c.hidden];
    const double logits = relative_rms(project(rows, weights, c.hidden), project(rows, head.weight, c.hidden));
    std::printf("%s %d, %d bits: weights off by %.4f, logits by %.4f, reported %.4f\n", c.dtype, c.hidden, c.bits,
                error, logits, packed.report.head.results);
    CHECK(std::fabs(packed.report.head.results / logits - 1) < 0.1);
    if (c.bits == 4) CHECK(packed.report.head.results < error);  // what the norm makes large is kept best

    const Packed again = pack(*written->checkpoint, source, 1, 0x3c);
    CHECK(again.slabs == packed.slabs);
    CHECK_EQ(again.report.head.results, packed.report.head.results);
  }
  // No 4-bit code has half a word of input features: such a head stays as it is, and a head that has 4 bits already
  // stays as it is.
  TinyModel odd(check::seed() + 310);
  odd.build(tiny_spec(100, 5, 1, 20, 264, 104), plain("F16"));
  odd.source.head.make_bits = 4;
  CHECK(plan_slabs(*write(odd)->checkpoint, odd.source).units.back().linears[0].segments[0].matrix.code.type ==
        WeightType::f16);
  TinyModel quantised(check::seed() + 311);
  quantised.build(kSpec, gptq(64));
  quantised.source.head.make_bits = 4;
  round_trip(quantised);
  // Weights of nothing, of next to nothing, of one value, and infinite ones.
  const float infinity = std::numeric_limits<float>::infinity();
  for (const auto& [value, bits] : std::vector<std::pair<float, int>>{{0.0f, 4},
                                                                      {1e-40f, 4},
                                                                      {-3.0f, 4},
                                                                      {infinity, 4},
                                                                      {0.0f, 8},
                                                                      {1e-40f, 8},
                                                                      {-3.0f, 8},
                                                                      {3.0f, 8},
                                                                      {infinity, 8}}) {
    TinyModel flat(check::seed() + 312);
    LinearSource head;
    flat.build(kSpec, gptq(64), {{"head", plain("F32")}});
    head.weight = "flat.weight";
    flat.add_floats(head.weight, "F32", {kSpec.vocab, kSpec.hidden},
                    std::vector<float>(static_cast<size_t>(kSpec.vocab) * kSpec.hidden, value));
    flat.source.head = head;
    flat.source.head.make_bits = bits;
    const auto written = write(flat);
    if (std::isinf(value)) {
      refused([&] { pack(*written->checkpoint, flat.source); }, code::kCheckpointInvalid, {"flat.weight", "infinity"});
      continue;
    }
    const Packed packed = pack(*written->checkpoint, flat.source);
    for (const float weight : decode(packed.plan.units.back().linears[0], packed.slabs.back().data())) {
      CHECK(std::fabs(weight - value) <= 1e-3f * std::fabs(value) + 1e-30f);
    }
  }
}

TEST(linears_of_one_input_are_fused_where_they_agree) {
  TinyModel model(check::seed() + 100);
  LinearKind biased = gptq(64);
  biased.bias = true;
  LinearKind bf16 = gptq(64);
  bf16.dtype = "BF16";
  DenseSpec spec = kSpec;
  spec.layers = 8;
  const LinearKind ordered = gptq(64, Zeros::symmetric, Order::act_order);
  LinearKind reordered = ordered;
  reordered.shuffles = 2;
  model.build(spec, gptq(64),
              {{"0.key", biased},                     // a bias for all three
               {"1.value", gptq(64, Zeros::random)},  // zeros for all three
               {"1.up", gptq(64, Zeros::random)},
               {"2.query", gptq(32)},
               {"2.up", gptq(32)},  // another group
               {"3.value", plain("F16")},
               {"3.gate", plain("F16")},  // another format
               {"4.key", bf16},
               {"4.up", bf16},  // another scale
               {"5.query", ordered},
               {"5.gate", ordered},  // ordered and not
               {"6.query", ordered},
               {"6.key", reordered},
               {"6.value", reordered},
               {"6.gate", ordered},
               {"6.up", reordered},  // another order
               {"7.query", ordered},
               {"7.key", ordered},
               {"7.value", ordered},
               {"7.gate", ordered},
               {"7.up", ordered}});
  const Packed packed = round_trip(model);
  const auto segments = [&](int layer) { return packed.plan.units[attention_unit(layer)].linears[0].segments.size(); };
  const auto interleaved = [&](int layer) {
    return packed.plan.units[feed_forward_unit(layer)].linears[0].interleaved;
  };
  CHECK_EQ(segments(0), 1);
  CHECK(packed.plan.units[0].linears[0].has_bias);
  CHECK_EQ(segments(1), 1);
  CHECK(packed.plan.units[attention_unit(1)].linears[0].segments[0].matrix.code.zeros);
  CHECK(interleaved(0) && interleaved(1));
  CHECK(packed.plan.units[feed_forward_unit(1)].linears[0].segments[0].matrix.code.zeros);
  CHECK_EQ(segments(2), 2);
  CHECK_EQ(segments(3), 2);
  CHECK_EQ(segments(4), 3);
  CHECK_EQ(segments(5), 2);
  CHECK_EQ(segments(6), 2);
  for (const int layer : {2, 3, 4, 5, 6}) CHECK(!interleaved(layer));
  CHECK_EQ(segments(7), 1);
  CHECK(interleaved(7));
}

TEST(interleaved_bias_follows_its_features) {
  TinyModel model(check::seed() + 110);
  LinearKind biased = plain("F32");
  biased.bias = true;
  model.build(tiny_spec(32, 2, 1, 16, 13, 20), plain("F32"), {{"0.up", biased}, {"0.down", biased}, {"head", biased}},
              "F32");
  const Packed packed = round_trip(model);
  const LinearLayout& gate_up = packed.plan.units[1].linears[0];
  CHECK(gate_up.has_bias);
  CHECK_EQ(gate_up.n, 32);
  const std::vector<float> bias = floats_at(packed.slabs[1].data(), gate_up.bias_offset, 32);
  CHECK_EQ(bias[8], model.linears["0.up"].bias[0]);
  CHECK_EQ(bias[16 + 8 + 4], model.linears["0.up"].bias[12]);
  for (int i = 16 + 8 + 5; i < 32; i++) CHECK_EQ(bias[i], 0.0f);  // padded features
}

TEST(malformed_linears_are_refused_by_name_while_planning) {
  struct Case {
    std::function<void(TinyModel&)> damage;
    const char* code;
    std::vector<std::string> words;
  };
  const auto query = [](TinyModel& m) -> LinearSource& { return m.source.layers[0].query; };
  const auto with = [](std::string name, std::string dtype, std::vector<int64_t> shape, size_t bytes) {
    return [=](TinyModel& m) {
      m.writer.add<uint8_t>(name, dtype, shape, std::vector<uint8_t>(bytes));
      return name;
    };
  };
  const std::vector<Case> cases = {
      {[&](TinyModel& m) { query(m).weight = "gone"; }, code::kCheckpointInvalid, {"gone", "missing"}},
      {[&](TinyModel& m) { query(m).scales = "gone"; }, code::kCheckpointInvalid, {"gone", "missing"}},
      {[&](TinyModel& m) { query(m).zeros = "gone"; }, code::kCheckpointInvalid, {"gone", "missing"}},
      {[&](TinyModel& m) { query(m).bias = "gone"; }, code::kCheckpointInvalid, {"gone", "missing"}},
      {[&](TinyModel& m) { m.source.layers[0].attention_norm = "gone"; },
       code::kCheckpointInvalid,
       {"gone", "missing"}},
      {[&](TinyModel& m) { m.source.final_norm = "gone"; }, code::kCheckpointInvalid, {"gone", "missing"}},
      {[&](TinyModel& m) { m.source.embedding = "gone"; }, code::kCheckpointInvalid, {"gone", "missing"}},
      {[&](TinyModel& m) {
         query(m).weight = with("w", "I32", {25, 200}, 20000)(m);
       },
       code::kCheckpointInvalid,
       {"tensor w", "[24, 200]", "[25, 200]"}},
      {[&](TinyModel& m) { query(m).weight = with("w", "I32", {24 * 200}, 19200)(m); },
       code::kCheckpointInvalid,
       {"tensor w", "[24, 200]", "[4800]"}},
      {[&](TinyModel& m) {
         query(m).weight = with("w", "F32", {24, 200}, 19200)(m);
       },
       code::kCheckpointInvalid,
       {"tensor w", "I32", "F32"}},
      {[&](TinyModel& m) {
         query(m).scales = with("s", "F16", {2, 200}, 800)(m);
       },
       code::kCheckpointInvalid,
       {"tensor s", "[3, 200]", "[2, 200]"}},
      {[&](TinyModel& m) {
         query(m).scales = with("s", "F32", {3, 200}, 2400)(m);
       },
       code::kCheckpointUnsupported,
       {"tensor s", "F16 or BF16", "F32"}},
      {[&](TinyModel& m) {
         query(m).zeros = with("z", "I32", {3, 24}, 288)(m);
       },
       code::kCheckpointInvalid,
       {"tensor z", "[3, 25]", "[3, 24]"}},
      {[&](TinyModel& m) { query(m).g_idx = with("g", "I32", {191}, 764)(m); },
       code::kCheckpointInvalid,
       {"tensor g", "[192]", "[191]"}},
      {[&](TinyModel& m) { query(m).g_idx = with("g", "I64", {192}, 1536)(m); },
       code::kCheckpointInvalid,
       {"tensor g", "I32", "I64"}},
      {[&](TinyModel& m) { query(m).bits = 3; }, code::kCheckpointUnsupported, {"0.query.qweight", "3 bits", "4 or 8"}},
      {[&](TinyModel& m) { query(m).bits = 8; },
       code::kCheckpointInvalid,
       {"0.query.qweight", "[48, 200]", "[24, 200]"}},
      {[&](TinyModel& m) { query(m).group_size = 0; }, code::kCheckpointInvalid, {"0.query.qweight", "group_size"}},
      {[&](TinyModel& m) { query(m).group_size = -2; }, code::kCheckpointInvalid, {"0.query.qweight", "-2"}},
      {[&](TinyModel& m) { query(m).group_size = 32; },
       code::kCheckpointInvalid,
       {"0.query.scales", "[6, 200]", "[3, 200]"}},
      {[&](TinyModel& m) { m.source.head = query(m), m.source.head.format = LinearFormat::plain; },
       code::kCheckpointUnsupported,
       {"0.query.qweight", "I32"}},
      {[&](TinyModel& m) { m.source.final_norm = with("n", "F16", {191}, 382)(m); },
       code::kCheckpointInvalid,
       {"tensor n", "[192]", "[191]"}},
      {[&](TinyModel& m) { m.source.final_norm = with("n", "I16", {192}, 384)(m); },
       code::kCheckpointUnsupported,
       {"tensor n", "I16"}},
      {[&](TinyModel& m) {
         m.source.embedding = with("e", "F16", {103, 192}, 39552)(m);
       },
       code::kCheckpointInvalid,
       {"tensor e", "[104, 192]", "[103, 192]"}},
      {[&](TinyModel& m) {
         m.source.spec.vocab = 105, m.source.embedding = with("e", "F16", {105, 192}, 40320)(m);
       },
       code::kCheckpointInvalid,
       {"head.qweight", "by 8", "105"}},
      {[&](TinyModel& m) { m.source.layers.pop_back(); }, code::kInvalidArgument, {"one source for each weight"}},
      {[&](TinyModel& m) { m.source.spec.heads = 0; }, code::kCheckpointInvalid, {"a width", "found 0"}},
  };
  for (const Case& c : cases) {
    TinyModel model(check::seed() + 120);
    model.build(kSpec, gptq(64));
    c.damage(model);
    const auto written = write(model);
    refused([&] { plan_slabs(*written->checkpoint, model.source); }, c.code, c.words);
  }
}

TEST(malformed_linears_of_awq_and_compressed_tensors_are_refused_by_name_while_planning) {
  struct Case {
    LinearFormat format;
    std::function<void(TinyModel&, LinearSource&)> damage;
    const char* code;
    std::vector<std::string> words;
  };
  const auto add = [](TinyModel& m, std::string name, std::string dtype, std::vector<int64_t> shape, size_t bytes,
                      uint8_t fill = 0) {
    m.writer.add<uint8_t>(name, dtype, shape, std::vector<uint8_t>(bytes, fill));
    return name;
  };
  constexpr LinearFormat kAwq = LinearFormat::awq, kCompressed = LinearFormat::compressed_tensors;
  const std::vector<Case> cases = {
      {kAwq, [&](TinyModel&, LinearSource& q) { q.weight = "gone"; }, code::kCheckpointInvalid, {"gone", "missing"}},
      {kAwq, [&](TinyModel&, LinearSource& q) { q.zeros = "gone"; }, code::kCheckpointInvalid, {"gone", "missing"}},
      {kAwq,
       [&](TinyModel&, LinearSource& q) { q.bits = 3; },
       code::kCheckpointUnsupported,
       {"0.query.qweight", "AWQ of 3 bits"}},
      {kAwq,
       [&](TinyModel& m, LinearSource& q) {
         q.weight = add(m, "w", "I32", {24, 200}, 19200);
       },
       code::kCheckpointInvalid,
       {"tensor w", "[192, 25]", "[24, 200]"}},
      {kAwq,
       [&](TinyModel& m, LinearSource& q) {
         q.scales = add(m, "s", "F32", {3, 200}, 2400);
       },
       code::kCheckpointUnsupported,
       {"tensor s", "F16 or BF16", "F32"}},
      {kAwq,
       [&](TinyModel& m, LinearSource& q) {
         q.zeros = add(m, "z", "I32", {3, 24}, 288);
       },
       code::kCheckpointInvalid,
       {"tensor z", "[3, 25]", "[3, 24]"}},
      {kAwq,
       [&](TinyModel& m, LinearSource& q) {
         q.zeros = add(m, "z", "I32", {3, 25}, 300, 0x77);
       },
       code::kCheckpointInvalid,
       {"tensor z", "0x88888888", "0x77777777", "word 0"}},
      {kCompressed,
       [&](TinyModel&, LinearSource& q) { q.scales = "gone"; },
       code::kCheckpointInvalid,
       {"gone", "missing"}},
      {kCompressed,
       [&](TinyModel&, LinearSource& q) { q.symmetric = false, q.zeros = "gone"; },
       code::kCheckpointInvalid,
       {"gone", "missing"}},
      {kCompressed,
       [&](TinyModel&, LinearSource& q) { q.bits = 2; },
       code::kCheckpointUnsupported,
       {"0.query.weight_packed", "compressed-tensors of 2 bits"}},
      {kAwq,
       [&](TinyModel&, LinearSource& q) { q.bits = 8; },
       code::kCheckpointUnsupported,
       {"0.query.qweight", "AWQ of 8 bits"}},
      {kCompressed,
       [&](TinyModel& m, LinearSource& q) { q.shape = add(m, "shape", "I64", {2}, 16, 1); },
       code::kCheckpointInvalid,
       {"tensor shape", "[200, 192]", "72340172838076673"}},
      {kCompressed,
       [&](TinyModel& m, LinearSource& q) { q.shape = add(m, "shape", "I64", {3}, 24); },
       code::kCheckpointInvalid,
       {"tensor shape", "[2]", "[3]"}},
      {kCompressed,
       [&](TinyModel& m, LinearSource& q) {
         q.weight = add(m, "w", "I32", {24, 200}, 19200);
       },
       code::kCheckpointInvalid,
       {"tensor w", "[200, 24]", "[24, 200]"}},
      {kCompressed,
       [&](TinyModel& m, LinearSource& q) {
         q.scales = add(m, "s", "F64", {200, 3}, 4800);
       },
       code::kCheckpointUnsupported,
       {"tensor s", "F16 or BF16 or F32", "F64"}},
      {kCompressed,
       [&](TinyModel& m, LinearSource& q) {
         q.scales = add(m, "s", "F16", {200, 1}, 400);
       },
       code::kCheckpointInvalid,
       {"tensor s", "[200, 3]", "[200, 1]"}},
      // Zero points as the format's first versions stored them.
      {kCompressed,
       [&](TinyModel& m, LinearSource& q) {
         q.zeros = add(m, "z", "I8", {200, 3}, 600);
       },
       code::kCheckpointInvalid,
       {"tensor z", "I32", "I8"}},
      {kCompressed,
       [&](TinyModel& m, LinearSource& q) {
         q.zeros = add(m, "z", "I32", {25, 3}, 300, 0x87);
       },
       code::kCheckpointInvalid,
       {"tensor z", "symmetric", "0x87878787"}},
      {kCompressed,
       [&](TinyModel& m, LinearSource& q) { q.g_idx = add(m, "g", "I32", {192}, 768, 1); },
       code::kCheckpointInvalid,
       {"tensor g", "0 to 2", "16843009"}},
      {kCompressed,
       [&](TinyModel& m, LinearSource& q) { q.g_idx = add(m, "g", "I32", {191}, 764, 255); },
       code::kCheckpointInvalid,
       {"tensor g", "[192]", "[191]"}},
  };
  for (const Case& c : cases) {
    TinyModel model(check::seed() + 125);
    model.build(kSpec, of_format(c.format, gptq(64)), {{"head", plain("F16")}});
    c.damage(model, model.source.layers[0].query);
    const auto written = write(model);
    refused([&] { plan_slabs(*written->checkpoint, model.source); }, c.code, c.words);
  }
  // Input features that do not fill a word: compressed-tensors pads them, which is not read here.
  TinyModel model(check::seed() + 126);
  model.build(kSpec, of_format(kCompressed, gptq(64)), {{"head", plain("F16")}});
  const auto written = write(model);
  refused([&] { open_linear(*written->checkpoint, model.source.layers[0].down, 192, 260); },
          code::kCheckpointUnsupported, {"0.down.weight_packed", "multiple of 8", "260"});
}

TEST(the_norms_of_heads_are_checked) {
  for (const bool key : {false, true}) {
    TinyModel model(check::seed() + 127);
    DenseSpec spec = kSpec;
    spec.qk_norm = true;
    model.build(spec, gptq(64));
    std::string& name = key ? model.source.layers[0].key_norm : model.source.layers[0].query_norm;
    const auto written = write(model);
    name = "0.attention.norm";
    refused([&] { plan_slabs(*written->checkpoint, model.source); }, code::kCheckpointInvalid,
            {"0.attention.norm", "[40]", "[192]"});
    name = "gone";
    refused([&] { plan_slabs(*written->checkpoint, model.source); }, code::kCheckpointInvalid, {"gone", "missing"});
  }
}

TEST(scales_that_are_not_finite_are_refused_in_every_format) {
  for (const LinearFormat format : {LinearFormat::awq, LinearFormat::compressed_tensors}) {
    TinyModel model(check::seed() + 128);
    model.build(kSpec, of_format(format, gptq(64)), {{"head", plain("F16")}});
    std::vector<uint16_t> scales(600, 0x3c00);
    scales[305] = 0x7c00;
    const bool awq = format == LinearFormat::awq;
    model.writer.add<uint16_t>("bad", "F16", awq ? std::vector<int64_t>{3, 200} : std::vector<int64_t>{200, 3}, scales);
    model.source.layers[0].query.scales = "bad";
    const auto written = write(model);
    refused([&] { pack(*written->checkpoint, model.source); }, code::kCheckpointInvalid,
            {"tensor bad", "0x7c00", awq ? "[1, 105]" : "[101, 2]"});
  }
}

TEST(g_idx_is_held_to_the_groups) {
  for (const int32_t wrong : {-1, 3, std::numeric_limits<int32_t>::min()}) {
    TinyModel model(check::seed() + 130);
    model.build(kSpec, gptq(64));
    std::vector<int32_t> groups(192);
    for (int i = 0; i < 192; i++) groups[i] = i / 64;
    groups[77] = wrong;
    model.writer.add<int32_t>("bad_g_idx", "I32", {192}, groups);
    model.source.layers[0].down = model.source.layers[0].query;  // never reached: the query is first
    model.source.layers[0].query.g_idx = "bad_g_idx";
    const auto written = write(model);
    refused([&] { plan_slabs(*written->checkpoint, model.source); }, code::kCheckpointInvalid,
            {"bad_g_idx", "index 77", std::to_string(wrong)});
  }
}

TEST(very_uneven_groups_are_refused) {
  TinyModel model(check::seed() + 140);
  model.build(kSpec, gptq(16));
  std::vector<int32_t> groups(192, 0);
  for (int i = 1; i < 12; i++) groups[i] = i;  // one large group, eleven of one
  model.writer.add<int32_t>("lopsided", "I32", {192}, groups);
  model.source.layers[0].query.g_idx = "lopsided";
  const auto written = write(model);
  refused([&] { plan_slabs(*written->checkpoint, model.source); }, code::kCheckpointUnsupported, {"lopsided", "181"});
}

TEST(claimed_symmetry_is_checked) {
  for (const int version : {1, 2}) {
    TinyModel model(check::seed() + 150);
    model.build(kSpec, gptq(64, Zeros::symmetric, Order::sequential, version));
    std::vector<uint32_t> zeros(3 * 25, version == 1 ? 0x77777777u : 0x88888888u);
    zeros[42] = 0x77787777u;
    model.writer.add<uint32_t>("skewed", "I32", {3, 25}, zeros);
    model.source.layers[0].query.zeros = "skewed";
    const auto written = write(model);
    refused([&] { plan_slabs(*written->checkpoint, model.source); }, code::kCheckpointInvalid,
            {"skewed", "word 42", "0x77787777", version == 1 ? "0x77777777" : "0x88888888"});
    // Version 2's words read as version 1 mean another zero: caught here too.
    model.source.layers[0].query.zeros = "0.query.qzeros";
    model.source.layers[0].query.zeros_minus_one = version == 2;
    refused([&] { plan_slabs(*written->checkpoint, model.source); }, code::kCheckpointInvalid,
            {"0.query.qzeros", "word 0"});
  }
}

TEST(numbers_that_are_not_finite_are_refused_while_repacking) {
  struct Case {
    LinearKind kind;
    std::function<void(TinyModel&)> damage;
    std::vector<std::string> words;
  };
  const auto bits = [](const std::string& name, const std::string& dtype, std::vector<int64_t> shape, size_t at,
                       uint16_t value) {
    return [=](TinyModel& m) {
      size_t count = 1;
      for (const int64_t d : shape) count *= static_cast<size_t>(d);
      std::vector<uint16_t> values(count, 0x3c00);
      values[at] = value;
      m.writer.add<uint16_t>(name, dtype, shape, values);
      return name;
    };
  };
  const std::vector<Case> cases = {
      {gptq(64),
       [&](TinyModel& m) {
         m.source.layers[0].up.scales = bits("s", "F16", {3, 264}, 264 + 17, 0x7c00)(m);
       },
       {"tensor s", "[1, 17]"}},
      {gptq(64),
       [&](TinyModel& m) {
         m.source.layers[0].down.scales = bits("s", "BF16", {5, 192}, 191, 0xffc0)(m);
       },
       {"tensor s", "[0, 191]"}},
      {gptq(64),
       [&](TinyModel& m) { m.source.final_norm = bits("n", "F16", {192}, 5, 0xfc00)(m); },
       {"tensor n", "infinity", "index 5"}},
      {gptq(64),
       [&](TinyModel& m) { m.source.layers[0].query.bias = bits("b", "BF16", {200}, 199, 0x7f81)(m); },
       {"tensor b", "NaN", "index 199"}},
      {gptq(64),
       [&](TinyModel& m) {
         m.source.embedding = bits("e", "F16", {104, 192}, 192 * 103 + 191, 0x7e00)(m);
       },
       {"tensor e", "[103, 191]"}},
      {plain("F16"),
       [&](TinyModel& m) {
         m.source.layers[0].output.weight = bits("w", "F16", {192, 200}, 200 * 100 + 199, 0xfe00)(m);
       },
       {"tensor w", "NaN", "[100, 199]"}},
      {plain("BF16"),
       [&](TinyModel& m) {
         m.source.layers[0].down.weight = bits("w", "BF16", {192, 264}, 263, 0x7f80)(m);
       },
       {"tensor w", "infinity", "[0, 263]"}},
      {plain("F32"),
       [&](TinyModel& m) {
         std::vector<float> values(104 * 192, 1.0f);
         values[192 * 7 + 3] = std::numeric_limits<float>::quiet_NaN();
         m.writer.add<float>("w", "F32", {104, 192}, values);
         m.source.head.weight = "w";
       },
       {"tensor w", "NaN", "[7, 3]"}},
      {plain("F32"),
       [&](TinyModel& m) {
         std::vector<double> values(192, 1e300);
         m.writer.add<double>("n", "F64", {192}, values);
         m.source.final_norm = "n";
       },
       {"tensor n", "infinity", "index 0"}},
  };
  for (const Case& c : cases) {
    TinyModel model(check::seed() + 160);
    model.build(kSpec, c.kind);
    c.damage(model);
    const auto written = write(model);
    plan_slabs(*written->checkpoint, model.source);
    refused([&] { pack(*written->checkpoint, model.source); }, code::kCheckpointInvalid, c.words);
  }
}

// The largest finite numbers and subnormal ones are numbers like others.
TEST(extreme_finite_weights_are_kept) {
  TinyModel model(check::seed() + 170);
  model.build(kSpec, plain("F16"));
  for (const auto& [name, type, values] :
       {std::tuple<std::string, std::string, std::vector<uint16_t>>{"h", "F16", {0x7bff, 0xfbff, 0x0001, 0x8000}},
        {"b", "BF16", {0x7f7f, 0xff7f, 0x0001, 0x8000}}}) {
    std::vector<uint16_t> bits(104 * 192);
    for (size_t i = 0; i < bits.size(); i++) bits[i] = values[i % 4];
    model.writer.add<uint16_t>(name, type, {104, 192}, bits);
    model.source.head.weight = name;
    Dense& head = model.linears["head"];
    for (size_t i = 0; i < bits.size(); i++) {
      head.weight[i] = type == "F16" ? half_to_float(bits[i]) : bfloat16_to_float(bits[i]);
    }
    round_trip(model);
  }
}

TEST(progress_rises_to_the_total_on_the_callers_thread) {
  TinyModel model(check::seed() + 180);
  LinearKind kind = gptq(64, Zeros::random, Order::act_order);
  kind.bias = true;
  model.build(kSpec, kind);
  const auto written = write(model);
  size_t last = 0, total = 0;
  int calls = 0;
  RepackOptions options;
  const std::thread::id caller = std::this_thread::get_id();
  options.progress = [&](size_t done, size_t all) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // lets the other threads have jobs too
    CHECK(std::this_thread::get_id() == caller);
    CHECK(done >= last && done <= all);
    CHECK(total == 0 || total == all);
    last = done;
    total = all;
    calls++;
  };
  pack(*written->checkpoint, model.source, 3, 0, options);
  size_t bytes = 0;
  for (const Tensor& tensor : written->checkpoint->tensors()) bytes += tensor.bytes;
  CHECK_EQ(total, bytes);
  CHECK_EQ(last, bytes);
  CHECK(calls >= unit_count(kSpec));
}

TEST(cancelling_ends_with_aborted) {
  TinyModel model(check::seed() + 190);
  model.build(kSpec, gptq(64));
  const auto written = write(model);
  std::atomic<bool> cancelled{true};
  RepackOptions options;
  options.cancelled = &cancelled;
  CHECK_THROWS_CODE(pack(*written->checkpoint, model.source, 2, 0, options), code::kAborted);
  cancelled = false;
  options.progress = [&](size_t done, size_t) { cancelled = done > 0; };
  CHECK_THROWS_CODE(pack(*written->checkpoint, model.source, 2, 0, options), code::kAborted);
}

TEST(an_exception_of_the_callback_reaches_the_caller) {
  TinyModel model(check::seed() + 200);
  model.build(kSpec, gptq(64));
  const auto written = write(model);
  RepackOptions options;
  options.progress = [](size_t, size_t) { throw std::runtime_error("enough"); };
  bool caught = false;
  try {
    pack(*written->checkpoint, model.source, 2, 0, options);
  } catch (const std::runtime_error& error) {
    caught = std::string(error.what()) == "enough";
  }
  CHECK(caught);
}

// ---- Real checkpoints: the folder's tensors by their usual names; every linear of every layer decoded and compared.

namespace {

struct RealModel {
  const char* folder;
  DenseSpec spec;
  std::vector<std::string> files;
  int group;  // 0: plain
  bool symmetric;
};

std::string find_model(const std::string& name) {
  std::vector<std::string> places;
  if (const char* models = std::getenv("MILLRACE_MODELS")) places.push_back(models);
  for (const char* up : {"", "../", "../../", "../../../"}) {
    places.push_back(std::string(up) + "models");
    places.push_back(std::string(up) + "../shared/models");
  }
  for (const std::string& place : places) {
    const std::string folder = place + "/" + name;
    if (std::filesystem::exists(folder + "/config.json")) return folder;
  }
  return "";
}

LinearSource real_linear(const RealModel& real, const std::string& name) {
  LinearSource linear;
  if (real.group == 0) {
    linear.weight = name + ".weight";
    return linear;
  }
  linear.format = LinearFormat::gptq;
  linear.weight = name + ".qweight";
  linear.zeros = name + ".qzeros";
  linear.scales = name + ".scales";
  linear.g_idx = name + ".g_idx";
  linear.group_size = real.group;
  linear.symmetric = real.symmetric;
  return linear;
}

// The formula of the formats, straight from the tensors.
float real_weight(const Checkpoint& c, const LinearSource& linear, int group, int n, int k) {
  const auto read = [&]<typename T>(T, const std::string& name, size_t index) {
    T value;
    std::memcpy(&value, c.data(c.require(name)) + index * sizeof(T), sizeof(T));
    return value;
  };
  const Tensor& weight = c.require(linear.weight);
  if (group == 0) {
    const size_t at = static_cast<size_t>(n) * weight.shape[1] + k;
    if (weight.dtype == DType::f32) return read(float{}, linear.weight, at);
    return half_to_float(read(uint16_t{}, linear.weight, at));
  }
  const size_t columns = static_cast<size_t>(weight.shape[1]);
  const size_t g = static_cast<size_t>(read(int32_t{}, linear.g_idx, k));
  const int q = (read(uint32_t{}, linear.weight, static_cast<size_t>(k / 8) * columns + n) >> (4 * (k % 8))) & 15;
  const uint32_t zeros = read(uint32_t{}, linear.zeros, g * (columns / 8) + n / 8) + 0x11111111u;
  const int zero = (zeros >> (4 * (n % 8))) & 15;
  return half_to_float(read(uint16_t{}, linear.scales, g * columns + n)) * static_cast<float>(q - zero);
}

void check_real(const RealModel& real) {
  const std::string folder = find_model(real.folder);
  if (folder.empty()) SKIP(std::string("no model ") + real.folder + " in models, ../shared/models or $MILLRACE_MODELS");
  std::vector<std::string> paths;
  for (const std::string& file : real.files) paths.push_back(folder + "/" + file);
  const Checkpoint checkpoint(paths);
  DenseSource source;
  source.spec = real.spec;
  source.embedding = "model.embed_tokens.weight";
  source.final_norm = "model.norm.weight";
  source.head.weight = source.embedding;
  for (int l = 0; l < real.spec.layers; l++) {
    const std::string layer = "model.layers." + std::to_string(l) + ".";
    DenseLayer s;
    s.attention_norm = layer + "input_layernorm.weight";
    s.feed_forward_norm = layer + "post_attention_layernorm.weight";
    s.query = real_linear(real, layer + "self_attn.q_proj");
    s.key = real_linear(real, layer + "self_attn.k_proj");
    s.value = real_linear(real, layer + "self_attn.v_proj");
    s.output = real_linear(real, layer + "self_attn.o_proj");
    s.gate = real_linear(real, layer + "mlp.gate_proj");
    s.up = real_linear(real, layer + "mlp.up_proj");
    s.down = real_linear(real, layer + "mlp.down_proj");
    source.layers.push_back(s);
  }
  const Packed packed = pack(checkpoint, source);

  const DenseSpec& spec = real.spec;
  std::mt19937_64 random = check::random(7);
  const auto compare = [&](const LinearSource& linear, int group, const std::vector<float>& decoded, int k_width,
                           const std::function<int(int)>& place, int n_width) {
    // A sample of all the weights: reading each by name is slow.
    int wrong = 0;
    for (int i = 0; i < 2000; i++) {
      const int n = static_cast<int>(random() % static_cast<uint64_t>(n_width));
      const int k = static_cast<int>(random() % static_cast<uint64_t>(k_width));
      wrong += decoded[static_cast<size_t>(place(n)) * k_width + k] != real_weight(checkpoint, linear, group, n, k);
    }
    if (wrong != 0)
      check::fail(__FILE__, __LINE__, linear.weight + ": " + std::to_string(wrong) + " weights of 2000 differ");
  };
  const auto at = [](int first) { return [first](int n) { return first + n; }; };
  for (int l = 0; l < spec.layers; l += std::max(1, spec.layers / 4)) {
    const DenseLayer& s = source.layers[l];
    const UnitLayout& attention = packed.plan.units[attention_unit(l)];
    CHECK_EQ(attention.linears[0].segments.size(), 1);  // one matrix: one input, one order
    const std::byte* slab = packed.slabs[attention_unit(l)].data();
    const std::vector<float> qkv = decode(attention.linears[0], slab);
    compare(s.query, real.group, qkv, spec.hidden, at(0), spec.query_width());
    compare(s.key, real.group, qkv, spec.hidden, at(spec.query_width()), spec.kv_width());
    compare(s.value, real.group, qkv, spec.hidden, at(spec.query_width() + spec.kv_width()), spec.kv_width());
    compare(s.output, real.group, decode(attention.linears[1], slab), spec.query_width(), at(0), spec.hidden);
    const UnitLayout& unit = packed.plan.units[feed_forward_unit(l)];
    CHECK(unit.linears[0].interleaved);
    slab = packed.slabs[feed_forward_unit(l)].data();
    const std::vector<float> gate_up = decode(unit.linears[0], slab);
    // Where act-order sorts down's features, gate and up have them in that order, and down gathers nothing.
    CHECK(!unit.linears[1].segments[0].matrix.code.permuted);
    std::vector<int> order(spec.intermediate), place(spec.intermediate);
    std::iota(order.begin(), order.end(), 0);
    if (real.group != 0) {
      std::vector<int32_t> groups(spec.intermediate);
      std::memcpy(groups.data(), checkpoint.data(checkpoint.require(s.down.g_idx)), groups.size() * sizeof(int32_t));
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return groups[a] < groups[b]; });
    }
    for (int i = 0; i < spec.intermediate; i++) place[order[i]] = i;
    compare(
        s.gate, real.group, gate_up, spec.hidden, [&](int n) { return 16 * (place[n] / 8) + place[n] % 8; },
        spec.intermediate);
    compare(
        s.up, real.group, gate_up, spec.hidden, [&](int n) { return 16 * (place[n] / 8) + 8 + place[n] % 8; },
        spec.intermediate);
    const std::vector<float> stored = decode(unit.linears[1], slab);
    std::vector<float> down(stored.size());
    for (int n = 0; n < spec.hidden; n++) {
      for (int i = 0; i < spec.intermediate; i++) {
        down[static_cast<size_t>(n) * spec.intermediate + order[i]] =
            stored[static_cast<size_t>(n) * spec.intermediate + i];
      }
    }
    compare(s.down, real.group, down, spec.intermediate, at(0), spec.hidden);
  }
  const UnitLayout& head = packed.plan.units[head_unit(spec)];
  compare(source.head, 0, decode(head.linears[0], packed.slabs[head_unit(spec)].data()), spec.hidden, at(0),
          spec.vocab);
  const Tensor& embedding = checkpoint.require(source.embedding);
  CHECK(std::memcmp(packed.embedding.data(), checkpoint.data(embedding), embedding.bytes) == 0);
}

}  // namespace

TEST(real_model_demo) {
  check_real({"demo", tiny_spec(384, 6, 2, 64, 1024, 2048, 8), {"model.safetensors"}, 128, true});
}

TEST(real_model_stories260k) {
  check_real({"stories260k", tiny_spec(64, 8, 4, 8, 172, 512, 5), {"model.safetensors"}, 0, false});
}

TEST(real_model_demo_fp16_in_two_shards) {
  check_real({"demo-fp16",
              tiny_spec(384, 6, 2, 64, 1024, 2048, 8),
              {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"},
              0,
              false});
}

TEST(real_model_smollm2) {
  check_real({"smollm2-135m", tiny_spec(576, 9, 3, 64, 1536, 49152, 30), {"model.safetensors"}, 32, false});
}

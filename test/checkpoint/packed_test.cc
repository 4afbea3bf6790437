// Models in ggml's packed types through planning and repacking: the slabs mean what the blocks do.
#include "checkpoint/packed.h"

#include <algorithm>
#include <map>

#include "check.h"
#include "checkpoint/gguf_blocks.h"
#include "core/error.h"
#include "core/half.h"
#include "gguf_types.h"
#include "gguf_writer.h"
#include "tiny_model.h"

using namespace millrace;
using namespace millrace::testing;

namespace {

const PackedType& type_of(DType type) {
  return *std::find_if(packed_types().begin(), packed_types().end(),
                       [&](const PackedType& t) { return t.type == type; });
}

struct PackedModel {
  GgufWriter writer;
  DenseSource source;
  std::map<std::string, std::string> bytes;
  std::mt19937_64 random;

  explicit PackedModel(uint64_t seed) : random(seed) {}

  // Random blocks whose scales are finite.
  std::string blocks(DType type, int n, int k) {
    const PackedType& packed = type_of(type);
    std::string out(static_cast<size_t>(n) * k / packed.elements * packed.bytes, '\0');
    for (size_t at = 0; at < out.size(); at += packed.bytes) {
      fill_block(packed, random, reinterpret_cast<std::byte*>(out.data()) + at, [&] {
        return (0.5f + static_cast<float>(random() % 1000) / 1000) * (random() % 2 == 0 ? 0.01f : -0.01f);
      });
    }
    return out;
  }

  LinearSource linear(const std::string& name, DType type, int n, int k) {
    bytes[name] = is_packed(type) ? blocks(type, n, k)
                                  : std::string(static_cast<size_t>(n) * k * traits_of(type).block_bytes, '\0');
    writer.tensor(name, {n, k}, is_packed(type) ? type_of(type).number : 0, bytes[name]);
    LinearSource out;
    out.weight = name;
    return out;
  }

  std::string norm(const std::string& name, int n) {
    std::string ones;
    for (int i = 0; i < n; i++) ones += little_endian(1.0f);
    writer.tensor(name, {n}, 0, ones);
    return name;
  }

  void build(DType type, DType embedding) {
    DenseSpec& spec = source.spec;
    spec = tiny_spec(256, 4, 2, 64, 512, 70);
    DenseLayer layer;
    layer.attention_norm = norm("an", 256);
    layer.feed_forward_norm = norm("fn", 256);
    layer.query = linear("q", type, 256, 256);
    layer.key = linear("k", type, 128, 256);
    layer.value = linear("v", type == DType::q4_k ? DType::q6_k : type, 128, 256);
    layer.output = linear("o", type, 256, 256);
    layer.gate = linear("g", type, 512, 256);
    layer.up = linear("u", type, 512, 256);
    layer.down = linear("d", type, 256, 512);
    source.layers = {layer};
    source.embedding = linear("e", embedding, 70, 256).weight;
    source.head.weight = source.embedding;
    source.final_norm = norm("n", 256);
  }

  std::vector<float> values(const std::string& name, DType type) const {
    const DTypeTraits& traits = traits_of(type);
    const std::string& from = bytes.at(name);
    std::vector<float> out(from.size() / traits.block_bytes * traits.block);
    decode_blocks(type, reinterpret_cast<const std::byte*>(from.data()), from.size() / traits.block_bytes, out.data());
    return out;
  }
};

struct Repacked {
  SlabPlan plan;
  std::vector<std::vector<std::byte>> slabs;
  std::vector<std::byte> embedding;
};

Repacked pack(const PackedModel& model) {
  const TempFolder folder;
  write_file(folder / "model.gguf", model.writer.bytes());
  const Checkpoint checkpoint({folder / "model.gguf"});
  Repacked out;
  out.plan = plan_slabs(checkpoint, model.source);
  std::vector<std::byte*> slabs;
  for (const UnitLayout& unit : out.plan.units) out.slabs.emplace_back(unit.bytes, std::byte{0xa5});
  for (auto& slab : out.slabs) slabs.push_back(slab.data());
  out.embedding.resize(out.plan.embedding_bytes);
  ThreadPool pool(2);
  repack(checkpoint, out.plan, slabs, out.embedding.data(), pool, {});
  return out;
}

std::vector<float> decode(const LinearLayout& linear, const std::byte* slab) {
  std::vector<float> out;
  for (const LinearLayout::Segment& segment : linear.segments) {
    const std::vector<float> part = decode_matrix(segment.matrix, slab);
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

void append(std::vector<float>& to, const std::vector<float>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

// The call throws this code and names all of `words`.
void refused(const PackedModel& model, const char* code, const std::vector<std::string>& words) {
  try {
    pack(model);
  } catch (const Error& error) {
    CHECK_EQ(std::string(error.code()), code);
    for (const std::string& word : words) {
      if (std::string(error.what()).find(word) == std::string::npos) {
        check::fail(__FILE__, __LINE__, "'" + word + "' not in: " + error.what());
      }
    }
    return;
  }
  check::fail(__FILE__, __LINE__, "not refused");
}

}  // namespace

TEST(every_packed_type_is_repacked_exactly) {
  for (const PackedType& packed_type : packed_types()) {
    const DType type = packed_type.type;
    PackedModel model(check::seed() + packed_type.number);
    model.build(type, type);
    const Repacked packed = pack(model);
    const UnitLayout& attention = packed.plan.units[0];
    std::vector<float> expected = model.values("q", type);
    append(expected, model.values("k", type));
    append(expected, model.values("v", type == DType::q4_k ? DType::q6_k : type));
    CHECK(decode(attention.linears[0], packed.slabs[0].data()) == expected);
    CHECK(decode(attention.linears[1], packed.slabs[0].data()) == model.values("o", type));
    CHECK(decode(packed.plan.units[1].linears[1], packed.slabs[1].data()) == model.values("d", type));
    const std::vector<float> embedding = model.values("e", type);
    CHECK(packed.plan.tables[0].type == WeightType::f32);
    REQUIRE(packed.embedding.size() == embedding.size() * sizeof(float));
    CHECK(std::memcmp(packed.embedding.data(), embedding.data(), packed.embedding.size()) == 0);
    CHECK(decode(packed.plan.units[2].linears[0], packed.slabs[2].data()) == embedding);  // tied
    const MatrixCode& code = attention.linears[0].segments[0].matrix.code;
    CHECK(code == code_of(type));
    if (type == DType::q4_0) {
      CHECK(code.type == WeightType::q4 && code.group == 32 && !code.zeros && !code.permuted);
    }
  }
}

TEST(interleaved_rows_come_back_in_order_whatever_their_type) {
  for (const DType type : {DType::q4_0, DType::q6_k}) {
    for (const int rotary : {64, 32, 2}) {
      PackedModel model(check::seed() + 7);
      model.build(type, type);
      model.source.layers[0].query.heads = {64, rotary, true};
      const Repacked packed = pack(model);
      const std::vector<float> stored = model.values("q", type);
      const std::vector<float> found = decode(packed.plan.units[0].linears[0], packed.slabs[0].data());
      for (int row = 0; row < 256; row++) {
        // Pair i of a head, elements i and i + 32 here, is rows 2 i and 2 i + 1 there; what is not rotated follows.
        const int head = row / 64 * 64, pair = row % 32, side = row % 64 / 32, turning = rotary / 2;
        const int from = head + (pair < turning ? 2 * pair + side : rotary + pair - turning + side * (32 - turning));
        CHECK(std::equal(found.begin() + row * 256, found.begin() + (row + 1) * 256, stored.begin() + from * 256));
      }
    }
  }
}

TEST(a_packed_head_stays_as_it_is_whatever_is_asked) {
  PackedModel model(check::seed());
  model.build(DType::q8_0, DType::q8_0);
  model.source.head.make_bits = 4;
  CHECK(pack(model).plan.units[2].linears[0].segments[0].matrix.code == code_of(DType::q8_0));
}

TEST(scales_that_are_not_finite_are_refused_by_place) {
  for (const DType type : {DType::q4_0, DType::q4_k, DType::q8_0}) {
    for (const char* name : {"o", "e"}) {
      for (const uint16_t bits : {0x7c00, 0xfc00, 0x7e00}) {
        PackedModel model(check::seed());
        model.build(type, type);
        PackedModel broken(check::seed());
        broken.build(type, type);
        // The second block of row 3.
        const DTypeTraits& traits = traits_of(type);
        const size_t block = 3 * 256 / traits.block + (256 / traits.block > 1 ? 1 : 0);
        std::string bytes = broken.writer.bytes();
        const std::string& whole = model.bytes.at(name);
        const size_t at = bytes.find(whole);
        REQUIRE(at != std::string::npos);
        std::memcpy(bytes.data() + at + block * traits.block_bytes, &bits, sizeof(bits));
        const TempFolder folder;
        write_file(folder / "model.gguf", bytes);
        const Checkpoint checkpoint({folder / "model.gguf"});
        const SlabPlan plan = plan_slabs(checkpoint, model.source);
        std::vector<std::vector<std::byte>> slabs;
        std::vector<std::byte*> pointers;
        for (const UnitLayout& unit : plan.units) slabs.emplace_back(unit.bytes);
        for (auto& slab : slabs) pointers.push_back(slab.data());
        std::vector<std::byte> embedding(plan.embedding_bytes);
        ThreadPool pool(2);
        try {
          repack(checkpoint, plan, pointers, embedding.data(), pool, {});
          check::fail(__FILE__, __LINE__, "not refused");
        } catch (const Error& error) {
          const std::string message = error.what();
          CHECK_EQ(std::string(error.code()), code::kCheckpointInvalid);
          const std::string place = format("tensor %s: expected finite weights", name);
          if (message.find(place) == std::string::npos || message.find("[3, ") == std::string::npos) {
            check::fail(__FILE__, __LINE__, message);
          }
        }
      }
    }
  }
}

TEST(what_is_not_read_is_refused_by_name) {
  PackedModel model(check::seed());
  model.build(DType::q4_0, DType::f32);
  model.writer.tensor("iq2", {256, 256}, 16, std::string(256 * 66, 0));
  model.source.layers[0].query.weight = "iq2";
  refused(model, code::kCheckpointUnsupported, {"tensor iq2", "IQ2_XXS", "Q4_K", "MXFP4"});
  model.source.layers[0].query.weight = "q";
  model.source.embedding = "iq2";
  refused(model, code::kCheckpointUnsupported, {"tensor iq2", "IQ2_XXS"});
  model.source.embedding = "k";
  refused(model, code::kCheckpointInvalid, {"tensor k", "[70, 256]", "[128, 256]"});
}

TEST(heads_that_do_not_divide_the_rows) {
  for (const auto& [head, rotary] : {std::pair{48, 48}, {64, 66}, {64, 3}, {64, 0}}) {
    PackedModel model(check::seed());
    model.build(DType::q4_0, DType::f32);
    model.source.layers[0].query.heads = {head, rotary, true};
    refused(model, code::kInvalidArgument, {std::to_string(head)});
  }
}

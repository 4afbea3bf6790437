#include "stream/synthetic.h"
#include "stream/packed_file.h"
#include "stream/packed_writer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/half.h"
#include "core/random.h"

namespace millrace {

namespace {

// Groups as readers make them of a checkpoint's larger ones.
MatrixCode code_with_groups(WeightType type, const SyntheticOptions& options) {
  MatrixCode out;
  out.type = type;
  if (type == WeightType::q4) {
    out.group = options.group;
    out.zeros = options.zeros;
  } else if (code_of(type).grouped()) {
    out.group = groups_of(type).most;
  }
  return out;
}

// One matrix where all parts have one code, as a reader puts them together.
LinearLayout lay_out(SlabBuilder& builder, const LinearShape& shape, std::span<const MatrixCode> codes) {
  LinearLayout linear;
  linear.k = shape.k;
  linear.interleaved = shape.glu;
  if (shape.glu) {
    linear.n = 2 * static_cast<int>(round_up(static_cast<size_t>(shape.parts[0]), 8));
    linear.segments.push_back({builder.matrix(codes[0], linear.n, shape.k, shape.k), 0});
    return linear;
  }
  for (size_t part = 0; part < shape.parts.size();) {
    int n = 0;
    const MatrixCode& code = codes[part];
    for (; part < shape.parts.size() && codes[part] == code; part++) n += shape.parts[part];
    linear.segments.push_back({builder.matrix(code, n, shape.k, shape.k), linear.n});
    linear.n += n;
  }
  return linear;
}

// Where llama.cpp's Q4_K_M has Q6_K: values and down, in the first and last eighth of the layers and in each third
// between (`use_more_bits` of its llama-quant.cpp).
bool has_more_bits(int layer, int layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

// Linears whose output is routed: floats in every checkpoint.
std::vector<bool> routers_of(const ProgramUnit& unit) {
  std::vector<bool> out(unit.linears.size(), false);
  for (const Op& op : unit.ops) {
    const auto* route = std::get_if<RouteOp>(&op);
    if (route == nullptr) continue;
    for (const Op& other : unit.ops) {
      const auto* linear = std::get_if<LinearOp>(&other);
      if (linear != nullptr && linear->out == route->in) out[static_cast<size_t>(linear->linear)] = true;
    }
  }
  return out;
}

void fill_floats(std::byte* out, size_t count, WeightType type, float size, Random& random) {
  for (size_t i = 0; i < count; i++) {
    const float value = size * random.uniform();
    if (type == WeightType::f32) {
      std::memcpy(out + 4 * i, &value, 4);
    } else {
      const uint16_t bits = type == WeightType::f16 ? float_to_half(value) : float_to_bfloat16(value);
      std::memcpy(out + 2 * i, &bits, 2);
    }
  }
}

// Of the levels that random bits have under the masks of a tile's first 512 bytes and of the others. Left out are
// bits that a code's own format lacks, and e4m3's NaNs and largest numbers.
struct LevelStatistics {
  uint64_t first = ~uint64_t{0}, others = ~uint64_t{0};
  float mean = 0, deviation = 1;
};
LevelStatistics statistics_of(const Code& traits) {
  LevelStatistics out;
  uint32_t kept = (1u << traits.bits) - 1;
  if (traits.levels == Levels::e4m3) {
    kept = 0xbf;
    out.first = out.others = 0xbfbfbfbfbfbfbfbf;
  } else if (traits.bits == 6 && traits.zero != 32) {  // 5 bits
    kept = 31;
    out.others = 0x5555555555555555;
  } else if (traits.bits == 4 && traits.zero == 4) {  // 3 bits, and no offset that their mean could be taken off by
    kept = 7;
    out.first = 0x7777777777777777;
  }
  double sum = 0, squares = 0, n = 0;
  for (uint32_t bits = 0; bits < 1u << traits.bits; bits++) {
    if ((bits & ~kept) != 0) continue;
    const double level = level_of(traits, static_cast<uint8_t>(bits), traits.zero);
    sum += level;
    squares += level * level;
    n++;
  }
  out.mean = static_cast<float>(sum / n);
  out.deviation = static_cast<float>(std::round(std::sqrt(squares / n - sum / n * (sum / n)) * 10) / 10);
  return out;
}

}  // namespace

void fill_row_block(const MatrixLayout& m, std::byte* out, uint64_t seed) {
  Random random(seed);
  const float deviation = 1.0f / std::sqrt(static_cast<float>(m.k));
  const Code& traits = m.code.traits();
  if (!traits.grouped()) {  // uniform on [-s, s) has deviation s / sqrt(3)
    fill_floats(out, static_cast<size_t>(m.slices()) * kTileN * kTileK, m.code.type, 1.732f * deviation, random);
    return;
  }
  const LevelStatistics levels = statistics_of(traits);
  const auto scale_bits = [&](float value) -> uint32_t {
    return m.code.scale == ScaleType::bf16 ? float_to_bfloat16(value) : float_to_half(value);
  };
  GroupField fields[kTileN];
  for (int group = 0; group < m.groups(); group++) {
    if (m.span_bytes() > 0 && group * m.code.group % m.span() == 0) {
      for (GroupField& field : fields) {
        // Of two levels the second is about 32, or the e4m3 number 1.
        const float scale = deviation / levels.deviation * (1.0f + 0.3f * random.uniform());
        field.scale = traits.scales == Scales::nv ? std::bit_cast<uint32_t>(scale) : float_to_half(scale / 32);
        field.offset = float_to_half(-scale * levels.mean / 32);
      }
      encode_span(m.code, fields, out);
      out += m.span_bytes();
    }
    for (int i = 0; i < kTileN; i++) {
      GroupField& field = fields[tile_feature(i)];
      const float scale = deviation / levels.deviation * (1.0f + 0.3f * random.uniform());
      switch (traits.scales) {
        case Scales::none:
          break;
        case Scales::half:
          field.scale = scale_bits(scale);
          break;
        case Scales::f32:
          field.scale = std::bit_cast<uint32_t>(scale);
          break;
        case Scales::e8m0:
          field.scale = static_cast<uint32_t>(128 + std::ilogb(scale));
          break;
        case Scales::two_level:
          field.scale = 28 + static_cast<uint32_t>(random.bits() % 9);
          break;
        case Scales::nv:
          field.scale = 0x38;
          break;
      }
      if (m.code.zeros) field.offset = static_cast<uint16_t>(traits.zero - 1 + static_cast<int>(random.bits() % 3));
      if (traits.offsets == Offsets::minimum) field.offset = float_to_half(-scale * levels.mean);
      if (traits.offsets == Offsets::two_level) field.offset = 28 + static_cast<uint16_t>(random.bits() % 9);
    }
    encode_group(m.code, fields, out);
    out += m.group_header_bytes();
    const int first = group * m.code.group / kTileK;
    const int slices = std::min(m.code.group / kTileK, m.slices() - first);
    for (int slice = 0; slice < slices; slice++, out += m.tile_bytes()) {
      for (size_t i = 0; i < m.tile_bytes(); i += 8) {
        const uint64_t bits = random.bits() & (i < 512 ? levels.first : levels.others);
        std::memcpy(out + i, &bits, 8);
      }
    }
  }
}

SlabPlan plan_synthetic(const Program& program, const SyntheticOptions& options) {
  check_program(program);
  const MatrixCode usual = code_with_groups(options.layers, options);
  const MatrixCode more = options.more == WeightType::q4 ? usual : code_with_groups(options.more, options);
  MatrixCode head = code_with_groups(options.head, options);
  if (options.group % kTileK != 0 || options.group <= 0) {
    throw Error(code::kInvalidArgument, format("groups are multiples of %d", kTileK), "choose another group");
  }
  int layers = 0;
  for (const ProgramUnit& unit : program.units) layers = std::max(layers, unit.head ? 0 : unit.layer + 1);
  SlabPlan plan;
  plan.source.program = program;
  for (const ProgramUnit& unit : program.units) {
    UnitLayout layout;
    SlabBuilder builder;
    for (const int width : unit.vectors) layout.vectors.push_back(builder.floats(static_cast<size_t>(width)));
    const bool spends = !unit.head && has_more_bits(unit.layer, layers);
    bool after_glu = false;
    const std::vector<bool> routers = routers_of(unit);
    for (const LinearShape& shape : unit.linears) {
      std::vector<MatrixCode> codes(shape.parts.size(), unit.head ? head : usual);
      if (routers[layout.linears.size()]) codes.assign(codes.size(), {.type = WeightType::bf16});
      if (spends && after_glu) codes.assign(codes.size(), more);
      if (spends && shape.parts.size() == 3) codes[2] = more;  // of query, key and value
      for (const MatrixCode& code : codes) {
        if (shape.k % std::max(kTileK, code.traits().span_bytes() > 0 ? code.traits().span() : code.group) == 0)
          continue;
        if (code.type == WeightType::q4 && shape.k % kTileK == 0) continue;
        throw Error(code::kInvalidArgument,
                    format("a synthetic model needs widths that are multiples of %d and of its groups", kTileK),
                    "choose another shape");
      }
      layout.linears.push_back(lay_out(builder, shape, codes));
      after_glu = shape.glu;
    }
    layout.bytes = builder.bytes();
    plan.units.push_back(layout);
  }
  for (const int width : program.tables) plan.add_table(options.embedding, width);
  return plan;
}

namespace {

// Units in order, then the tables: each has numbers of its own.
void fill(HostModel& model, const SlabPlan& planned, uint64_t seed, ThreadPool& pool,
          const std::function<std::byte*(int unit)>& place, const std::function<void(int unit)>& done) {
  const Program& program = planned.source.program;
  uint64_t stream = seed << 40;
  for (size_t unit = 0; unit < planned.units.size(); unit++) {
    const UnitLayout& layout = planned.units[unit];
    std::byte* slab = place(static_cast<int>(unit));
    for (size_t i = 0; i < layout.vectors.size(); i++) {
      Random norms(stream++);
      auto* norm = reinterpret_cast<float*>(slab + layout.vectors[i]);
      for (int j = 0; j < program.units[unit].vectors[i]; j++) norm[j] = 1.0f + 0.2f * norms.uniform();
    }
    for (const LinearLayout& linear : layout.linears) {
      for (const LinearLayout::Segment& segment : linear.segments) {
        const MatrixLayout& m = segment.matrix;
        const uint64_t base = (stream++) << 20;
        pool.parallel_for(m.n_blocks(), [&](int64_t block, int) {
          fill_row_block(m, slab + m.offset + block * m.row_block_bytes(), base + static_cast<uint64_t>(block));
        });
      }
    }
    done(static_cast<int>(unit));
  }
  for (const TableLayout& table : planned.tables) {
    const size_t row_bytes = table.bytes / static_cast<size_t>(program.vocab);
    const uint64_t base = (stream++) << 20;
    pool.parallel_for(program.vocab, [&](int64_t row, int) {
      Random random(base + static_cast<uint64_t>(row));
      fill_floats(model.mutable_embedding() + table.offset + row * row_bytes, table.width, table.type, 1.0f, random);
    });
  }
  done(-1);
}

std::string identity_of(const SyntheticOptions& options) {
  return format("random weights %d %d %d %d %d %d %llu", static_cast<int>(options.layers),
                static_cast<int>(options.more), options.group, options.zeros, static_cast<int>(options.head),
                static_cast<int>(options.embedding), static_cast<unsigned long long>(options.seed));
}

}  // namespace

std::shared_ptr<const HostModel> synthetic_model(const Program& program, const SyntheticOptions& options,
                                                 ThreadPool& pool, const HostPinners& pinners,
                                                 const SyntheticFile& file) {
  const SlabPlan planned = plan_synthetic(program, options);
  auto model = std::make_shared<HostModel>(planned, file.in_file);
  model->pin(pinners);
  if (!model->leaves_units()) {
    fill(
        *model, planned, options.seed, pool, [&](int unit) { return model->mutable_slab(unit); }, [](int) {});
    return model;
  }
  model->set_stamp({identity_of(options), 0});
  if (read_packed(file.path, *model, pool, {}).state == PackedState::read) return model;
  hear_of_file_limits();
  const HostMemory passing(model->largest_in_file(), "a unit on its way to the file");
  PackedWriter writer(file.path, packed::lay_out(*model));
  const auto place = [&](int unit) {
    if (unit < 0) return model->mutable_embedding();
    if (!model->in_file(unit)) return model->mutable_slab(unit);
    std::memset(passing.data(), 0, passing.size());  // what no weight fills, as in memory
    return passing.data();
  };
  const auto done = [&](int unit) {
    const std::byte* data = unit < 0 ? model->embedding() : model->in_file(unit) ? passing.data() : model->slab(unit);
    if (!writer.put(static_cast<size_t>(unit + 1), data)) throw packed_write_failure(file.path, writer.why());
  };
  fill(*model, planned, options.seed, pool, place, done);
  if (!writer.finish({})) throw packed_write_failure(file.path, writer.why());
  leave_units_in_file(file.path, *model);
  return model;
}

}  // namespace millrace

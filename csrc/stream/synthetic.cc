#include "stream/synthetic.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/half.h"
#include "core/random.h"

namespace millrace {

namespace {

LinearLayout lay_out(SlabBuilder& builder, MatrixCode code, int n, int k) {
  LinearLayout linear;
  linear.n = n;
  linear.k = k;
  linear.segments.push_back({builder.matrix(code, n, k, code.nibbles * k), 0});
  return linear;
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

}  // namespace

void fill_row_block(const MatrixLayout& m, std::byte* out, uint64_t seed) {
  Random random(seed);
  const float deviation = 1.0f / std::sqrt(static_cast<float>(m.k));
  if (m.code.type != WeightType::q4) {  // uniform on [-s, s) has deviation s / sqrt(3)
    fill_floats(out, static_cast<size_t>(m.slices()) * kTileN * kTileK, m.code.type, 1.732f * deviation, random);
    return;
  }
  // Nibbles are uniform on 0..15: q - 8 has deviation 4.6.
  for (int group = 0; group < m.groups(); group++) {
    const float nibble = group % m.code.nibbles == 0 ? 1.0f : 1.0f / 16;
    for (int i = 0; i < kTileN; i++) {
      const float value = nibble * deviation / 4.6f * (1.0f + 0.3f * random.uniform());
      const uint16_t scale = m.code.scale == ScaleType::bf16 ? float_to_bfloat16(value) : float_to_half(value);
      std::memcpy(out + 2 * i, &scale, 2);
      if (m.code.zeros) out[128 + i] = static_cast<std::byte>(7 + random.bits() % 3);
    }
    out += m.group_header_bytes();
    const int first = group * m.code.group / kTileK;
    const int slices = std::min(m.code.group / kTileK, m.slices() - first);
    for (size_t i = 0; i < slices * kQ4TileBytes; i += 8) {
      const uint64_t bits = random.bits();
      std::memcpy(out + i, &bits, 8);
    }
    out += slices * kQ4TileBytes;
  }
}

SlabPlan plan_synthetic(const Program& program, const SyntheticOptions& options) {
  check_program(program);
  MatrixCode q4;
  q4.type = WeightType::q4;
  q4.group = options.group;
  q4.zeros = options.zeros;
  MatrixCode head;
  if (options.head == WeightType::q4) {
    head = q4;
    head.nibbles = options.head_nibbles;
    head.permuted = head.nibbles == 2;
    if (head.permuted) head.group = 128;  // as QuantisingReader makes them
    while (program.hidden() % head.group != 0 && head.permuted) head.group /= 2;
  } else {
    head.type = options.head;
  }
  SlabPlan plan;
  plan.source.program = program;
  for (const ProgramUnit& unit : program.units) {
    UnitLayout layout;
    SlabBuilder builder;
    for (const int width : unit.vectors) layout.vectors.push_back(builder.floats(static_cast<size_t>(width)));
    for (const LinearShape& shape : unit.linears) {
      if (shape.k % kTileK != 0 || options.group % kTileK != 0 || options.group <= 0) {
        throw Error(code::kInvalidArgument,
                    format("a synthetic model needs widths and groups that are multiples of %d", kTileK),
                    "choose another shape");
      }
      const int n = shape.glu ? 2 * static_cast<int>(round_up(static_cast<size_t>(shape.parts[0]), 8)) : shape.n();
      layout.linears.push_back(lay_out(builder, unit.head ? head : q4, n, shape.k));
      layout.linears.back().interleaved = shape.glu;
    }
    layout.bytes = builder.bytes();
    plan.units.push_back(layout);
  }
  for (const int width : program.tables) plan.add_table(options.embedding, width);
  return plan;
}

std::shared_ptr<const HostModel> synthetic_model(const Program& program, const SyntheticOptions& options,
                                                 ThreadPool& pool, const HostPinners& pinners) {
  const SlabPlan planned = plan_synthetic(program, options);
  auto model = std::make_shared<HostModel>(planned);
  model->pin(pinners);
  uint64_t stream = options.seed << 40;
  for (size_t unit = 0; unit < planned.units.size(); unit++) {
    const UnitLayout& layout = planned.units[unit];
    std::byte* slab = model->mutable_slab(static_cast<int>(unit));
    for (size_t i = 0; i < layout.vectors.size(); i++) {
      Random norms(stream++);
      auto* norm = reinterpret_cast<float*>(slab + layout.vectors[i]);
      for (int j = 0; j < program.units[unit].vectors[i]; j++) norm[j] = 1.0f + 0.2f * norms.uniform();
    }
    for (const LinearLayout& linear : layout.linears) {
      for (const LinearLayout::Segment& segment : linear.segments) {
        const MatrixLayout& m = segment.matrix;
        const uint64_t base = (stream++) << 20;
        if (m.code.nibbles == 2) {
          const std::vector<int32_t> features = nibble_permutation(m.k, m.k_stored, m.code.group);
          std::memcpy(slab + m.permutation_offset, features.data(), features.size() * sizeof(int32_t));
        }
        pool.parallel_for(m.n_blocks(), [&](int64_t block, int) {
          fill_row_block(m, slab + m.offset + block * m.row_block_bytes(), base + static_cast<uint64_t>(block));
        });
      }
    }
  }
  for (const TableLayout& table : planned.tables) {
    const size_t row_bytes = table.bytes / static_cast<size_t>(program.vocab);
    const uint64_t base = (stream++) << 20;
    pool.parallel_for(program.vocab, [&](int64_t row, int) {
      Random random(base + static_cast<uint64_t>(row));
      fill_floats(model->mutable_embedding() + table.offset + row * row_bytes, table.width, table.type, 1.0f, random);
    });
  }
  return model;
}

}  // namespace millrace

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

SlabPlan plan_synthetic(const ModelSpec& spec, const SyntheticOptions& options) {
  spec.validate();
  for (const int width : {spec.hidden, spec.query_width(), spec.intermediate}) {
    if (width % kTileK != 0 || options.group % kTileK != 0 || options.group <= 0) {
      throw Error(code::kInvalidArgument,
                  format("a synthetic model needs widths and groups that are multiples of %d", kTileK),
                  "choose another shape");
    }
  }
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
    while (spec.hidden % head.group != 0 && head.permuted) head.group /= 2;
  } else {
    head.type = options.head;
  }
  SlabPlan plan;
  plan.source.spec = spec;
  for (int unit = 0; unit < unit_count(spec); unit++) {
    UnitLayout layout;
    SlabBuilder builder;
    layout.layer = unit / 2;
    layout.norm_offset = builder.floats(spec.hidden);
    if (unit == head_unit(spec)) {
      layout.kind = UnitKind::head;
      layout.first = lay_out(builder, head, spec.vocab, spec.hidden);
    } else if (unit == attention_unit(unit / 2)) {
      layout.kind = UnitKind::attention;
      layout.first = lay_out(builder, q4, spec.qkv_width(), spec.hidden);
      layout.second = lay_out(builder, q4, spec.hidden, spec.query_width());
    } else {
      layout.kind = UnitKind::feed_forward;
      layout.interleaved = true;
      layout.first = lay_out(builder, q4, 2 * static_cast<int>(round_up(spec.intermediate, 8)), spec.hidden);
      layout.second = lay_out(builder, q4, spec.hidden, spec.intermediate);
    }
    layout.bytes = builder.bytes();
    plan.units.push_back(layout);
  }
  plan.embedding_type = options.embedding;
  plan.embedding_bytes = static_cast<size_t>(spec.vocab) * spec.hidden * element_bytes(options.embedding);
  return plan;
}

std::shared_ptr<const HostModel> synthetic_model(const ModelSpec& spec, const SyntheticOptions& options,
                                                 ThreadPool& pool, const HostPinners& pinners) {
  const SlabPlan planned = plan_synthetic(spec, options);
  auto model = std::make_shared<HostModel>(planned);
  model->pin(pinners);
  uint64_t stream = options.seed << 40;
  for (size_t unit = 0; unit < planned.units.size(); unit++) {
    const UnitLayout& layout = planned.units[unit];
    std::byte* slab = model->mutable_slab(static_cast<int>(unit));
    Random norms(stream++);
    auto* norm = reinterpret_cast<float*>(slab + layout.norm_offset);
    for (int i = 0; i < spec.hidden; i++) norm[i] = 1.0f + 0.2f * norms.uniform();
    for (const LinearLayout* linear : {&layout.first, &layout.second}) {
      for (const LinearLayout::Segment& segment : linear->segments) {
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
  const size_t row_bytes = spec.hidden * element_bytes(options.embedding);
  const uint64_t base = (stream++) << 20;
  pool.parallel_for(spec.vocab, [&](int64_t row, int) {
    Random random(base + static_cast<uint64_t>(row));
    fill_floats(model->mutable_embedding() + row * row_bytes, spec.hidden, options.embedding, 1.0f, random);
  });
  return model;
}

}  // namespace millrace

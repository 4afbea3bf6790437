// Checks a checkpoint against the model's spec and lays out its slabs. Reads headers, g_idx, weight_shape and zeros,
// nothing else.
#include "checkpoint/linear_reader.h"
#include "checkpoint/messages.h"
#include "checkpoint/repack.h"
#include "core/memory.h"

namespace millrace {

namespace {

using Readers = std::vector<std::unique_ptr<LinearReader>>;

// Codes that agree, or would if both stored their zeros.
bool fusable(const LinearReader& a, const LinearReader& b) {
  MatrixCode left = a.code(), right = b.code();
  left.zeros = right.zeros = false;
  return left == right && a.k_stored() == b.k_stored() && a.permutation() == b.permutation();
}

// Lays out linears that share their input, output features side by side, neighbours fused where they can be.
LinearLayout lay_out(SlabBuilder& builder, const Readers& readers) {
  LinearLayout linear;
  linear.k = readers[0]->k();
  for (size_t i = 0; i < readers.size();) {
    MatrixCode code = readers[i]->code();
    int n = 0;
    size_t j = i;
    for (; j < readers.size() && fusable(*readers[i], *readers[j]); j++) {
      n += readers[j]->n();
      code.zeros = code.zeros || readers[j]->code().zeros;
    }
    linear.segments.push_back({builder.matrix(code, n, linear.k, readers[i]->k_stored()), linear.n});
    linear.n += n;
    i = j;
  }
  return linear;
}

void lay_out_bias(SlabBuilder& builder, const Checkpoint& checkpoint,
                  std::initializer_list<const LinearSource*> sources, const Readers& readers, LinearLayout& linear) {
  size_t i = 0;
  for (const LinearSource* source : sources) {
    const int n = readers[i++]->n();
    if (source->bias.empty()) continue;
    require_floats(checkpoint, source->bias, n);
    linear.has_bias = true;
  }
  if (linear.has_bias) linear.bias_offset = builder.floats(static_cast<size_t>(linear.n));
}

LinearLayout lay_out(SlabBuilder& builder, const Checkpoint& checkpoint,
                     std::initializer_list<const LinearSource*> sources, const Readers& readers) {
  LinearLayout linear = lay_out(builder, readers);
  lay_out_bias(builder, checkpoint, sources, readers, linear);
  return linear;
}

UnitLayout plan_attention(const Checkpoint& checkpoint, const ModelSpec& spec, const LayerSource& source, int layer) {
  UnitLayout unit;
  unit.kind = UnitKind::attention;
  unit.layer = layer;
  SlabBuilder builder;
  require_floats(checkpoint, source.attention_norm, spec.hidden);
  unit.norm_offset = builder.floats(static_cast<size_t>(spec.hidden));
  if (spec.qk_norm) {
    require_floats(checkpoint, source.query_norm, spec.head_dim);
    require_floats(checkpoint, source.key_norm, spec.head_dim);
    unit.query_norm_offset = builder.floats(static_cast<size_t>(spec.head_dim));
    unit.key_norm_offset = builder.floats(static_cast<size_t>(spec.head_dim));
  }
  Readers qkv, output;
  qkv.push_back(open_linear(checkpoint, source.query, spec.query_width(), spec.hidden));
  qkv.push_back(open_linear(checkpoint, source.key, spec.kv_width(), spec.hidden));
  qkv.push_back(open_linear(checkpoint, source.value, spec.kv_width(), spec.hidden));
  unit.first = lay_out(builder, checkpoint, {&source.query, &source.key, &source.value}, qkv);
  output.push_back(open_linear(checkpoint, source.output, spec.hidden, spec.query_width()));
  unit.second = lay_out(builder, checkpoint, {&source.output}, output);
  unit.bytes = builder.bytes();
  return unit;
}

UnitLayout plan_feed_forward(const Checkpoint& checkpoint, const ModelSpec& spec, const LayerSource& source,
                             int layer) {
  UnitLayout unit;
  unit.kind = UnitKind::feed_forward;
  unit.layer = layer;
  SlabBuilder builder;
  require_floats(checkpoint, source.feed_forward_norm, spec.hidden);
  unit.norm_offset = builder.floats(static_cast<size_t>(spec.hidden));
  Readers gate_up, down;
  gate_up.push_back(open_linear(checkpoint, source.gate, spec.intermediate, spec.hidden));
  gate_up.push_back(open_linear(checkpoint, source.up, spec.intermediate, spec.hidden));
  unit.interleaved = fusable(*gate_up[0], *gate_up[1]);
  if (unit.interleaved) {
    MatrixCode code = gate_up[0]->code();
    code.zeros = code.zeros || gate_up[1]->code().zeros;
    unit.first.k = spec.hidden;
    unit.first.n = 2 * static_cast<int>(round_up(static_cast<size_t>(spec.intermediate), 8));
    unit.first.segments.push_back({builder.matrix(code, unit.first.n, spec.hidden, gate_up[0]->k_stored()), 0});
  } else {
    unit.first = lay_out(builder, gate_up);
  }
  lay_out_bias(builder, checkpoint, {&source.gate, &source.up}, gate_up, unit.first);
  down.push_back(open_linear(checkpoint, source.down, spec.hidden, spec.intermediate));
  unit.second = lay_out(builder, checkpoint, {&source.down}, down);
  unit.bytes = builder.bytes();
  return unit;
}

UnitLayout plan_head(const Checkpoint& checkpoint, const ModelSource& source) {
  UnitLayout unit;
  unit.kind = UnitKind::head;
  SlabBuilder builder;
  require_floats(checkpoint, source.final_norm, source.spec.hidden);
  unit.norm_offset = builder.floats(static_cast<size_t>(source.spec.hidden));
  Readers head;
  head.push_back(open_linear(checkpoint, source.head, source.spec.vocab, source.spec.hidden));
  unit.first = lay_out(builder, checkpoint, {&source.head}, head);
  unit.bytes = builder.bytes();
  return unit;
}

}  // namespace

SlabPlan plan_slabs(const Checkpoint& checkpoint, const ModelSource& source) {
  const ModelSpec& spec = source.spec;
  spec.validate();
  if (source.layers.size() != static_cast<size_t>(spec.layers)) {
    throw Error(code::kInvalidArgument,
                format("expected the tensors of %d layers, found %zu", spec.layers, source.layers.size()),
                "name every layer's tensors");
  }
  SlabPlan plan;
  plan.source = source;
  const Tensor& embedding = require_weight(checkpoint, source.embedding, spec.vocab, spec.hidden);
  plan.embedding_type = embedding_type_of(embedding.dtype);
  plan.embedding_bytes =
      static_cast<size_t>(spec.vocab) * static_cast<size_t>(spec.hidden) * element_bytes(plan.embedding_type);
  for (int layer = 0; layer < spec.layers; layer++) {
    checkpoint.drop_all();
    plan.units.push_back(plan_attention(checkpoint, spec, source.layers[layer], layer));
    plan.units.push_back(plan_feed_forward(checkpoint, spec, source.layers[layer], layer));
  }
  plan.units.push_back(plan_head(checkpoint, source));
  checkpoint.drop_all();
  return plan;
}

}  // namespace millrace

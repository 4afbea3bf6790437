#pragma once
#include "core/thread_pool.h"
#include "dense.h"
#include "stream/synthetic.h"

namespace millrace {

inline std::shared_ptr<const HostModel> made_of(const Program& program, uint64_t seed, const SyntheticFile& file = {}) {
  SyntheticOptions options;
  options.group = 32;
  options.zeros = true;
  options.head = WeightType::f32;
  options.embedding = WeightType::f32;
  options.seed = seed;
  ThreadPool pool(1);
  return synthetic_model(program, options, pool, {}, file);
}

inline DenseSpec tiny_spec() {
  DenseSpec spec;
  spec.vocab = 97;
  spec.hidden = 64;
  spec.layers = 3;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.intermediate = 96;
  spec.max_position = 512;
  return spec;
}

// `mixed`: the layer in the middle alone has the window, and the others none.
inline std::shared_ptr<const HostModel> tiny_model(uint64_t seed, int window = 0, bool mixed = false,
                                                   const SyntheticFile& file = {}) {
  DenseSpec spec = tiny_spec();
  spec.sliding_window = mixed ? 0 : window;
  Program program = dense_program(spec);
  if (mixed) {
    program.kv[0].layers = 2;
    program.kv.push_back({1, window, spec.kv_heads, spec.head_dim});
    for (int layer = 0; layer < spec.layers; layer++) {
      for (Op& op : program.units[attention_unit(layer)].ops) {
        if (auto* attend = std::get_if<AttendOp>(&op)) {
          attend->kv_class = layer == 1 ? 1 : 0;
          attend->kv_layer = layer / 2;
        }
      }
    }
  }
  return made_of(program, seed, file);
}

// Layers 0 and 2 keep states, that in the middle keys and values.
inline std::shared_ptr<const HostModel> tiny_hybrid(uint64_t seed) {
  DenseSpec spec = tiny_spec();
  Program program = dense_program(spec);
  const auto value = [&](int width) {
    program.values.push_back(width);
    return static_cast<int>(program.values.size()) - 1;
  };
  DeltaOp delta;
  delta.key_heads = 2, delta.value_heads = 4, delta.key_dim = 8, delta.value_dim = 16;
  delta.rate = 2, delta.bias = 3;
  ConvOp conv;
  conv.channels = 2 * delta.key_width() + delta.value_width();
  conv.weight = 1;
  conv.in = value(conv.channels);
  conv.out = delta.in = value(conv.channels);
  delta.gates = value(2 * delta.value_heads);
  delta.out = value(delta.value_width());
  delta.state.begin = conv.state_floats();
  conv.state.kv_class = delta.state.kv_class = 1;
  program.kv = {{1, 0, spec.kv_heads, spec.head_dim}, {2, 0, 0, 0, conv.state_floats() + delta.state_floats()}};
  for (int layer = 0; layer < spec.layers; layer++) {
    ProgramUnit& unit = program.units[attention_unit(layer)];
    if (layer == 1) {
      for (Op& op : unit.ops) {
        if (auto* attend = std::get_if<AttendOp>(&op)) attend->kv_layer = 0;
      }
      continue;
    }
    conv.state.kv_layer = delta.state.kv_layer = layer / 2;
    unit.name = "delta-net " + std::to_string(layer);
    unit.vectors = {spec.hidden, conv.taps * conv.channels, delta.value_heads, delta.value_heads};
    unit.linears = {
        {spec.hidden, {conv.channels}}, {spec.hidden, {2 * delta.value_heads}}, {delta.value_width(), {spec.hidden}}};
    const Op normed = unit.ops.front();
    const int in = std::get<NormOp>(normed).out;
    unit.ops = {normed,
                LinearOp{in, conv.in, 0},
                LinearOp{in, delta.gates, 1},
                conv,
                delta,
                LinearOp{delta.out, kResidual, 2, true}};
  }
  return made_of(program, seed);
}

}  // namespace millrace

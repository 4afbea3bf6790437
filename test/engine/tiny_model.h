#pragma once
#include "core/thread_pool.h"
#include "dense.h"
#include "stream/synthetic.h"

namespace millrace {

// `mixed`: the layer in the middle alone has the window, and the others none.
inline std::shared_ptr<const HostModel> tiny_model(uint64_t seed, int window = 0, bool mixed = false,
                                                   const SyntheticFile& file = {}) {
  DenseSpec spec;
  spec.vocab = 97;
  spec.hidden = 64;
  spec.layers = 3;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.intermediate = 96;
  spec.max_position = 512;
  spec.sliding_window = mixed ? 0 : window;
  SyntheticOptions options;
  options.group = 32;
  options.zeros = true;
  options.head = WeightType::f32;
  options.embedding = WeightType::f32;
  options.seed = seed;
  ThreadPool pool(1);
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
  return synthetic_model(program, options, pool, {}, file);
}

}  // namespace millrace

#pragma once
#include "core/thread_pool.h"
#include "dense.h"
#include "stream/synthetic.h"

namespace millrace {

inline std::shared_ptr<const HostModel> tiny_model(uint64_t seed, int window = 0) {
  DenseSpec spec;
  spec.vocab = 97;
  spec.hidden = 64;
  spec.layers = 3;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.intermediate = 96;
  spec.max_position = 512;
  spec.sliding_window = window;
  SyntheticOptions options;
  options.group = 32;
  options.zeros = true;
  options.head = WeightType::f32;
  options.embedding = WeightType::f32;
  options.seed = seed;
  ThreadPool pool(1);
  return synthetic_model(dense_program(spec), options, pool);
}

}  // namespace millrace

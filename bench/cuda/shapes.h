#pragma once
// Shapes of the benches that run whole models.
#include <string>

#include "model/spec.h"

namespace millrace {

// '1b': TinyLlama-1.1B; anything else: Llama-3-8B.
inline ModelSpec shape(const std::string& name) {
  ModelSpec spec;
  if (name == "1b") {
    spec.vocab = 32000, spec.hidden = 2048, spec.layers = 22, spec.heads = 32, spec.kv_heads = 4, spec.head_dim = 64;
    spec.intermediate = 5632, spec.max_position = 8192;
  } else {
    spec.vocab = 128256, spec.hidden = 4096, spec.layers = 32, spec.heads = 32, spec.kv_heads = 8, spec.head_dim = 128;
    spec.intermediate = 14336, spec.max_position = 65536, spec.rope.theta = 500000;
  }
  return spec;
}

}  // namespace millrace

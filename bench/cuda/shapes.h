#pragma once
// Shapes of the benches that run whole models, by the names that the command has for them (lib/model/shapes.ts).
#include <cstdio>
#include <cstdlib>
#include <string>

#include "test/dense.h"

namespace millrace {

// Positions beyond what the model was made for are for timing alone.
inline DenseSpec shape(const std::string& name) {
  DenseSpec spec;
  if (name == "tinyllama-1.1b") {
    spec.vocab = 32000, spec.hidden = 2048, spec.layers = 22, spec.heads = 32, spec.kv_heads = 4, spec.head_dim = 64;
    spec.intermediate = 5632, spec.max_position = 8192;
  } else if (name == "llama3-8b") {
    spec.vocab = 128256, spec.hidden = 4096, spec.layers = 32, spec.heads = 32, spec.kv_heads = 8, spec.head_dim = 128;
    spec.intermediate = 14336, spec.max_position = 65536, spec.rope.theta = 500000;
  } else {
    std::fprintf(stderr, "expected tinyllama-1.1b or llama3-8b for --shape but received '%s'\n", name.c_str());
    std::exit(2);
  }
  return spec;
}

}  // namespace millrace

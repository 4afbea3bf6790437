#pragma once
// Rotary position embedding in the Hugging Face half-split form: element i of the first half of a head pairs with
// element i of the second half (Su et al. 2021, arXiv:2104.09864; the llama3 rescaling as in Llama 3.1's reference;
// YaRN: Peng et al. 2023, arXiv:2309.00071; 'dynamic' as transformers' NTK-aware scaling, at the model's greatest
// length).
#include <vector>

#include "model/spec.h"

namespace millrace {

// head_dim / 2 angular frequencies in radians a position, after the spec's scaling.
std::vector<double> rope_frequencies(const ModelSpec& spec);

// What cosines and sines are multiplied by: yarn's attention factor, otherwise 1.
double rope_amplitude(const ModelSpec& spec);

// Rows of head_dim floats for positions [begin, end): cos of the head_dim / 2 angles, then their sin, times the
// amplitude. Angles are computed in float64, so that position 100,000 is as exact as position 1.
std::vector<float> rope_table(const ModelSpec& spec, int begin, int end);

}  // namespace millrace

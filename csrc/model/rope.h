#pragma once
// Rotary position embedding in the Hugging Face half-split form: element i of the first half of a head pairs with
// element i of the second half (Su et al. 2021, arXiv:2104.09864; the llama3 rescaling as in Llama 3.1's reference;
// YaRN: Peng et al. 2023, arXiv:2309.00071; 'dynamic' as transformers' NTK-aware scaling, at the model's greatest
// length).
#include <cstdint>
#include <vector>

namespace millrace {

enum class RopeScaling : uint8_t { none, linear, dynamic, llama3, yarn };

struct RopeSpec {
  int head_dim = 0;  // even
  int rotary = 0;    // even: of so many elements the first half pairs turn, the others stay as they are
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1.0;                 // linear, dynamic, llama3, yarn
  double low_frequency_factor = 1.0;   // llama3
  double high_frequency_factor = 4.0;  // llama3
  int original_max_position = 0;       // llama3, yarn, dynamic
  double attention_factor = 1.0;       // cosines and sines of the pairs that turn are multiplied by it
  double beta_fast = 32.0;             // yarn: pairs that turn more often than this in the original context are kept
  double beta_slow = 1.0;              // yarn: pairs that turn less often are stretched
  bool truncate = true;                // yarn: the range between is rounded outwards to whole pairs
  std::vector<double> factors;         // rotary / 2 that frequencies are divided by before any scaling, or none
  // The same in contexts that are longer than original_max_position, if there are any.
  std::vector<double> long_factors;
  int span = 0;  // elements that exponents are counted over; 0: rotary

  // With the factors of so long a context, whatever the position: a key's rotation may not depend on what follows.
  RopeSpec of_context(int context) const;

  // Throws CHECKPOINT_INVALID naming the field.
  void validate() const;
};

// rotary / 2 angular frequencies in radians a position, after the scaling.
std::vector<double> rope_frequencies(const RopeSpec& rope);

// Rows of head_dim floats for positions [begin, end): cos of the head_dim / 2 angles, then their sin, those of the
// first rotary / 2 times the attention factor; the other angles are 0. Angles are computed in float64, so that position
// 100,000 is as exact as position 1.
std::vector<float> rope_table(const RopeSpec& rope, int begin, int end);

}  // namespace millrace

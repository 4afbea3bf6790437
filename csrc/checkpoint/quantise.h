#pragma once
// Four or eight bits made of a float linear while it is repacked: of heads, which checkpoints mostly leave as they
// were trained and which are then the largest matrix of the model, or of whole models. Both with a scale a group.
//
// Eight bits, in groups of 64: levels in [-128, 127]; the smallest scale that reaches the group's largest weight of
// either sign.
//
// Four bits, in groups of 64 or more: symmetric (zero 8). Of nine ways to map the group's largest weight near -8, the
// one is taken whose least-squares scale leaves the smallest error, each input feature weighed by the square of the
// norm's weight that it carries: what that minimises is the expected square of the logits' error over normed rows whose
// features are alike. In groups of 32, which narrow models get, each group has a zero: of eighteen ways to map the
// range of its weights near that of the codes the best by the same measure.
#include <array>
#include <string>
#include <vector>

#include "checkpoint/plain.h"

namespace millrace {

class QuantisingReader : public LinearReader {
 public:
  // Of source.make_bits. `norm`: the float vector [k] of the norm that the linear's input comes from; no tensor: ones.
  QuantisingReader(const Checkpoint& checkpoint, const LinearSource& source, const VectorSource& norm, int n, int k);
  // Of each output feature, groups one after the other and each before its words; different output features may be
  // read by different threads at once.
  void read_group(int group, int column, int count, GroupField* out) const override;
  void read_words(int begin, int end, int column, int count, uint32_t* out) const override;
  void read_levels(int begin, int end, int column, int count, uint8_t* out) const override;
  bool by_rows() const override { return true; }
  ErrorSums errors() const override;

 private:
  struct Feature {
    int group = -1;  // the last that was read
    float scale = 0.0f;
    int zero = 0;
    ErrorSums sums{};  // of e^2, w^2, both weighed
  };
  void load(int row, int begin, int count, float* out) const;
  void quantise(int n, int begin, int end, uint8_t* levels) const;

  PlainReader plain_;
  int bits_;
  std::vector<float> importance_;  // [k]
  mutable std::vector<Feature> features_;
};

// The scale, as float16, that q4 codes of `count` weights are multiplied with (code - 8, codes 0..15). Exposed for
// tests.
uint16_t fit_q4_scale(const float* weights, const float* importance, int count);
// Of codes less a zero of their own: scale * (code - zero).
struct Q4Fit {
  uint16_t scale;
  int zero;  // 0..15
};
Q4Fit fit_q4_with_zero(const float* weights, const float* importance, int count);
// The same of eight bits (level - 128, levels 0..255).
uint16_t fit_q8_scale(const float* weights, int count);

}  // namespace millrace

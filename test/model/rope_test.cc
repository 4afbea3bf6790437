// Rotary tables: values known from the papers' formulas, and the spec's refusals. The whole of each scaling is held to
// transformers by test/goldens.
#include "model/rope.h"

#include <cmath>

#include "check.h"
#include "core/error.h"

using namespace millrace;

namespace {

RopeSpec spec_of(RopeScaling scaling, double factor, int original) {
  RopeSpec spec;
  spec.head_dim = spec.rotary = 64;
  spec.scaling = scaling;
  spec.factor = factor;
  spec.original_max_position = original;
  return spec;
}

}  // namespace

TEST(dynamic_scaling_enlarges_theta_for_the_greatest_length) {
  const RopeSpec plain = spec_of(RopeScaling::none, 1, 0);
  const RopeSpec scaled = spec_of(RopeScaling::dynamic, 4, 1024);
  const double theta = 10000 * std::pow(4 * 4 - 3, 64.0 / 62.0);
  const auto frequencies = rope_frequencies(scaled);
  for (int i = 0; i < 32; i++) CHECK_NEAR(frequencies[i], std::pow(theta, -i / 32.0), 1e-12);
  // A factor of one changes nothing.
  CHECK(rope_frequencies(spec_of(RopeScaling::dynamic, 1, 1024)) == rope_frequencies(plain));
}

TEST(yarn_keeps_fast_pairs_and_stretches_slow_ones) {
  const auto plain = rope_frequencies(spec_of(RopeScaling::none, 1, 0));
  RopeSpec spec = spec_of(RopeScaling::yarn, 8, 1024);
  spec.attention_factor = 1.25;
  const auto scaled = rope_frequencies(spec);
  CHECK_EQ(scaled[0], plain[0]);
  CHECK_NEAR(scaled[31], plain[31] / 8, 1e-15);
  for (int i = 1; i < 32; i++) CHECK(scaled[i] / plain[i] <= scaled[i - 1] / plain[i - 1]);
  // Cosines and sines are scaled alike.
  const auto table = rope_table(spec, 0, 2);
  CHECK_EQ(table[0], 1.25f);
  CHECK_EQ(table[32], 0.0f);
  CHECK_NEAR(table[64 + 32], 1.25 * std::sin(1.0), 1e-6);
  CHECK_EQ(rope_table(spec_of(RopeScaling::linear, 2, 0), 0, 1)[0], 1.0f);
}

TEST(factors_of_pairs_divide_frequencies_before_any_scaling) {
  for (const RopeScaling scaling : {RopeScaling::none, RopeScaling::linear, RopeScaling::yarn}) {
    RopeSpec spec = spec_of(scaling, 4, 1024);
    const auto without = rope_frequencies(spec);
    for (int i = 0; i < 32; i++) spec.factors.push_back(1.0 + i / 8.0);
    const auto with = rope_frequencies(spec);
    for (int i = 0; i < 32; i++) CHECK_NEAR(with[i] * spec.factors[i], without[i], 1e-12);
  }
}

TEST(scalings_without_what_they_need_are_refused_by_name) {
  const auto refused = [](RopeSpec spec, const char* word) {
    CHECK_THROWS_CODE(spec.validate(), code::kCheckpointInvalid);
    try {
      spec.validate();
    } catch (const Error& error) {
      CHECK(std::string(error.what()).find(word) != std::string::npos);
    }
  };
  spec_of(RopeScaling::yarn, 4, 1024).validate();
  spec_of(RopeScaling::dynamic, 4, 1024).validate();
  refused(spec_of(RopeScaling::dynamic, 4, 0), "'dynamic'");
  refused(spec_of(RopeScaling::dynamic, 0.5, 1024), "factor");
  refused(spec_of(RopeScaling::yarn, 4, 0), "'yarn'");
  RopeSpec spec = spec_of(RopeScaling::yarn, 4, 1024);
  spec.beta_slow = 64;
  refused(spec, "beta_slow");
  spec = spec_of(RopeScaling::yarn, 4, 1024);
  spec.attention_factor = std::nan("");
  refused(spec, "attention_factor");
  for (const std::vector<double>& factors :
       {std::vector<double>(31, 1.0), std::vector<double>(32, 0.0), std::vector<double>(32, INFINITY)}) {
    spec = spec_of(RopeScaling::none, 1, 0);
    spec.factors = factors;
    refused(spec, "32 positive factors");
  }
  spec = spec_of(RopeScaling::none, 1, 0);
  spec.rotary = 66;
  refused(spec, "head_dim");
}

TEST(what_is_not_rotated_stays_as_it_is) {
  RopeSpec spec = spec_of(RopeScaling::none, 1, 0);
  spec.rotary = 16;
  spec.attention_factor = 2;
  RopeSpec whole = spec;
  whole.head_dim = 16;
  const auto table = rope_table(spec, 5, 6), expected = rope_table(whole, 5, 6);
  for (int i = 0; i < 32; i++) {
    CHECK_EQ(table[i], i < 8 ? expected[i] : 1.0f);
    CHECK_EQ(table[32 + i], i < 8 ? expected[8 + i] : 0.0f);
  }
}

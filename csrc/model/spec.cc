#include "model/spec.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace millrace {

namespace {

void require_range(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  throw Error(code::kCheckpointInvalid,
              format("config.json: %s must be between %lld and %lld, found %lld", field, static_cast<long long>(low),
                     static_cast<long long>(high), static_cast<long long>(value)),
              "check that config.json belongs to this checkpoint");
}

}  // namespace

void ModelSpec::validate() const {
  // The upper bounds are far beyond any published model; they keep every product below within int64 and every width
  // within int32.
  require_range("vocab_size", vocab, 1, 1 << 24);
  require_range("hidden_size", hidden, 1, 1 << 17);
  require_range("num_hidden_layers", layers, 1, 1 << 12);
  require_range("num_attention_heads", heads, 1, 1 << 12);
  require_range("num_key_value_heads", kv_heads, 1, heads);
  require_range("head_dim", head_dim, 2, 1 << 10);
  require_range("intermediate_size", intermediate, 1, 1 << 19);
  require_range("max_position_embeddings", max_position, 1, 1 << 27);
  require_range("heads x head_dim", static_cast<int64_t>(heads) * head_dim, 1, 1 << 18);
  if (heads % kv_heads != 0) {
    throw Error(
        code::kCheckpointInvalid,
        format("config.json: num_key_value_heads must divide num_attention_heads, found %d and %d", kv_heads, heads),
        "check that config.json belongs to this checkpoint");
  }
  if (head_dim % 2 != 0) {
    throw Error(code::kCheckpointInvalid, format("config.json: head_dim must be even, found %d", head_dim),
                "check that config.json belongs to this checkpoint");
  }
  if (!(rms_epsilon > 0 && rms_epsilon < 1) || !(rope.theta > 0) || !(rope.factor > 0)) {
    throw Error(code::kCheckpointInvalid, "config.json: rms_norm_eps, rope_theta and the rope factor must be positive",
                "check that config.json belongs to this checkpoint");
  }
  const auto sound = [](double factor) { return factor > 0 && std::isfinite(factor); };
  if (!rope.factors.empty() && (rope.factors.size() != static_cast<size_t>(head_dim) / 2 ||
                                !std::all_of(rope.factors.begin(), rope.factors.end(), sound))) {
    throw Error(code::kCheckpointInvalid,
                format("rope: expected %d positive factors of frequencies, found %zu or others", head_dim / 2,
                       rope.factors.size()),
                "check that the factors belong to this checkpoint");
  }
  require_range("sliding_window", sliding_window, 0, 1 << 27);
  if (rope.scaling == RopeScaling::dynamic && (rope.original_max_position <= 0 || rope.factor < 1 || head_dim < 4)) {
    throw Error(
        code::kCheckpointInvalid,
        "config.json: rope scaling 'dynamic' needs max_position_embeddings > 0, factor >= 1 and a head_dim of at "
        "least 4",
        "check that config.json belongs to this checkpoint");
  }
  if (rope.scaling == RopeScaling::yarn &&
      (rope.original_max_position <= 0 || !(rope.beta_slow > 0) || !(rope.beta_fast >= rope.beta_slow) ||
       !(rope.theta > 1) || !(rope.attention_factor > 0))) {
    throw Error(code::kCheckpointInvalid,
                "config.json: rope scaling 'yarn' needs original_max_position_embeddings > 0, rope_theta > 1, "
                "0 < beta_slow <= beta_fast and attention_factor > 0",
                "check that config.json belongs to this checkpoint");
  }
  if (rope.scaling == RopeScaling::llama3 && (rope.original_max_position <= 0 || !(rope.low_frequency_factor > 0) ||
                                              !(rope.high_frequency_factor > rope.low_frequency_factor))) {
    throw Error(code::kCheckpointInvalid,
                "config.json: rope scaling 'llama3' needs original_max_position_embeddings > 0 and "
                "0 < low_freq_factor < high_freq_factor",
                "check that config.json belongs to this checkpoint");
  }
}

}  // namespace millrace

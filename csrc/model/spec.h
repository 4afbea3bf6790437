#pragma once
// What a decoder-only transformer is made of, as far as kernels and memory are concerned.
#include <cstdint>
#include <string>
#include <vector>

namespace millrace {

enum class RopeScaling : uint8_t { none, linear, dynamic, llama3, yarn };

struct RopeSpec {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1.0;                 // linear, dynamic, llama3, yarn
  double low_frequency_factor = 1.0;   // llama3
  double high_frequency_factor = 4.0;  // llama3
  int original_max_position = 0;       // llama3, yarn, dynamic
  double attention_factor = 1.0;       // yarn: cosines and sines are multiplied by it
  double beta_fast = 32.0;             // yarn: pairs that turn more often than this in the original context are kept
  double beta_slow = 1.0;              // yarn: pairs that turn less often are stretched
  bool truncate = true;                // yarn: the range between is rounded outwards to whole pairs
  std::vector<double> factors;         // head_dim / 2 that frequencies are divided by before any scaling, or none
};

struct ModelSpec {
  int vocab = 0;   // rows of the embedding table and of the head
  int hidden = 0;  // width of the residual stream
  int layers = 0;
  int heads = 0;         // query heads
  int kv_heads = 0;      // key and value heads; divides heads
  int head_dim = 0;      // even
  int intermediate = 0;  // width of the feed-forward
  int max_position = 0;  // longest context the model was made for
  double rms_epsilon = 1e-5;
  RopeSpec rope;
  int sliding_window = 0;  // a row at position p sees positions greater than p - sliding_window; 0: all before it
  bool qk_norm = false;    // RMSNorm of each query and key head before rope, weights in UnitLayout

  int query_width() const { return heads * head_dim; }
  int kv_width() const { return kv_heads * head_dim; }
  int qkv_width() const { return query_width() + 2 * kv_width(); }

  // Throws CHECKPOINT_INVALID or CHECKPOINT_UNSUPPORTED naming the field, what was expected and what was found.
  void validate() const;
};

}  // namespace millrace

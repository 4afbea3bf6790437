#pragma once
// Random one- or two-layer checkpoints in any mixture of formats, with the weights that they mean computed by the
// formulas of the formats themselves and not by the product's code.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/repack.h"
#include "core/half.h"
#include "dense.h"
#include "writer.h"

namespace millrace::testing {

enum class Zeros { symmetric, eights, random };
enum class Order { absent, sequential, act_order, uneven };

struct LinearKind {
  LinearFormat format = LinearFormat::gptq;
  std::string dtype = "F16";  // of plain weights, or of scales
  int group_size = 128;
  int version = 1;
  Zeros zeros = Zeros::symmetric;  // eights: all 8, but not claimed to be
  Order order = Order::sequential;
  bool bias = false;
  int bits = 4;      // of gptq and compressed_tensors 8 too
  int shuffles = 1;  // of act_order: linears of one input that differ in it differ in their order
};

inline LinearKind plain(const std::string& dtype) {
  LinearKind kind;
  kind.format = LinearFormat::plain;
  kind.dtype = dtype;
  return kind;
}

inline LinearKind gptq(int group_size, Zeros zeros = Zeros::symmetric, Order order = Order::sequential,
                       int version = 1) {
  LinearKind kind;
  kind.group_size = group_size;
  kind.zeros = zeros;
  kind.order = order;
  kind.version = version;
  return kind;
}

inline LinearKind of_format(LinearFormat format, LinearKind kind) {
  kind.format = format;
  return kind;
}

// A linear's weights [n, k] and bias [n] (empty without one).
struct Dense {
  int n = 0, k = 0;
  std::vector<float> weight, bias;
  float at(int row, int column) const { return weight[static_cast<size_t>(row) * k + column]; }
};

class TinyModel {
 public:
  explicit TinyModel(uint64_t seed) : random(seed) {}

  SafetensorsWriter writer;
  DenseSource source;
  std::map<std::string, Dense> linears;             // "0.query", ..., "head"
  std::map<std::string, std::vector<float>> norms;  // "0.attention", "0.feed_forward", "final"
  std::vector<float> embedding;
  std::mt19937_64 random;

  // Adds the bytes of `values` in `dtype` and returns them as they were rounded.
  std::vector<float> add_floats(const std::string& name, const std::string& dtype, std::vector<int64_t> shape,
                                std::vector<float> values) {
    if (dtype == "F32") {
      writer.add<float>(name, dtype, shape, values);
    } else if (dtype == "F64") {
      writer.add<double>(name, dtype, shape, std::vector<double>(values.begin(), values.end()));
    } else {
      std::vector<uint16_t> bits;
      for (float& value : values) {
        bits.push_back(dtype == "F16" ? float_to_half(value) : float_to_bfloat16(value));
        value = dtype == "F16" ? half_to_float(bits.back()) : bfloat16_to_float(bits.back());
      }
      writer.add<uint16_t>(name, dtype, shape, bits);
    }
    return values;
  }

  std::vector<float> normal(size_t count, float scale) {
    std::normal_distribution<float> distribution(0.0f, scale);
    std::vector<float> values(count);
    for (float& value : values) value = distribution(random);
    return values;
  }

  LinearSource add_linear(const std::string& name, const LinearKind& kind, int n, int k) {
    LinearSource linear;
    Dense dense{n, k, {}, {}};
    linear.format = kind.format;
    if (kind.format == LinearFormat::plain) {
      linear.weight = name + ".weight";
      dense.weight = add_floats(linear.weight, kind.dtype, {n, k}, normal(static_cast<size_t>(n) * k, 0.1f));
    } else {
      dense.weight = kind.format == LinearFormat::gptq  ? add_gptq(name, kind, n, k, linear)
                     : kind.format == LinearFormat::awq ? add_awq(name, kind, n, k, linear)
                                                        : add_compressed(name, kind, n, k, linear);
    }
    if (kind.bias) {
      linear.bias = name + ".bias";
      dense.bias = add_floats(linear.bias, kind.format == LinearFormat::plain ? kind.dtype : "F16", {n},
                              normal(static_cast<size_t>(n), 1.0f));
    }
    linears[name] = dense;
    return linear;
  }

  // The group of each input feature, in the kind's order.
  std::vector<int32_t> groups_of(const LinearKind& kind, int k, int g) {
    std::vector<int32_t> group_of(k);
    for (int i = 0; i < k; i++) group_of[i] = i / g;
    for (int i = 0; kind.order == Order::act_order && i < kind.shuffles; i++) {
      std::shuffle(group_of.begin(), group_of.end(), random);
    }
    if (kind.order == Order::uneven) {
      for (int i = 0; i < k; i++) {
        if (group_of[i] > 0 && random() % 8 == 0) group_of[i]--;
      }
    }
    return group_of;
  }

  std::vector<int> codes(size_t count, Zeros zeros = Zeros::random, int bits = 4) {
    std::vector<int> values(count);
    for (int& value : values)
      value = zeros == Zeros::random ? static_cast<int>(random() % (1 << bits)) : 1 << (bits - 1);
    return values;
  }

  // Place i of word [r, c] is values[r, per c + order[i]], of rows of `width` values, `per` of them a word.
  static std::vector<uint32_t> pack_columns(const std::vector<int>& values, int width, const std::vector<int>& order) {
    const int per = static_cast<int>(order.size());
    std::vector<uint32_t> words(values.size() / per);
    for (size_t w = 0; w < words.size(); w++) {
      const size_t row = w / (width / per), first = w % (width / per) * per;
      for (int i = 0; i < per; i++) {
        words[w] |= static_cast<uint32_t>(values[row * width + first + order[i]]) << (32 / per * i);
      }
    }
    return words;
  }

  // AutoAWQ's GEMM layout.
  std::vector<float> add_awq(const std::string& name, const LinearKind& kind, int n, int k, LinearSource& linear) {
    const int g = kind.group_size == -1 ? k : kind.group_size;
    const int groups = (k + g - 1) / g;
    const std::vector<int> order = {0, 2, 4, 6, 1, 3, 5, 7};
    linear.weight = name + ".qweight";
    linear.zeros = name + ".qzeros";
    linear.scales = name + ".scales";
    linear.group_size = kind.group_size;
    linear.symmetric = kind.zeros == Zeros::symmetric;
    const std::vector<int> q = codes(static_cast<size_t>(k) * n);
    const std::vector<int> zero = codes(static_cast<size_t>(groups) * n, kind.zeros);
    writer.add<uint32_t>(linear.weight, "I32", {k, n / 8}, pack_columns(q, n, order));
    writer.add<uint32_t>(linear.zeros, "I32", {groups, n / 8}, pack_columns(zero, n, order));
    const std::vector<float> scale =
        add_floats(linear.scales, kind.dtype, {groups, n}, normal(static_cast<size_t>(groups) * n, 0.01f));
    std::vector<float> weight(static_cast<size_t>(n) * k);
    for (int i = 0; i < k; i++) {
      for (int c = 0; c < n; c++) {
        const size_t at = static_cast<size_t>(i / g) * n + c;
        weight[static_cast<size_t>(c) * k + i] =
            scale[at] * static_cast<float>(q[static_cast<size_t>(i) * n + c] - zero[at]);
      }
    }
    return weight;
  }

  // compressed-tensors' pack-quantized layout: values and zeros about 0, stored plus 8 or 128.
  std::vector<float> add_compressed(const std::string& name, const LinearKind& kind, int n, int k,
                                    LinearSource& linear) {
    const int g = kind.group_size == -1 ? k : kind.group_size;
    const int groups = (k + g - 1) / g, per = 32 / kind.bits;
    linear.bits = kind.bits;
    linear.weight = name + ".weight_packed";
    linear.scales = name + ".weight_scale";
    linear.shape = name + ".weight_shape";
    linear.g_idx = name + ".weight_g_idx";
    linear.group_size = kind.group_size;
    linear.symmetric = kind.zeros == Zeros::symmetric;
    writer.add<int64_t>(linear.shape, "I64", {2}, {n, k});
    const std::vector<int32_t> group_of = groups_of(kind, k, g);
    if (kind.order != Order::absent) {
      // Not in use is written as -1 by some.
      const bool unused = kind.order == Order::sequential && random() % 2 == 0;
      writer.add<int32_t>(linear.g_idx, "I32", {k}, unused ? std::vector<int32_t>(k, -1) : group_of);
    }
    const std::vector<int> q = codes(static_cast<size_t>(n) * k, Zeros::random, kind.bits);
    std::vector<int> order(per);
    std::iota(order.begin(), order.end(), 0);
    writer.add<uint32_t>(linear.weight, "I32", {n, k / per}, pack_columns(q, k, order));
    const std::vector<float> scale =
        add_floats(linear.scales, kind.dtype, {n, groups}, normal(static_cast<size_t>(n) * groups, 0.01f));
    const std::vector<int> zero = codes(static_cast<size_t>(n) * groups, kind.zeros, kind.bits);
    if (kind.zeros != Zeros::symmetric) {
      linear.zeros = name + ".weight_zero_point";
      std::vector<uint32_t> words(static_cast<size_t>((n + per - 1) / per) * groups);
      // What pads the last word is nobody's.
      for (size_t i = static_cast<size_t>(n / per) * groups; n % per != 0 && i < words.size(); i++) {
        words[i] = static_cast<uint32_t>(random()) << (kind.bits * (n % per));
      }
      for (int r = 0; r < n; r++) {
        for (int j = 0; j < groups; j++) {
          words[static_cast<size_t>(r / per) * groups + j] |=
              static_cast<uint32_t>(zero[static_cast<size_t>(r) * groups + j]) << (kind.bits * (r % per));
        }
      }
      writer.add<uint32_t>(linear.zeros, "I32", {(n + per - 1) / per, groups}, words);
    }
    std::vector<float> weight(static_cast<size_t>(n) * k);
    for (int r = 0; r < n; r++) {
      for (int i = 0; i < k; i++) {
        const size_t at = static_cast<size_t>(r) * groups + group_of[i];
        const size_t element = static_cast<size_t>(r) * k + i;
        weight[element] = scale[at] * static_cast<float>(q[element] - zero[at]);
      }
    }
    return weight;
  }

  // W[k, n] = scale[g(k), n] (q[k, n] - zero[g(k), n])
  std::vector<float> add_gptq(const std::string& name, const LinearKind& kind, int n, int k, LinearSource& linear) {
    const int g = kind.group_size == -1 ? k : kind.group_size;
    const int groups = (k + g - 1) / g, per = 32 / kind.bits, most = (1 << kind.bits) - 1;
    const uint32_t ones = kind.bits == 4 ? 0x11111111u : 0x01010101u, middle = ones << (kind.bits - 1);
    linear.bits = kind.bits;
    linear.weight = name + ".qweight";
    linear.zeros = name + ".qzeros";
    linear.scales = name + ".scales";
    linear.g_idx = name + ".g_idx";
    linear.group_size = kind.group_size;
    linear.symmetric = kind.zeros == Zeros::symmetric;
    linear.zeros_minus_one = kind.version == 1;

    const std::vector<int32_t> group_of = groups_of(kind, k, g);
    if (kind.order != Order::absent) writer.add<int32_t>(linear.g_idx, "I32", {k}, group_of);

    std::vector<uint32_t> words(static_cast<size_t>(k / per) * n);
    for (uint32_t& word : words) word = static_cast<uint32_t>(random());
    writer.add<uint32_t>(linear.weight, "I32", {k / per, n}, words);

    std::vector<uint32_t> zero_words(static_cast<size_t>(groups) * (n / per));
    for (uint32_t& word : zero_words) {
      word = kind.version == 1 ? middle - ones : middle;
      // Every value, among them all bits, whose + 1 carries into the next in version 1.
      if (kind.zeros == Zeros::random) word = random() % 4 == 0 ? 0xfff7f0ffu : static_cast<uint32_t>(random());
    }
    writer.add<uint32_t>(linear.zeros, "I32", {groups, n / per}, zero_words);
    const std::vector<float> scales =
        add_floats(linear.scales, kind.dtype, {groups, n}, normal(static_cast<size_t>(groups) * n, 0.01f));

    std::vector<float> weight(static_cast<size_t>(n) * k);
    for (int i = 0; i < k; i++) {
      for (int c = 0; c < n; c++) {
        const int q = (words[static_cast<size_t>(i / per) * n + c] >> (kind.bits * (i % per))) & most;
        uint32_t zero_word = zero_words[static_cast<size_t>(group_of[i]) * (n / per) + c / per];
        if (kind.version == 1) zero_word += ones;
        const int zero = (zero_word >> (kind.bits * (c % per))) & most;
        weight[static_cast<size_t>(c) * k + i] =
            scales[static_cast<size_t>(group_of[i]) * n + c] * static_cast<float>(q - zero);
      }
    }
    return weight;
  }

  // A model all of whose linears are of `kind`, but for those named in `others` ("0.query", "head").
  void build(const DenseSpec& spec, const LinearKind& kind, const std::map<std::string, LinearKind>& others = {},
             const std::string& embedding_type = "F16", bool tied = false, const std::string& norm_type = "F16") {
    source.spec = spec;
    const auto kind_of = [&](const std::string& name) {
      const auto at = others.find(name);
      return at == others.end() ? kind : at->second;
    };
    source.embedding = "embed.weight";
    embedding = add_floats(source.embedding, embedding_type, {spec.vocab, spec.hidden},
                           normal(static_cast<size_t>(spec.vocab) * spec.hidden, 1.0f));
    const auto norm = [&](const std::string& name) {
      norms[name] =
          add_floats(name + ".norm", norm_type, {spec.hidden}, normal(static_cast<size_t>(spec.hidden), 1.0f));
      return name + ".norm";
    };
    const auto head_norm = [&](const std::string& name) {
      norms[name] = add_floats(name + ".norm", norm_type, {spec.head_dim}, normal(spec.head_dim, 1.0f));
      return name + ".norm";
    };
    for (int l = 0; l < spec.layers; l++) {
      const std::string layer = std::to_string(l) + ".";
      DenseLayer s;
      s.attention_norm = norm(layer + "attention");
      s.feed_forward_norm = norm(layer + "feed_forward");
      const auto add = [&](const std::string& role, int n, int k) {
        return add_linear(layer + role, kind_of(layer + role), n, k);
      };
      // act-order checkpoints share one g_idx among the linears of one input: the generator starts alike for each.
      const auto together = [&](std::initializer_list<std::pair<LinearSource*, std::pair<std::string, int>>> linears_in,
                                int k) {
        const uint64_t seed = random();
        for (const auto& [to, what] : linears_in) {
          random.seed(seed);
          *to = add(what.first, what.second, k);
        }
      };
      together({{&s.query, {"query", spec.query_width()}},
                {&s.key, {"key", spec.kv_width()}},
                {&s.value, {"value", spec.kv_width()}}},
               spec.hidden);
      s.output = add("output", spec.hidden, spec.query_width());
      together({{&s.gate, {"gate", spec.intermediate}}, {&s.up, {"up", spec.intermediate}}}, spec.hidden);
      s.down = add("down", spec.hidden, spec.intermediate);
      if (spec.qk_norm) {
        s.query_norm = head_norm(layer + "query");
        s.key_norm = head_norm(layer + "key");
      }
      source.layers.push_back(s);
    }
    source.final_norm = norm("final");
    if (tied) {
      source.head.format = LinearFormat::plain;
      source.head.weight = source.embedding;
      linears["head"] = {spec.vocab, spec.hidden, embedding, {}};
    } else {
      source.head = add_linear("head", kind_of("head"), spec.vocab, spec.hidden);
    }
  }
};

inline DenseSpec tiny_spec(int hidden, int heads, int kv_heads, int head_dim, int intermediate, int vocab,
                           int layers = 1) {
  DenseSpec spec;
  spec.hidden = hidden;
  spec.heads = heads;
  spec.kv_heads = kv_heads;
  spec.head_dim = head_dim;
  spec.intermediate = intermediate;
  spec.vocab = vocab;
  spec.layers = layers;
  spec.max_position = 128;
  return spec;
}

}  // namespace millrace::testing

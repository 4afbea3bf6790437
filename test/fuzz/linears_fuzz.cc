// Fuzz target of the linear readers: bytes say what a feed-forward is stored as (formats, shapes, groups, types,
// damage) and what its tensors hold; the safetensors file around them is sound, so that every input gets past the
// header.
#include <cstring>

#include "../checkpoint/writer.h"
#include "dense.h"
#include "safetensors_input.h"

using namespace millrace;

namespace {

// Bytes one after the other; zero beyond the end.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t next() { return at_ < size_ ? data_[at_++] : 0; }
  int of(int n) { return next() % n; }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

struct Builder {
  Bytes& bytes;
  std::string header, data;

  // `size` bytes that repeat a few of the input's; a tensor of another shape or type if the input says so.
  void add(const std::string& name, std::string dtype, std::vector<int64_t> shape, size_t element) {
    const int damage = bytes.of(64);
    if (damage == 1 && !shape.empty()) shape[0]++;
    if (damage == 2 && !shape.empty()) shape.back() = std::max<int64_t>(0, shape.back() - 1);
    if (damage == 3) shape.push_back(1);
    if (damage == 4) std::reverse(shape.begin(), shape.end());
    if (damage == 5) dtype = "F32", element = 4;
    if (damage == 6) dtype = "I64", element = 8;
    if (damage == 7) return;
    size_t count = 1;
    std::string dimensions;
    for (const int64_t d : shape) {
      count *= static_cast<size_t>(d);
      dimensions += (dimensions.empty() ? "" : ",") + std::to_string(d);
    }
    const int period = 1 + bytes.of(16);
    std::string pattern;
    for (int i = 0; i < period; i++) pattern += static_cast<char>(bytes.next());
    const size_t begin = data.size();
    for (size_t i = 0; i < count * element; i++) data += pattern[i % pattern.size()];
    put_header(name, dtype, dimensions, begin);
  }

  // int32: the group of each of k features, from bytes modulo `groups`; a little more where the input says so.
  void add_groups(const std::string& name, int k, int group_size, int groups) {
    const int kind = bytes.of(5);
    const int extra = bytes.of(32) == 0 ? 1 : 0;
    const size_t begin = data.size();
    for (int i = 0; i < k; i++) {
      int32_t g = i / group_size;
      if (kind == 1) g = (i * 7 + bytes.next()) % (groups + extra);
      if (kind == 2) g = (k - 1 - i) / group_size + extra;
      if (kind == 3) g = -1;
      if (kind == 4) g = extra == 1 ? static_cast<int32_t>(bytes.next() << 24) : 0;
      data.append(reinterpret_cast<const char*>(&g), sizeof(g));
    }
    put_header(name, "I32", std::to_string(k), begin);
  }

  void put_header(const std::string& name, const std::string& dtype, const std::string& dimensions, size_t begin) {
    header += (header.empty() ? "{\"" : ",\"") + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + dimensions +
              "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
  }

  LinearSource linear(const std::string& name, int n, int k) {
    static constexpr int kGroups[] = {16, 32, 64, 8, 40, -1, 128, 1, 0, -2};
    LinearSource source;
    source.format = static_cast<LinearFormat>(bytes.of(6));
    const int flags = bytes.next();
    const char* scale_type = flags % 16 == 0 ? "F32" : flags % 2 == 0 ? "BF16" : "F16";
    const size_t scale_bytes = flags % 16 == 0 ? 4 : 2;
    if (source.format == LinearFormat::plain) {
      source.weight = name + ".weight";
      add(source.weight, scale_type, {n, k}, scale_bytes);
    } else if (source.format == LinearFormat::fp8) {
      source.block_rows = bytes.of(3) == 0 ? 1 : 8 * (1 + bytes.of(4));
      source.group_size = 32 * (1 + bytes.of(4));
      const int rows = (n + source.block_rows - 1) / source.block_rows;
      const int columns = source.block_rows == 1 ? 1 : (k + source.group_size - 1) / source.group_size;
      source.weight = name + ".w";
      source.scales = name + ".s";
      add(source.weight, "F8_E4M3", {n, k}, 1);
      add(source.scales, scale_type, {(flags & 32) != 0 ? 1 : rows, (flags & 32) != 0 ? 1 : columns}, scale_bytes);
    } else if (source.format == LinearFormat::nvfp4) {
      source.global_divides = (flags & 32) != 0;
      source.weight = name + ".w";
      source.scales = name + ".s";
      source.global_scale = name + ".t";
      add(source.weight, "U8", {n, k / 2}, 1);
      add(source.scales, "F8_E4M3", {n, k / 16}, 1);
      add(source.global_scale, "F32", {1}, 4);
    } else {
      source.bits = bytes.of(32) == 1 ? 8 : 4;
      source.group_size = kGroups[bytes.of(std::size(kGroups))];
      source.symmetric = (flags & 32) != 0;
      source.zeros_minus_one = (flags & 64) != 0;
      const int g = source.group_size <= 0 || source.group_size > k ? k : source.group_size;
      const int groups = (k + g - 1) / g;
      const bool compressed = source.format == LinearFormat::compressed_tensors;
      const bool awq = source.format == LinearFormat::awq;
      source.weight = name + ".w";
      source.scales = name + ".s";
      source.zeros = (flags & 128) != 0 ? "" : name + ".z";
      if (!awq) source.g_idx = name + ".g";
      if (compressed) {
        add(source.weight, "I32", {n, k / 8}, 4);
        add(source.scales, scale_type, {n, groups}, scale_bytes);
        if (!source.zeros.empty()) add(source.zeros, "I32", {(n + 7) / 8, groups}, 4);
        if ((flags & 2) != 0) source.shape = name + ".n", add(source.shape, "I64", {2}, 8);
      } else {
        add(source.weight, "I32", awq ? std::vector<int64_t>{k, n / 8} : std::vector<int64_t>{k / 8, n}, 4);
        add(source.scales, scale_type, {groups, n}, scale_bytes);
        if (!source.zeros.empty()) add(source.zeros, "I32", {groups, n / 8}, 4);
      }
      if (!source.g_idx.empty() && (flags & 4) != 0) add_groups(source.g_idx, k, g, groups);
    }
    if ((flags & 8) != 0) source.bias = name + ".b", add(source.bias, "F16", {n}, 2);
    return source;
  }

  LinearSource plain(const std::string& name, int n, int k) {
    LinearSource source;
    source.weight = name;
    data.append(static_cast<size_t>(n) * k * 2, '\0');
    put_header(name, "F16", std::to_string(n) + "," + std::to_string(k), data.size() - static_cast<size_t>(n) * k * 2);
    return source;
  }
};

int width(uint8_t byte) {
  return byte < 192 ? 8 * (1 + byte % 20) : 1 + byte % 61;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  DenseSource source;
  DenseSpec& spec = source.spec;
  spec.vocab = 3;
  spec.hidden = width(bytes.next());
  spec.intermediate = width(bytes.next());
  spec.layers = spec.heads = spec.kv_heads = 1;
  spec.head_dim = 2;
  spec.max_position = 64;

  Builder builder{bytes, "", ""};
  DenseLayer layer;
  layer.query = builder.plain("q", 2, spec.hidden);
  layer.key = layer.value = layer.query;
  layer.output = builder.plain("o", spec.hidden, 2);
  source.embedding = builder.plain("e", 3, spec.hidden).weight;
  source.head.weight = source.embedding;
  layer.attention_norm = layer.feed_forward_norm = source.final_norm = "norm";
  builder.data.append(static_cast<size_t>(spec.hidden) * 2, '\0');
  builder.put_header("norm", "F16", std::to_string(spec.hidden),
                     builder.data.size() - static_cast<size_t>(spec.hidden) * 2);
  layer.gate = builder.linear("gate", spec.intermediate, spec.hidden);
  layer.up = (bytes.next() & 1) != 0 ? layer.gate : builder.linear("up", spec.intermediate, spec.hidden);
  layer.down = builder.linear("down", spec.hidden, spec.intermediate);
  source.layers.push_back(layer);

  const fuzz::MemoryFile file(testing::safetensors_bytes(builder.header + "}", builder.data));
  fuzz::load({file.path()}, source);
  return 0;
}

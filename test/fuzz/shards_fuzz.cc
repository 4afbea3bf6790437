// Fuzz target of several files read as one checkpoint, planned and repacked as a model of known shape: a first byte
// that chooses how linears are stored, then files one after the other, each with its length in two bytes before it.
#include <cstring>

#include "dense.h"
#include "safetensors_input.h"

using namespace millrace;

namespace {

constexpr size_t kMostFiles = 4;

LinearSource linear(const std::string& name, int format) {
  LinearSource source;
  source.format = static_cast<LinearFormat>(format);
  source.group_size = 16;
  switch (source.format) {
    case LinearFormat::plain:
      source.weight = name + ".weight";
      break;
    case LinearFormat::gptq:
    case LinearFormat::awq:
      source.weight = name + ".qweight";
      source.zeros = name + ".qzeros";
      source.scales = name + ".scales";
      source.g_idx = name + ".g_idx";
      break;
    case LinearFormat::compressed_tensors:
      source.weight = name + ".weight_packed";
      source.zeros = name + ".weight_zero_point";
      source.scales = name + ".weight_scale";
      source.g_idx = name + ".weight_g_idx";
      source.shape = name + ".weight_shape";
      break;
    case LinearFormat::fp8:
      source.weight = name + ".weight";
      source.scales = name + ".weight_scale_inv";
      source.block_rows = 16;
      break;
    case LinearFormat::nvfp4:
      source.weight = name + ".weight_packed";
      source.scales = name + ".weight_scale";
      source.global_scale = name + ".weight_global_scale";
      source.global_divides = true;
      break;
    case LinearFormat::mxfp4:
      source.weight = name + ".weight_packed";
      source.scales = name + ".weight_scale";
      break;
  }
  return source;
}

// As test/fuzz/make_seeds.mjs writes it.
DenseSource model(int format) {
  DenseSource source;
  DenseSpec& spec = source.spec;
  spec.vocab = 8;
  spec.hidden = 16;
  spec.layers = 1;
  spec.heads = 2;
  spec.kv_heads = 1;
  spec.head_dim = 8;
  spec.intermediate = 32;
  spec.max_position = 64;
  spec.qk_norm = true;
  DenseLayer layer;
  layer.attention_norm = "an";
  layer.feed_forward_norm = "fn";
  layer.query_norm = "qn";
  layer.key_norm = "kn";
  for (const auto& [to, name] : {std::pair{&layer.query, "q"},
                                 {&layer.key, "k"},
                                 {&layer.value, "v"},
                                 {&layer.output, "o"},
                                 {&layer.gate, "g"},
                                 {&layer.up, "u"},
                                 {&layer.down, "d"}}) {
    *to = linear(name, format);
  }
  source.layers.push_back(layer);
  source.embedding = source.head.weight = "e";
  source.final_norm = "n";
  return source;
}

}  // namespace

// Mostly puts the lengths of a file and of its header right after a change.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t capacity, unsigned seed) {
  if (size < 4 || seed % 8 == 0) return LLVMFuzzerMutate(data, size, capacity);
  // One of the files.
  size_t at = 1;
  for (unsigned skip = (seed >> 3) % kMostFiles; skip > 0; skip--) {
    const size_t next = at + 2 + (data[at] | data[at + 1] << 8);
    if (next + 2 >= size) break;
    at = next;
  }
  const size_t length = std::min<size_t>(data[at] | data[at + 1] << 8, size - at - 2);
  const std::vector<uint8_t> tail(data + at + 2 + length, data + size);
  const size_t most = std::min<size_t>(capacity - at - 2 - tail.size(), 65535);
  uint64_t header = 0;
  if (length >= 8) std::memcpy(&header, data + at + 2, 8);
  uint8_t* file = data + at + 2;
  size_t changed;
  // Either the header alone, whose length follows, or everything.
  if (seed % 8 < 5 && length >= 8 && header <= length - 8) {
    const std::vector<uint8_t> values(file + 8 + header, file + length);
    const size_t room = most - 8 - values.size();
    const uint64_t longer = LLVMFuzzerMutate(file + 8, header, room);
    std::memcpy(file, &longer, 8);
    std::copy(values.begin(), values.end(), file + 8 + longer);
    changed = 8 + longer + values.size();
  } else {
    changed = LLVMFuzzerMutate(file, length, most);
  }
  data[at] = static_cast<uint8_t>(changed);
  data[at + 1] = static_cast<uint8_t>(changed >> 8);
  std::copy(tail.begin(), tail.end(), file + changed);
  return at + 2 + changed + tail.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  std::vector<std::unique_ptr<fuzz::MemoryFile>> files;
  std::vector<std::string> paths;
  for (size_t at = 1; at + 2 <= size && files.size() < kMostFiles;) {
    const size_t length = std::min<size_t>(data[at] | data[at + 1] << 8, size - at - 2);
    files.push_back(
        std::make_unique<fuzz::MemoryFile>(std::string_view(reinterpret_cast<const char*>(data + at + 2), length)));
    paths.push_back(files.back()->path());
    at += 2 + length;
  }
  fuzz::load(paths, model(data[0] % 7));
  return 0;
}

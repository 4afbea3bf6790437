#pragma once
// Writes GGUF files, sound or not, for tests of whatever reads them.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace millrace::testing {

template <typename T>
std::string little_endian(T value) {
  std::string out(sizeof(T), '\0');
  std::memcpy(out.data(), &value, sizeof(T));
  return out;
}
inline std::string u32_bytes(uint32_t value) {
  return little_endian(value);
}
inline std::string u64_bytes(uint64_t value) {
  return little_endian(value);
}
inline std::string string_bytes(const std::string& text) {
  return u64_bytes(text.size()) + text;
}

// The same bytes with another u64 at `at`.
inline std::string with_u64(std::string bytes, size_t at, uint64_t value) {
  return bytes.replace(at, 8, u64_bytes(value));
}

class GgufWriter {
 public:
  uint32_t version = 3;
  uint32_t alignment = 32;

  GgufWriter& raw(const std::string& key, uint32_t type, const std::string& value) {
    pairs_ += string_bytes(key) + u32_bytes(type) + value;
    pair_count_++;
    return *this;
  }
  GgufWriter& u32(const std::string& key, uint32_t value) { return raw(key, 4, u32_bytes(value)); }
  GgufWriter& text(const std::string& key, const std::string& value) { return raw(key, 8, string_bytes(value)); }
  GgufWriter& texts(const std::string& key, const std::vector<std::string>& values) {
    std::string bytes = u32_bytes(8) + u64_bytes(values.size());
    for (const std::string& value : values) bytes += string_bytes(value);
    return raw(key, 9, bytes);
  }
  GgufWriter& f32s(const std::string& key, const std::vector<float>& values) {
    std::string bytes = u32_bytes(6) + u64_bytes(values.size());
    for (const float value : values) bytes += little_endian(value);
    return raw(key, 9, bytes);
  }

  // `shape` with the contiguous dimension last, `type` by ggml's number.
  GgufWriter& tensor(const std::string& name, std::vector<int64_t> shape, uint32_t type, const std::string& data) {
    tensor_at(name, std::move(shape), type, data_.size());
    data_ += data;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }
  // Without data of its own.
  GgufWriter& tensor_at(const std::string& name, std::vector<int64_t> shape, uint32_t type, uint64_t offset) {
    tensors_ += string_bytes(name) + u32_bytes(static_cast<uint32_t>(shape.size()));
    for (auto at = shape.rbegin(); at != shape.rend(); ++at) tensors_ += u64_bytes(static_cast<uint64_t>(*at));
    tensors_ += u32_bytes(type) + u64_bytes(offset);
    tensor_count_++;
    return *this;
  }

  std::string bytes() const {
    std::string out = "GGUF" + u32_bytes(version) + u64_bytes(tensor_count_) + u64_bytes(pair_count_);
    out += pairs_ + tensors_;
    out.resize((out.size() + alignment - 1) / alignment * alignment, '\0');
    return out + data_;
  }

 private:
  std::string pairs_, tensors_, data_;
  uint64_t pair_count_ = 0, tensor_count_ = 0;
};

}  // namespace millrace::testing

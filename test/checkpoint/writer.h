#pragma once
// Writes safetensors files, sound or not, for tests of whatever reads them.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace millrace::testing {

// A folder that goes with the test.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "millrace-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) throw std::runtime_error("cannot write " + path);
}

// A header's length, the header, the data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  std::string out(8, '\0');
  const uint64_t length = header.size();
  for (int i = 0; i < 8; i++) out[i] = static_cast<char>(length >> (8 * i));
  return out + header + data;
}

class SafetensorsWriter {
 public:
  template <typename T>
  void add(const std::string& name, const std::string& dtype, std::vector<int64_t> shape,
           const std::vector<T>& values) {
    std::string dimensions;
    for (const int64_t d : shape) dimensions += (dimensions.empty() ? "" : ",") + std::to_string(d);
    const size_t begin = data_.size();
    data_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
    if (!header_.empty()) header_ += ",";
    header_ += "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + dimensions + "],\"data_offsets\":[" +
               std::to_string(begin) + "," + std::to_string(data_.size()) + "]}";
  }

  // `aligned` pads the header to 8 bytes as the reference does; without, tensors may lie at odd addresses.
  void write(const std::string& path, bool aligned = true) const {
    std::string header = "{" + header_ + "}";
    while (aligned ? header.size() % 8 != 0 : header.size() % 2 != 1) header += ' ';
    write_file(path, safetensors_bytes(header, data_));
  }

 private:
  std::string header_, data_;
};

}  // namespace millrace::testing

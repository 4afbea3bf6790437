#include "checkpoint/safetensors.h"

#include <algorithm>
#include <limits>

#include "checkpoint/json.h"
#include "checkpoint/messages.h"
#include "core/error.h"

namespace millrace {

namespace {

// The reference implementation's limits: 100 MB of header; and a bound on dimensions, so that a hostile header cannot
// make a list of them larger than itself by much.
constexpr uint64_t kLongestHeader = 100'000'000;
constexpr size_t kMostDimensions = 32;

// Reads one file's header. Members say where in it we are, for messages.
class HeaderParser {
 public:
  HeaderParser(std::string_view json, uint64_t data_begin, uint64_t data_bytes, const std::string& file)
      : json_(json), reader_(json), data_begin_(data_begin), data_bytes_(data_bytes), file_(file) {}

  std::vector<Tensor> parse() {
    std::vector<Tensor> tensors;
    try {
      if (json_.empty() || json_[0] != '{') reader_.fail("expected '{' as the header's first byte");
      reader_.begin_object();
      bool has_metadata = false;
      std::string name;
      while (reader_.next_member(name)) {
        if (name == "__metadata__") {
          if (std::exchange(has_metadata, true)) fail("__metadata__ is given twice");
          metadata();
        } else {
          tensors.push_back(tensor(std::move(name)));
        }
      }
      reader_.end();
    } catch (const JsonError& e) {
      const std::string where = current_.empty() ? "" : format(" (tensor %s)", printable(current_).c_str());
      throw_invalid(format("%s: the header is not a valid safetensors header at byte %zu%s: %s", file_.c_str(),
                           e.position + 8, where.c_str(), e.what.c_str()));
    }
    refuse_duplicates(tensors);
    refuse_gaps(tensors);
    return tensors;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw_invalid(file_ + ": " + what); }
  [[noreturn]] void fail(const std::string& tensor, const std::string& what) const {
    throw_invalid(format("%s: tensor %s: %s", file_.c_str(), printable(tensor).c_str(), what.c_str()));
  }

  void metadata() {
    std::vector<std::string> keys;
    std::string key;
    reader_.begin_object();
    while (reader_.next_member(key)) {
      keys.push_back(std::move(key));
      reader_.string();
    }
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) fail(format("__metadata__ has the key %s twice", printable(*twice).c_str()));
  }

  Tensor tensor(std::string name) {
    current_ = std::move(name);
    Tensor t;
    bool has_dtype = false, has_shape = false, has_offsets = false;
    int64_t begin = 0, end = 0;
    std::string key;
    reader_.begin_object();
    while (reader_.next_member(key)) {
      if (key == "dtype") {
        if (std::exchange(has_dtype, true)) fail(current_, "dtype is given twice");
        std::string type = reader_.string();
        t.dtype = dtype(type);
        if (t.dtype == DType::other) t.other_dtype = std::move(type);
      } else if (key == "shape") {
        if (std::exchange(has_shape, true)) fail(current_, "shape is given twice");
        reader_.begin_array();
        while (reader_.next_element()) {
          if (t.shape.size() == kMostDimensions) fail(current_, format("more than %zu dimensions", kMostDimensions));
          t.shape.push_back(reader_.integer());
        }
      } else if (key == "data_offsets") {
        if (std::exchange(has_offsets, true)) fail(current_, "data_offsets is given twice");
        reader_.begin_array();
        int count = 0;
        while (reader_.next_element()) {
          if (count == 2) fail(current_, "expected two data_offsets, found more");
          (count++ == 0 ? begin : end) = reader_.integer();
        }
        if (count != 2) fail(current_, format("expected two data_offsets, found %d", count));
      } else {
        fail(current_, format("unknown key %s, expected dtype, shape and data_offsets", printable(key, 40).c_str()));
      }
    }
    if (!has_dtype) fail(current_, "dtype is missing");
    if (!has_shape) fail(current_, "shape is missing");
    if (!has_offsets) fail(current_, "data_offsets is missing");

    const uint64_t first = static_cast<uint64_t>(begin), last = static_cast<uint64_t>(end);
    if (first > last || last > data_bytes_) {
      fail(current_,
           format("expected data_offsets in ascending order within the %llu bytes of data, found [%llu, %llu]",
                  static_cast<unsigned long long>(data_bytes_), static_cast<unsigned long long>(first),
                  static_cast<unsigned long long>(last)));
    }
    // How large an element of another type is, nobody says: its data are where the offsets say.
    if (t.dtype != DType::other) check_size(t, last - first);
    t.offset = data_begin_ + first;
    t.bytes = last - first;
    t.name = std::move(current_);
    current_.clear();
    return t;
  }

  void check_size(const Tensor& t, uint64_t found) const {
    uint64_t bytes = 0;
    if (!measure_tensor(t.dtype, t.shape, &bytes)) {
      fail(current_, format("shape %s overflows", shape_text(t.shape).c_str()));
    }
    if (bytes != found) {
      fail(current_, format("expected %llu bytes of data for %s %s, found %llu", static_cast<unsigned long long>(bytes),
                            name_of(t.dtype), shape_text(t.shape).c_str(), static_cast<unsigned long long>(found)));
    }
  }

  // Its names are those of types that are elements; blocks are ggml's.
  static DType dtype(const std::string& name) {
    const DType type = dtype_named(name);
    return type != DType::other && is_packed(type) ? DType::other : type;
  }

  void refuse_duplicates(const std::vector<Tensor>& tensors) const {
    std::vector<const std::string*> names;
    names.reserve(tensors.size());
    for (const Tensor& t : tensors) names.push_back(&t.name);
    std::sort(names.begin(), names.end(), [](const auto* a, const auto* b) { return *a < *b; });
    const auto twice =
        std::adjacent_find(names.begin(), names.end(), [](const auto* a, const auto* b) { return *a == *b; });
    if (twice != names.end()) fail(**twice, "the name occurs twice");
  }

  void refuse_gaps(const std::vector<Tensor>& tensors) const {
    std::vector<const Tensor*> order;
    order.reserve(tensors.size());
    for (const Tensor& t : tensors) order.push_back(&t);
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
      return a->offset != b->offset ? a->offset < b->offset : a->bytes < b->bytes;
    });
    uint64_t next = data_begin_;
    for (const Tensor* t : order) {
      if (t->offset != next) {
        fail(t->name, format("data_offsets leave a gap or overlap: expected data at %llu, found %llu",
                             static_cast<unsigned long long>(next - data_begin_),
                             static_cast<unsigned long long>(t->offset - data_begin_)));
      }
      next += t->bytes;
    }
    if (next != data_begin_ + data_bytes_) {
      fail(format("expected %llu bytes of data as the header says, found %llu",
                  static_cast<unsigned long long>(next - data_begin_), static_cast<unsigned long long>(data_bytes_)));
    }
  }

  std::string_view json_;
  JsonReader reader_;
  uint64_t data_begin_;
  uint64_t data_bytes_;
  std::string file_;
  std::string current_;  // the tensor being read
};

}  // namespace

std::vector<Tensor> parse_safetensors(std::string_view head, uint64_t file_bytes, const std::string& file_name) {
  const std::string file = base_name(file_name);
  if (head.size() < 8 || file_bytes < 8) {
    throw_invalid(format("%s: expected a safetensors file of at least 8 bytes, found %llu", file.c_str(),
                         static_cast<unsigned long long>(std::min<uint64_t>(head.size(), file_bytes))));
  }
  if (head.starts_with("version https://git-lfs")) {
    throw Error(code::kCheckpointInvalid, file + ": expected a safetensors file, found a Git LFS pointer to one",
                "fetch what it points to: git lfs pull in the checkpoint's folder");
  }
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; i--) header_bytes = header_bytes << 8 | static_cast<unsigned char>(head[i]);
  const uint64_t room = std::min<uint64_t>(head.size(), file_bytes) - 8;
  if (header_bytes > kLongestHeader || header_bytes > room) {
    throw_invalid(
        format("%s: the header is %llu bytes long by its first 8 bytes, but the file has %llu and no header "
               "may be longer than %llu: not a safetensors file, or cut short",
               file.c_str(), static_cast<unsigned long long>(header_bytes), static_cast<unsigned long long>(file_bytes),
               static_cast<unsigned long long>(kLongestHeader)));
  }
  const uint64_t data_begin = 8 + header_bytes;
  return HeaderParser(head.substr(8, header_bytes), data_begin, file_bytes - data_begin, file).parse();
}

}  // namespace millrace

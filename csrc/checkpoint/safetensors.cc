#include "checkpoint/safetensors.h"

#include <algorithm>
#include <limits>

#include "checkpoint/json.h"
#include "checkpoint/mapped_file.h"
#include "checkpoint/messages.h"
#include "core/error.h"

namespace millrace {

namespace {

// The reference implementation's limits: 100 MB of header; and a bound on dimensions, so that a hostile header cannot
// make a list of them larger than itself by much.
constexpr uint64_t kLongestHeader = 100'000'000;
constexpr size_t kMostDimensions = 32;

struct DTypeInfo {
  DType type;
  const char* name;
  size_t bytes;
};

constexpr DTypeInfo kDTypes[] = {
    {DType::boolean, "BOOL", 1},    {DType::u8, "U8", 1},   {DType::i8, "I8", 1},   {DType::f8_e4m3, "F8_E4M3", 1},
    {DType::f8_e5m2, "F8_E5M2", 1}, {DType::i16, "I16", 2}, {DType::u16, "U16", 2}, {DType::f16, "F16", 2},
    {DType::bf16, "BF16", 2},       {DType::i32, "I32", 4}, {DType::u32, "U32", 4}, {DType::f32, "F32", 4},
    {DType::f64, "F64", 8},         {DType::i64, "I64", 8}, {DType::u64, "U64", 8},
};

const DTypeInfo& info_of(DType type) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.type == type) return info;
  }
  throw Error(code::kInternal, "unknown dtype", "report this as a bug");
}

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
    uint64_t bytes = size_of(t.dtype);
    for (const int64_t dimension : t.shape) {
      if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dimension), &bytes)) {
        fail(current_, format("shape %s overflows", shape_text(t.shape).c_str()));
      }
    }
    if (bytes != found) {
      fail(current_, format("expected %llu bytes of data for %s %s, found %llu", static_cast<unsigned long long>(bytes),
                            name_of(t.dtype), shape_text(t.shape).c_str(), static_cast<unsigned long long>(found)));
    }
  }

  static DType dtype(const std::string& name) {
    for (const DTypeInfo& info : kDTypes) {
      if (name == info.name) return info.type;
    }
    return DType::other;
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

size_t size_of(DType type) {
  return info_of(type).bytes;
}
const char* name_of(DType type) {
  return info_of(type).name;
}

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

struct Checkpoint::Mapping : MappedFile {
  using MappedFile::MappedFile;
};

Checkpoint::Checkpoint(std::vector<std::string> paths) : paths_(std::move(paths)) {
  if (paths_.empty()) {
    throw Error(code::kCheckpointNotFound, "a checkpoint without a safetensors file",
                "pass the path of a model folder with *.safetensors files");
  }
  for (size_t f = 0; f < paths_.size(); f++) {
    mappings_.push_back(std::make_unique<Mapping>(paths_[f]));
    const Mapping& mapping = *mappings_.back();
    const std::string_view text(reinterpret_cast<const char*>(mapping.data()), mapping.size());
    for (Tensor& tensor : parse_safetensors(text, mapping.size(), paths_[f])) {
      tensor.file = static_cast<int>(f);
      const auto [at, inserted] = by_name_.emplace(tensor.name, tensors_.size());
      if (!inserted) {
        throw_invalid(format("tensor %s occurs in %s and again in %s", printable(tensor.name).c_str(),
                             base_name(paths_[tensors_[at->second].file]).c_str(), base_name(paths_[f]).c_str()));
      }
      tensors_.push_back(std::move(tensor));
    }
  }
}

Checkpoint::~Checkpoint() = default;

const Tensor* Checkpoint::find(const std::string& name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

const Tensor& Checkpoint::require(const std::string& name) const {
  const Tensor* tensor = find(name);
  if (tensor == nullptr) {
    const std::string where = paths_.size() == 1
                                  ? base_name(paths_[0])
                                  : format("%zu files beside %s", paths_.size(), base_name(paths_[0]).c_str());
    throw Error(code::kCheckpointInvalid, format("%s: tensor %s is missing", where.c_str(), printable(name).c_str()),
                "fetch all files of the checkpoint, and check that config.json belongs to it");
  }
  return *tensor;
}

const std::byte* Checkpoint::data(const Tensor& tensor) const {
  return mappings_[tensor.file]->data() + tensor.offset;
}

void Checkpoint::drop(const Tensor& tensor, int64_t begin, int64_t end) const {
  if (tensor.bytes == 0 || tensor.shape.empty() || begin >= end) return;
  const uint64_t row = tensor.bytes / static_cast<uint64_t>(tensor.shape[0]);
  mappings_[tensor.file]->drop(tensor.offset + static_cast<uint64_t>(begin) * row,
                               static_cast<uint64_t>(end - begin) * row);
}

void Checkpoint::drop_all() const {
  for (const auto& mapping : mappings_) mapping->drop(0, mapping->size());
}

void Checkpoint::prefetch(const Tensor& tensor) const {
  mappings_[tensor.file]->prefetch(tensor.offset, tensor.bytes);
}

}  // namespace millrace

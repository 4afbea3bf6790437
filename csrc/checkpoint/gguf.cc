#include "checkpoint/gguf.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "checkpoint/messages.h"
#include "core/error.h"

namespace millrace {

namespace {

using Long = unsigned long long;

constexpr const char* kTypeNames[] = {"UINT8", "INT8",   "UINT16", "INT16",  "UINT32", "INT32",  "FLOAT32",
                                      "BOOL",  "STRING", "ARRAY",  "UINT64", "INT64",  "FLOAT64"};
constexpr size_t kTypeBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

// ggml's numbers of types. Those without a DType of their name are known by name alone.
struct TypeNumber {
  uint32_t number;
  const char* name;
};
constexpr TypeNumber kTensorTypes[] = {
    {0, "F32"},      {1, "F16"},     {2, "Q4_0"},     {3, "Q4_1"},   {6, "Q5_0"},    {7, "Q5_1"},   {8, "Q8_0"},
    {9, "Q8_1"},     {10, "Q2_K"},   {11, "Q3_K"},    {12, "Q4_K"},  {13, "Q5_K"},   {14, "Q6_K"},  {15, "Q8_K"},
    {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},
    {23, "IQ4_XS"},  {24, "I8"},     {25, "I16"},     {26, "I32"},   {27, "I64"},    {28, "F64"},   {29, "IQ1_M"},
    {30, "BF16"},    {34, "TQ1_0"},  {35, "TQ2_0"},   {39, "MXFP4"}, {40, "NVFP4"},
};

constexpr uint32_t kMostDimensions = 4;
constexpr uint64_t kLargestAlignment = uint64_t{1} << 30;
// A pair has a key's length, a type and a value; a tensor a name's length, dimensions, a type and an offset.
constexpr uint64_t kLeastPairBytes = 8 + 4 + 1;
constexpr uint64_t kLeastTensorBytes = 8 + 4 + 4 + 8;

class GgufParser {
 public:
  GgufParser(std::string_view head, uint64_t file_bytes, const std::string& file)
      : head_(head), file_bytes_(file_bytes), file_(file) {}

  Gguf parse() {
    Gguf out;
    check_magic();
    out.version = version();
    const uint64_t tensors = count("tensors", kLeastTensorBytes), pairs = count("metadata pairs", kLeastPairBytes);
    for (uint64_t i = 0; i < pairs; i++) out.pairs.push_back(pair());
    refuse_duplicates(
        out.pairs, [](const GgufPair& p) { return p.key; }, "metadata key");
    const uint64_t alignment = alignment_of(out.pairs);
    for (uint64_t i = 0; i < tensors; i++) out.tensors.push_back(tensor(alignment));
    where_ = {};
    refuse_duplicates(
        out.tensors, [](const Tensor& t) { return std::string_view(t.name); }, "tensor");
    place(out.tensors, (at_ + alignment - 1) / alignment * alignment);
    return out;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    const std::string where = where_.empty() ? "" : format("%s %s: ", kind_, printable(where_).c_str());
    throw_invalid(format("%s: %s%s", file_.c_str(), where.c_str(), what.c_str()));
  }
  [[noreturn]] void unsupported(const std::string& what) const { throw_unsupported(file_ + ": " + what); }

  // ---- Bytes of the header.

  std::string_view take(uint64_t bytes, const char* what) {
    const uint64_t room = head_.size() - at_;
    if (bytes > room) {
      fail(format("expected %llu bytes of %s at byte %llu, found the end of the file after %llu: cut short, or damaged",
                  static_cast<Long>(bytes), what, static_cast<Long>(at_), static_cast<Long>(room)));
    }
    const std::string_view taken = head_.substr(at_, bytes);
    at_ += bytes;
    return taken;
  }
  template <typename T>
  T number(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }
  std::string_view string(const char* what) { return take(number<uint64_t>("a length"), what); }
  // A number of things that take so many bytes each at the least.
  uint64_t count(const char* what, uint64_t least_bytes) {
    const uint64_t found = number<uint64_t>(what), room = head_.size() - at_;
    if (found <= room / least_bytes) return found;
    fail(format("expected at most %llu %s, for which the file has room, found %llu: cut short, or damaged",
                static_cast<Long>(room / least_bytes), what, static_cast<Long>(found)));
  }

  void check_magic() {
    if (head_.starts_with("version https://git-lfs")) {
      throw Error(code::kCheckpointInvalid, file_ + ": expected a GGUF file, found a Git LFS pointer to one",
                  "fetch what it points to: git lfs pull in the file's folder");
    }
    for (const char* older : {"ggml", "lmgg", "fmgg", "tjgg", "algg"}) {
      if (head_.starts_with(older)) unsupported("a file of ggml's formats before GGUF is not supported");
    }
    if (!head_.starts_with(kGgufMagic)) {
      fail(format("expected a GGUF file, which begins with 'GGUF', found '%s'", printable(head_.substr(0, 4)).c_str()));
    }
    at_ = kGgufMagic.size();
  }

  uint32_t version() {
    const uint32_t found = number<uint32_t>("the version");
    if (found == 2 || found == 3) return found;
    if ((found & 0xffff) == 0 && found != 0) unsupported("a big-endian GGUF file is not supported");
    unsupported(format("GGUF version %u is not supported, expected 2 or 3", found));
  }

  // ---- Metadata.

  GgufType type(uint32_t found) const {
    if (found < std::size(kTypeNames)) return static_cast<GgufType>(found);
    fail(format("expected a type of metadata from 0 to %zu, found %u", std::size(kTypeNames) - 1, found));
  }

  void check_booleans(std::string_view bytes) const {
    for (const char c : bytes) {
      if (c != 0 && c != 1) fail(format("expected a boolean of 0 or 1, found %u", static_cast<unsigned char>(c)));
    }
  }

  GgufPair pair() {
    where_ = {};
    GgufPair out;
    out.key = where_ = string("a metadata key");
    kind_ = "metadata key";
    out.type = type(number<uint32_t>("a type"));
    if (out.type == GgufType::string) {
      out.bytes = string("a string");
    } else if (out.type == GgufType::array) {
      array(out);
    } else {
      out.bytes = take(bytes_of(out.type), "a value");
      if (out.type == GgufType::boolean) check_booleans(out.bytes);
    }
    return out;
  }

  void array(GgufPair& out) {
    out.element = type(number<uint32_t>("a type"));
    if (out.element == GgufType::array) {
      unsupported(format("metadata key %s: an array of arrays is not supported", printable(where_).c_str()));
    }
    const bool strings = out.element == GgufType::string;
    out.count = count("elements", strings ? sizeof(uint64_t) : bytes_of(out.element));
    const uint64_t begin = at_;
    if (strings) {
      for (uint64_t i = 0; i < out.count; i++) string("a string");
    } else {
      take(out.count * bytes_of(out.element), "an array");
    }
    out.bytes = head_.substr(begin, at_ - begin);
    if (out.element == GgufType::boolean) check_booleans(out.bytes);
  }

  uint64_t alignment_of(const std::vector<GgufPair>& pairs) {
    const auto at =
        std::find_if(pairs.begin(), pairs.end(), [](const GgufPair& p) { return p.key == "general.alignment"; });
    if (at == pairs.end()) return 32;
    where_ = at->key;
    if (at->type != GgufType::u32) fail(format("expected a UINT32, found %s", name_of(at->type)));
    uint32_t found;
    std::memcpy(&found, at->bytes.data(), sizeof(found));
    if (found == 0 || (found & (found - 1)) != 0 || found > kLargestAlignment) {
      fail(format("expected a power of two up to %llu, found %u", static_cast<Long>(kLargestAlignment), found));
    }
    return found;
  }

  // ---- Tensors.

  Tensor tensor(uint64_t alignment) {
    where_ = {};
    Tensor t;
    where_ = string("a tensor's name");
    t.name = where_;
    kind_ = "tensor";
    const uint32_t dimensions = number<uint32_t>("a number of dimensions");
    if (dimensions > kMostDimensions) {
      fail(format("expected at most %u dimensions, found %u", kMostDimensions, dimensions));
    }
    for (uint32_t i = 0; i < dimensions; i++) {
      const uint64_t found = number<uint64_t>("a dimension");
      if (found > INT64_MAX) fail(format("expected dimensions below 2^63, found %llu", static_cast<Long>(found)));
      t.shape.insert(t.shape.begin(), static_cast<int64_t>(found));
    }
    const uint32_t number_of_type = number<uint32_t>("a type");
    const auto known = std::find_if(std::begin(kTensorTypes), std::end(kTensorTypes),
                                    [&](const TypeNumber& row) { return row.number == number_of_type; });
    t.dtype = known == std::end(kTensorTypes) ? DType::other : dtype_named(known->name);
    if (t.dtype == DType::other) {
      t.other_dtype = known == std::end(kTensorTypes) ? format("type %u", number_of_type) : known->name;
    } else if (!measure_tensor(t.dtype, t.shape, &t.bytes)) {
      const int block = traits_of(t.dtype).block;
      const bool whole = !t.shape.empty() && t.shape.back() % block == 0;
      fail(whole || block == 1 ? format("shape %s overflows", shape_text(t.shape).c_str())
                               : format("expected rows of a multiple of %d elements for %s, found shape %s", block,
                                        name_of(t.dtype), shape_text(t.shape).c_str()));
    }
    t.offset = number<uint64_t>("an offset");  // from the data's beginning, which is not known yet
    if (t.offset % alignment != 0) {
      fail(format("expected an offset that is a multiple of %llu, found %llu", static_cast<Long>(alignment),
                  static_cast<Long>(t.offset)));
    }
    return t;
  }

  // Offsets from the file's beginning, each tensor's data by itself and in the file.
  void place(std::vector<Tensor>& tensors, uint64_t data_begin) {
    kind_ = "tensor";
    if (tensors.empty()) return;
    if (file_bytes_ < data_begin) {
      fail(format("expected data from byte %llu on, found the end of the file at %llu: cut short",
                  static_cast<Long>(data_begin), static_cast<Long>(file_bytes_)));
    }
    const uint64_t room = file_bytes_ - data_begin;
    std::vector<Tensor*> order;
    order.reserve(tensors.size());
    for (Tensor& t : tensors) order.push_back(&t);
    std::sort(order.begin(), order.end(), [](const Tensor* a, const Tensor* b) {
      return a->offset != b->offset ? a->offset < b->offset : a->bytes < b->bytes;
    });
    uint64_t end = 0;
    for (size_t i = 0; i < order.size(); i++) {
      Tensor& t = *order[i];
      where_ = t.name;
      if (t.offset > room || t.bytes > room - t.offset) {
        fail(format("expected data within the %llu bytes of the file, found %llu bytes at %llu: cut short, or damaged",
                    static_cast<Long>(file_bytes_), static_cast<Long>(t.bytes),
                    static_cast<Long>(data_begin + std::min(t.offset, UINT64_MAX - data_begin))));
      }
      // How large an element of another type is, nobody says: its data end where others begin.
      if (t.dtype == DType::other)
        t.bytes = (i + 1 < order.size() ? std::min(order[i + 1]->offset, room) : room) - t.offset;
      if (t.offset < end) {
        fail(format("expected data of its own from byte %llu on, found them at %llu, where another's are",
                    static_cast<Long>(data_begin + end), static_cast<Long>(data_begin + t.offset)));
      }
      end = std::max(end, t.offset + t.bytes);
      t.offset += data_begin;
    }
  }

  template <typename Item, typename Name>
  void refuse_duplicates(const std::vector<Item>& items, Name&& name, const char* what) const {
    std::vector<std::string_view> names;
    names.reserve(items.size());
    for (const Item& item : items) names.push_back(name(item));
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice == names.end()) return;
    throw_invalid(format("%s: %s %s occurs twice", file_.c_str(), what, printable(*twice).c_str()));
  }

  std::string_view head_;
  uint64_t file_bytes_;
  std::string file_;
  uint64_t at_ = 0;
  std::string_view where_;  // the key or tensor being read
  const char* kind_ = "";   // and which of the two it is
};

}  // namespace

const char* name_of(GgufType type) {
  return kTypeNames[static_cast<size_t>(type)];
}
size_t bytes_of(GgufType type) {
  return kTypeBytes[static_cast<size_t>(type)];
}

Gguf parse_gguf(std::string_view head, uint64_t file_bytes, const std::string& file_name) {
  return GgufParser(head.substr(0, std::min<uint64_t>(head.size(), file_bytes)), file_bytes, base_name(file_name))
      .parse();
}

}  // namespace millrace

#pragma once
// Reader of safetensors files (https://github.com/huggingface/safetensors, "Format"): u64 little-endian header length,
// a JSON header, data. Strict: a header longer than the file or 100 MB, offsets that overlap, leave gaps, exceed the
// file or disagree with shape x dtype and duplicate keys are refused, naming file, tensor, expected and found. A dtype
// that is not known here is no fault: who reads the tensor refuses it.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace millrace {

// `other`: a type of a later version of the format, or of none.
enum class DType : uint8_t {
  boolean,
  u8,
  i8,
  f8_e4m3,
  f8_e5m2,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  f64,
  i64,
  u64,
  other
};
// Neither is there for `other`.
size_t size_of(DType type);
const char* name_of(DType type);  // as the format spells it: "F16", "I32", ...

struct Tensor {
  std::string name;
  DType dtype = DType::u8;
  std::string other_dtype;  // of DType::other: what the header says
  std::vector<int64_t> shape;
  int file = 0;         // index into the checkpoint's files
  uint64_t offset = 0;  // bytes from the file's start
  uint64_t bytes = 0;

  // As the header spells it.
  std::string type_name() const { return dtype == DType::other ? other_dtype : name_of(dtype); }
};

// Parses the header in `head`, the first bytes of a file of `file_bytes` bytes (all of the header must be in `head`).
// `file_name` is for messages. Needs no file: this is what is fuzzed.
std::vector<Tensor> parse_safetensors(std::string_view head, uint64_t file_bytes, const std::string& file_name);

// One or several safetensors files, mapped read-only.
class Checkpoint {
 public:
  explicit Checkpoint(std::vector<std::string> paths);
  ~Checkpoint();

  const std::vector<Tensor>& tensors() const { return tensors_; }
  const Tensor* find(const std::string& name) const;     // nullptr if absent
  const Tensor& require(const std::string& name) const;  // CHECKPOINT_INVALID if absent
  const std::string& path_of(const Tensor& tensor) const { return paths_[tensor.file]; }
  const std::byte* data(const Tensor& tensor) const;
  // Lets the system drop the file pages under rows [begin, end) of the tensor's first dimension: read once, not again.
  void drop(const Tensor& tensor, int64_t begin, int64_t end) const;
  // The same for all that is mapped in: a fault may bring in far more around it than was asked for.
  void drop_all() const;
  // Starts reading the tensor's pages from the disk.
  void prefetch(const Tensor& tensor) const;

 private:
  struct Mapping;
  std::vector<std::string> paths_;
  std::vector<std::unique_ptr<Mapping>> mappings_;
  std::vector<Tensor> tensors_;
  std::unordered_map<std::string, size_t> by_name_;
};

}  // namespace millrace

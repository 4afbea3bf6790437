#pragma once
// A checkpoint: one or several files of tensors, mapped read-only, whatever their format.
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/dtype.h"

namespace millrace {

struct Tensor {
  std::string name;
  DType dtype = DType::u8;
  std::string other_dtype;     // of DType::other: what the header says
  std::vector<int64_t> shape;  // the last dimension is contiguous
  int file = 0;                // index into the checkpoint's files
  uint64_t offset = 0;         // bytes from the file's start
  uint64_t bytes = 0;

  // As the header spells it.
  std::string type_name() const { return dtype == DType::other ? other_dtype : name_of(dtype); }
};

// Bytes of a shape of whole blocks; false if they overflow, or if a row is no whole number of blocks.
bool measure_tensor(DType type, const std::vector<int64_t>& shape, uint64_t* bytes);

class Checkpoint {
 public:
  // Files are of safetensors or GGUF, as each begins.
  explicit Checkpoint(std::vector<std::string> paths);
  ~Checkpoint();

  const std::vector<Tensor>& tensors() const { return tensors_; }
  // nullptr if absent. `name[3]`: the fourth along the first dimension of the tensor `name`, as one of its own.
  const Tensor* find(const std::string& name) const;
  const Tensor& require(const std::string& name) const;  // CHECKPOINT_INVALID if absent
  const std::string& path_of(const Tensor& tensor) const { return paths_[tensor.file]; }
  bool is_gguf(const Tensor& tensor) const;
  const std::byte* data(const Tensor& tensor) const;
  // Lets the system drop the file pages under rows [begin, end) of the tensor's first dimension: read once, not again.
  void drop(const Tensor& tensor, int64_t begin, int64_t end) const;
  // The same for all that is mapped in: a fault may bring in far more around it than was asked for.
  void drop_all() const;
  // Starts reading the tensor's pages from the disk.
  void prefetch(const Tensor& tensor) const;

 private:
  const Tensor* find_slice(const std::string& name) const;

  struct Mapping;
  std::vector<std::string> paths_;
  std::vector<std::unique_ptr<Mapping>> mappings_;
  std::vector<Tensor> tensors_;
  std::unordered_map<std::string, size_t> by_name_;
  // Parts of tensors that were asked for; addresses stay.
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::string, Tensor> slices_;
};

}  // namespace millrace

#include "checkpoint/checkpoint.h"

#include <charconv>

#include "checkpoint/gguf.h"
#include "checkpoint/mapped_file.h"
#include "checkpoint/messages.h"
#include "checkpoint/safetensors.h"
#include "core/error.h"

namespace millrace {

bool measure_tensor(DType type, const std::vector<int64_t>& shape, uint64_t* bytes) {
  const DTypeTraits& traits = traits_of(type);
  uint64_t total = static_cast<uint64_t>(traits.block_bytes);
  for (size_t i = 0; i < shape.size(); i++) {
    uint64_t count = static_cast<uint64_t>(shape[i]);
    if (i + 1 == shape.size()) {
      if (count % static_cast<uint64_t>(traits.block) != 0) return false;
      count /= static_cast<uint64_t>(traits.block);
    }
    if (__builtin_mul_overflow(total, count, &total)) return false;
  }
  if (shape.empty() && traits.block != 1) return false;
  *bytes = total;
  return true;
}

struct Checkpoint::Mapping : MappedFile {
  using MappedFile::MappedFile;
  bool gguf = false;
};

Checkpoint::Checkpoint(std::vector<std::string> paths) : paths_(std::move(paths)) {
  if (paths_.empty()) {
    throw Error(code::kCheckpointNotFound, "a checkpoint without a file",
                "pass the path of a model folder with *.safetensors files, or of a GGUF file");
  }
  for (size_t f = 0; f < paths_.size(); f++) {
    mappings_.push_back(std::make_unique<Mapping>(paths_[f]));
    Mapping& mapping = *mappings_.back();
    const std::string_view text(reinterpret_cast<const char*>(mapping.data()), mapping.size());
    mapping.gguf = text.starts_with(kGgufMagic) || paths_[f].ends_with(".gguf");
    for (Tensor& tensor : mapping.gguf ? parse_gguf(text, mapping.size(), paths_[f]).tensors
                                       : parse_safetensors(text, mapping.size(), paths_[f])) {
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
  return at == by_name_.end() ? find_slice(name) : &tensors_[at->second];
}

const Tensor* Checkpoint::find_slice(const std::string& name) const {
  const size_t bracket = name.rfind('[');
  if (bracket == std::string::npos || name.back() != ']') return nullptr;
  const auto whole = by_name_.find(name.substr(0, bracket));
  int64_t index = -1;
  const char* end = name.data() + name.size() - 1;
  const auto [stop, failed] = std::from_chars(name.data() + bracket + 1, end, index);
  if (whole == by_name_.end() || stop != end || failed != std::errc()) return nullptr;
  const Tensor& tensor = tensors_[whole->second];
  if (tensor.shape.size() < 2 || index < 0 || index >= tensor.shape[0]) return nullptr;
  std::lock_guard lock(mutex_);
  const auto [at, inserted] = slices_.try_emplace(name, tensor);
  if (inserted) {
    Tensor& slice = at->second;
    slice.name = name;
    slice.bytes = tensor.bytes / static_cast<uint64_t>(tensor.shape[0]);
    slice.offset += static_cast<uint64_t>(index) * slice.bytes;
    slice.shape.erase(slice.shape.begin());
  }
  return &at->second;
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

bool Checkpoint::is_gguf(const Tensor& tensor) const {
  return mappings_[tensor.file]->gguf;
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

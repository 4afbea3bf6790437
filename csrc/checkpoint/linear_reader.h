#pragma once
// The interface that one source format implements: how a linear of the checkpoint would be stored by itself, and its
// weights in a canonical order that repack.cc turns into tiles. A new format is a subclass in a file of its own and a
// line in open_linear().
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/repack.h"
#include "model/slab_layout.h"

namespace millrace {

// Input features that float weights are read by: whole blocks of every type.
inline constexpr int kElementsStep = 512;

// Readers refer to the checkpoint and must not outlive it. Reading is const and may be done by several threads.
class LinearReader {
 public:
  virtual ~LinearReader() = default;

  int n() const { return n_; }  // output features
  int k() const { return k_; }  // input features
  const MatrixCode& code() const { return code_; }
  int k_stored() const { return k_stored_; }
  // [k_stored], or empty where that is the model's order: input feature of each stored one, or kPadding.
  const std::vector<int32_t>& permutation() const { return permutation_; }
  // What is multiplied comes in the stored order by itself (permuted_glu).
  void take_stored_order() { code_.permuted = false; }
  // All that is read, the weights first.
  const std::vector<const Tensor*>& tensors() const { return tensors_; }

  // q4, k a multiple of 8: quantised values of output features [column, column + count) in the model's own order of
  // input features: nibble i of out[(r - begin) * kTileN + c] is q[8 r + i,
  // column + c], for r in [begin, end).
  virtual void read_words(int begin, int end, int column, int count, uint32_t* out) const;
  // Grouped codes but q4: levels, as slabs write them, of input features [16 begin, 16 end) as far as k goes, in the
  // order of read_words: out[((s - begin) * kTileN + c) * kTileK + i] is that of [16 s + i, column + c).
  virtual void read_levels(int begin, int end, int column, int count, uint8_t* out) const;
  // Grouped codes: what a stored group has of output features [column, column + count); the zero too where the matrix
  // may come to store zeros. Throws CHECKPOINT_INVALID for a scale that is not finite. Called before the group's
  // weights are read.
  virtual void read_group(int group, int column, int count, GroupField* out) const;
  // Codes with spans: the same of one.
  virtual void read_span(int span, int column, int count, SpanField* out) const;
  // Float types: weights [begin, end) of one output feature, of code().type and not necessarily aligned: where they lie
  // in the file, or made in `scratch`, which has room for them. `begin` is a multiple of kElementsStep, and so is `end`
  // or it is k.
  virtual const std::byte* elements(int n, int begin, int end, std::byte* scratch) const;
  // Float types: a weight of rows [begin, end) is infinite or NaN: throws CHECKPOINT_INVALID naming the first.
  virtual void refuse_not_finite(int begin, int end) const;
  // Output features are rows of the file, whose pages may be dropped once they are read.
  virtual bool by_rows() const { return !code_.traits().grouped(); }
  // The file's row of the first output feature.
  virtual int first_row() const { return 0; }
  // Of a reader that makes 4 or 8 bits of float weights: of what was read so far. Zeros of others.
  virtual ErrorSums errors() const { return {}; }

 protected:
  LinearReader(int n, int k) : n_(n), k_(k) {}
  int n_;
  int k_;
  MatrixCode code_;
  int k_stored_ = 0;
  std::vector<int32_t> permutation_;
  std::vector<const Tensor*> tensors_;
};

// Checks a linear of n output and k input features against the checkpoint. Throws CHECKPOINT_INVALID or
// CHECKPOINT_UNSUPPORTED naming file, tensor, expected and found. `norm`: the weights that its input was multiplied by,
// which say how much errors count where it is made 4 or 8 bits.
std::unique_ptr<LinearReader> open_linear(const Checkpoint& checkpoint, const LinearSource& source, int n, int k,
                                          const VectorSource& norm = {});
using LinearReaders = std::vector<std::unique_ptr<LinearReader>>;
// The parts of a linear of a unit, of a GLU whose features lie in another order those in it.
LinearReaders open_parts(const Checkpoint& checkpoint, const ModelSource& source, int unit, int linear);

// ---- Checks shared by the formats.

// "model.safetensors: tensor x"
std::string describe(const Checkpoint& checkpoint, const Tensor& tensor);

// The tensor `name`, of one of these types and exactly this shape.
const Tensor& require_tensor(const Checkpoint& checkpoint, const std::string& name, std::initializer_list<DType> types,
                             std::initializer_list<int64_t> shape);
const Tensor& require_tensor(const Checkpoint& checkpoint, const std::string& name, std::span<const DType> types,
                             std::initializer_list<int64_t> shape);

// A vector of any float type, [n]: norms and biases.
const Tensor& require_floats(const Checkpoint& checkpoint, const std::string& name, int n);
// The same of a vector of `n`, whatever its dimensions.
const Tensor& require_vector(const Checkpoint& checkpoint, const VectorSource& source, int n);
// Its values; throws CHECKPOINT_INVALID for one that is not finite in float32.
void read_floats(const Checkpoint& checkpoint, const Tensor& tensor, float* out);

// A weight [n, k] that is stored as it is, or packed in blocks: F16, BF16, F32; in GGUF files the types of code_of().
const Tensor& require_weight(const Checkpoint& checkpoint, const std::string& name, int64_t n, int64_t k);

// How a weight of this type is kept in slabs, k in its own order: the one place where that is chosen.
MatrixCode code_of(DType type);
// The same of embedding rows, which are floats.
WeightType embedding_type_of(DType type);

// Element `index` of a tensor's data; the format promises no alignment.
template <typename T>
T load_element(const std::byte* data, size_t index) {
  T value;
  __builtin_memcpy(&value, data + index * sizeof(T), sizeof(T));
  return value;
}

}  // namespace millrace

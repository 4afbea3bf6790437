#pragma once
// Kernels of somebody else's in the place of ours, from cubin, fatbin or PTX (csrc/lab/millrace_kernel.h is what
// they are handed). Loaded through the driver's own functions, found at run time: the addon does not link libcuda.
#include <cuda_runtime_api.h>

#include <memory>
#include <vector>

#include "backend/kernel_image.h"
#include "cuda/linear.h"
#include "cuda/moe/route.h"
#include "lab/lab.h"

namespace millrace::cuda {

class UserKernel final : public lab::Kernel {
 public:
  // On the current device. Throws INVALID_ARGUMENT where image, kernel or launch do not suit.
  explicit UserKernel(const KernelImage& image);
  ~UserKernel() override;
  UserKernel(const UserKernel&) = delete;
  UserKernel& operator=(const UserKernel&) = delete;

  const lab::Operation& operation() const { return *operation_; }
  Facts facts() const override { return facts_; }
  // Enqueues; may be captured into a graph.
  cudaError_t launch(const LinearArguments& arguments, cudaStream_t stream) const;
  cudaError_t launch(const ExpertArguments& arguments, cudaStream_t stream) const;
  cudaError_t launch(const RouteArguments& arguments, cudaStream_t stream) const;
  cudaError_t launch(const CombineArguments& arguments, cudaStream_t stream) const;

 private:
  cudaError_t launch(void* argument, int grid_x, int grid_y, cudaStream_t stream) const;
  int row_blocks(int rows) const;
  struct Driver;
  static const Driver& driver();

  const lab::Operation* operation_;
  void* module_ = nullptr;
  void* function_ = nullptr;
  Facts facts_;
  int features_per_block_ = 64;
  int rows_per_block_ = 1;
  int shared_bytes_ = 0;
  bool programmatic_ = false;
};

// Those of one model, by the operation whose place they take.
class UserKernels {
 public:
  explicit UserKernels(const std::vector<KernelImage>& images);
  // Null: ours.
  const UserKernel* find(lab::Kind kind, WeightType type) const;
  // Of operations without a matrix.
  const UserKernel* find(lab::Kind kind) const;

 private:
  std::vector<std::unique_ptr<UserKernel>> kernels_;
};

}  // namespace millrace::cuda

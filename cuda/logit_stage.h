#pragma once
// The logit stage of one executor: its tables, and what a step brings it beside the inputs of fixed size. Of a step's
// two halves on the host, `pass` says which: one may begin while the other runs.
#include <array>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "cuda/runtime/memory.h"
#include "cuda/runtime/stream.h"
#include "cuda/sample.h"

namespace millrace::cuda {

class LogitStage {
 public:
  // slots: ExecutorConfig::max_logit_rows; rows: requests of a step at most, padding counted
  LogitStage(int device, int slots, int rows, int vocab, CudaStream& stream);
  ~LogitStage();
  LogitStage(const LogitStage&) = delete;
  LogitStage& operator=(const LogitStage&) = delete;

  // Brings the step's adjustments and applies its updates, on the stream; listens for its masks. `requests`: a copy of
  // Step::logits, whose places change to the device's. Returns what the kernels are to find.
  LogitInputs begin(int pass, const Step& step, std::span<LogitRequest> requests, CudaStream& stream);
  // Of the step begun last.
  const LogitWants& wants() const { return wants_; }
  // Chooses; `arguments` has all that is not the stage's own.
  void run(SampleArguments arguments, cudaStream_t stream);
  // Behind it: copies what the host will ask for.
  void end(int pass, CudaStream& stream);
  void collect(int pass, StepOutput& output);
  // Masks that have not come are waited for no longer, by the device either.
  void abandon();
  size_t bytes() const { return bytes_; }  // of the device, but for adjustments that are in no table

 private:
  // Memory that grows. What it was stays until the stage goes: the device may be reading it, and freeing waits.
  struct Growing {
    std::vector<std::unique_ptr<CudaMemory>> all;
    std::byte* data() const { return all.empty() ? nullptr : all.back()->data(); }
  };
  std::byte* reserve(Growing& memory, CudaMemory::Place place, size_t bytes, const char* what);
  std::byte* allocate(size_t bytes);

  struct Pass {
    Growing staged;                    // pinned: adjustments, then updates
    Growing masks;                     // pinned: states, then words
    std::unique_ptr<CudaMemory> tops;  // pinned
    std::vector<const TokenMask*> waits_for;
    std::vector<uint32_t*> states;  // of those
    size_t top_count = 0;
  };
  void listen(Pass& pass, const Step& step, LogitInputs& inputs);
  void forget_masks(Pass& pass);

  const int device_, slots_, vocab_;
  std::vector<std::unique_ptr<CudaMemory>> memory_;
  size_t bytes_ = 0;
  LogitTables tables_;
  float* originals_ = nullptr;
  uint32_t* masks_ = nullptr;
  TopLogprob* tops_ = nullptr;
  std::byte* scratch_ = nullptr;
  Growing adjustments_;  // of the device
  std::array<Pass, 2> passes_;
  LogitWants wants_;
};

}  // namespace millrace::cuda

#pragma once
// One model's passes on one GPU. What is enqueued between two waits is held back until the next wait, record or end, so
// that a whole pass over resident units is one graph launch.
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <compare>
#include <map>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/sample_row.h"
#include "backend/unit_table.h"
#include "core/memory.h"
#include "cuda/linear.h"
#include "cuda/runtime/graph.h"
#include "cuda/runtime/memory.h"
#include "cuda/runtime/stream.h"
#include "cuda/user_kernel.h"

namespace millrace::cuda {

// Rows of activations start on 16 bytes: kernels load eight halves at a time.
inline int padded_width(int width) {
  return static_cast<int>(round_up(width, 64));
}

class CudaExecutor final : public Executor, private Holder {
 public:
  CudaExecutor(int device, const ExecutorConfig& config);
  ~CudaExecutor() override;

  void set_unit(Stream& stream, int unit, const std::byte* slab, bool permanent) override;
  void begin(Stream& stream, const Step& step, StepOutput& output) override;
  void embed(Stream& stream) override { hold(stream, {Operation::embed, 0}); }
  void attention(Stream& stream, int unit) override { hold(stream, {Operation::attention, unit}); }
  void feed_forward(Stream& stream, int unit, RowKind rows) override {
    hold(stream, {Operation::feed_forward, unit, rows});
  }
  void head(Stream& stream, int unit) override { hold(stream, {Operation::head, unit}); }
  void hand_over(Stream& stream, std::byte* rows) override {
    hold(stream, {Operation::hand_over, 0, RowKind::all, {rows, nullptr}});
  }
  void take_over(Stream& stream, const std::byte* rows) override {
    hold(stream, {Operation::take_over, 0, RowKind::all, {const_cast<std::byte*>(rows), nullptr}});
  }
  size_t residual_bytes() const override;
  void send(Stream& stream, const Hop& hop, int rows, uint64_t ticket) override;
  void receive(Stream& stream, const Hop& hop, int rows, uint64_t ticket) override;
  void sample(Stream& stream) override { hold(stream, {Operation::sample, 0}); }
  void end(Stream& stream) override;
  void collect() override;
  void abandon(Stream& stream) override;
  ExecutorCounters counters() const override { return counters_; }
  size_t workspace_bytes() const override { return workspace_bytes_; }

 private:
  struct Held {
    enum Operation : uint8_t { embed, attention, feed_forward, head, send, receive, hand_over, take_over, sample };
    Operation operation;
    int unit;  // send, receive: the ticket, counted from Step::hops_before
    RowKind rows = RowKind::all;
    Hop hop{};
  };
  using Operation = Held::Operation;

  // What a captured pass depends on: everything else is read from device memory when it runs.
  struct Shape {
    int decode_rows = 0;  // padded to a bucket
    int prefill_rows = 0;
    int logit_rows = 0;
    int context = 0;  // bucket: no position of the pass is greater or equal
    auto operator<=>(const Shape&) const = default;
  };

  // Where the small inputs of a step lie, in one pinned block and its copy on the device.
  struct Inputs {
    std::byte* base = nullptr;
    int32_t* tokens = nullptr;         // [max padded rows]; -1: padding
    int32_t* positions = nullptr;      // [max padded rows]; -1: padding
    int32_t* sequences = nullptr;      // [max padded rows]
    int32_t* logit_rows = nullptr;     // [max logit rows]: row of the step; -1: padding
    LogitRequest* requests = nullptr;  // [max logit rows], row: index into the logits; -1: padding
    uint64_t* hops_before = nullptr;   // [1]
    int32_t* block_tables = nullptr;   // [max padded rows, block_table_stride_]
    size_t bytes = 0;
  };
  Inputs lay_out_inputs(std::byte* base) const;

  // Launches what is held back, in order.
  void flush(CudaStream& stream) override;
  // It is a whole pass that can be a graph.
  bool replayable() const;
  void hold(Stream& stream, Held held);
  void run(const Held& held, cudaStream_t stream);
  void run_attention(int unit, cudaStream_t stream);
  void run_feed_forward(int unit, RowKind kind, cudaStream_t stream);
  void run_hop(const Held& held, cudaStream_t stream);
  void run_move(const Held& held, cudaStream_t stream);
  void run_head(int unit, cudaStream_t stream);
  void run_sample(cudaStream_t stream);
  // y += or = x W^T of a linear of `unit`, decode rows and prefill rows in launches of their own kind. norm_x: rows of
  // the residual stream that the linear norms by itself, in the place of x.
  void apply(int unit, const LinearLayout& layout, const __half* x, int x_stride, LinearEpilogue epilogue, float* y,
             int y_stride, __half* act, cudaStream_t stream, const float* norm_x = nullptr);
  // The first linear of `unit`, of normed rows of the residual stream.
  void apply_normed(int unit, const float* residual, LinearEpilogue epilogue, float* y, int y_stride, __half* act,
                    cudaStream_t stream);
  // What is held back as a graph, or null for this time.
  cudaGraphExec_t graph_of(const Shape& shape, CudaStream& stream);
  std::byte* allocate(size_t bytes, const char* what);
  int rows() const { return shape_.decode_rows + shape_.prefill_rows; }
  Weights weights(int unit) const;

  const int device_;
  const ExecutorConfig config_;
  int block_table_stride_ = 0;
  int max_padded_rows_ = 0;

  std::vector<std::unique_ptr<CudaMemory>> memory_;
  size_t workspace_bytes_ = 0;
  std::unique_ptr<UserKernels> kernels_;  // in place of ours
  std::unique_ptr<HostRegistration> embedding_;

  CudaStream own_;  // of what belongs to no pass
  UnitTable unit_table_;
  const std::byte** device_unit_table_ = nullptr;
  std::unique_ptr<CudaMemory> host_inputs_, host_outputs_;
  Inputs host_, device_inputs_;
  int32_t* device_tokens_ = nullptr;
  float* device_logprobs_ = nullptr;
  float* rope_ = nullptr;
  float* residual_ = nullptr;    // [rows, hidden]
  __half* normed_ = nullptr;     // [rows, hidden]
  float* wide_ = nullptr;        // [rows, qkv width or 2 intermediate]
  __half* attended_ = nullptr;   // [rows, query width]
  __half* activated_ = nullptr;  // [rows, intermediate]
  float* logits_ = nullptr;      // [logit rows, vocab]
  __half* gathered_ = nullptr;
  float* attention_partials_ = nullptr;
  unsigned* attention_counters_ = nullptr;
  std::byte* sample_scratch_ = nullptr;
  unsigned* hop_counter_ = nullptr;

  Step step_;
  StepOutput* output_ = nullptr;
  Shape shape_;
  std::vector<Held> held_;
  std::map<Shape, Graph> graphs_;
  ExecutorCounters counters_;
  RowScratch row_scratch_;
  std::vector<float> row_;
};

}  // namespace millrace::cuda

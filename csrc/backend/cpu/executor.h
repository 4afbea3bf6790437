#pragma once
// One model's passes on the CPU twin: every operation is a closure on the stream's thread, which calls the kernels
// and shares the backend's thread pool with the other executors.
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/linear.h"
#include "backend/sample_row.h"
#include "core/memory.h"
#include "core/thread_pool.h"

namespace millrace {

// A pool takes one loop at a time: an operation holds the mutex while it runs.
struct ComputePool {
  explicit ComputePool(int threads) : pool(threads) {}
  std::mutex mutex;
  ThreadPool pool;
};

// Streams must have run all that was enqueued on them before their executor goes.
class CpuExecutor final : public Executor {
 public:
  CpuExecutor(const ExecutorConfig& config, std::shared_ptr<ComputePool> compute,
              std::shared_ptr<const CpuStreamHooks> hooks);

  void set_unit(Stream& stream, int unit, const std::byte* slab, bool permanent) override;
  // Checks the whole step before anything is enqueued: throws INTERNAL, since the engine makes them.
  void begin(Stream& stream, const Step& step, StepOutput& output) override;
  void embed(Stream& stream) override;
  void attention(Stream& stream, int unit) override;
  void feed_forward(Stream& stream, int unit, RowKind rows) override;
  void send(Stream& stream, const Hop& hop, int rows, uint64_t ticket) override;
  void receive(Stream& stream, const Hop& hop, int rows, uint64_t ticket) override;
  void hand_over(Stream& stream, std::byte* rows) override;
  void take_over(Stream& stream, const std::byte* rows) override;
  size_t residual_bytes() const override;
  void head(Stream& stream, int unit) override;
  void sample(Stream& stream) override;
  void end(Stream& stream) override;
  ExecutorCounters counters() const override;
  size_t workspace_bytes() const override { return workspace_.size() + rope_.size(); }

 private:
  void check(const Step& step) const;
  void enqueue(Stream& stream, std::function<void()> operation);
  const std::byte* slab(int unit) const;
  void normalise(const float* x, int rows, const UnitLayout& layout, const std::byte* slab);
  void apply(const LinearLayout& layout, const std::byte* slab, const float* x, int rows, float* y, Epilogue epilogue,
             const UnitLayout& unit);
  // To the positions of the step.
  void grow_rope();

  void run_embed();
  void run_attention(int unit);
  void run_feed_forward(int unit, RowKind rows);
  void run_head(int unit);
  void run_sample();

  const ExecutorConfig config_;
  const std::shared_ptr<ComputePool> compute_;
  const std::shared_ptr<const CpuStreamHooks> hooks_;

  // Belong to the stream's operations from here on.
  std::vector<const std::byte*> unit_table_;
  Step step_;
  StepOutput* output_ = nullptr;
  std::vector<int> logit_row_;  // of each request, its row of logits_: requests for one row share it
  int logit_rows_ = 0;

  HostMemory workspace_;
  float* residual_ = nullptr;  // [max_rows, hidden]
  float* normed_ = nullptr;    // [max_rows, hidden]
  float* wide_ = nullptr;      // [max_rows, max(qkv width, intermediate)]
  float* attended_ = nullptr;  // [max_rows, query width]
  float* logits_ = nullptr;    // [max_logit_rows, vocab]
  HostMemory rope_;            // [max_context, head_dim], filled as contexts grow
  int rope_positions_ = 0;
  LinearScratch linear_scratch_;
  AttentionScratch attention_scratch_;
  std::vector<RowScratch> row_scratch_;  // [threads]

  std::atomic<uint64_t> weight_bytes_{0};
};

}  // namespace millrace

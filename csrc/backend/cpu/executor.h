#pragma once
// One model's passes on the CPU twin: every unit is a closure on the stream's thread, which interprets the unit's
// operations, calls the kernels and shares the backend's thread pool with the other executors. executor_run.cc has the
// operations.
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/expert_answer.h"
#include "backend/cpu/linear.h"
#include "backend/sample_row.h"
#include "core/memory.h"
#include "core/thread_pool.h"
#include "model/experts_layout.h"

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
  void set_experts(Stream& stream, std::span<const ExpertAddress> experts) override;
  void offer_frames(Stream& stream, std::span<std::byte* const> frames, bool anew) override;
  void begin(Stream& stream, const Step& step, StepOutput& output) override;
  void embed(Stream& stream) override;
  void run(Stream& stream, int unit, RowKind rows) override;
  void send(Stream& stream, const Hop& hop, int rows, uint64_t ticket) override;
  void receive(Stream& stream, const Hop& hop, int rows, uint64_t ticket) override;
  void hand_over(Stream& stream, std::byte* rows) override;
  void take_over(Stream& stream, const std::byte* rows) override;
  size_t carried_bytes() const override;
  void keep_hidden(Stream& stream) override;
  void sample(Stream& stream) override;
  void end(Stream& stream) override;
  const int32_t* choices() const override { return chosen_.data(); }
  ExecutorCounters counters() const override;
  size_t workspace_bytes() const override;

 private:
  void check(const Step& step) const;
  void take_tokens();
  void take_table_updates();
  void enqueue(Stream& stream, std::function<void()> operation);
  const std::byte* slab(int unit) const;
  // To the positions of the step.
  void grow_ropes();

  // Rows [begin, begin + rows) of the values, and the weights of the unit.
  struct Scope {
    const UnitLayout* layout = nullptr;
    const std::byte* slab = nullptr;
    int begin = 0;
    int rows = 0;
    int unit = -1;
  };
  // The rows of a value, from the scope's first on.
  float* rows_of(const Scope& scope, int value) const;
  int width(int value) const { return config_.program.values[value]; }
  const float* vector(const Scope& scope, int index) const;
  void copy_carried(std::byte* there, bool over);

  void run_ops(const std::vector<Op>& ops, const Scope& scope);
  void run_unit(int unit, RowKind rows);
  // The residual stream's rows that logits are wanted of, to its beginning; how many they are.
  int gather_logit_rows();
  void run_op(const NormOp& op, const Scope& scope);
  void run_op(const ScaleOp& op, const Scope& scope);
  void run_op(const AddOp& op, const Scope& scope);
  void run_op(const LinearOp& op, const Scope& scope);
  void run_op(const GluOp& op, const Scope& scope);
  void run_op(const GateOp& op, const Scope& scope);
  void run_op(const GatherOp& op, const Scope& scope);
  void run_op(const AttendOp& op, const Scope& scope);
  void run_op(const LatentOp& op, const Scope& scope);
  void run_op(const RouteOp& op, const Scope& scope);
  void run_op(const ExpertsOp& op, const Scope& scope);
  void run_op(const ConvOp& op, const Scope& scope);
  void run_op(const DeltaOp& op, const Scope& scope);
  // Rows of one sequence, side by side.
  struct Run {
    int begin = 0, end = 0;      // from the scope's first row on
    float* state = nullptr;      // of the sequence
    std::vector<float*> behind;  // of decode rows: where what is behind each goes; empty: into `state`, behind the last
    bool fresh = false;          // there is nothing before them: the state is zero, whatever it holds
  };
  std::vector<Run> runs_of(const StatePlace& place, const Scope& scope) const;
  void run_experts(const ExpertsOp& op, const Scope& scope);
  void run_expert(const ExpertsOp& op, const Scope& scope, int expert, std::span<const int> places);
  void run_float_expert(const ExpertCall& call);
  void run_sample();

  const ExecutorConfig config_;
  const std::shared_ptr<ComputePool> compute_;
  const std::shared_ptr<const CpuStreamHooks> hooks_;
  size_t last_requests_ = 0;  // of the step begun last

  // Belong to the stream's operations from here on.
  std::vector<const std::byte*> unit_table_;
  // Of units whose experts may lie apart: their layout, which of the log's counts are theirs, and where they are.
  struct Apart {
    std::optional<ExpertsLayout> layout;
    size_t first = 0;
    std::vector<const std::byte*> addresses;  // [experts]
    std::vector<bool> in_ram;                 // [experts]: not in a frame
    bool now = false;                         // of the slab that was set last
  };
  std::vector<Apart> apart_;       // [units], or empty
  std::deque<std::byte*> frames_;  // offered and not taken
  // Copies an expert that is read in RAM into a frame, if there is one.
  void fill_frame(Apart& apart, int expert);
  // Leaves experts that lie in RAM to the CPU's answers (of which experts, experts_scratch_.sent says), and takes
  // these.
  bool send_experts(const ExpertsOp& op, const Scope& scope, const Apart& apart);
  void receive_experts();
  uint64_t ticket_ = 0;       // of the last task that was sent
  int64_t answer_waits_ = 0;  // for ExpertMail::skip_wait
  const Mixtures mixtures_;   // as the program has them
  size_t logged_experts_ = 0;
  Step step_;
  StepOutput* output_ = nullptr;
  std::vector<int32_t> tokens_;                       // of the step's rows
  std::vector<int32_t> chosen_;                       // [max_logit_rows] by the last step that sampled
  std::vector<std::vector<LogitAdjustment>> tables_;  // [slots]
  std::vector<int> logit_row_;  // of each request, its row of logits_: requests for one row share it
  int logit_rows_ = 0;

  HostMemory workspace_;
  std::vector<float*> values_;  // [max_rows, width] each; the logits [max_logit_rows, vocab]
  const std::vector<int> carried_;
  std::vector<HostMemory> ropes_;  // [max_context, head_dim], filled as contexts grow
  int rope_positions_ = 0;
  std::vector<float> gate_up_;  // [rows, n] of a gate_up linear whose activation is no linear's own
  // Of a mixture: choices (row * top_k + rank) by expert, and rows of one expert at a time.
  struct ExpertsScratch {
    std::vector<int> begins, places;
    std::vector<bool> sent;                                 // [experts]: the CPU answers them
    std::vector<float> x, gathered, activated, y, results;  // x: of all rows, as float16 has it
    std::vector<const float*> x_rows;
    std::vector<float*> y_rows;
    ExpertAnswer answer;
  };
  ExpertsScratch experts_scratch_;
  // Of latent attention: what makes keys and values, as floats [n, rank]; queries and what they find, [rows, heads,
  // key_dim].
  struct LatentScratch {
    std::vector<float> weights, queries, found;
  };
  LatentScratch latent_scratch_;
  LinearScratch linear_scratch_;
  AttentionScratch attention_scratch_;
  std::vector<RowScratch> row_scratch_;  // [threads]

  std::atomic<uint64_t> weight_bytes_{0};
};

}  // namespace millrace

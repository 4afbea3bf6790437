#pragma once
// One model's passes on one GPU. What is enqueued between two waits is held back until the next wait, record or end, so
// that a whole pass over resident units is one graph launch.
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <array>
#include <compare>
#include <map>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/unit_table.h"
#include "core/memory.h"
#include "cuda/attention.h"
#include "cuda/delta.h"
#include "cuda/latent.h"
#include "cuda/linear.h"
#include "cuda/logit_stage.h"
#include "cuda/moe/answers.h"
#include "cuda/moe/route.h"
#include "cuda/plan/lower.h"
#include "cuda/runtime/graph.h"
#include "cuda/runtime/memory.h"
#include "cuda/runtime/stream.h"
#include "cuda/user_kernel.h"
#include "model/experts_layout.h"

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
  void set_experts(Stream& stream, std::span<const ExpertAddress> experts) override;
  void offer_frames(Stream& stream, std::span<std::byte* const> frames, bool anew) override;
  void begin(Stream& stream, const Step& step, StepOutput& output) override;
  void embed(Stream& stream) override { hold(stream, {Operation::embed, 0}); }
  void run(Stream& stream, int unit, RowKind rows) override { hold(stream, {Operation::unit, unit, rows}); }
  void hand_over(Stream& stream, std::byte* rows) override {
    hold(stream, {Operation::hand_over, 0, RowKind::all, {rows, nullptr}});
  }
  void take_over(Stream& stream, const std::byte* rows) override {
    hold(stream, {Operation::take_over, 0, RowKind::all, {const_cast<std::byte*>(rows), nullptr}});
  }
  size_t carried_bytes() const override;
  void send(Stream& stream, const Hop& hop, int rows, uint64_t ticket) override;
  void receive(Stream& stream, const Hop& hop, int rows, uint64_t ticket) override;
  // The rows stay where they are until the next pass: collect() brings them.
  void keep_hidden(Stream&) override { pass_->keeps_hidden = true; }
  void sample(Stream& stream) override { hold(stream, {Operation::sample, 0}); }
  void end(Stream& stream) override;
  void collect(StepOutput& output) override;
  const int32_t* choices() const override { return reinterpret_cast<const int32_t*>(pass_->outputs_memory->data()); }
  bool may_follow(const Step& step) const override;
  void abandon(Stream& stream) override;
  ExecutorCounters counters() const override { return counters_; }
  size_t workspace_bytes() const override { return workspace_bytes_; }

 private:
  struct Held {
    enum Operation : uint8_t { embed, unit, send, receive, hand_over, take_over, sample };
    Operation operation;
    int number;  // unit: which; send, receive: the ticket, counted from Step::hops_before
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
    LogitWants wants;
    bool logs_routes = false;
    auto operator<=>(const Shape&) const = default;
  };

  // A captured pass, or part of one: units side by side, between what brings its rows and what takes them on.
  struct Segment {
    Shape shape;
    int first = 0, last = 0;  // units
    const std::byte* from = nullptr;
    const std::byte* to = nullptr;
    auto operator<=>(const Segment&) const = default;
  };
  Segment held_segment() const;

  // Where the small inputs of a step lie, in one pinned block and its copy on the device.
  struct Inputs {
    std::byte* base = nullptr;
    int32_t* tokens = nullptr;         // [max padded rows]; -1: padding
    int32_t* token_from = nullptr;     // [max padded rows]; -1: padding, or as Step::token_from
    int32_t* positions = nullptr;      // [max padded rows]; -1: padding
    int32_t* sequences = nullptr;      // [max padded rows]
    int32_t* logit_rows = nullptr;     // [max logit rows]: row of the step; -1: padding
    LogitRequest* requests = nullptr;  // [max logit rows], row: index into the logits; -1: padding
    LogitInputs* logits = nullptr;     // [1]
    uint64_t* hops_before = nullptr;   // [1]
    int32_t* block_tables = nullptr;   // [classes, max padded rows, block_table_stride_]
    size_t bytes = 0;
  };
  Inputs lay_out_inputs(std::byte* base) const;

  // What the host has of a pass until it is collected. There are two: one may begin while another runs.
  struct Pass {
    std::unique_ptr<CudaMemory> inputs_memory, outputs_memory, expert_rows,
        routes;  // pinned; routes: once it is asked for
    Inputs inputs;
    Step step;
    StepOutput* output = nullptr;
    int row_padding = 0;  // between decode and prefill rows
    bool keeps_hidden = false;
  };

  // Launches what is held back, in order.
  void flush(CudaStream& stream) override;
  // It is a whole pass, or what of one lies between rows from another GPU and rows to one, and can be a graph.
  bool replayable() const;
  void hold(Stream& stream, Held held);
  void launch(const Held& held, cudaStream_t stream);
  void run_hop(const Held& held, cudaStream_t stream);
  void run_move(const Held& held, cudaStream_t stream);
  void run_sample(cudaStream_t stream);
  void run_unit(int unit, RowKind kind, cudaStream_t stream);

  // What a unit's operations compute: these rows of the values, decode rows before prefill rows.
  struct Scope {
    int unit = 0;
    int begin = 0;
    int decode_rows = 0, prefill_rows = 0;
    const int32_t* row_indices = nullptr;  // of the residual stream's rows, where they are not those from `begin` on
    cudaStream_t stream = nullptr;
    int rows() const { return decode_rows + prefill_rows; }
  };
  // A value: one of the two, from the scope's first row on.
  struct Operand {
    float* floats = nullptr;
    __half* halves = nullptr;
    int width = 0, stride = 0;
  };
  Operand operand(const Scope& scope, int value) const;
  void run_ops(const std::vector<Lowered>& ops, const Scope& scope);
  void run_op(const NormOp& op, const Lowered& lowered, const Scope& scope);
  void run_op(const ScaleOp& op, const Lowered& lowered, const Scope& scope);
  void run_op(const AddOp& op, const Lowered& lowered, const Scope& scope);
  void run_op(const LinearOp& op, const Lowered& lowered, const Scope& scope);
  void run_op(const GluOp& op, const Lowered& lowered, const Scope& scope);
  void run_op(const GateOp& op, const Lowered& lowered, const Scope& scope);
  void run_op(const GatherOp& op, const Lowered& lowered, const Scope& scope);
  void run_op(const AttendOp& op, const Lowered& lowered, const Scope& scope);
  void run_op(const RouteOp& op, const Lowered& lowered, const Scope& scope);
  bool route_at_once(const RouteArguments& route, const NormOp& norm, const LinearOp& router, const Scope& scope);
  void run_op(const ExpertsOp& op, const Lowered& lowered, const Scope& scope);
  void run_op(const ConvOp& op, const Lowered& lowered, const Scope& scope);
  void run_op(const LatentOp& op, const Lowered& lowered, const Scope& scope);
  void run_op(const DeltaOp& op, const Lowered& lowered, const Scope& scope);
  StateArguments state_arguments(const StatePlace& place, const Scope& scope) const;
  template <typename Body>
  void for_runs(const StatePlace& place, const Scope& scope, Body&& body);
  // Of rows whose results there is room for. x: of the first of them, float16.
  void run_experts(const ExpertsOp& op, const __half* x, int x_stride, const Scope& scope,
                   const std::optional<AddOp>& sum, bool prompt);
  // The CPU answers some of the unit's experts in a launch for so many rows.
  bool answers(int unit, int rows) const;
  // With it, whoever makes or shortens the list gives frames to experts in RAM.
  ExpertList list_of(int unit, bool gives_frames) const;
  CombineArguments sums_of(const ExpertsOp& op, const Scope& scope, const std::optional<AddOp>& sum) const;
  void make_room_for_experts();
  void make_room_for_attention();
  void make_room_for_answers();
  void log_routes();
  void collect_routes(const Pass& pass);
  AttentionArguments attention_arguments(const AttendOp& op, int unit) const;
  // What a linear computes: y += or = x W^T, or activations.
  struct Output {
    LinearEpilogue epilogue = LinearEpilogue::store;
    float* y = nullptr;
    int y_stride = 0;
    __half* act = nullptr;
    int act_stride = 0, features = 0;
  };
  // Decode rows and prefill rows in launches of their own kind. norm_x: float32 rows that the linear norms by itself,
  // as `norm` would, in the place of x.
  void apply(const LinearLayout& layout, const __half* x, int x_stride, const Output& output, const Scope& scope,
             const float* norm_x = nullptr, const NormOp* norm = nullptr);
  // A linear of the value `in`, normed before if it is to be.
  void apply_to(int in, const LinearLayout& layout, const Lowered& lowered, const Output& output, const Scope& scope);
  void collect_hidden(const Pass& pass);
  // What is held back as a graph, or null for this time.
  cudaGraphExec_t graph_of_held(CudaStream& stream);
  std::byte* allocate(size_t bytes, const char* what);
  int rows() const { return shape_.decode_rows + shape_.prefill_rows; }
  Weights weights(int unit) const;

  const int device_;
  DeviceFacts facts_;
  const ExecutorConfig config_;
  int block_table_stride_ = 0;
  int max_padded_rows_ = 0;
  int table_sequences_ = 0;  // of a class's block tables

  std::vector<Lowered> embed_;
  std::vector<std::vector<Lowered>> units_;

  // Of units with a mixture: how its experts lie, and what a pass of so many rows reads of it at most.
  struct Mixture {
    const ExpertsOp* op = nullptr;
    ExpertsLayout layout;
    size_t expert_bytes = 0;
    int top_k = 0, rows = 0;  // rows: computed at once
    int first_apart = kNone;  // of the experts that may lie apart
    bool prompts = false;     // rows of prompts have launches of their own: computes_prompts()
    bool apart = false;       // of the slab that was set last
    int split = kNone;        // of device_splits_: where ExpertMail::split begins
  };
  std::vector<Mixture> mixtures_;  // [units]; op: null where there is none
  const Mixtures numbers_;         // of them
  size_t weight_bytes(int unit) const;
  // Where rows of the unit's experts are counted; null where they are not apart.
  uint16_t* expert_log(int unit) const;
  static size_t matrix_bytes(const LinearLayout& linear);

  std::vector<std::unique_ptr<CudaMemory>> memory_;
  size_t workspace_bytes_ = 0;
  std::unique_ptr<UserKernels> kernels_;         // in place of ours
  std::unique_ptr<HostRegistration> embedding_;  // all tables
  std::vector<const std::byte*> tables_;         // as the device sees them

  CudaStream own_;  // of what belongs to no pass
  UnitTable unit_table_;
  const std::byte** device_unit_table_ = nullptr;
  Inputs device_inputs_;
  int32_t* device_tokens_ = nullptr;
  float* device_logprobs_ = nullptr;
  std::vector<float*> ropes_;
  std::vector<float*> float_values_;  // [rows, width] each, or null; logits [logit rows, vocab]
  std::vector<__half*> half_values_;  // [rows, padded width] each, or null
  std::vector<int> carried_;
  float* gate_up_ = nullptr;     // [rows, n] of gate and up whose activation is not the linear's own
  __half* converted_ = nullptr;  // [rows, padded width] of float32 values that linears read
  __half* gathered_ = nullptr;
  ExpertList expert_list_;
  int experts_apart_ = 0;                            // of all units
  const std::byte** device_expert_table_ = nullptr;  // [experts apart]
  uint16_t* device_expert_rows_ = nullptr;           // [experts apart]: StepOutput::expert_rows
  uint8_t* device_in_ram_ = nullptr;                 // [experts apart]
  FrameOffers* device_offers_ = nullptr;
  FrameLog* device_frame_log_ = nullptr;  // behind device_expert_rows_, which it goes to the host with
  size_t expert_log_bytes_ = 0, frame_log_at_ = 0;
  uint32_t frames_told_ = 0;           // of FrameLog::taken
  uint16_t* device_splits_ = nullptr;  // ExpertMail::split of all units
  AnswerArguments answers_;            // what all of its launches have alike
  uint16_t* device_drawn_ = nullptr;   // DrawnRoutes::experts
  uint16_t* device_chosen_ = nullptr;  // [max padded rows, mixtures, chosen]: StepOutput::routes, once asked for
  int listed_ = kNone;                 // the routes that the list is of
  float* expert_gate_up_ = nullptr;    // [places, n], where gate and up don't leave their linear as one activation
  __half* expert_act_ = nullptr;       // [places, padded width]
  float* expert_results_ = nullptr;    // [places, hidden]
  float* attention_partials_ = nullptr;
  unsigned* attention_counters_ = nullptr;
  __half* latent_queries_ = nullptr;
  unsigned* hop_counter_ = nullptr;

  int pass_number(const StepOutput& output) const { return passes_[0].output == &output ? 0 : 1; }

  std::array<Pass, 2> passes_;
  Pass* pass_ = passes_.data();  // begun last
  Shape shape_;                  // of it
  std::vector<Held> held_;
  std::map<Segment, Graph> graphs_;
  ExecutorCounters counters_;
  std::vector<float> row_;
  std::unique_ptr<LogitStage> stage_;
};

}  // namespace millrace::cuda

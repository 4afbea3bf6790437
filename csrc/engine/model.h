#pragma once
// One loaded model as the engine runs it: its weights' homes, its KV, its queue of requests. All but the counters
// belongs to the thread of its worker.
#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/error.h"
#include "engine/kv_pool.h"
#include "engine/scheduler.h"
#include "stream/expert_store.h"
#include "stream/feeder.h"
#include "stream/host_store.h"
#include "stream/route_log.h"

namespace millrace {

// Whether the next pass is launched before the tokens of the last one have been read.
enum class StepsAhead : uint8_t {
  never,
  on_gpus,  // where the host's part of a step is worth hiding, and a pass of rows that turn out useless is short
  always,   // wherever a pass of such rows costs no copies
};

struct ModelConfig {
  std::vector<Home> homes;           // one a unit
  std::vector<int> devices;          // one a unit: the device that has it, by its place; empty: the first has all
  std::vector<size_t> ring_bytes;    // one a device
  std::vector<size_t> window_bytes;  // one a device, for units that stay in the file; empty: as small as can be
  bool direct_hops = true;           // rows cross straight into another device's memory, where there is a way
  size_t expert_cache_bytes = 0;     // of device memory, for experts of units at home on demand
  int expert_threads = 0;            // of the CPU, that answer some of those which are not there; 0: none does
  AnswerRates answer_rates;          // by which they are shared out
  size_t arena_bytes = 0;            // of the device, for the shared units of all its models; 0: as it is
  int context_length = 0;
  std::vector<int> kv_blocks;  // of each class; of those without a window at least one context
  int draft_states = 0;        // of the blocks of each class of states: so many are not taken by copies, for drafts
  KvType kv_type = KvType::f16;
  size_t kv_swap_bytes = 0;  // of system RAM, for keys and values that leave the cache
  int max_rows = 0;
  int max_logit_rows = 0;
  bool prefix_reuse = true;
  bool deterministic = false;  // no reuse of keys and values that decoding computed
  int cpu_rows = INT32_MAX;    // with more decode rows than this, `cpu` units are streamed for them all
  int turn_ms = 250;           // how long it keeps the arena from others that wait for it, while it has work
  int max_queue = 0;           // requests that may wait; 0: any number
  StepsAhead steps_ahead = StepsAhead::on_gpus;
  int logit_table_entries = kLogitTableEntries;  // for tests: fewer than a device has
  bool poison = false;
  std::vector<double> pass_costs;  // of passes with 1, 2, ... decode rows, in seconds: how many drafts are worth it
  bool watch_costs = true;         // and corrects them by what passes take
  std::function<void(const Sequence&, int count, std::vector<int32_t>& drafts)> draft;  // see SchedulerConfig
  std::shared_ptr<DraftModel> draft_model;                                              // this model's alone
  std::vector<KernelImage> kernels;                 // in the place of the backend's own
  std::shared_ptr<const DrawnRoutes> drawn_routes;  // what rows choose of mixtures; null: their routers do
  FeederHooks hooks;
  WindowHooks window_hooks;
  ExpertHooks expert_hooks;
  AnswerHooks answer_hooks;
  int64_t skip_answer_wait = -1;  // for tests: which wait of the twin for an answer is left out
  KvHooks kv_hooks;
  int64_t skip_hop_wait = -1;  // for tests: which wait for another device's rows is left out
  int stage_threads = 1;       // that copy slabs which are not pinned
};

// Written by the worker's thread, read by any.
struct ModelCounters {
  std::atomic<uint64_t> steps{0}, decode_rows{0}, prefill_rows{0};
  // The time in which a pass was under way; of that, what the worker waited for devices; and what steps that brought
  // weights to the arena took.
  std::atomic<double> step_ms{0}, wait_ms{0}, switch_ms{0};
  std::atomic<uint64_t> steps_ahead{0};  // of the steps: launched before the tokens of the one before were read
  std::atomic<uint64_t> copied_bytes{0}, prefetched_bytes{0}, dropped_bytes{0}, staged_bytes{0}, streamed_units{0};
  std::atomic<uint64_t> file_bytes{0};  // read in the packed file
  std::atomic<uint64_t> pinned_bytes{0}, hops{0};
  // Of the ring; of device copies of resident units, 0 where they are read in host memory; of the arena's blocks.
  std::atomic<uint64_t> ring_bytes{0}, resident_bytes{0}, shared_bytes{0};
  std::atomic<uint64_t> arena_copied_bytes{0}, switches{0};
  std::atomic<uint64_t> weight_bytes_read{0};
  std::atomic<uint64_t> running{0}, preempted{0}, kv_blocks_used{0};
  std::atomic<uint64_t> prompt_tokens{0}, reused_tokens{0}, preemptions{0}, recomputations{0};
  // Of system RAM, that preempted sequences' keys and values take, and those of texts; tokens of which came back.
  std::atomic<uint64_t> saved_kv_bytes{0}, tier_kv_bytes{0}, returned_tokens{0};
  std::atomic<uint64_t> drafted_tokens{0}, accepted_tokens{0};
  std::atomic<uint64_t> draft_passes{0};  // of the draft model
  std::atomic<double> draft_ms{0};        // that they took
  // Experts of passes, read in frames and in RAM; what frames took; frames, and those that hold an expert.
  std::atomic<uint64_t> expert_hits{0}, expert_mapped{0}, promoted_bytes{0}, expert_frames{0}, used_frames{0};
  std::atomic<uint64_t> expert_cpu{0};  // answered by the CPU; not among those read in RAM
  // Have a place in the queue: not submitted yet, or not started; and how long a started request takes, of late.
  std::atomic<uint64_t> queued{0};
  std::atomic<double> service_ms{0};
};

struct ModelMemory {
  size_t host_bytes = 0;  // slabs and embedding in system RAM
  size_t kv_bytes = 0;
  size_t kv_swap_bytes = 0;  // reserved in system RAM
  size_t workspace_bytes = 0;
  size_t draft_host_bytes = 0, draft_device_bytes = 0;  // of the draft model, beside those
};

// Of one device: its part of the model's.
struct DeviceCounters {
  std::string name;
  size_t kv_bytes = 0;
  size_t workspace_bytes = 0;  // rows from other devices counted, where they come straight here
  bool direct_hops = false;
  std::atomic<uint64_t> resident_bytes{0}, ring_bytes{0}, copied_bytes{0};
};

class Model {
 public:
  // On one device or spread over several. With a backend `cpu` beside them, `cpu` units (that stand alone) compute
  // there, from host memory; without one they are resident. Throws OUT_OF_MEMORY or INVALID_ARGUMENT; anything
  // allocated is given back.
  Model(uint64_t id, std::vector<std::unique_ptr<Backend>> backends, std::shared_ptr<const HostModel> host,
        ModelConfig config, std::unique_ptr<Backend> cpu = nullptr);
  Model(uint64_t id, std::unique_ptr<Backend> backend, std::shared_ptr<const HostModel> host, ModelConfig config,
        std::unique_ptr<Backend> cpu = nullptr);
  ~Model();

  uint64_t id() const { return id_; }
  const ModelConfig& config() const { return config_; }
  const ModelCounters& counters() const { return counters_; }
  const ModelMemory& memory() const { return memory_; }
  const std::vector<DeviceCounters>& devices() const { return devices_; }
  int kv_blocks() const { return kv_total_; }  // of the class that keeps most

  // Throws QUEUE_FULL if no more may wait; counts one more as queued.
  void enter_queue();
  void leave_queue();  // of one that will never start
  // That have not started, or were preempted.
  int waiting() const;

  // ---- Its worker's thread only.
  Scheduler& scheduler() { return *scheduler_; }
  // Reads one pass and posts its tokens, with the next one launched before that where it may be; false if there was
  // nothing to do.
  bool step();
  // Reads what is under way: nothing is, afterwards. Throws as step() does.
  void catch_up();
  // No requests, and nothing is under way.
  bool idle() const { return scheduler_->idle() && under_way_ == 0; }
  void enqueue(std::unique_ptr<Sequence> sequence);
  // Ends requests whose time is over.
  void expire();
  // Ends a request with its last event; nothing happens if it has ended.
  void end(uint64_t request, Finish finish, TokenEvent last = {});
  void publish_counters();
  // Other homes and other rings from the next pass on, as Feeder::set_homes has it; returns the homes that it came to.
  std::vector<Home> set_homes(const std::vector<Home>& homes, const std::vector<size_t>& ring_bytes);
  // Takes turns with other models of its device: its units are in memory that they share.
  bool shares() const { return arena_ != nullptr; }
  const Arena* arena() const { return arena_; }
  void set_arena_limit(size_t bytes);
  // Of experts on demand, from the next pass on: the bytes that it came to.
  size_t set_expert_cache(size_t bytes);
  size_t shared_unit_bytes() const;  // the draft model's too
  // It would have to bring weights to the device before its next pass.
  bool away();
  // Its draft model would have to, and somebody may ask for its drafts: without a turn it goes on without them.
  bool draft_model_away();
  // Tells `sink` of every step; null: nobody.
  void observe(std::weak_ptr<EventSink> sink) { observer_ = std::move(sink); }
  // After step() or catch_up() has thrown: nothing is under way any more, and the next pass starts clean.
  void abandon_passes();
  // Writes what copies, kernels and waits take to a file, from the next pass on; empty: no more. Throws
  // INVALID_ARGUMENT.
  void trace(const std::string& path);
  // Writes what rows choose of mixtures to a file, from the next pass on; empty: no more. Throws INVALID_ARGUMENT, and
  // WRITE_FAILED where the file that it ends is not whole.
  void trace_routes(const std::string& path);
  // It takes no more steps: gives up what it shares with models that do. Waits for nothing but copies to there.
  void leave();

  // ---- Any thread, once it takes no more steps.
  // Frees everything but the counters and the configuration, which handles elsewhere may still read. Takes its time.
  void release();

 private:
  // Where the feed-forwards of `cpu` units compute when the model itself is on another device.
  struct CpuSide {
    std::unique_ptr<Backend> backend;
    std::unique_ptr<Stream> stream;
    std::unique_ptr<Executor> executor;
    std::unique_ptr<Memory> memory;  // of both hops
    Hop there, back;
    uint64_t hops = 0;  // so far
  };
  // A device with its part of the model: whole layers as a rule. The rows of a pass go through the sides in the order
  // of the units, each side's link fills its ring meanwhile.
  struct Side {
    std::unique_ptr<Backend> backend;
    std::unique_ptr<Stream> compute;
    std::unique_ptr<Executor> executor;
    std::unique_ptr<Feeder> feeder;
    // Rows that come from another side, and the event that they were handed over. There is one set of rows, which comes
    // back to whoever has handed it over before he does so again: by then this was read.
    std::unique_ptr<Memory> inbox;
    std::unique_ptr<Event> sent;
  };
  // One that is prepared, under way or being read.
  struct Pass {
    StepBatch batch;
    StepOutput output;
    std::vector<std::unique_ptr<Event>> done;  // of every side, then of the CPU's
    Clock::time_point began;
    bool switches = false;   // brought weights to the arena
    double drafting_ms = 0;  // before it, of the draft model's passes
  };
  // Rows go from one side to another.
  void cross(const Side& from, const Side& to);
  void check_config() const;
  bool enough_blocks() const;
  bool keys_are_at_hand() const;
  void create_sides(std::vector<std::unique_ptr<Backend>> backends);
  void create_inboxes();
  void share_with_draft();
  void create_experts();
  void create_mail();
  void create_cpu_side(std::unique_ptr<Backend> backend);
  // As come_to_rest(), whatever anybody waits for.
  bool give_up();
  // What has been launched anywhere has run. False: a copy of keys and values to or from system RAM has failed.
  bool come_to_rest();
  int device_of(int unit) const { return config_.devices.empty() ? 0 : config_.devices[unit]; }
  // The others' units are elsewhere.
  std::vector<Home> homes_of(const std::vector<Home>& homes, size_t device) const;

  int head_side() const { return device_of(static_cast<int>(host_->units().size()) - 1); }
  void create_passes(bool sleeps);
  // False where there is nothing to do, or `ahead` and the one before must be read first.
  bool launch(bool ahead);
  bool may_launch_ahead() const;
  void run_pass(Pass& pass);
  void follow(const Pass& before);
  // Waits for the oldest pass under way.
  void finish();
  const Program& program() const { return host_->program(); }
  // What all executors of the model have alike.
  ExecutorConfig executor_config() const;
  std::string unit_name(int unit) const;
  void take_results(Pass& pass);
  void take_hidden(const StepBatch::Part& part, StepOutput& output);
  void take_tokens(const StepBatch::Part& part, const StepOutput& output, size_t top);
  void fail(uint64_t request, const Error& error, TokenEvent last = {});
  void end_without_token(Sequence& sequence, int ahead, int32_t token, TokenEvent last);

  uint64_t id_;
  std::shared_ptr<const HostModel> host_;
  ModelConfig config_;
  std::vector<Side> sides_;
  int64_t hop_waits_ = 0;
  std::unique_ptr<KvPool> kv_;
  int kv_total_ = 0;
  Arena* arena_ = nullptr;                // of shared units
  std::unique_ptr<ExpertStore> experts_;  // of units at home on demand
  std::unique_ptr<Memory> mail_memory_;
  std::shared_ptr<const ExpertMail> mail_;  // to the threads that answer experts
  std::unique_ptr<ExpertAnswers> answers_;
  std::unique_ptr<CpuSide> cpu_;
  std::unique_ptr<Trace> trace_;
  std::unique_ptr<RouteLog> route_log_;
  std::unique_ptr<Scheduler> scheduler_;
  std::array<Pass, 2> passes_;  // taken in turn
  int next_pass_ = 0;
  int under_way_ = 0;         // of them
  Clock::time_point read_{};  // when the last one was
  std::weak_ptr<EventSink> observer_;
  ModelCounters counters_;
  ModelMemory memory_;
  std::vector<DeviceCounters> devices_;
};

}  // namespace millrace

#pragma once
// What a device can do. `engine/` and `stream/` speak to this interface alone; the CPU twin (backend/cpu) and the CUDA
// backend implement it. Calls that take a Stream only enqueue: they return at once and run in the stream's order.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/expert_mail.h"
#include "backend/kernel_image.h"
#include "backend/sampling_options.h"
#include "backend/token_mask.h"
#include "core/memory.h"
#include "model/program.h"
#include "model/routes.h"
#include "model/slab_layout.h"

namespace millrace {

// As in CUDA: record() marks a point in a stream; wait() holds a stream until the point recorded last *when wait() was
// enqueued* is reached. An event never recorded is done.
class Event {
 public:
  virtual ~Event() = default;
  virtual bool done() const = 0;
  virtual void synchronize() = 0;  // blocks the calling thread
  // Both were created with EventUse::timed, on one device, and are done.
  virtual double milliseconds_since(const Event& earlier) const = 0;
};

enum class EventUse : uint8_t {
  order,   // streams wait for it, or a thread that spins
  sleeps,  // synchronize() leaves the processor to others while it waits, and returns some 50 us later for it
  timed,   // tells when it was reached
};

struct CopyPiece {
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
};

class Stream {
 public:
  virtual ~Stream() = default;
  virtual void copy(std::byte* destination, const std::byte* source, size_t bytes) = 0;
  // Pieces of as many bytes each, between this device's memory and its own or pinned memory of the host, in no order;
  // all on 16 bytes. The span may go when the call returns.
  virtual void copy_pieces(std::span<const CopyPiece> pieces, size_t bytes) {
    for (const CopyPiece& piece : pieces) copy(piece.to, piece.from, bytes);
  }
  virtual void fill(std::byte* destination, uint8_t value, size_t bytes) = 0;
  virtual void record(Event& event) = 0;
  virtual void wait(Event& event) = 0;
  virtual void synchronize() = 0;  // blocks the calling thread until all that was enqueued has run
};

// Memory of the device, or pinned memory of the host; freed with the object. Throws OUT_OF_MEMORY naming `what`.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual std::byte* data() const = 0;
  virtual size_t size() const = 0;
};

// Holds pages of host memory in place, so that a device may copy from them on its own; let go with the object.
class Pin {
 public:
  virtual ~Pin() = default;
};
// Pins `bytes` from `data`, whole pages, for every device of the process; null where the system allows no more locked
// memory. May be called from any thread, and outlives the backend that gave it.
using Pinner = std::function<std::unique_ptr<Pin>(std::byte* data, size_t bytes)>;

// ---- KV cache. Each class of layers has blocks of its own, of kKvBlockTokens positions, one id for all its layers. Of
// layer l of a class, block b lies at data + (l * blocks + b) * kv_block_bytes(class); what is in it: model/kv_type.h.
// Where a model is spread over devices, each has the layers that are computed there: KvMemory::places.
// Nothing is read of a block wholly behind the class's window of all its sequence's rows: any id stands for it.
// Of a class of latents a block has K alone, of which V is a part.
// Of a class of states a block is that of one sequence, float32 [KvClass::state], the first id of its table. A row at
// position 0 finds zeros, whatever is there; rows of a sequence come in order, and what the last one leaves is there
// for the next step. Of decode rows, which may be drafts, the one behind each is left: behind the first in the first
// id, as ever, behind the i-th in the i-th id of the table. Who goes on from there puts it first.
inline size_t kv_block_bytes(const KvClass& kv) {
  if (kv.state > 0) return round_up(static_cast<size_t>(kv.state), kStateAlignment) * sizeof(float);
  return size_t{kv.latent ? 1u : 2u} * kv.kv_heads * kv_part_bytes(kv.type, kv.head_dim);
}

// What a request changes of one token's logit before the choice: see sample_adjusted() in sample_arithmetic.h.
struct LogitAdjustment {
  int32_t token = 0;
  int32_t seen = 0;       // 1: in the prompt or in the answer so far
  int32_t generated = 0;  // times in the answer so far
  float bias = 0.0f;
};

// Adjustments rest on the device in tables, one for each slot: what a request's rows share, brought once. A device
// counts what it chooses there by itself, so that the next pass needs no host. Slots: ExecutorConfig::max_logit_rows.
inline constexpr int kLogitTableEntries = 8192;  // of a table, each of another token
inline constexpr int kMostTopLogprobs = 64;

// Before the step's choices: entries of Step::adjustments are a slot's table, or stand in it in the place of what it
// had of their tokens.
struct LogitTableUpdate {
  int32_t slot = 0;
  int32_t whole = 0;  // 1: nothing else is in the table
  int32_t begin = 0, count = 0;
};

// What is wanted of one row's logits. Plain data without pointers: a device reads it from its own memory.
struct LogitRequest {
  int32_t row = 0;            // row of the step
  bool sample = true;         // choose a token
  bool keep_logits = false;   // copy the row's logits to StepOutput::logits
  bool want_logprob = false;  // log-probability of the chosen (or target) token under the unmodified distribution
  bool counts = false;        // the token that is chosen counts as generated in the slot's table, for later steps
  int32_t target = -1;        // >= 0: no choice; the log-probability of this token (scoring)
  MILLRACE_SAMPLING_OPTIONS(MILLRACE_SAMPLING_FIELD)
  int32_t slot = -1;              // >= 0: whose table of adjustments is this row's
  int32_t adjustments_begin = 0;  // of Step::adjustments: in the place of what the table has of their tokens
  int32_t adjustments = 0;        // how many; ascending tokens, each once
  int32_t top_logprobs = 0;       // so many of the highest log-probabilities of the unmodified distribution too
  int32_t top_begin = 0;          // an executor's own: where they go
  int32_t mask = -1;              // >= 0: of Step::masks, the tokens that may be chosen; none of a row that is kept
  uint64_t seed = 0;
  uint64_t counter = 0;  // index of the token within its sequence: (seed, counter) fixes the random numbers
};

// One pass over the model: rows of any mix of sequences, decode rows first. All arrays belong to the caller and stay
// valid and unchanged until the pass has run; at most one other has begun by then.
struct Step {
  int rows = 0;
  int decode_rows = 0;              // rows [0, decode_rows) decode, the others are prefill chunks
  std::span<const int32_t> tokens;  // [rows]
  // [rows], or empty: >= 0: not tokens[row] but what the step begun before chose for its logit request of this index (0
  // where that chose nothing); -1: tokens[row]
  std::span<const int32_t> token_from;
  const int32_t* chosen = nullptr;        // that choice where another executor has made it: its choices()
  std::span<const int32_t> positions;     // [rows]; a row sees positions 0..its own of its sequence
  std::span<const int32_t> sequences;     // [rows], index into the block tables
  std::span<const int32_t> block_tables;  // [classes, sequences, block_table_stride], KV block ids
  int block_table_stride = 0;
  std::span<const LogitRequest> logits;             // ascending rows; at most ExecutorConfig::max_logit_rows
  std::span<const int32_t> hidden_rows;             // prefill rows of the step, ascending: see Executor::keep_hidden
  std::span<const LogitAdjustment> adjustments;     // of all logit requests and updates
  std::span<const LogitTableUpdate> table_updates;  // in any order, each slot once
  std::span<const TokenMask* const> masks;          // of those that are constrained; not more than requests
  uint64_t hops_before = 0;                         // tickets of this pass's hops come after it
  bool logs_routes = false;                         // StepOutput::routes is wanted
};

// Hidden rows on their way from one executor of a pass to another, which may be on another device. In memory of
// allocate_host(), seen by both.
struct alignas(16) HopState {
  std::atomic<uint64_t> sent{0};      // the last ticket whose rows are there
  std::atomic<uint64_t> given_up{0};  // not 0: the pass was given up, nobody waits any more
};
struct Hop {
  std::byte* rows = nullptr;  // float32 [rows, hidden], with room for what the larger executor pads to
  HopState* state = nullptr;
};

// Which rows of a step an operation computes.
enum class RowKind : uint8_t { all, decode, prefill };

// In the place of a token where the model's logits are a distribution and the request's adjustments and mask leave no
// token of it to choose: fail the request, which is to blame.
inline constexpr int32_t kAllForbidden = -2;

// Of sample(); readable after collect().
struct StepOutput {
  // [logit requests]; -1: nothing was asked for, or the logits hold a NaN or +infinity, or are all -infinity (fail the
  // request); kAllForbidden
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;  // [logit requests]; NaN where not asked for
  // [sum of LogitRequest::top_logprobs], in the order of the requests, each from the highest down, ties to the lowest
  // id; -1 and NaN where there are no more tokens or the logits are no distribution
  std::vector<int32_t> top_tokens;
  std::vector<float> top_logprobs;
  std::vector<float> logits;  // [kept rows, vocab], in the order of the requests
  std::vector<float> hidden;  // [Step::hidden_rows, hidden]: the residual stream behind the last layer
  // [experts of all units whose experts lie apart]: rows that chose each, where it was read apart
  std::vector<uint16_t> expert_rows;
  // Experts, as expert_rows has them, that took the frames offered, in that order, from the first that no output has
  // told of.
  std::vector<int32_t> filled;
  // Where Step::logs_routes: [Step::rows, mixtures, top_k], the experts that each row chose.
  std::vector<uint16_t> routes;
};

struct EmbeddingTable {
  const std::byte* rows = nullptr;  // host memory [vocab, width], never uploaded
  WeightType type = WeightType::f16;
};

// For the tests that prove necessary which addresses a device's kernels may read ahead of the stream.
struct ExecutorHooks {
  int64_t early_publish = -1;  // the nth new address of a unit counts as one that has long been there
  int late_publish_us = 0;     // what follows a new address, and may begin early, has so long before it is there
};

// Keys and values of one class on this device.
struct KvMemory {
  std::byte* data = nullptr;
  std::vector<int>
      places;  // [layers]: the place of each in data, -1: it has none; empty: data holds them all, in order
  int blocks = 0;

  // Block 0 of a layer.
  std::byte* layer(int index, size_t block_bytes) const {
    const size_t place = places.empty() ? index : places[index];
    return data + place * blocks * block_bytes;
  }
};

// Executor::offer_frames(): frames that are offered and that no output has told of, at most.
inline constexpr int kMostOfferedFrames = 512;

// Of a unit whose experts lie apart: where one of them begins.
struct ExpertAddress {
  int unit = 0, expert = 0;
  const std::byte* address = nullptr;
  bool in_ram = false;  // where the CPU may answer it, and from where it may be copied
};

struct ExecutorConfig {
  Program program;
  std::vector<UnitLayout> units;  // of the program's
  std::vector<EmbeddingTable> tables;
  std::vector<KvMemory> kv;  // [classes]; none: attention is computed elsewhere
  // [units], or empty: a permanent slab of the unit has all but its experts, which end it; they lie where set_experts()
  // says. A slab that is not permanent is whole.
  std::vector<bool> experts_apart;
  int max_rows = 0;
  int max_logit_rows = 0;
  int max_context = 0;
  std::vector<KernelImage> kernels;          // in the place of the backend's own; the CPU twin takes none
  std::shared_ptr<const ExpertMail> mail;    // to CPU threads that answer experts; null: none do
  std::shared_ptr<const DrawnRoutes> drawn;  // what rows choose of mixtures; null: their routers do
  ExecutorHooks hooks;                       // the CPU twin, whose operations never overlap, takes none
};

struct ExecutorCounters {
  uint64_t weight_bytes_read = 0;    // by linears, counted tile by tile as they are read from a slab
  uint64_t published_addresses = 0;  // of units, to the device
};

// Runs one model's passes on one device. A pass is begin, embed, the units in order, sample, end, all on one stream.
// set_unit and the events between them belong to the feeder: a backend may defer what it is handed until the next
// wait, record or end, so that a run of units becomes one graph.
class Executor {
 public:
  virtual ~Executor() = default;
  // Where the unit's slab is for operations enqueued from here on. `permanent`: there for good and complete already, so
  // kernels may read it ahead of the stream's order; never so of a ring slot.
  virtual void set_unit(Stream& stream, int unit, const std::byte* slab, bool permanent = false) = 0;
  // Where experts that lie apart are read by operations enqueued from here on; of two addresses of one the later holds.
  virtual void set_experts(Stream& stream, std::span<const ExpertAddress> experts) = 0;
  // Frames of device memory, each for the bytes of one expert: operations enqueued from here on copy there what they
  // read of experts in RAM, one after the other while there are frames, and find it there afterwards. `anew`: those
  // offered before are taken back. At most kMostOfferedFrames at once.
  virtual void offer_frames(Stream& stream, std::span<std::byte* const> frames, bool anew) = 0;
  virtual void begin(Stream& stream, const Step& step, StepOutput& output) = 0;
  virtual void embed(Stream& stream) = 0;
  // The unit's operations. Of the head's, rows of the step's logit requests alone.
  virtual void run(Stream& stream, int unit, RowKind rows = RowKind::all) = 0;
  // The step's decode rows of the residual stream go to, or come from, another executor. Tickets ascend from
  // Step::hops_before + 1; receive() holds the stream, never the host, until the ticket was sent. An executor that only
  // receives, computes units that stand alone and sends needs no begin().
  virtual void send(Stream& stream, const Hop& hop, int rows, uint64_t ticket) = 0;
  virtual void receive(Stream& stream, const Hop& hop, int rows, uint64_t ticket) = 0;
  // The carried values of all rows of the step to memory that this device writes, and from there into those of another
  // executor which has begun the same step. The caller sees to the order of the two, with an event.
  virtual void hand_over(Stream& stream, std::byte* rows) = 0;
  virtual void take_over(Stream& stream, const std::byte* rows) = 0;
  // That hand_over() writes at most.
  virtual size_t carried_bytes() const = 0;
  // Between the last layer and the head, where Step::hidden_rows has rows: those of the residual stream, as they are
  // then, are in StepOutput::hidden after collect().
  virtual void keep_hidden(Stream& stream) = 0;
  virtual void sample(Stream& stream) = 0;
  virtual void end(Stream& stream) = 0;
  // Once the pass that began with this output has run: brings what it sampled there, if the device has not done so
  // itself.
  virtual void collect(StepOutput&) {}
  // Where the step begun last leaves what it chooses for its requests, once it has run: host memory that all devices
  // read. The second step behind it writes there again.
  virtual const int32_t* choices() const = 0;
  // One more step may begin before this one has run: its collect() reads nothing that the other writes.
  virtual bool may_follow(const Step&) const { return true; }
  // A pass will not be finished: drops what is held back on `stream`. What has been launched still runs.
  virtual void abandon(Stream&) {}
  virtual ExecutorCounters counters() const = 0;
  virtual size_t workspace_bytes() const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;  // "cpu", "cuda:0"
  // True on the twin: host memory is device memory, and a resident unit is read where it lies.
  virtual bool reads_host_memory() const = 0;
  // Operations of this device write to memory that `other` has allocated as its own.
  virtual bool reaches(const Backend& other) = 0;
  virtual std::unique_ptr<Memory> allocate(size_t bytes, const char* what) = 0;
  virtual std::unique_ptr<Memory> allocate_host(size_t bytes, const char* what) = 0;
  virtual Pinner pinner() = 0;
  // Where this device's kernels read pinned memory of the host.
  virtual const std::byte* mapped(const std::byte* host) { return host; }
  virtual std::unique_ptr<Stream> create_stream() = 0;
  virtual std::unique_ptr<Event> create_event(EventUse use = EventUse::order) = 0;
  virtual std::unique_ptr<Executor> create_executor(const ExecutorConfig& config) = 0;
};

}  // namespace millrace

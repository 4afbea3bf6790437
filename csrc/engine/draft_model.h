#pragma once
// A small model of the same vocabulary that drafts for a large one: what it would say next, several tokens at a time,
// for all sequences that ask. It has weights, keys and values of its own on any device, and belongs to the thread of
// the large model's worker, which waits for it between two passes.
//
//   draft     pass 0: what sequences have and its cache has not yet | a choice for each
//             pass i: the choice before, one row each               | a choice for each
//
// A sequence's keys and values stay from one draft to the next: those of drafts that stood are there already, those
// behind the first that did not are computed again. It chooses as the large model's sampler will, with the same seed
// and counters, so that where the two models' distributions agree so do their choices.
#include <array>
#include <chrono>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "engine/draft_state.h"
#include "engine/drafter.h"
#include "stream/feeder.h"
#include "stream/host_store.h"

namespace millrace {

struct DraftModelConfig {
  std::vector<Home> homes;  // one a unit: resident, streamed or shared
  size_t ring_bytes = 0;
  size_t arena_beside = 0;  // bytes of the large model's shared units
  int vocab = 0;            // of the large model, which may be padded otherwise; 0: its own
  int context_length = 0;   // longer sequences have no drafts
  int kv_blocks = 0;        // of each class; windows keep all
  KvType kv_type = KvType::f16;
  int max_rows = 0;                // of a pass
  int max_sequences = 0;           // that choose in a pass
  std::vector<double> pass_costs;  // of passes with 1, 2, ... rows, in seconds
  bool watch_costs = true;         // and corrects them by what passes take
  int stage_threads = 1;
};

struct DraftRequest {
  std::span<const int32_t> tokens;  // of the sequence
  DraftState* state = nullptr;
  int count = 0;        // of drafts, at most
  LogitRequest choice;  // of the next token: sampling, seed and counter
  std::span<const LogitAdjustment> adjustments;
  std::vector<int32_t> drafts;  // comes back; fewer while a long prompt is still being computed, or without room
};

class DraftModel {
 public:
  // Throws OUT_OF_MEMORY, or INVALID_ARGUMENT where a home is none of these.
  DraftModel(std::unique_ptr<Backend> backend, std::shared_ptr<const HostModel> host, DraftModelConfig config);
  ~DraftModel();

  // Throws what its device throws; then nothing that was computed before counts any more.
  void draft(std::span<DraftRequest> requests);
  // The sequence has ended, or rests: its blocks are free.
  void forget(DraftState& state);

  // Of a pass in which so many sequences choose.
  double pass_seconds(int sequences) const { return costs_.of(sequences); }
  const Program& program() const { return host_->program(); }
  // Of shared units: null without any. Belongs to the large model's worker, which takes turns for both.
  Arena* arena() const { return arena_; }
  size_t shared_unit_bytes() const;
  size_t missing_bytes() { return feeder_->missing_bytes(); }
  void leave_arena() { feeder_->leave_arena(); }
  size_t device_bytes()
      const;  // weights, ring, keys and values, workspace; of a device that reads host memory no weights
  size_t host_bytes() const { return host_->bytes(); }
  int kv_blocks_used() const { return kv_->used(); }
  uint64_t passes() const { return passes_run_; }
  double milliseconds() const { return milliseconds_; }

 private:
  // A sequence in the passes of one call.
  struct Entry {
    DraftRequest* request;
    int position;    // of its first row in the next pass
    int rows;        // in the next pass
    int count;       // of drafts; 0: its tokens are not all computed yet
    int logit = -1;  // of its choice in the pass before
    int fed = 0;     // drafts that were rows
    bool ended = false;
  };
  struct Pass {
    std::vector<int32_t> tokens, token_from, positions, sequences, block_tables;
    std::vector<LogitRequest> logits;
    std::vector<LogitAdjustment> adjustments;
    std::vector<Entry*> choosing;  // one a logit request
    Step step;
    StepOutput output;
    std::unique_ptr<Event> done;
    int index = 0;  // of its call
    bool under_way = false;
  };

  // Of the tokens in the cache, keeps those that the sequence has.
  void keep_common(const DraftRequest& request);
  bool make_room(DraftState& state, int positions);
  std::vector<Entry> begin(std::span<DraftRequest> requests);
  // Rows of the entries that are not done, with the choices before from the device or from the host.
  void build(Pass& pass, std::vector<Entry>& entries, int index, bool fed);
  void launch(Pass& pass);
  void finish(Pass& pass);  // if it is under way
  void abandon();

  std::shared_ptr<const HostModel> host_;
  DraftModelConfig config_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<KvPool> kv_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Feeder> feeder_;
  Arena* arena_ = nullptr;
  std::array<Pass, 2> passes_;
  PassCosts costs_;
  std::chrono::steady_clock::time_point first_ended_;  // of the last call's passes
  uint64_t epoch_ = 1;
  uint64_t passes_run_ = 0;
  double milliseconds_ = 0;
};

}  // namespace millrace

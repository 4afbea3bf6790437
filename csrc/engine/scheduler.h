#pragma once
// Chooses the rows of each step: continuous batching. Every running sequence that decodes has one row; what is left
// of the row budget goes to prefill chunks, in order of priority, then age. Sequences join and leave at every step.
// When KV blocks run out, the last sequence of that order is preempted: its blocks go to system RAM and come back
// later, or it is computed again where there is no room for them, and nothing fails. With a sliding window a sequence
// has no more blocks than its window and its next chunk need.
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "engine/draft_model.h"
#include "engine/kv_pool.h"
#include "engine/request.h"

namespace millrace {

struct SchedulerConfig {
  int max_rows = 0;
  int max_logit_rows = 0;  // also bounds the sequences that run at once
  bool prefix_reuse = true;
  bool deterministic = false;               // reuse only what prefill computed
  std::atomic<uint64_t>* queued = nullptr;  // counted down when a request leaves the queue
  int table_entries = kLogitTableEntries;   // that a device's table of adjustments holds
  PassCosts pass_costs{{}};
  // For tests and benches, in the place of the sequence's own drafter: at most `count` drafts of it.
  std::function<void(const Sequence&, int count, std::vector<int32_t>& drafts)> draft;
  DraftModel* draft_model = nullptr;
};

struct SchedulerCounters {
  uint64_t prompt_tokens = 0;    // of admitted requests
  uint64_t reused_tokens = 0;    // of those, found in the prefix cache
  uint64_t returned_tokens = 0;  // and of those, in system RAM
  uint64_t preemptions = 0;
  uint64_t drafted_tokens = 0, accepted_tokens = 0;
  uint64_t recomputations = 0;  // of preempted sequences whose keys and values found no room in system RAM
};

// The arrays that a Step points into, and whose logits are whose.
struct StepBatch {
  struct Part {
    Sequence* sequence = nullptr;  // null: it has ended since
    int rows = 0;                  // of the sequence in this step: its next positions
    int first_logit = -1;          // index of its first LogitRequest, -1: none
    int logits = 0;
    int drafts = 0;        // of the rows, the last so many
    int accepted = 0;      // of the drafts, the first so many, once read() has seen what was chosen
    int first_hidden = 0;  // index of its first row of hidden_rows
    int hidden = 0;
    bool decode = false;
    bool counted = false;       // by the device, in the table of the sequence's slot: what its row chooses
    std::vector<int32_t> kept;  // [classes] blocks for a copy of its states as they are behind its rows; empty: none
  };
  std::vector<Part> parts;
  std::vector<int32_t> tokens, token_from, positions, sequences, block_tables, hidden_rows;
  std::vector<LogitRequest> logits;
  std::vector<LogitAdjustment> adjustments;
  std::vector<LogitTableUpdate> table_updates;
  std::vector<const TokenMask*> masks;
  std::vector<std::shared_ptr<TokenMask>> kept_masks;  // the same: a sequence may end while the pass is under way
  Step step;
};

// Appends a generated token to a sequence and to what its penalties count, `counted`: the device has done so; tells its
// acceptance of a draft that was left out.
void append_token(Sequence& sequence, int32_t token, bool counted);

// Of a sequence's drafts the first so many.
void keep_drafts(Sequence& sequence, int count);

class Scheduler {
 public:
  Scheduler(SchedulerConfig config, KvPool& kv);

  void add(std::unique_ptr<Sequence> sequence);
  // Admits what fits and fills `batch`, which stays where it is until it was read; false if there is nothing to do.
  // All steps that were built have been read.
  bool build(StepBatch& batch);
  // The same behind one step that has not been read: rows whose tokens it chooses take them on the device
  // (Step::token_from), and find their masks once it was read. False also where something must be known first: what a
  // draft depends on, or penalties of more tokens than a slot's table holds; or whether a sequence that ends makes room
  // for what would push out another.
  bool build_ahead(StepBatch& batch);
  // What was built has been handed to the devices: copies of states follow, before anything else that changes them.
  void copy_states(const StepBatch& batch);
  // The oldest pass under way has run and chosen a token for each logit request: drafts stand as far as they were
  // chosen, what was computed of tokens that stand counts, and its full blocks may be found by others.
  void read(StepBatch& batch, std::span<const int32_t> chosen);
  // No pass under way waits any longer for a mask that comes when the one before it is read: nobody will read it.
  void give_up_masks();
  // The steps that have not been read were given up: their drafts are dropped, and sequences are where they were before
  // them. Not `saved_whole`: what was saved may be incomplete, and is computed again.
  void abandon(bool saved_whole);
  // Takes the sequence out, wherever it is; its KV blocks are free again. Null if it has ended already.
  std::unique_ptr<Sequence> remove(uint64_t id);
  // Ids of all sequences for which `chosen` holds.
  std::vector<uint64_t> ids(const std::function<bool(const Sequence&, bool waiting)>& chosen) const;

  // The tokens of its pass have been appended: looks for the draft of the next one, which tells how right drafts would
  // be where none is made.
  void foresee(Sequence& sequence);
  // Until it says otherwise the draft model is asked for nothing: it is out of the arena that it shares.
  void let_draft_model(bool drafts) { draft_model_rests_ = !drafts; }
  // Somebody who runs or waits would have its drafts.
  bool would_ask_model() const;
  // A pass of decode rows alone has taken so long.
  void took(int decode_rows, double seconds) { config_.pass_costs.see(decode_rows, seconds); }

  std::vector<uint64_t> running_ids() const;

  bool idle() const { return running_.empty() && preempted_.empty() && waiting_.empty(); }
  int running() const { return static_cast<int>(running_.size()); }
  int preempted() const { return static_cast<int>(preempted_.size()); }
  const SchedulerCounters& counters() const { return counters_; }

 private:
  using Sequences = std::deque<std::unique_ptr<Sequence>>;

  // Length of the sequence's list of blocks of a class for its next rows.
  int wanted_blocks(const Sequence& sequence, int kv_class) const;
  // Gives back what no row to come sees any more.
  void drop_behind_windows(Sequence& sequence);
  // There are blocks for its next rows, and one more for each that runs. `saved`: it has none yet but those it dropped.
  // `prefix`: what it begins with.
  bool has_room(const Sequence& sequence, bool saved, const KvPool::Prefix* prefix = nullptr) const;
  // Gets the blocks for its next rows, as far as there are any; false if there are not enough.
  bool grow(Sequence& sequence);
  // It has what `prefix` says and the blocks for its next rows; or nothing, and returns false.
  bool begin_with(Sequence& sequence, KvPool::Prefix& prefix);
  // Without any blocks, nothing computed.
  void begin_anew(Sequence& sequence);
  // With states, a copy is to be found behind the row before this position, if they are computed so far.
  bool keeps_states_at(const Sequence& sequence, int position) const;
  // Of the next rows of its prompt those before the place where a copy is made.
  int rows_until_kept(const Sequence& sequence, int rows) const;
  void keep_states(StepBatch::Part& part);
  // Of a pass that has been read: the states behind the drafts that stand, and what was copied.
  void read_states(StepBatch::Part& part);
  void remember_states(StepBatch::Part& part, int index);
  void resume();
  void admit();
  bool may_build_ahead() const;
  // False, and nobody was pushed out, if it may not `preempt` and would have to.
  bool make_room(bool preempt);
  // Of the sequences that run: fills the batch.
  bool fill(StepBatch& batch);
  void add_tables(StepBatch& batch) const;
  // Restored sequences whose blocks have come take part from here on; one of them at once, if nobody else would.
  void take_arrived();
  // At most `count` drafts of the sequence's own drafter, or of what stands in its place.
  void find_drafts(Sequence& sequence, int count, std::vector<int32_t>& drafts);
  // The sequence's next pass, beside so many other rows, should have drafts: it waits for the one before.
  bool wants_drafts(const Sequence& sequence, int rows) const;
  // Drafts for sequences that decode, as many as rows, logits and blocks are left for and are worth it.
  void draft(int decoding);
  bool has_room_for_drafts(const Sequence& sequence) const;
  // Rows, and where layers keep states blocks of them, that drafts may take beside those that run.
  int most_drafts() const;
  // Its drafts are the draft model's.
  bool asks_model(const Sequence& sequence) const;
  struct Asking {
    Sequence* sequence;
    int count;  // of drafts, at most
  };
  // Of sequences that choose for themselves: drafts of each that are worth their rows and the draft model's passes,
  // beside `rows` rows, with room for `left` more.
  int worthwhile_depth(std::span<const Asking> asking, int rows, int left) const;
  // Drafts of the draft model, which take of `left` and add to `rows`.
  void draft_by_model(std::span<Asking> asking, int& rows, int& left);
  // A sequence is new: others' drafts tell how right its own will be.
  void meet_draft_model(Sequence& sequence);
  void forget_drafts(Sequence& sequence);
  void add_rows(StepBatch& batch, Sequence& sequence, int rows);
  // Of the row whose choice comes `ahead` tokens after those that stand.
  LogitRequest choice(StepBatch& batch, Sequence& sequence, int ahead);
  bool fits_table(const Sequence& sequence) const;
  // A slot with its adjustments as they are, if it has any and they fit; else they travel with each of its rows.
  void update_table(StepBatch& batch, Sequence& sequence);
  void leave_table(Sequence& sequence);
  void preempt_last();
  // Has nothing in the cache any more; begins anew, with what it has generated as part of its prompt.
  void recompute(Sequence& sequence);
  bool may_run_more() const;

  SchedulerConfig config_;
  KvPool& kv_;
  bool has_state_ = false;
  // Each in order of priority, then age.
  Sequences waiting_, preempted_, running_;
  SchedulerCounters counters_;
  std::vector<bool> slots_;           // of the device's tables: which are taken
  std::deque<StepBatch*> under_way_;  // built and not read, oldest first; at most two
  uint64_t step_ = 0;                 // that was built last
  int depth_ = 1;                     // of the draft model's drafts that were last found worth it
  Acceptance model_acceptance_;       // of its drafts for any sequence
  bool draft_model_rests_ = false;
  uint64_t probing_ = 0;   // steps from the last look at what they are worth to the next
  uint64_t probe_at_ = 0;  // the step of the next one
};

}  // namespace millrace

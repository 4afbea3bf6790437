#pragma once
// Chooses the rows of each step: continuous batching. Every running sequence that decodes has one row; what is left
// of the row budget goes to prefill chunks, oldest sequence first. Sequences join and leave at every step.
#include <deque>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "engine/kv_pool.h"
#include "engine/request.h"

namespace millrace {

struct SchedulerConfig {
  int max_rows = 0;
  int max_logit_rows = 0;  // also bounds the sequences that run at once
};

// The arrays that a Step points into, and whose logits are whose.
struct StepBatch {
  struct Part {
    Sequence* sequence = nullptr;
    int rows = 0;          // tokens computed[...] of the sequence in this step
    int first_logit = -1;  // index of its first LogitRequest, -1: none
    int logits = 0;
  };
  std::vector<Part> parts;
  std::vector<int32_t> tokens, positions, sequences, block_tables;
  std::vector<LogitRequest> logits;
  Step step;
};

class Scheduler {
 public:
  Scheduler(SchedulerConfig config, KvPool& kv) : config_(config), kv_(kv) {}

  void add(std::unique_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }
  // Admits what fits and fills `batch`; false if there is nothing to do.
  bool build(StepBatch& batch);
  // Takes the sequence out, wherever it is; its KV blocks are free again. Null if it has ended already.
  std::unique_ptr<Sequence> remove(uint64_t id);
  std::vector<uint64_t> ids() const;
  std::vector<uint64_t> ids_of(const EventSink* sink) const;

  bool idle() const { return running_.empty() && waiting_.empty(); }
  int running() const { return static_cast<int>(running_.size()); }
  int waiting() const { return static_cast<int>(waiting_.size()); }

 private:
  void admit();

  SchedulerConfig config_;
  KvPool& kv_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
};

}  // namespace millrace

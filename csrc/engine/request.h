#pragma once
// What is asked of the engine and what it answers.
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/constrained.h"
#include "engine/draft_state.h"
#include "engine/drafter.h"
#include "engine/kv_pool.h"
#include "engine/pooling.h"

namespace millrace {

using Clock = std::chrono::steady_clock;

enum class RequestKind : uint8_t { generate, score, embed };

enum class DraftMethod : uint8_t {
  off,
  ngram,      // as many as asked for, wherever something is found
  automatic,  // as many as are worth it: the draft model's, or where there is none n-grams
  model,      // as many as asked for, of the draft model
};

struct RequestOptions {
  uint64_t id = 0;    // of Engine::admit(); 0: submit() admits it
  double age_ms = 0;  // since the call that it comes of: limits and timings count from there
  RequestKind kind = RequestKind::generate;
  std::vector<int32_t> tokens;  // the prompt, or the text to score or to embed; at least one
  int max_tokens = 1;           // generate; cut to what the context leaves
  int min_tokens = 0;           // generate: none of the stop tokens is chosen before there are so many
  MILLRACE_SAMPLING_OPTIONS(MILLRACE_SAMPLING_FIELD)
  std::vector<std::pair<int32_t, float>> logit_bias;  // token, what is added to its logit
  uint64_t seed = 0;
  std::vector<int32_t> stop_tokens;                    // end the request and are not given out
  std::shared_ptr<constraint::Constraint> constraint;  // generate: what the answer must be
  bool logprobs = false;                               // generate: log-probability of each token
  int top_logprobs = 0;                   // generate: so many of the highest log-probabilities at each token
  bool logits = false;                    // score: logits of every position
  Pooling pooling{};                      // embed
  DraftMethod drafts = DraftMethod::off;  // generate
  int draft_tokens = 0;                   // at most so many a pass
  std::vector<int32_t> foreseen;          // for benches, in the place of its drafter: what the answer may be
  int priority = 0;                       // higher goes first, and is preempted last
  double queue_timeout_ms = 0;            // > 0: ends with QUEUE_TIMEOUT if not admitted by then
  double deadline_ms = 0;                 // > 0: ends with DEADLINE_EXCEEDED if not done by then
};

enum class Finish : uint8_t { none, stop, length, abort, error };

struct TokenEvent {
  uint64_t model = 0;
  uint64_t request = 0;
  std::vector<int32_t> tokens;      // generated since the last event
  std::vector<float> logprobs;      // generate: [tokens] if asked for; score: [prompt tokens - 1], with the end
  std::vector<float> logits;        // score: [prompt tokens, vocab] if asked for, with the end
  std::vector<float> embedding;     // embed: [hidden], with the end
  std::vector<int32_t> top_tokens;  // generate: [tokens, top_logprobs] if asked for, highest first
  std::vector<float> top_logprobs;
  Finish finish = Finish::none;
  std::string error_code, error_message, error_remedy;    // of Finish::error
  int drafted_tokens = 0, accepted_tokens = 0;            // with the end: of the answer's drafts
  double queue_ms = 0, first_token_ms = 0, total_ms = 0;  // with the end: from the call to the start, first token, end
};

// One step of a model that somebody observes.
struct StepEvent {
  uint64_t model = 0;
  int rows = 0, decode_rows = 0;  // computed
  int sequences = 0;              // that had rows
  int waiting = 0;                // after it
  int kv_blocks_used = 0;
  double ms = 0;  // from choosing the rows, or from having the step before, if that was later, to having the tokens
};

// Where one environment's events go. Called from the workers' threads: must not block.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void post(TokenEvent&& event) = 0;
  virtual void post_step(const StepEvent&) {}
  virtual void flush() = 0;  // after the events of a step
};

// Where the device keeps a sequence's adjustments, and what it has not been told of them.
struct TableSlot {
  int slot = -1;
  bool sent = false;           // the device has them all, but for:
  std::vector<int32_t> stale;  // tokens whose adjustments have changed since
};

struct Sequence {
  uint64_t id = 0;
  RequestOptions options;
  std::shared_ptr<EventSink> sink;
  std::vector<int32_t> tokens;  // prompt, then what was generated, then the drafts of the pass under way
  int drafted = 0;              // how many of the last
  int pending = 0;              // tokens that passes under way choose, which come after those
  int pending_choice = -1;      // of the last of them: its logit request in its step
  int scheduled = 0;         // leading positions whose keys and values are in the cache, or will be by a pass under way
  int confirmed = 0;         // of those, the ones whose passes have been read
  BlockLists blocks;         // of the KV cache, by class and index; the first `dropped` are kNoBlock
  std::vector<int> dropped;  // [classes] blocks that lie behind the class's window and were given back
  std::vector<float> score_logprobs, score_logits;
  PooledRows pooled;                         // embed: of the rows computed so far
  std::vector<LogitAdjustment> adjustments;  // ascending tokens; kept up to date while it runs
  TableSlot table;
  std::unique_ptr<Constrained> constrained;  // of one with a constraint
  SavedKv saved;                             // of a preempted sequence
  bool arriving = false;                     // what was saved is on its way back: no rows yet
  int remembered = 0;                        // leading blocks offered to the prefix cache
  int decoded_from = INT32_MAX;              // first position computed by a decode row
  int branch = 0;             // with states: so much of its prompt is known, and others may part from it there too
  int kept_at = 0;            // the position behind which its states were copied last, or it began with a copy
  std::vector<int32_t> kept;  // [classes] the last copy that was made as it decoded: the next one
  std::vector<uint64_t> kept_generations;  // takes its place
  Clock::time_point submitted, admitted, first_token;
  bool has_first_token = false;
  NgramDrafter drafter;
  DraftState draft_state;
  Acceptance acceptance;
  int32_t expected = -1;                        // the draft that was left out of the pass under way; -1: none was found
  bool followed = false;                        // its last token was what a draft had said
  int drafted_tokens = 0, accepted_tokens = 0;  // so far

  int prompt_length() const { return static_cast<int>(options.tokens.size()); }
  int generated() const { return static_cast<int>(tokens.size()) - drafted - prompt_length(); }
  // Of all that will be known once the passes under way have been read.
  int length() const { return static_cast<int>(tokens.size()) + pending; }
  bool decoding() const {
    return options.kind == RequestKind::generate && scheduled >= prompt_length() && scheduled + 1 + drafted == length();
  }
  // The passes under way choose its last token, unless it ends before.
  bool complete() const {
    return options.kind == RequestKind::generate && pending > 0 && generated() + pending >= options.max_tokens;
  }
};

}  // namespace millrace

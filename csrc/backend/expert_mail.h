#pragma once
// Experts that the CPU answers in a device's place: what the device leaves for it, and what comes back. All of it is in
// memory of allocate_host(), seen by both; one task is under way at a time, in the order of the device's stream.
//
//   device:  choices -> list, without what the CPU is to answer | task, x, sent = ticket | the other experts | waits
//   for
//            answered >= ticket | adds up
//   CPU:     sees sent -> computes each expert of the task for its rows -> y, answered = ticket
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "model/experts_layout.h"

namespace millrace {

struct alignas(64) ExpertMailState {
  std::atomic<uint64_t> sent{0};  // the last ticket whose task is there
  // Of a line of their own, read at once by whoever waits.
  alignas(64) std::atomic<uint64_t> answered{0};
  std::atomic<uint64_t> given_up{0};  // not 0: nobody answers any more
};

struct ExpertMailTask {
  int32_t unit = 0;
  int32_t experts = 0;  // entries
  int32_t rows = 0, top_k = 0;
};
struct ExpertMailEntry {
  int32_t expert = 0;
  int32_t first = 0, count = 0;  // of its places
  int32_t reserved = 0;
};

// Rows that choose an expert which may be sent, at most: of more it is worth a traversal of the link.
inline constexpr int kMailedRows = 8;

struct ExpertMail {
  ExpertMailState* state = nullptr;
  ExpertMailTask* task = nullptr;
  ExpertMailEntry* entries = nullptr;  // [most_places]
  int32_t* places = nullptr;           // [most_places]: row * top_k + rank, by entry
  float* x = nullptr;                  // [most_rows, width], what the experts read
  float* y = nullptr;                  // [most_places, width]: of each place, at its own
  int most_rows = 0, most_places = 0, width = 0;
  // [units]: of so many experts that a pass misses, how many the CPU answers; empty: none of the unit's.
  std::vector<std::vector<uint16_t>> split;
  int64_t skip_wait = -1;  // for tests: which wait of the twin for an answer is left out

  bool serves(int unit, int rows) const {
    return rows <= most_rows && static_cast<size_t>(unit) < split.size() && !split[static_cast<size_t>(unit)].empty();
  }
};

// How fast each part is, for the split: bytes and seconds.
struct AnswerRates {
  double link = 50e9;  // a device reads mapped memory
  double cpu = 60e9;   // the CPU reads experts while it does
  double hop = 25e-6;  // from the choice to the first byte of an answer, without computing
};
// [experts + 1]: of so many missed experts of `bytes` each, how many the CPU answers so that both end soonest.
std::vector<uint16_t> split_of_misses(int experts, size_t bytes, const AnswerRates& rates);

// For tests.
struct AnswerHooks {
  int64_t fail_at = -1;  // the nth task throws
  int delay_us = 0;      // before each answer
};

// A unit whose experts may be answered, and where they are.
struct AnsweredUnit {
  int unit = 0;
  const ExpertsOp* op = nullptr;
  ExpertsLayout layout;
  const std::byte* first = nullptr;  // expert 0, in memory of the host
};

// The threads that answer. They poll while passes are under way.
class ExpertAnswers {
 public:
  virtual ~ExpertAnswers() = default;
  virtual void begin_pass() = 0;
  virtual void end_pass() = 0;
  // Throws what has failed since the last restart().
  virtual void check() = 0;
  // Whoever waits for an answer waits no longer; and, once no device waits any more, all start level again.
  virtual void give_up() = 0;
  virtual void restart() = 0;
  virtual uint64_t answered_experts() const = 0;
  virtual uint64_t answered_bytes() const = 0;
};
// Throws OUT_OF_MEMORY. The mail outlives it.
std::unique_ptr<ExpertAnswers> create_expert_answers(std::shared_ptr<const ExpertMail> mail,
                                                     std::vector<AnsweredUnit> units, int threads,
                                                     const AnswerHooks& hooks = {});

}  // namespace millrace

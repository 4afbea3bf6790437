#pragma once
// The logit stage: the choice of tokens on the device, by the same arithmetic as csrc/backend/sample.h and
// sample_row.h, so the same choice. sample.cu chooses; logits.cu has what comes before: adjustments, masks, the highest
// log-probabilities.
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"

namespace millrace::cuda {

// A LogitAdjustment on the device.
struct alignas(16) LogitEntry {
  int32_t token = 0;
  uint32_t counts = 0;  // generated times two, and one if it was seen
  float bias = 0;
  float original = 0;  // of a row's own: the logit while the row has it adjusted

  static LogitEntry of(const LogitAdjustment& a) {
    return {a.token, 2 * static_cast<uint32_t>(a.generated) + (a.seen != 0 ? 1u : 0u), a.bias, 0};
  }
};

// The slots' tables: entries in any order, each of another token.
struct LogitTables {
  LogitEntry* entries = nullptr;  // [slots, capacity]
  int32_t* sizes = nullptr;       // [slots]
  int capacity = 0;
};

// A mask on its way, in mapped memory of the host.
enum MaskState : uint32_t { kMaskComes = 0, kMaskIsThere = 1, kNoMask = 2 };

// What changes from step to step, so that a graph finds it.
struct LogitInputs {
  LogitEntry* adjustments = nullptr;      // the step's, on the device
  const uint32_t* masks = nullptr;        // mapped [Step::masks, mask_words]
  const uint32_t* mask_states = nullptr;  // mapped [Step::masks], each a MaskState
};

struct TopLogprob {
  int32_t token;
  float logprob;
};

// What the requests of a step ask for at most: what none wants is not launched.
struct LogitWants {
  bool changes = false;  // adjustments or masks
  bool masks = false;
  bool tops = false;
  auto operator<=>(const LogitWants&) const = default;
};

struct SampleArguments {
  float* logits = nullptr;  // [rows, vocab]; of a row that is masked not as they were afterwards
  int vocab = 0;
  const LogitRequest* requests =
      nullptr;  // device [count]; row: index into `logits`; row < 0: padding, nothing written
  int count = 0;
  LogitWants wants;                     // of changes: no two requests have one row
  const LogitInputs* inputs = nullptr;  // device
  LogitTables tables;
  float* originals = nullptr;    // device [count, tables.capacity]: what the row's table took the place of
  uint32_t* masks = nullptr;     // device [count, mask_words]
  int32_t* tokens = nullptr;     // [count]: as StepOutput::tokens
  float* logprobs = nullptr;     // [count]: NaN where not asked for
  TopLogprob* tops = nullptr;    // [sum of top_logprobs], from each request's top_begin on
  std::byte* scratch = nullptr;  // sample_scratch_bytes
};

// Words of a mask, whole 16 bytes.
constexpr int mask_words(int vocab) {
  return (vocab + 127) / 128 * 4;
}

size_t sample_scratch_bytes(int count, int vocab);

cudaError_t sample(const SampleArguments& arguments, cudaStream_t stream, bool programmatic);

// The tables as the step's updates have it; no two of one slot.
//   updates, entries   on the device
cudaError_t update_tables(const LogitTableUpdate* updates, int count, const LogitEntry* entries,
                          const LogitTables& tables, cudaStream_t stream);

}  // namespace millrace::cuda

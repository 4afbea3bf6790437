#pragma once
// What a draft model (draft_model.h) has of a sequence.
#include <cstdint>
#include <vector>

#include "engine/kv_pool.h"

namespace millrace {

struct DraftState {
  BlockLists blocks;            // of the draft model's own cache
  std::vector<int32_t> tokens;  // whose keys and values are in them
  size_t settled = 0;           // leading ones that are the sequence's own, and will be
  uint64_t epoch = 0;           // of the model's, in which they were computed
};

}  // namespace millrace

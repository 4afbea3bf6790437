#include "cuda/logit_stage.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "core/error.h"
#include "core/memory.h"
#include "cuda/check.h"
#include "cuda/hop.h"
#include "cuda/runtime/free_gate.h"

namespace millrace::cuda {

namespace {

template <typename T>
T* mapped(T* host) {
  void* device = nullptr;
  check(cudaHostGetDevicePointer(&device, const_cast<std::remove_const_t<T>*>(host), 0), "mapping a step's inputs");
  return static_cast<T*>(device);
}

bool chooses(const LogitRequest& request) {
  return request.sample && request.target < 0;
}

void publish(uint32_t* state, MaskState value) {
  std::atomic_ref(*state).store(value, std::memory_order_release);
}

}  // namespace

std::byte* LogitStage::allocate(size_t bytes) {
  memory_.push_back(std::make_unique<CudaMemory>(device_, CudaMemory::Place::device, std::max<size_t>(bytes, 256),
                                                 "the choice of tokens"));
  bytes_ += bytes;
  return memory_.back()->data();
}

std::byte* LogitStage::reserve(Growing& memory, CudaMemory::Place place, size_t bytes, const char* what) {
  if (memory.all.empty() || memory.all.back()->size() < bytes) {
    memory.all.push_back(
        std::make_unique<CudaMemory>(device_, place, std::bit_ceil(std::max<size_t>(bytes, 1 << 14)), what));
  }
  return memory.data();
}

LogitStage::LogitStage(int device, int slots, int rows, int vocab, CudaStream& stream)
    : device_(device), slots_(slots), vocab_(vocab) {
  const auto count = static_cast<size_t>(rows);
  tables_.capacity = std::min(vocab, kLogitTableEntries);
  const size_t entries = static_cast<size_t>(slots) * tables_.capacity;
  tables_.entries = reinterpret_cast<LogitEntry*>(allocate(entries * sizeof(LogitEntry)));
  tables_.sizes = reinterpret_cast<int32_t*>(allocate(slots * sizeof(int32_t)));
  originals_ = reinterpret_cast<float*>(allocate(count * tables_.capacity * sizeof(float)));
  masks_ = reinterpret_cast<uint32_t*>(allocate(count * mask_words(vocab) * sizeof(uint32_t)));
  const size_t top_bytes = count * kMostTopLogprobs * sizeof(TopLogprob);
  tops_ = reinterpret_cast<TopLogprob*>(allocate(top_bytes));
  scratch_ = allocate(sample_scratch_bytes(rows, vocab));
  for (Pass& pass : passes_) {
    pass.tops =
        std::make_unique<CudaMemory>(device_, CudaMemory::Place::host, top_bytes, "the log-probabilities of a step");
  }
  stream.fill(reinterpret_cast<std::byte*>(tables_.sizes), 0, slots * sizeof(int32_t));
}

LogitStage::~LogitStage() {
  abandon();
}

LogitInputs LogitStage::begin(int which, const Step& step, std::span<LogitRequest> requests, CudaStream& stream) {
  Pass& pass = passes_[which];
  forget_masks(pass);
  wants_ = {};
  pass.top_count = 0;
  size_t entries = 0;
  for (LogitRequest& request : requests) {
    if (request.top_logprobs > kMostTopLogprobs || request.slot >= slots_) {
      throw Error(code::kInternal, "a step asks for more than its executor has", "report this with what led to it");
    }
    request.top_begin = static_cast<int32_t>(pass.top_count);
    pass.top_count += request.top_logprobs;
    entries += request.adjustments;
    wants_.tops |= request.top_logprobs > 0;
    if (!chooses(request)) continue;
    wants_.masks |= request.mask >= 0;
    wants_.changes |= request.slot >= 0 || request.adjustments > 0 || request.mask >= 0;
  }
  for (const LogitTableUpdate& update : step.table_updates) {
    if (update.slot < 0 || update.slot >= slots_ || update.count > tables_.capacity) {
      throw Error(code::kInternal, "a step's table is larger than its executor's", "report this with what led to it");
    }
    entries += update.count;
  }

  LogitInputs inputs;
  const size_t updates = step.table_updates.size();
  if (entries > 0 || updates > 0) {
    // Each request's apart from the others': the device writes beside them what they take the place of.
    const size_t bytes = entries * sizeof(LogitEntry) + updates * sizeof(LogitTableUpdate);
    std::byte* host = reserve(pass.staged, CudaMemory::Place::host, bytes, "adjustments of logits");
    std::byte* there = reserve(adjustments_, CudaMemory::Place::device, bytes, "adjustments of logits");
    auto* entry = reinterpret_cast<LogitEntry*>(host);
    const auto add = [&](int32_t begin, int32_t count) {
      const auto place = static_cast<int32_t>(entry - reinterpret_cast<LogitEntry*>(host));
      for (const LogitAdjustment& a : step.adjustments.subspan(begin, count)) *entry++ = LogitEntry::of(a);
      return place;
    };
    for (LogitRequest& request : requests) {
      request.adjustments_begin = add(request.adjustments_begin, request.adjustments);
    }
    auto* update = reinterpret_cast<LogitTableUpdate*>(host + entries * sizeof(LogitEntry));
    for (size_t i = 0; i < updates; i++) {
      update[i] = step.table_updates[i];
      update[i].begin = add(update[i].begin, update[i].count);
    }
    const HostPieces pieces{{{0, static_cast<uint32_t>(bytes)}}, 1};
    check(bring(mapped(host), there, pieces, stream.get()), "bringing adjustments of logits");
    inputs.adjustments = reinterpret_cast<LogitEntry*>(there);
    check(update_tables(reinterpret_cast<LogitTableUpdate*>(there + entries * sizeof(LogitEntry)),
                        static_cast<int>(updates), inputs.adjustments, tables_, stream.get()),
          "adjustments of logits");
  }
  if (wants_.masks) listen(pass, step, inputs);
  return inputs;
}

void LogitStage::listen(Pass& pass, const Step& step, LogitInputs& inputs) {
  const size_t words = mask_words(vocab_), count = step.masks.size();
  const size_t states = round_up(count * sizeof(uint32_t), 16);
  std::byte* host =
      reserve(pass.masks, CudaMemory::Place::host, states + count * words * sizeof(uint32_t), "masks of tokens");
  auto* state = reinterpret_cast<uint32_t*>(host);
  auto* mask = reinterpret_cast<uint32_t*>(host + states);
  inputs.mask_states = mapped(state);
  inputs.masks = mapped(mask);
  std::fill_n(state, count, kMaskComes);
  for (size_t i = 0; i < count; i++) {
    pass.waits_for.push_back(step.masks[i]);
    pass.states.push_back(state + i);
    FreeGate::process().enter();
    step.masks[i]->listen([state = state + i, mask = mask + i * words, words](const TokenMask::Words* found) {
      if (found != nullptr) {
        const size_t known = std::min(found->size(), words);
        std::memcpy(mask, found->data(), known * sizeof(uint32_t));
        std::fill(mask + known, mask + words, 0);
      }
      publish(state, found != nullptr ? kMaskIsThere : kNoMask);
      FreeGate::process().leave();
    });
  }
}

void LogitStage::forget_masks(Pass& pass) {
  for (size_t i = 0; i < pass.waits_for.size(); i++) {
    pass.waits_for[i]->forget();
    if (*pass.states[i] != kMaskComes) continue;
    publish(pass.states[i], kNoMask);
    FreeGate::process().leave();
  }
  pass.waits_for.clear();
  pass.states.clear();
}

void LogitStage::run(SampleArguments a, cudaStream_t stream) {
  a.wants = wants_;
  a.tables = tables_;
  a.originals = originals_;
  a.masks = masks_;
  a.tops = tops_;
  a.scratch = scratch_;
  check(sample(a, stream, true), "sampling");
}

void LogitStage::end(int which, CudaStream& stream) {
  const Pass& pass = passes_[which];
  if (pass.top_count == 0) return;
  stream.copy(pass.tops->data(), reinterpret_cast<const std::byte*>(tops_), pass.top_count * sizeof(TopLogprob));
}

void LogitStage::collect(int which, StepOutput& output) {
  Pass& pass = passes_[which];
  forget_masks(pass);
  const auto* tops = reinterpret_cast<const TopLogprob*>(pass.tops->data());
  output.top_tokens.clear();
  output.top_logprobs.clear();
  for (size_t i = 0; i < pass.top_count; i++) {
    output.top_tokens.push_back(tops[i].token);
    output.top_logprobs.push_back(tops[i].logprob);
  }
}

void LogitStage::abandon() {
  for (Pass& pass : passes_) forget_masks(pass);
}

}  // namespace millrace::cuda

// What comes before the choice: tables of adjustments by slot, adjustments written into their rows, masks brought from
// the host, and the highest log-probabilities.
#include <algorithm>

#include "cuda/sample.cuh"

namespace millrace::cuda {

namespace {

constexpr int kThreads = 256;
// Of top_kernel: tokens among which the highest are sought, of the parts of the row that can have any.
constexpr int kCandidates = 2048;

__global__ void __launch_bounds__(kThreads)
    update_kernel(const LogitTableUpdate* updates, const LogitEntry* entries, LogitTables tables) {
  __shared__ int place;
  wait_for_predecessor();
  const LogitTableUpdate update = updates[blockIdx.x];
  LogitEntry* table = tables.entries + static_cast<size_t>(update.slot) * tables.capacity;
  const LogitEntry* from = entries + update.begin;
  if (update.whole != 0) {
    for (int i = threadIdx.x; i < update.count; i += kThreads) table[i] = from[i];
    if (threadIdx.x == 0) tables.sizes[update.slot] = update.count;
    return;
  }
  int size = tables.sizes[update.slot];
  for (int e = 0; e < update.count; e++) {
    if (threadIdx.x == 0) place = size;
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += kThreads) {
      if (table[i].token == from[e].token) place = i;
    }
    __syncthreads();
    const int found = place;
    __syncthreads();
    if (found >= tables.capacity) continue;
    if (threadIdx.x == 0) table[found] = from[e];
    size = max(size, found + 1);
    __syncthreads();
  }
  if (threadIdx.x == 0) tables.sizes[update.slot] = size;
}

// Half a minute or more: where others of the process keep the host from this, and wait for the device themselves, a
// request fails and not the process.
constexpr int kMostPolls = 25'000'000;

// A block a row: waits for its mask, then copies it. Nothing but the sampler waits.
__global__ void __launch_bounds__(kThreads) mask_kernel(SampleArguments a) {
  __shared__ uint32_t seen;
  wait_for_predecessor();
  allow_successor();
  const LogitRequest request = a.requests[blockIdx.x];
  if (request.row < 0 || request.mask < 0) return;
  if (threadIdx.x == 0) {
    const uint32_t* state = a.inputs->mask_states + request.mask;
    for (int polls = 0; (seen = __ldcv(state)) == kMaskComes && polls < kMostPolls; polls++) {
#if __CUDA_ARCH__ >= 700
      __nanosleep(500);
#endif
    }
    __threadfence_system();
  }
  __syncthreads();
  const int words = mask_words(a.vocab);
  const auto* from = reinterpret_cast<const uint4*>(a.inputs->masks + static_cast<size_t>(request.mask) * words);
  auto* to = reinterpret_cast<uint4*>(a.masks + static_cast<size_t>(blockIdx.x) * words);
  for (int i = threadIdx.x; i < words / 4; i += kThreads) {
    to[i] = seen == kMaskIsThere ? __ldcv(from + i) : make_uint4(0, 0, 0, 0);
  }
}

__device__ __forceinline__ float adjusted(const LogitEntry& entry, float logit, const LogitRequest& request) {
  return sample_adjusted(logit, (entry.counts & 1) != 0, static_cast<int32_t>(entry.counts / 2), entry.bias,
                         request.repetition_penalty, request.presence_penalty, request.frequency_penalty);
}

// In place; what was there is kept. A row's own adjustments take the place of its table's.
__global__ void __launch_bounds__(kThreads) adjust_kernel(SampleArguments a) {
  wait_for_predecessor();
  allow_successor();
  const LogitRequest request = a.requests[blockIdx.x];
  if (request.row < 0 || request.target >= 0 || !request.sample) return;
  float* logits = a.logits + static_cast<size_t>(request.row) * a.vocab;
  LogitEntry* own = a.inputs->adjustments + request.adjustments_begin;
  for (int i = threadIdx.x; i < request.adjustments; i += kThreads) own[i].original = logits[own[i].token];
  __syncthreads();
  if (request.slot >= 0) {
    const LogitEntry* table = a.tables.entries + static_cast<size_t>(request.slot) * a.tables.capacity;
    float* originals = a.originals + static_cast<size_t>(blockIdx.x) * a.tables.capacity;
    const int size = a.tables.sizes[request.slot];
    for (int i = threadIdx.x; i < size; i += kThreads) {
      const LogitEntry entry = table[i];
      const float logit = logits[entry.token];
      originals[i] = logit;
      logits[entry.token] = adjusted(entry, logit, request);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < request.adjustments; i += kThreads) {
    logits[own[i].token] = adjusted(own[i], own[i].original, request);
  }
}

// Descending, in shared memory. count: a power of two.
__device__ void sort_descending(uint64_t* keys, int count) {
  for (int size = 2; size <= count; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < count / 2; i += kSampleThreads) {
        const int low = 2 * i - (i & (stride - 1)), high = low + stride;
        const bool descends = (low & size) == 0;
        const uint64_t a = keys[low], b = keys[high];
        if (descends ? a < b : a > b) {
          keys[low] = b;
          keys[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

// A block a row. At least k tokens reach the k-th highest of the warps' maxima: those that do are gathered, from the
// warps' tokens that have any, and sorted. Where they are too many, the k-th token is found first.
__global__ void __launch_bounds__(kSampleThreads)
    top_kernel(SampleArguments a, SampleScratchLayout scratch, int parts) {
  __shared__ uint64_t keys[kCandidates];
  __shared__ uint64_t shared[32];
  __shared__ double sums[32];
  __shared__ unsigned long long histogram[256];
  __shared__ int found;
  __shared__ double log_sum;
  wait_for_predecessor();
  allow_successor();
  const LogitRequest request = a.requests[blockIdx.x];
  const int k = request.top_logprobs;
  if (request.row < 0 || k <= 0) return;
  TopLogprob* tops = a.tops + request.top_begin;
  const SamplePart* original = scratch.parts + blockIdx.x * parts;
  const uint64_t first = first_of(original, parts, shared);
  if (!is_distribution(first)) {
    for (int i = threadIdx.x; i < k; i += kSampleThreads) tops[i] = {-1, NAN};
    return;
  }
  const float* logits = a.logits + static_cast<size_t>(request.row) * a.vocab;
  const float highest = logit_of(first);
  const double sum = log_sum_of(original, parts, highest, sums);
  if (threadIdx.x == 0) log_sum = sum;

  // Maxima in groups, where there are more than threads.
  const int warps = parts * kPartWarps;
  const uint64_t* maxima = scratch.maxima + static_cast<size_t>(blockIdx.x) * warps;
  uint64_t group = 0;
  for (int w = threadIdx.x; w < warps; w += kSampleThreads) group = maxima[w] > group ? maxima[w] : group;
  keys[threadIdx.x] = group;
  sort_descending(keys, kSampleThreads);
  uint64_t floor = keys[k - 1];  // 0: fewer warps than k have tokens
  const auto gather = [&] {
    __syncthreads();
    if (threadIdx.x == 0) found = 0;
    __syncthreads();
    for (int w = threadIdx.x / 32; w < warps; w += kSampleThreads / 32) {
      if (maxima[w] < floor) continue;
      const int begin = w / kPartWarps * kTokensAPart + w % kPartWarps * 32 + threadIdx.x % 32;
      for (int i = 0; i < kPartTokens; i++) {
        const int token = begin + i * kPartThreads;
        if (token >= a.vocab) continue;
        const uint64_t key = key_of(logits[token], token);
        if (key < floor) continue;
        const int place = atomicAdd(&found, 1);
        if (place < kCandidates) keys[place] = key;
      }
    }
    __syncthreads();
  };
  gather();
  if (found > kCandidates) {
    floor = descend(
                logits, a.vocab, 64, k, Order(), [](float, int) { return 1ull; }, histogram)
                .key;
    gather();
  }
  int count = 64;  // to sort
  while (count < found) count *= 2;
  for (int i = found + threadIdx.x; i < count; i += kSampleThreads) keys[i] = 0;
  sort_descending(keys, count);
  for (int i = threadIdx.x; i < k; i += kSampleThreads) {
    const uint64_t key = keys[i];
    tops[i] =
        key == 0 ? TopLogprob{-1, NAN} : TopLogprob{id_of(key), log_probability(logits[id_of(key)], highest, log_sum)};
  }
}

}  // namespace

cudaError_t update_tables(const LogitTableUpdate* updates, int count, const LogitEntry* entries,
                          const LogitTables& tables, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return launch(update_kernel, dim3(count), dim3(kThreads), 0, stream, false, updates, entries, tables);
}

cudaError_t bring_masks(const SampleArguments& a, cudaStream_t stream, bool programmatic) {
  return launch(mask_kernel, dim3(a.count), dim3(kThreads), 0, stream, programmatic, a);
}

cudaError_t adjust(const SampleArguments& a, cudaStream_t stream, bool programmatic) {
  return launch(adjust_kernel, dim3(a.count), dim3(kThreads), 0, stream, programmatic, a);
}

cudaError_t top_logprobs(const SampleArguments& a, const SampleScratchLayout& scratch, cudaStream_t stream,
                         bool programmatic) {
  return launch(top_kernel, dim3(a.count), dim3(kSampleThreads), 0, stream, programmatic, a, scratch,
                parts_of(a.vocab));
}

}  // namespace millrace::cuda

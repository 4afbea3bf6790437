// The choice. part_kernel, many blocks a row, finds the highest logit, whether the row is a distribution at all and,
// where a log-probability is wanted, the sum of the weights; where adjustments or masks change a row, again of what
// they leave. choose_kernel, one block a row, does the rest: for sampled rows radix descents for top-k, top-p and
// typical-p, then the Gumbel-max choice.
#include "cuda/sample.cuh"

namespace millrace::cuda {

namespace {

__device__ __forceinline__ bool chooses(const LogitRequest& request) {
  return request.row >= 0 && request.target < 0 && request.sample;
}
__device__ __forceinline__ bool is_changed(const LogitRequest& request) {
  return chooses(request) && (request.slot >= 0 || request.adjustments > 0 || request.mask >= 0);
}

// `changed`: of rows that are, with the mask written into them.
template <bool changed>
__global__ void __launch_bounds__(kPartThreads) part_kernel(SampleArguments a, SampleScratchLayout scratch) {
  __shared__ uint64_t shared[32];
  __shared__ double sums[32];
  wait_for_predecessor();
  allow_successor();
  const LogitRequest request = a.requests[blockIdx.y];
  if (changed ? !is_changed(request) : request.row < 0) return;
  float* logits = a.logits + static_cast<size_t>(request.row) * a.vocab;
  const int begin = blockIdx.x * kTokensAPart + threadIdx.x;
  float logit[kPartTokens];
#pragma unroll
  for (int i = 0; i < kPartTokens; i++) {
    const int token = begin + i * kPartThreads;
    logit[i] = token < a.vocab ? logits[token] : -INFINITY;
  }
  if (changed && request.mask >= 0) {
    const uint32_t* mask = a.masks + static_cast<size_t>(blockIdx.y) * mask_words(a.vocab);
#pragma unroll
    for (int i = 0; i < kPartTokens; i++) {
      const int token = begin + i * kPartThreads;
      if (token >= a.vocab || (mask[token / 32] >> (token % 32) & 1) != 0) continue;
      logit[i] = -INFINITY;
      logits[token] = -INFINITY;
    }
  }
  uint64_t first = 0;
  bool invalid = false;
#pragma unroll
  for (int i = 0; i < kPartTokens; i++) {
    const int token = begin + i * kPartThreads;
    invalid |= isnan(logit[i]);
    const uint64_t key = token < a.vocab ? key_of(logit[i], token) : 0;
    first = key > first ? key : first;
  }
  // A NaN is above all keys of numbers.
  if (invalid) first = ~0ull;
  const int part = blockIdx.y * gridDim.x + blockIdx.x;
  if (!changed && a.wants.tops && request.top_logprobs > 0) {
    const uint64_t of_warp = warp_max(first);
    if (threadIdx.x % 32 == 0) scratch.maxima[part * kPartWarps + threadIdx.x / 32] = of_warp;
  }
  first = block_max(first, shared);
  double sum = 0.0;
  if (!changed && (request.want_logprob || request.top_logprobs > 0) && is_distribution(first)) {
    const float highest = logit_of(first);
#pragma unroll
    for (int i = 0; i < kPartTokens; i++) {
      if (begin + i * kPartThreads < a.vocab) sum += sample_exp(logit[i] - highest);
    }
    sum = block_sum(sum, sums);
  }
  if (threadIdx.x == 0) (changed ? scratch.changed : scratch.parts)[part] = {first, sum};
}

// Of weights' sum: floor(total * share), one at least, with the share in 32 fractional bits, as
// csrc/backend/sample.cc has it.
__device__ __forceinline__ unsigned long long share_of(unsigned long long total, float share) {
  const auto fraction = static_cast<unsigned long long>(static_cast<double>(fmaxf(share, 0.0f)) * 0x1p32);
  const unsigned long long reached = (total >> 32) * fraction + (((total & 0xffffffffu) * fraction) >> 32);
  return reached > 0 ? reached : 1;
}

// A token of a row under temperature and filters, the ones before typical-p.
struct Kept {
  float highest, inverse;
  uint64_t threshold;  // the least key
  unsigned least;      // weight

  __device__ float scaled(float logit) const { return sample_scaled(logit, highest, inverse); }
  __device__ unsigned weight(float logit) const { return sample_weight(scaled(logit)); }
  __device__ bool operator()(float logit, int id) const {
    return (threshold == 0 || key_of(logit, id) >= threshold) && (least == 0 || weight(logit) >= least);
  }
};

// Tokens that are so near to the entropy, those at the last distance by their keys.
struct Typical {
  uint32_t mean = 0, last = 0;
  uint64_t threshold = 0;

  // From the farthest, so that greater is nearer.
  __device__ uint32_t nearness(const Kept& kept, float logit) const {
    const uint32_t surprise = sample_surprise(kept.scaled(logit));
    return ~(surprise > mean ? surprise - mean : mean - surprise);
  }
  __device__ bool operator()(const Kept& kept, float logit, int id) const {
    if (kept.weight(logit) == 0) return false;
    const uint32_t near = nearness(kept, logit);
    return near > last || (near == last && key_of(logit, id) >= threshold);
  }
};

__device__ Typical find_typical(const float* logits, int vocab, const Kept& kept, float typical_p,
                                unsigned long long* histogram) {
  unsigned long long total = 0, moment = 0;
  for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
    const float logit = logits[i];
    if (!kept(logit, i)) continue;
    const unsigned long long weight = kept.weight(logit);
    if (weight == 0) continue;
    total += weight;
    moment += (weight * sample_surprise(kept.scaled(logit))) >> 20;
  }
  total = block_total(total, histogram);
  moment = block_total(moment, histogram);
  Typical typical;
  typical.mean = static_cast<uint32_t>((moment << 14) / (total >> 6));
  const auto measure = [&](float logit, int id) { return kept(logit, id) ? kept.weight(logit) : 0ull; };
  const auto nearness = [&](float logit, int) {
    return static_cast<uint64_t>(kept.weight(logit) == 0 ? 0 : typical.nearness(kept, logit));
  };
  const Descent near = descend(logits, vocab, 32, share_of(total, typical_p), nearness, measure, histogram);
  typical.last = static_cast<uint32_t>(near.key);
  typical.threshold =
      descend(
          logits, vocab, 64, near.left, Order(),
          [&](float logit, int id) { return nearness(logit, id) == near.key ? measure(logit, id) : 0ull; }, histogram)
          .key;
  return typical;
}

// Of a row whose highest key is `first`, at a temperature above 0.
__device__ int draw(const SampleArguments& a, const LogitRequest& request, const float* logits, uint64_t first,
                    float inverse, uint64_t* shared, unsigned long long* histogram) {
  Kept kept{logit_of(first), inverse, 0, 0};
  if (request.top_k > 0 && request.top_k < a.vocab) {
    kept.threshold = descend(
                         logits, a.vocab, 64, request.top_k, Order(), [](float, int) { return 1ull; }, histogram)
                         .key;
  }
  if (request.top_p < 1.0f) {
    const auto measure = [&](float logit, int id) {
      return key_of(logit, id) >= kept.threshold ? static_cast<unsigned long long>(kept.weight(logit)) : 0ull;
    };
    unsigned long long part = 0;
    for (int i = threadIdx.x; i < a.vocab; i += blockDim.x) part += measure(logits[i], i);
    const unsigned long long needed = share_of(block_total(part, histogram), request.top_p);
    kept.threshold = descend(logits, a.vocab, 64, needed, Order(), measure, histogram).key;
  }
  if (request.min_p > 0.0f) kept.least = static_cast<unsigned>(fminf(request.min_p, 1.0f) * kSampleOneFloat);
  const bool by_typical = request.typical_p < 1.0f;
  Typical typical;
  if (by_typical) typical = find_typical(logits, a.vocab, kept, request.typical_p, histogram);
  // Scores in ascending order of their bits, ties to the lowest id: a key again.
  uint64_t best = 0;
  float bound = -INFINITY;
  for (int i = threadIdx.x; i < a.vocab; i += blockDim.x) {
    const float logit = logits[i];
    const float z = kept.scaled(logit);
    if (z + kLargestGumbel < bound || !kept(logit, i)) continue;
    if (by_typical && !typical(kept, logit, i)) continue;
    const SampleWords random = sample_random(request.seed, request.counter, static_cast<uint32_t>(i) / 4);
    const float score = z + sample_gumbel(random.word[i % 4]);
    bound = fmaxf(bound, score);
    const uint64_t key = key_of(score, i);
    best = key > best ? key : best;
  }
  return id_of(block_max(best, shared));
}

// The logits that adjustments took the place of: first the table's, since the row's own found them adjusted.
__device__ void restore(const SampleArguments& a, const LogitRequest& request, float* logits) {
  if (request.slot >= 0) {
    const LogitEntry* table = a.tables.entries + static_cast<size_t>(request.slot) * a.tables.capacity;
    const float* originals = a.originals + static_cast<size_t>(blockIdx.x) * a.tables.capacity;
    const int size = a.tables.sizes[request.slot];
    for (int i = threadIdx.x; i < size; i += blockDim.x) logits[table[i].token] = originals[i];
  }
  __syncthreads();
  const LogitEntry* own = a.inputs->adjustments + request.adjustments_begin;
  for (int i = threadIdx.x; i < request.adjustments; i += blockDim.x) logits[own[i].token] = own[i].original;
  __syncthreads();
}

// Once more in the slot's table.
__device__ void count(const SampleArguments& a, int slot, int token) {
  __shared__ int place;
  LogitEntry* table = a.tables.entries + static_cast<size_t>(slot) * a.tables.capacity;
  const int size = a.tables.sizes[slot];
  if (threadIdx.x == 0) place = size;
  __syncthreads();
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    if (table[i].token == token) place = i;
  }
  __syncthreads();
  if (threadIdx.x != 0 || place >= a.tables.capacity) return;
  if (place == size) {
    table[place] = {token, 0, 0.0f, 0.0f};
    a.tables.sizes[slot] = size + 1;
  }
  table[place].counts = (table[place].counts | 1) + 2;
}

__global__ void __launch_bounds__(kSampleThreads)
    choose_kernel(SampleArguments a, SampleScratchLayout scratch, int parts) {
  __shared__ uint64_t shared[32];
  __shared__ unsigned long long histogram[256];
  __shared__ double sums[32];
  wait_for_predecessor();
  allow_successor();
  const LogitRequest request = a.requests[blockIdx.x];
  if (request.row < 0) return;
  const SamplePart* original = scratch.parts + blockIdx.x * parts;
  const uint64_t first = first_of(original, parts, shared);
  float* logits = a.logits + static_cast<size_t>(request.row) * a.vocab;

  int token = request.target;
  if (chooses(request)) {
    const bool changed = is_changed(request);
    const uint64_t best = changed ? first_of(scratch.changed + blockIdx.x * parts, parts, shared) : first;
    const float inverse = 1.0f / fminf(request.temperature, 1e30f);
    if (!is_distribution(best)) {
      token = changed && is_distribution(first) ? kAllForbidden : -1;
    } else if (!(request.temperature > 0.0f) || isinf(inverse) || request.top_k == 1) {
      token = id_of(best);
    } else {
      token = draw(a, request, logits, best, inverse, shared, histogram);
    }
    if (changed && (request.want_logprob || request.keep_logits)) {
      __syncthreads();
      restore(a, request, logits);
    }
    if (request.counts && token >= 0) count(a, request.slot, token);
  }
  float logprob = NAN;
  if (request.want_logprob && token >= 0 && is_distribution(first)) {
    const float highest = logit_of(first);
    const double log_sum = log_sum_of(original, parts, highest, sums);
    if (threadIdx.x == 0) logprob = log_probability(logits[token], highest, log_sum);
  }
  if (threadIdx.x == 0) {
    a.tokens[blockIdx.x] = token;
    a.logprobs[blockIdx.x] = logprob;
  }
}

}  // namespace

size_t sample_scratch_bytes(int count, int vocab) {
  return static_cast<size_t>(count) * parts_of(vocab) * (2 * sizeof(SamplePart) + kPartWarps * sizeof(uint64_t));
}

cudaError_t sample(const SampleArguments& a, cudaStream_t stream, bool programmatic) {
  const int parts = parts_of(a.vocab);
  const SampleScratchLayout scratch = lay_out_scratch(a.scratch, a.count, a.vocab);
  const dim3 grid(parts, a.count);
  cudaError_t status = launch(part_kernel<false>, grid, dim3(kPartThreads), 0, stream, programmatic, a, scratch);
  if (status == cudaSuccess && a.wants.tops) status = top_logprobs(a, scratch, stream, programmatic);
  if (status == cudaSuccess && a.wants.masks) status = bring_masks(a, stream, programmatic);
  if (status == cudaSuccess && a.wants.changes) {
    status = adjust(a, stream, programmatic);
    if (status == cudaSuccess) {
      status = launch(part_kernel<true>, grid, dim3(kPartThreads), 0, stream, programmatic, a, scratch);
    }
  }
  if (status != cudaSuccess) return status;
  return launch(choose_kernel, dim3(a.count), dim3(kSampleThreads), 0, stream, programmatic, a, scratch, parts);
}

}  // namespace millrace::cuda

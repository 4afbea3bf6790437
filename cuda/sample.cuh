#pragma once
// What the kernels of the logit stage share: the total order of tokens as keys, reductions over a thread block, and the
// search for a prefix of an order. Compiled without fused multiply-adds: csrc/backend/sample_arithmetic.h.
#include <cstdint>

#include "backend/sample_arithmetic.h"
#include "cuda/common.cuh"
#include "cuda/sample.h"

namespace millrace::cuda {

inline constexpr int kSampleThreads = 1024;  // of a block that has a row to itself
// Of the kernels that read rows in parts: a token's load is on its way with the thread's others.
inline constexpr int kPartThreads = 512;
inline constexpr int kPartTokens = 8;  // of a thread
inline constexpr int kPartWarps = kPartThreads / 32;
inline constexpr int kTokensAPart = kPartThreads * kPartTokens;

// What a block of part_kernel finds of its tokens.
struct SamplePart {
  unsigned long long first;  // the highest key; above all keys of numbers if there is a NaN
  double sum;                // of e^(logit - highest)
};

// The scratch of the stage.
struct SampleScratchLayout {
  SamplePart* parts;    // [count, parts of a row] of the logits as the model made them
  SamplePart* changed;  // the same of what adjustments and masks leave
  uint64_t* maxima;     // [count, parts of a row, kPartWarps]: the highest key of a warp's tokens
};

// Logits in ascending order of their bits; both zeros are one.
__device__ __forceinline__ uint32_t ordered(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logit_of(uint64_t key) {
  const auto bits = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}
// Greater is earlier in the total order: higher logit, then lower id. Never 0.
__device__ __forceinline__ uint64_t key_of(float logit, int id) {
  return (static_cast<uint64_t>(ordered(logit)) << 32) | (0xffffffffu - static_cast<uint32_t>(id));
}
__device__ __forceinline__ int id_of(uint64_t key) {
  return static_cast<int>(0xffffffffu - static_cast<uint32_t>(key));
}

__device__ __forceinline__ uint64_t warp_max(uint64_t value) {
  for (int d = 16; d > 0; d /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, value, d);
    value = other > value ? other : value;
  }
  return value;
}

// To every thread. shared: [32]
__device__ __forceinline__ uint64_t block_max(uint64_t value, uint64_t* shared) {
  value = warp_max(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : 0;
  return warp_max(value);
}

// Threads' sums to thread 0, in an order that the number of threads alone fixes. shared: [32]
__device__ __forceinline__ double block_sum(double sum, double* shared) {
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < blockDim.x / 32; i++) total += shared[i];
  }
  return total;
}

// Integers' sum to every thread. shared: [1]
__device__ __forceinline__ unsigned long long block_total(unsigned long long part, unsigned long long* shared) {
  __syncthreads();
  if (threadIdx.x == 0) *shared = 0;
  __syncthreads();
  for (int d = 16; d > 0; d /= 2) part += __shfl_xor_sync(0xffffffffu, part, d);
  if (threadIdx.x % 32 == 0) atomicAdd(shared, part);
  __syncthreads();
  const unsigned long long total = *shared;
  __syncthreads();
  return total;
}

// A row's parts as one.
__device__ __forceinline__ uint64_t first_of(const SamplePart* parts, int count, uint64_t* shared) {
  uint64_t first = 0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) first = parts[i].first > first ? parts[i].first : first;
  return block_max(first, shared);
}
__device__ __forceinline__ bool is_distribution(uint64_t first) {
  return first != ~0ull && !isinf(logit_of(first));
}

// log(sum of e^(logit - highest)) of a row that is a distribution, to thread 0: of the same bits in every kernel whose
// blocks have as many threads.
__device__ __forceinline__ double log_sum_of(const SamplePart* parts, int count, float highest, double* shared) {
  double sum = 0.0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const SamplePart part = parts[i];
    if (part.sum > 0.0) sum += part.sum * exp(static_cast<double>(logit_of(part.first)) - highest);
  }
  return log(block_sum(sum, shared));
}
__device__ __forceinline__ float log_probability(float logit, float highest, double log_sum) {
  return static_cast<float>(static_cast<double>(logit) - highest - log_sum);
}

struct Order {
  __device__ uint64_t operator()(float logit, int id) const { return key_of(logit, id); }
};

struct Descent {
  uint64_t key;
  unsigned long long left;  // of `needed`, by tokens with just this key
};

// A radix descent, eight bits at a time: the key such that tokens with it or greater ones are the shortest prefix, in
// descending order of keys, whose measure reaches `needed` (>= 1); the whole measure reaches it. Sums of integers:
// exact, and free of order.
//   key_at    (logit, id), below 2^bits
//   measure   (logit, id); 0: the token is not looked at
//   histogram [256], shared
template <typename KeyAt, typename Measure>
__device__ Descent descend(const float* logits, int vocab, int bits, unsigned long long needed, KeyAt key_at,
                           Measure measure, unsigned long long* histogram) {
  uint64_t prefix = 0;
  __shared__ int chosen;
  __shared__ unsigned long long left;
  for (int shift = bits - 8; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += blockDim.x) histogram[i] = 0;
    __syncthreads();
    const uint64_t mask = shift == bits - 8 ? 0 : ~0ull << (shift + 8);
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
      const float logit = logits[i];
      const uint64_t key = key_at(logit, i);
      if ((key & mask) != prefix) continue;
      const unsigned long long amount = measure(logit, i);
      if (amount != 0) atomicAdd(&histogram[(key >> shift) & 255], amount);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned long long reached = 0;
      int digit = 255;
      for (; digit > 0; digit--) {
        if (reached + histogram[digit] >= needed) break;
        reached += histogram[digit];
      }
      chosen = digit;
      left = needed - reached;
    }
    __syncthreads();
    prefix |= static_cast<uint64_t>(chosen) << shift;
    needed = left;
    __syncthreads();
  }
  return {prefix, needed};
}

inline int parts_of(int vocab) {
  return (vocab + kTokensAPart - 1) / kTokensAPart;
}

inline SampleScratchLayout lay_out_scratch(std::byte* base, int count, int vocab) {
  const size_t parts = static_cast<size_t>(count) * parts_of(vocab);
  SampleScratchLayout scratch;
  scratch.parts = reinterpret_cast<SamplePart*>(base);
  scratch.changed = scratch.parts + parts;
  scratch.maxima = reinterpret_cast<uint64_t*>(scratch.changed + parts);
  return scratch;
}

// Kernels of logits.cu, between those of sample.cu.
cudaError_t top_logprobs(const SampleArguments& a, const SampleScratchLayout& scratch, cudaStream_t stream,
                         bool programmatic);
cudaError_t bring_masks(const SampleArguments& a, cudaStream_t stream, bool programmatic);
cudaError_t adjust(const SampleArguments& a, cudaStream_t stream, bool programmatic);

}  // namespace millrace::cuda

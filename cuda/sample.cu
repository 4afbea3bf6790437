// Two kernels a step. The first, many blocks a row, finds the highest logit, whether the row is a distribution at all
// and, where a log-probability is wanted, the sum of the weights. The second, one block a row, does the rest: for
// sampled rows a radix descent over the total order for top-k and top-p (integer sums in shared memory: exact, and free
// of order), then the Gumbel-max choice. Must be compiled without fused multiply-adds (-fmad=false).
#include "backend/sample_arithmetic.h"
#include "cuda/common.cuh"
#include "cuda/sample.h"

namespace millrace::cuda {

namespace {

constexpr int kThreads = 1024;
// Of the first kernel: a token's load is on its way with the thread's others.
constexpr int kPartThreads = 512;
constexpr int kPartTokens = 8;  // of a thread
constexpr int kTokensABlock = kPartThreads * kPartTokens;

// What a block of the first kernel finds of its tokens.
struct Part {
  unsigned long long first;  // the highest key; above all keys of numbers if there is a NaN
  double sum;                // of e^(logit - highest)
};

// Logits in ascending order of their bits; both zeros are one.
__device__ uint32_t ordered(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float logit_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
// Greater is earlier in the total order: higher logit, then lower id.
__device__ uint64_t key_of(float logit, int id) {
  return (static_cast<uint64_t>(ordered(logit)) << 32) | (0xffffffffu - static_cast<uint32_t>(id));
}
__device__ int id_of(uint64_t key) {
  return static_cast<int>(0xffffffffu - static_cast<uint32_t>(key));
}

__device__ uint64_t warp_max(uint64_t value) {
  for (int d = 16; d > 0; d /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, value, d);
    value = other > value ? other : value;
  }
  return value;
}

template <typename T>
__device__ T block_max(T value, T* shared) {
  value = warp_max(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : 0;
  return warp_max(value);
}

// Threads' sums to thread 0, in an order that the number of threads alone fixes.
__device__ double block_sum(double sum, double* shared) {
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < blockDim.x / 32; i++) total += shared[i];
  }
  return total;
}

__global__ void __launch_bounds__(kPartThreads) part_kernel(SampleArguments a, Part* parts) {
  __shared__ uint64_t shared[32];
  __shared__ double sums[kPartThreads / 32];
  wait_for_predecessor();
  allow_successor();
  const LogitRequest request = a.requests[blockIdx.y];
  if (request.row < 0) return;
  const float* logits = a.logits + static_cast<size_t>(request.row) * a.vocab;
  const int begin = blockIdx.x * kTokensABlock + threadIdx.x;
  float logit[kPartTokens];
#pragma unroll
  for (int i = 0; i < kPartTokens; i++) {
    const int token = begin + i * kPartThreads;
    logit[i] = token < a.vocab ? logits[token] : -INFINITY;
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
  first = block_max<uint64_t>(first, shared);
  double sum = 0.0;
  const float highest = logit_of(static_cast<uint32_t>(first >> 32));
  if (request.want_logprob && first != ~0ull && !isinf(highest)) {
#pragma unroll
    for (int i = 0; i < kPartTokens; i++) {
      if (begin + i * kPartThreads < a.vocab) sum += sample_exp(logit[i] - highest);
    }
    sum = block_sum(sum, sums);
  }
  if (threadIdx.x == 0) parts[blockIdx.y * gridDim.x + blockIdx.x] = {first, sum};
}

// The key T such that the tokens with key >= T are the shortest prefix of the order, within keys >= floor, whose
// measure reaches `needed` (>= 1). The whole measure reaches it.
template <typename Measure>
__device__ uint64_t descend(const float* logits, int vocab, uint64_t floor, unsigned long long needed, Measure measure,
                            unsigned long long* histogram) {
  uint64_t prefix = 0;
  __shared__ int chosen;
  __shared__ unsigned long long left;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += kThreads) histogram[i] = 0;
    __syncthreads();
    const uint64_t mask = shift == 56 ? 0 : ~0ull << (shift + 8);
    for (int i = threadIdx.x; i < vocab; i += kThreads) {
      const float logit = logits[i];
      const uint64_t key = key_of(logit, i);
      if (key < floor || (key & mask) != prefix) continue;
      const unsigned long long amount = measure(logit);
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
  return prefix;
}

__global__ void __launch_bounds__(kThreads) choose_kernel(SampleArguments a, const Part* parts, int blocks) {
  __shared__ uint64_t shared[32];
  __shared__ unsigned long long histogram[256];
  __shared__ double sums[kThreads / 32];
  wait_for_predecessor();
  allow_successor();
  const LogitRequest request = a.requests[blockIdx.x];
  if (request.row < 0) return;
  uint64_t first = 0;
  for (int i = threadIdx.x; i < blocks; i += kThreads) {
    const uint64_t key = parts[blockIdx.x * blocks + i].first;
    first = key > first ? key : first;
  }
  first = block_max<uint64_t>(first, shared);
  const float highest = logit_of(static_cast<uint32_t>(first >> 32));
  const bool valid = first != ~0ull && !isinf(highest);
  const float* logits = a.logits + static_cast<size_t>(request.row) * a.vocab;

  int token = request.target;
  if (token < 0 && request.sample) {
    const float temperature = fminf(request.temperature, 1e30f);
    const float inverse = 1.0f / temperature;
    if (!valid) {
      token = -1;
    } else if (!(request.temperature > 0.0f) || isinf(inverse) || request.top_k == 1) {
      token = id_of(first);
    } else {
      const auto scaled = [=](float logit) { return sample_scaled(logit, highest, inverse); };
      const auto weight = [=](float logit) { return static_cast<unsigned long long>(sample_weight(scaled(logit))); };
      uint64_t threshold = 0;
      if (request.top_k > 0 && request.top_k < a.vocab) {
        threshold = descend(
            logits, a.vocab, 0, request.top_k, [](float) { return 1ull; }, histogram);
      }
      if (request.top_p < 1.0f) {
        if (threadIdx.x == 0) histogram[0] = 0;
        __syncthreads();
        unsigned long long part = 0;
        for (int i = threadIdx.x; i < a.vocab; i += kThreads) {
          if (key_of(logits[i], i) >= threshold) part += weight(logits[i]);
        }
        for (int d = 16; d > 0; d /= 2) part += __shfl_xor_sync(0xffffffffu, part, d);
        if (threadIdx.x % 32 == 0) atomicAdd(&histogram[0], part);
        __syncthreads();
        const unsigned long long total = histogram[0];
        __syncthreads();
        // floor(total * top_p) with top_p in 32 fractional bits, as csrc/backend/sample.cc has it.
        const auto fraction = static_cast<unsigned long long>(static_cast<double>(fmaxf(request.top_p, 0.0f)) * 0x1p32);
        const unsigned long long target = (total >> 32) * fraction + (((total & 0xffffffffu) * fraction) >> 32);
        threshold = descend(logits, a.vocab, threshold, target > 0 ? target : 1, weight, histogram);
      }
      const unsigned least =
          request.min_p > 0.0f ? static_cast<unsigned>(fminf(request.min_p, 1.0f) * kSampleOneFloat) : 0;
      // Scores in ascending order of their bits, ties to the lowest id: a key again.
      uint64_t best = 0;
      float bound = -INFINITY;
      for (int i = threadIdx.x; i < a.vocab; i += kThreads) {
        const float logit = logits[i];
        if (threshold != 0 && key_of(logit, i) < threshold) continue;
        const float z = scaled(logit);
        if (z + kLargestGumbel < bound) continue;
        if (least > 0 && sample_weight(z) < least) continue;
        const SampleWords random = sample_random(request.seed, request.counter, static_cast<uint32_t>(i) / 4);
        const float score = z + sample_gumbel(random.word[i % 4]);
        bound = fmaxf(bound, score);
        const uint64_t key = key_of(score, i);
        best = key > best ? key : best;
      }
      token = id_of(block_max<uint64_t>(best, shared));
    }
  }
  float logprob = NAN;
  if (request.want_logprob && token >= 0 && valid) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < blocks; i += kThreads) {
      const Part part = parts[blockIdx.x * blocks + i];
      const float its_highest = logit_of(static_cast<uint32_t>(part.first >> 32));
      if (part.sum > 0.0) sum += part.sum * exp(static_cast<double>(its_highest) - highest);
    }
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) logprob = static_cast<float>(static_cast<double>(logits[token]) - highest - log(sum));
  }
  if (threadIdx.x == 0) {
    a.tokens[blockIdx.x] = token;
    a.logprobs[blockIdx.x] = logprob;
  }
}

int blocks_of(int vocab) {
  return (vocab + kTokensABlock - 1) / kTokensABlock;
}

}  // namespace

size_t sample_scratch_bytes(int count, int vocab) {
  return static_cast<size_t>(count) * blocks_of(vocab) * sizeof(Part);
}

cudaError_t sample(const SampleArguments& arguments, cudaStream_t stream, bool programmatic) {
  const int blocks = blocks_of(arguments.vocab);
  auto* parts = reinterpret_cast<Part*>(arguments.scratch);
  const cudaError_t status =
      launch(part_kernel, dim3(blocks, arguments.count), dim3(kPartThreads), 0, stream, programmatic, arguments, parts);
  if (status != cudaSuccess) return status;
  return launch(choose_kernel, dim3(arguments.count), dim3(kThreads), 0, stream, programmatic, arguments, parts,
                blocks);
}

}  // namespace millrace::cuda

// A warp has eight columns of a head's matrix, four lanes a column, each with a quarter of its rows in registers from
// the first row of a sequence's run to the last:
//
//   lane = 8 g + c      column c, rows 16 m + 4 g + (0..3) of the matrix [key_dim, value_dim]
//
// so that a load is four rows of 32 bytes, keys come as float4 without conflicts, and a sum over the rows is a lane's
// own in ascending order, then two shuffles. Columns need nothing of each other: no thread block waits for another.
#include "cuda/common.cuh"
#include "cuda/delta.h"

namespace millrace::cuda {

namespace {

constexpr int kColumnsOfWarp = 8;
constexpr int kWarps = 4;
constexpr int kConvThreads = 256;
constexpr unsigned kAll = 0xffffffffu;

struct Run {
  int begin = 0, end = 0;
};

// Of decode rows the run that begins with row `index`, or none: its first row has the run. It is found on the device,
// as one graph has steps of as many rows with any drafts.
__device__ __forceinline__ Run run_of(const StateArguments& a, int index) {
  if (!a.runs.decode) return {a.runs.begin[index], a.runs.end[index]};
  const int32_t sequence = a.sequences[index], before = index > 0 ? a.sequences[index - 1] : -1;
  if (a.positions[index] < 0 || before == sequence) return {};
  int end = index + 1;
  while (end < a.rows && a.positions[end] >= 0 && a.sequences[end] == sequence) end++;
  return {index, end};
}

// What the run finds and, of a prompt, leaves; what is behind a decode row lies by its index within the run.
__device__ __forceinline__ float* state_of(const StateArguments& a, const Run& run, int index = 0) {
  const int64_t table = static_cast<int64_t>(a.sequences[run.begin]) * a.block_table_stride;
  return a.states + a.block_tables[table + index] * a.state_stride;
}

// Input of a row of the run, or of one before it, which is in the state.
__device__ __forceinline__ float input_of(const ConvArguments& a, const Run& run, const float* state, int row, int c) {
  if (row >= run.begin) return a.x[row * a.x_stride + c];
  return a.state.positions[run.begin] == 0 ? 0.0f
                                           : state[static_cast<int64_t>(a.taps - 1 + row - run.begin) * a.channels + c];
}

__device__ __forceinline__ void convolve_row(const ConvArguments& a, const Run& run, const float* state, int row,
                                             int c) {
  const auto* weight = reinterpret_cast<const float*>(a.state.weights.units[a.state.weights.unit] + a.weight_offset) +
                       static_cast<int64_t>(c) * a.taps;
  float sum = 0.0f;
  for (int t = 0; t < a.taps; t++) sum = fmaf(weight[t], input_of(a, run, state, row - a.taps + 1 + t, c), sum);
  a.out[static_cast<int64_t>(row) * a.channels + c] = sum / (1.0f + expf(-sum));
}

// What is behind a row, to `left`; where that is what the run has found, of its first or its last row: in ascending
// order nothing is read that was written.
__device__ __forceinline__ void keep_inputs(const ConvArguments& a, const Run& run, const float* state, int row, int c,
                                            float* left) {
  for (int t = 0; t < a.taps - 1; t++) {
    left[static_cast<int64_t>(t) * a.channels + c] = input_of(a, run, state, row - a.taps + 2 + t, c);
  }
}

// Decode rows: a run by one thread a column, the first row last, as it writes where all find what was before.
__global__ __launch_bounds__(kConvThreads) void convolve_decode_kernel(ConvArguments a) {
  allow_successor();
  wait_for_predecessor();
  const int c = blockIdx.x * kConvThreads + threadIdx.x;
  const Run run = run_of(a.state, blockIdx.y);
  if (c >= a.channels) return;
  for (int row = run.end - 1; row >= run.begin; row--) {
    const float* state = state_of(a.state, run);
    convolve_row(a, run, state, row, c);
    keep_inputs(a, run, state, row, c, state_of(a.state, run, row - run.begin));
  }
}

// Rows of a prompt.
__global__ __launch_bounds__(kConvThreads) void convolve_prompt_kernel(ConvArguments a, int run_index) {
  allow_successor();
  wait_for_predecessor();
  const int c = blockIdx.x * kConvThreads + threadIdx.x;
  const Run run = run_of(a.state, run_index);
  if (c >= a.channels) return;
  convolve_row(a, run, state_of(a.state, run), run.begin + static_cast<int>(blockIdx.y), c);
}

// What they leave, once all of them have been computed.
__global__ __launch_bounds__(kConvThreads) void keep_inputs_kernel(ConvArguments a) {
  allow_successor();
  wait_for_predecessor();
  const int c = blockIdx.x * kConvThreads + threadIdx.x;
  const Run run = run_of(a.state, blockIdx.y);
  if (c >= a.channels) return;
  float* state = state_of(a.state, run);
  keep_inputs(a, run, state, run.end - 1, c, state);
}

__device__ __forceinline__ float sum_of_lanes(float value) {
  for (int d = 16; d > 0; d /= 2) value += __shfl_xor_sync(kAll, value, d);
  return value;
}

// Of the four lanes of a column.
__device__ __forceinline__ float sum_of_column(float value) {
  value += __shfl_xor_sync(kAll, value, 8);
  return value + __shfl_xor_sync(kAll, value, 16);
}

__device__ __forceinline__ float softplus(float x) {
  return x > 20.0f ? x : log1pf(expf(x));
}

// kKeys: key_dim, rounded up to what there is a kernel for.
template <int kKeys>
__global__ __launch_bounds__(32 * kWarps, kKeys <= 128 ? 5 : 3) void delta_rule_kernel(DeltaArguments a) {
  constexpr int kOwn = kKeys / 4;     // rows of the matrix that a lane has
  constexpr int kLoads = kKeys / 32;  // elements of a key that a lane norms
  __shared__ float4 keys[kWarps][2][kKeys / 4];
  allow_successor();
  wait_for_predecessor();
  const Run run = run_of(a.state, blockIdx.y);
  if (run.begin == run.end) return;
  const bool fresh = a.state.positions[run.begin] == 0;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / kColumnsOfWarp;
  const int tiles = (a.value_dim + kColumnsOfWarp * kWarps - 1) / (kColumnsOfWarp * kWarps);
  const int head = blockIdx.x / tiles;
  const int column = (blockIdx.x % tiles * kWarps + warp) * kColumnsOfWarp + lane % kColumnsOfWarp;
  const bool has = column < a.value_dim;
  const int64_t own = static_cast<int64_t>(head) * a.key_dim * a.value_dim + column;
  const float* found = state_of(a.state, run) + own;
  float s[kOwn];
#pragma unroll
  for (int m = 0; m < kOwn; m++) {
    const int i = m / 4 * 16 + group * 4 + m % 4;
    s[m] = fresh || !has || i >= a.key_dim ? 0.0f : found[static_cast<int64_t>(i) * a.value_dim];
  }
  const std::byte* slab = a.state.weights.units[a.state.weights.unit];
  const float rate = reinterpret_cast<const float*>(slab + a.rate_offset)[head];
  const float bias = reinterpret_cast<const float*>(slab + a.bias_offset)[head];
  const int key_width = a.key_heads * a.key_dim,
            key_head = a.in_turn ? head % a.key_heads : head / (a.value_heads / a.key_heads);
  const int64_t stride = 2 * key_width + a.value_heads * a.value_dim;
  const float query_scale = rsqrtf(static_cast<float>(a.key_dim));

  // The next row's, while this one's are computed with.
  float q[kLoads], k[kLoads], v = 0.0f, b = 0.0f, decay = 0.0f;
  const auto load = [&](int row) {
    const float* x = a.x + row * stride;
#pragma unroll
    for (int e = 0; e < kLoads; e++) {
      const int i = e * 32 + lane;
      q[e] = i < a.key_dim ? x[key_head * a.key_dim + i] : 0.0f;
      k[e] = i < a.key_dim ? x[key_width + key_head * a.key_dim + i] : 0.0f;
    }
    v = has ? x[2 * key_width + head * a.value_dim + column] : 0.0f;
    b = a.gates[static_cast<int64_t>(row) * 2 * a.value_heads + head];
    decay = a.gates[(static_cast<int64_t>(row) * 2 + 1) * a.value_heads + head];
  };
  load(run.begin);
  auto* own_q = reinterpret_cast<float*>(keys[warp][0]);
  auto* own_k = reinterpret_cast<float*>(keys[warp][1]);
  for (int row = run.begin; row < run.end; row++) {
    float q_squares = 0.0f, k_squares = 0.0f;
#pragma unroll
    for (int e = 0; e < kLoads; e++) {
      q_squares = fmaf(q[e], q[e], q_squares);
      k_squares = fmaf(k[e], k[e], k_squares);
    }
    const float q_scale = query_scale * rsqrtf(sum_of_lanes(q_squares) + 1e-6f);
    const float k_scale = rsqrtf(sum_of_lanes(k_squares) + 1e-6f);
    __syncwarp();
#pragma unroll
    for (int e = 0; e < kLoads; e++) {
      own_q[e * 32 + lane] = q[e] * q_scale;
      own_k[e * 32 + lane] = k[e] * k_scale;
    }
    __syncwarp();
    const float value = v, beta = 1.0f / (1.0f + expf(-b)), kept = expf(-rate * softplus(decay + bias));
    if (row + 1 < run.end) load(row + 1);
    float seen = 0.0f;
#pragma unroll
    for (int m = 0; m < kOwn; m += 4) {
      const float4 key = keys[warp][1][m + group];
      s[m] *= kept, s[m + 1] *= kept, s[m + 2] *= kept, s[m + 3] *= kept;
      seen = fmaf(s[m], key.x, seen), seen = fmaf(s[m + 1], key.y, seen);
      seen = fmaf(s[m + 2], key.z, seen), seen = fmaf(s[m + 3], key.w, seen);
    }
    const float change = (value - sum_of_column(seen)) * beta;
    float read = 0.0f;
#pragma unroll
    for (int m = 0; m < kOwn; m += 4) {
      const float4 key = keys[warp][1][m + group], query = keys[warp][0][m + group];
      s[m] = fmaf(key.x, change, s[m]), s[m + 1] = fmaf(key.y, change, s[m + 1]);
      s[m + 2] = fmaf(key.z, change, s[m + 2]), s[m + 3] = fmaf(key.w, change, s[m + 3]);
      read = fmaf(s[m], query.x, read), read = fmaf(s[m + 1], query.y, read);
      read = fmaf(s[m + 2], query.z, read), read = fmaf(s[m + 3], query.w, read);
    }
    read = sum_of_column(read);
    if (has && group == 0) a.out[(static_cast<int64_t>(row) * a.value_heads + head) * a.value_dim + column] = read;
    if (!a.state.runs.decode && row + 1 < run.end) continue;
    float* left = state_of(a.state, run, a.state.runs.decode ? row - run.begin : 0) + own;
#pragma unroll
    for (int m = 0; m < kOwn; m++) {
      const int i = m / 4 * 16 + group * 4 + m % 4;
      if (has && i < a.key_dim) left[static_cast<int64_t>(i) * a.value_dim] = s[m];
    }
  }
}

int runs_of(const StateArguments& a) {
  return a.runs.decode ? a.rows : a.runs.count;
}

}  // namespace

cudaError_t convolve(const ConvArguments& arguments, cudaStream_t stream, bool programmatic) {
  const int runs = runs_of(arguments.state);
  if (runs == 0) return cudaSuccess;
  if (arguments.taps < 2 || arguments.taps > kMostTaps) return cudaErrorInvalidValue;
  const unsigned columns = (arguments.channels + kConvThreads - 1) / kConvThreads;
  if (arguments.state.runs.decode) {
    return launch(convolve_decode_kernel, dim3(columns, runs), dim3(kConvThreads), 0, stream, programmatic, arguments);
  }
  for (int i = 0; i < runs; i++) {
    const unsigned rows = arguments.state.runs.end[i] - arguments.state.runs.begin[i];
    const cudaError_t error =
        launch(convolve_prompt_kernel, dim3(columns, rows), dim3(kConvThreads), 0, stream, programmatic, arguments, i);
    if (error != cudaSuccess) return error;
  }
  return launch(keep_inputs_kernel, dim3(columns, runs), dim3(kConvThreads), 0, stream, programmatic, arguments);
}

cudaError_t delta_rule(const DeltaArguments& arguments, cudaStream_t stream, bool programmatic) {
  const int runs = runs_of(arguments.state);
  if (runs == 0) return cudaSuccess;
  if (arguments.key_dim > kMostKeyDim) return cudaErrorInvalidValue;
  void (*kernel)(DeltaArguments) = delta_rule_kernel<256>;
  if (arguments.key_dim <= 128) kernel = delta_rule_kernel<128>;
  if (arguments.key_dim <= 64) kernel = delta_rule_kernel<64>;
  if (arguments.key_dim <= 32) kernel = delta_rule_kernel<32>;
  const int tiles = (arguments.value_dim + kColumnsOfWarp * kWarps - 1) / (kColumnsOfWarp * kWarps);
  return launch(kernel, dim3(arguments.value_heads * tiles, runs), dim3(32 * kWarps), 0, stream, programmatic,
                arguments);
}

}  // namespace millrace::cuda

// Prefill of 4-bit integers on wgmma (linear_prefill_sm90.cuh), exactly: the integers are multiplied, sums are kept in
// units of the current group's scale.
#include "cuda/linear_prefill_sm90.cuh"

namespace millrace::cuda {
namespace {

// FINE: groups may begin at any tile; otherwise only where a stage does.
template <bool FINE>
struct Q4Source {
  static constexpr int kBlockBytes = kWgmmaBlockBytes, kStages = kWgmmaStages;
  static constexpr bool kRescales = true, kAnySlice = FINE;

  struct Feed {
    int slices_left, group_left;
    __device__ __forceinline__ void start(const PrefillTask& task) {
      slices_left = task.slices;
      group_left = 0;
    }
    __device__ __forceinline__ int next(const PrefillTask& task) {
      int slices = min(kWgmmaSlices, slices_left), bytes = slices * static_cast<int>(kQ4TileBytes);
      slices_left -= slices;
      do {
        if (group_left == 0) {
          bytes += task.header_bytes;
          group_left = task.group_slices;
        }
        const int taken = FINE ? min(slices, group_left) : slices;
        slices -= taken;
        group_left -= taken;
      } while (FINE && slices > 0);
      return bytes;
    }
  };

  const PrefillTask& task;
  const int half, lane;
  float units[2][2] = {{1, 1}, {1, 1}};  // of (f, h): output feature 16 f + 8 h + lane / 4 of the warp's 32
  float ratio[2][2];
  RowCode codes[2][2];
  int group_left = 0, slices_left;
  uint32_t weights;
  bool edge;
  uint2 words[kWgmmaSlices];  // past the last tile stale ones, where x is zero

  __device__ __forceinline__ Q4Source(const PrefillTask& task, int half, int lane)
      : task(task), half(half), lane(lane), slices_left(task.slices) {}

  __device__ __forceinline__ void read_group() {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int index = 8 * (lane / 4) + 4 * h + 2 * half;
      const uint32_t scales = load_shared_4(weights + 2 * index);
      const uint32_t zeros = task.zeros ? load_shared_2(weights + 128 + index) : 0x0808;
#pragma unroll
      for (int f = 0; f < 2; f++) {
        bool live;
        const float now =
            unit_of_scale(scale_of(static_cast<uint16_t>(scales >> (16 * f)), task.bfloat16_scales), live);
        codes[f][h] = row_code(h == 1, static_cast<int>(zeros >> (8 * f) & 0xff), live);
        ratio[f][h] = __fdividef(units[f][h], now);
        units[f][h] = now;
      }
    }
    group_left = task.group_slices;
    weights += task.header_bytes;
  }
  __device__ __forceinline__ uint2 load_words(uint32_t tile) const {
    return load_shared_8(tile + lane * 16 + half * 8);
  }
  __device__ __forceinline__ void stage(uint32_t from, int) {
    weights = from;
    if constexpr (!FINE) {
      edge = group_left == 0;
      if (edge) read_group();
      group_left -= kWgmmaSlices;
#pragma unroll
      for (int k = 0; k < kWgmmaSlices; k++) words[k] = load_words(weights + k * kQ4TileBytes);
    }
  }
  __device__ __forceinline__ bool slice(int k) {
    if constexpr (FINE) {
      edge = group_left == 0 && slices_left > 0;
      if (edge) read_group();
      group_left--;
      slices_left--;
      words[k] = load_words(weights);
      weights += kQ4TileBytes;
    }
    return edge;
  }
  __device__ __forceinline__ void registers(int k, int f, uint32_t (&a)[4]) const {
    dequantise(f == 0 ? words[k].x : words[k].y, codes[f][0], codes[f][1], a);
  }
  __device__ __forceinline__ float unit(int f, int h) const {
    return units[f][h];
  }
};

template <int ROWS>
cudaError_t start_rows(const PrefillTask& task, const PrefillPlan& plan, cudaStream_t stream, bool programmatic) {
  return plan.fine ? start_prefill<Q4Source<true>, ROWS>(task, plan, stream, programmatic)
                   : start_prefill<Q4Source<false>, ROWS>(task, plan, stream, programmatic);
}

}  // namespace

// libcuda is not linked: the runtime knows where it is.
EncodeTiled encode_tiled() {
  static const EncodeTiled function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t status = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    return status == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(found)
                                                                          : nullptr;
  }();
  return function;
}

bool sm90_kernels() {
  return encode_tiled() != nullptr;
}

cudaError_t linear_prefill_sm90(const PrefillTask& task, const PrefillPlan& plan, cudaStream_t stream,
                                bool programmatic) {
  switch (plan.rows) {
    case 64:
      return start_rows<64>(task, plan, stream, programmatic);
    case 120:
      return start_rows<120>(task, plan, stream, programmatic);
    case 128:
      return start_rows<128>(task, plan, stream, programmatic);
  }
  return cudaErrorInvalidConfiguration;
}

}  // namespace millrace::cuda

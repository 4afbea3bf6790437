// linear_prefill on wgmma with weights of 16 bits.
#include "cuda/linear_prefill_codes_sm90.cuh"

namespace millrace::cuda {
namespace {

// float16 as it is, bfloat16 as float16 of `kStep` times the number.
template <WeightType TYPE>
struct FloatSource {
  static constexpr int kTileBytes = code_of(TYPE).tile_bytes();
  static constexpr int kBlockBytes = wgmma_block_bytes(TYPE, 0, false);
  static constexpr int kStages = wgmma_stages(TYPE, 0, false);
  static constexpr bool kRescales = false, kAnySlice = false;

  struct Feed {
    int slices_left;
    __device__ __forceinline__ void start(const PrefillTask& task) { slices_left = task.slices; }
    __device__ __forceinline__ int next(const PrefillTask&) {
      const int slices = min(kWgmmaSlices, slices_left);
      slices_left -= slices;
      return slices * kTileBytes;
    }
  };

  const int half, lane;
  int slices_left;
  uint32_t weights = 0;
  // The products take float16 from the registers that it was loaded to. A slice's are read until the one behind it has
  // been issued and waited for, so the next slice is loaded to others.
  uint4 words[2][2] = {};

  __device__ __forceinline__ FloatSource(const PrefillTask& task, int half, int lane)
      : half(half), lane(lane), slices_left(task.slices) {}
  __device__ __forceinline__ void stage(uint32_t from, int) { weights = from; }
  __device__ __forceinline__ bool slice(int k) {
    if (slices_left-- > 0) {
#pragma unroll
      for (int f = 0; f < 2; f++) {
        words[k % 2][f] = load_shared_16(weights + k * kTileBytes + ((2 * half + f) * 32 + lane) * 16);
      }
    }
    return false;
  }
  __device__ __forceinline__ void registers(int k, int f, uint32_t (&a)[4]) const {
    const uint4& from = words[k % 2][f];
    a[0] = from.x, a[1] = from.y, a[2] = from.z, a[3] = from.w;
    if constexpr (TYPE == WeightType::bf16) {
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const float2 two = {__uint_as_float(a[r] << 16) * kStep, __uint_as_float(a[r] & 0xffff0000) * kStep};
        a[r] = bits_of(__float22half2_rn(two));
      }
    }
  }
  __device__ __forceinline__ float unit(int, int) const {
    return TYPE == WeightType::bf16 ? 1 / kStep : 1.0f;
  }
};

}  // namespace

cudaError_t prefill_float_sm90(const PrefillTask& task, const MatrixCode& code, const PrefillPlan& plan,
                               cudaStream_t stream, bool programmatic) {
  switch (code.type) {
    case WeightType::f16:
      return start_prefill_rows<FloatSource<WeightType::f16>>(task, plan, stream, programmatic);
    case WeightType::bf16:
      return start_prefill_rows<FloatSource<WeightType::bf16>>(task, plan, stream, programmatic);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace millrace::cuda

#pragma once
// PTX that only sm_90a has: warpgroup matrix products, register reallocation; and the bulk copies and barriers that
// feed them. For files named *_sm90.cu.
#include <cuda.h>

#include "cuda/common.cuh"

namespace millrace::cuda {

// ---- Barriers in shared memory (mbarrier), by shared-memory address.
__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// After all barrier_init: makes them visible to the copy engine and to the cluster.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives, and makes the phase wait for `bytes` more of copies.
__device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra done;\n"
      "bra again;\n"
      "done:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// A barrier of the first so many threads of a block, by a number other than 0.
template <int kNumber, int kThreads>
__device__ __forceinline__ void barrier_of_threads() {
  asm volatile("bar.sync %0, %1;" ::"n"(kNumber), "n"(kThreads) : "memory");
}

// ---- Bulk copies from global to shared memory; their bytes count towards the barrier's phase. Addresses and sizes are
// multiples of 16 (the tensor's destination of 1024).
__device__ __forceinline__ void bulk_copy(uint32_t shared, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}
__device__ __forceinline__ void bulk_copy_tensor(uint32_t shared, const CUtensorMap* map, int column, int row,
                                                 uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// ---- Registers move from the warpgroups that copy to those that compute.
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- Warpgroup matrix products. wgmma_fence comes before the first product that follows ordinary writes to its
// registers; a product's registers are free once wgmma_wait has seen its group end.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// After ordinary writes to shared memory (of asynchronous copies too, once waited for), by each thread that wrote,
// before the barrier behind which products read them.
__device__ __forceinline__ void async_proxy_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// Keeps the compiler from moving uses of these registers across this point.
template <int N>
__device__ __forceinline__ void pin_registers(float (&r)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(r[i])::"memory");
}
__device__ __forceinline__ void pin_registers(uint32_t (&r)[4]) {
  asm volatile("" : "+r"(r[0]), "+r"(r[1]), "+r"(r[2]), "+r"(r[3])::"memory");
}

// A matrix of rows of 128 bytes in shared memory (16-bit elements, 64 along k), swizzled as the copy engine does with
// CU_TENSOR_MAP_SWIZZLE_128B; its address is a multiple of 1024, and k16 slice s begins 32 s bytes further.
__device__ __forceinline__ uint64_t swizzled_matrix(uint32_t shared) {
  constexpr uint64_t kEightRows = 1024;
  return (shared & 0x3ffff) >> 4 | uint64_t{1} << 16 | (kEightRows >> 4) << 32 | uint64_t{1} << 62;
}

// The tensor map of x [rows, k] of float16, `stride` elements from row to row, in boxes of 64 columns: zeros beyond.
using EncodeTiled = decltype(&cuTensorMapEncodeTiled);
EncodeTiled encode_tiled();  // null where the driver has none
inline cudaError_t encode_rows(CUtensorMap* map, const __half* x, int rows, int k, int stride, int box_rows) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(k), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride) * sizeof(__half)};
  const cuuint32_t box[2] = {64, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult status = encode_tiled()(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, const_cast<__half*>(x), sizes,
                                         strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                         CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// D += A B of a warpgroup: A 64 x 16, each warp's 16 rows as in mma.m16n8k16; B 16 x N in shared memory, k along its
// rows; D's columns 8 i .. 8 i + 7 in d[4 i .. 4 i + 3], as in mma.m16n8k16. Without ADD, D = A B. Asynchronous.
#define MILLRACE_REGS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
template <int N>
struct Wgmma;
template <>
struct Wgmma<32> {
  template <bool ADD = true>
  static __device__ __forceinline__ void run(float (&d)[16], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "{%16, %17, %18, %19}, %20, p, 1, 1, 0;\n}\n"
        : MILLRACE_REGS_4(d, 0), MILLRACE_REGS_4(d, 4), MILLRACE_REGS_4(d, 8), MILLRACE_REGS_4(d, 12)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ADD));
  }
};
template <>
struct Wgmma<64> {
  template <bool ADD = true>
  static __device__ __forceinline__ void run(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}\n"
        : MILLRACE_REGS_4(d, 0), MILLRACE_REGS_4(d, 4), MILLRACE_REGS_4(d, 8), MILLRACE_REGS_4(d, 12),
          MILLRACE_REGS_4(d, 16), MILLRACE_REGS_4(d, 20), MILLRACE_REGS_4(d, 24), MILLRACE_REGS_4(d, 28)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ADD));
  }
};
template <>
struct Wgmma<120> {
  template <bool ADD = true>
  static __device__ __forceinline__ void run(float (&d)[60], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %65, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n120k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59}, "
        "{%60, %61, %62, %63}, %64, p, 1, 1, 0;\n}\n"
        : MILLRACE_REGS_4(d, 0), MILLRACE_REGS_4(d, 4), MILLRACE_REGS_4(d, 8), MILLRACE_REGS_4(d, 12),
          MILLRACE_REGS_4(d, 16), MILLRACE_REGS_4(d, 20), MILLRACE_REGS_4(d, 24), MILLRACE_REGS_4(d, 28),
          MILLRACE_REGS_4(d, 32), MILLRACE_REGS_4(d, 36), MILLRACE_REGS_4(d, 40), MILLRACE_REGS_4(d, 44),
          MILLRACE_REGS_4(d, 48), MILLRACE_REGS_4(d, 52), MILLRACE_REGS_4(d, 56)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ADD));
  }
};
template <>
struct Wgmma<128> {
  template <bool ADD = true>
  static __device__ __forceinline__ void run(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}\n"
        : MILLRACE_REGS_4(d, 0), MILLRACE_REGS_4(d, 4), MILLRACE_REGS_4(d, 8), MILLRACE_REGS_4(d, 12),
          MILLRACE_REGS_4(d, 16), MILLRACE_REGS_4(d, 20), MILLRACE_REGS_4(d, 24), MILLRACE_REGS_4(d, 28),
          MILLRACE_REGS_4(d, 32), MILLRACE_REGS_4(d, 36), MILLRACE_REGS_4(d, 40), MILLRACE_REGS_4(d, 44),
          MILLRACE_REGS_4(d, 48), MILLRACE_REGS_4(d, 52), MILLRACE_REGS_4(d, 56), MILLRACE_REGS_4(d, 60)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ADD));
  }
};
#undef MILLRACE_REGS_4

}  // namespace millrace::cuda

#pragma once
// PTX of exact sums, beside common.cuh's.
#include <cuda_runtime.h>

#include <cstdint>

namespace millrace::cuda {

__device__ __forceinline__ void store_shared_4(uint32_t address, uint32_t v) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}

// ---- D += A B of bytes: A 16 x 32 or 16 x 16, B likewise x 8, int32 sums. SIGNED_A, SIGNED_B: or unsigned.

#if __CUDA_ARCH__ >= 800
template <bool SIGNED_A, bool SIGNED_B>
__device__ __forceinline__ void mma_bytes_k32(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                              uint32_t b0, uint32_t b1) {
  if constexpr (SIGNED_A && SIGNED_B) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else if constexpr (SIGNED_A && !SIGNED_B) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else if constexpr (!SIGNED_A && SIGNED_B) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else if constexpr (!SIGNED_A && !SIGNED_B) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}
template <bool SIGNED_A, bool SIGNED_B>
__device__ __forceinline__ void mma_bytes_k16(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
  if constexpr (SIGNED_A && SIGNED_B) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a0), "r"(a1), "r"(b0));
  } else if constexpr (SIGNED_A && !SIGNED_B) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a0), "r"(a1), "r"(b0));
  } else if constexpr (!SIGNED_A && SIGNED_B) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a0), "r"(a1), "r"(b0));
  } else if constexpr (!SIGNED_A && !SIGNED_B) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.u8.u8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a0), "r"(a1), "r"(b0));
  }
}
#else  // sm_75 has the form of eight features alone
template <bool SIGNED_A, bool SIGNED_B>
__device__ __forceinline__ void mma_bytes_half(int& d0, int& d1, uint32_t a, uint32_t b) {
  if constexpr (SIGNED_A && SIGNED_B) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};\n"
        : "+r"(d0), "+r"(d1)
        : "r"(a), "r"(b));
  } else if constexpr (SIGNED_A && !SIGNED_B) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.u8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};\n"
        : "+r"(d0), "+r"(d1)
        : "r"(a), "r"(b));
  } else if constexpr (!SIGNED_A && SIGNED_B) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};\n"
        : "+r"(d0), "+r"(d1)
        : "r"(a), "r"(b));
  } else if constexpr (!SIGNED_A && !SIGNED_B) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.u8.u8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};\n"
        : "+r"(d0), "+r"(d1)
        : "r"(a), "r"(b));
  }
}
template <bool SIGNED_A, bool SIGNED_B>
__device__ __forceinline__ void mma_bytes_k16(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
  mma_bytes_half<SIGNED_A, SIGNED_B>(d[0], d[1], a0, b0);
  mma_bytes_half<SIGNED_A, SIGNED_B>(d[2], d[3], a1, b0);
}
template <bool SIGNED_A, bool SIGNED_B>
__device__ __forceinline__ void mma_bytes_k32(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                              uint32_t b0, uint32_t b1) {
  mma_bytes_k16<SIGNED_A, SIGNED_B>(d, a0, a1, b0);
  mma_bytes_k16<SIGNED_A, SIGNED_B>(d, a2, a3, b1);
}
#endif

}  // namespace millrace::cuda

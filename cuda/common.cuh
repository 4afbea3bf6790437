#pragma once
// What every kernel uses: error codes to status, programmatic dependent launch, and the PTX that has no intrinsic.
// All PTX of the project is in this file and, for what only sm_90a has, in common_sm90.cuh.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/device.h"

namespace millrace::cuda {

// ---- Programmatic dependent launch (sm_90 and later; elsewhere launches are plainly ordered).
// wait_for_predecessor: everything the previous kernel of the stream wrote is visible after it. No load of anything
// that a predecessor writes may come before it. allow_successor: the next kernel may start its own prologue.
__device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void allow_successor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// D += A B: A 16 x 16 (row), B 16 x 8 (column), float16 in, float32 sums.
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                             uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else  // sm_75 has the k8 form only
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(b0));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a2), "r"(a3), "r"(b1));
#endif
}

// D = A B.
__device__ __forceinline__ void mma_m16n8k16_first(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                                   uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};\n"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(0.0f));
#else
  d[0] = d[1] = d[2] = d[3] = 0;
  mma_m16n8k16(d, a0, a1, a2, a3, b0, b1);
#endif
}

// 16 bytes that are read once: past L1, first to be evicted.
__device__ __forceinline__ uint4 load_once(const void* address) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

// The same where `valid`, else zero: without a branch, so that a run of them stays in flight together.
__device__ __forceinline__ uint4 load_once_if(const void* address, bool valid) {
  uint4 v;
  asm volatile(
      "{\n"
      " .reg .pred p;\n"
      " setp.ne.b32 p, %5, 0;\n"
      " mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; mov.b32 %3, 0;\n"
      " @p ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n"
      "}\n"
      : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)
      : "l"(address), "r"(static_cast<int>(valid))
      : "memory");
  return v;
}

// Starts bringing the 128-byte line of `address` into L2.
__device__ __forceinline__ void prefetch_l2(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// Four 8 x 8 matrices of 16-bit elements; lanes 8 i .. 8 i + 7 give the rows' addresses of matrix i. Each lane gets of
// row lane / 4 columns 2 (lane % 4) and the next; transposed: of column lane / 4 those rows.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared_row)))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared_row)))
               : "memory");
}

// 16 bytes from global to shared memory behind the threads' back, zeros unless `valid`. sm_75 copies at once.
__device__ __forceinline__ void copy_async(void* shared, const void* address, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(address), "r"(valid ? 16 : 0)
      : "memory");
#else
  *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(address) : uint4{};
#endif
}
// The same of 16 bytes of which all but the first `bytes` (an even number) become zeros.
__device__ __forceinline__ void copy_part_async(void* shared, const void* address, int bytes) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(address), "r"(bytes)
      : "memory");
#else
  if (bytes == 16) {
    *static_cast<uint4*>(shared) = *static_cast<const uint4*>(address);
  } else {
    for (int i = 0; i < 8; i++) {
      static_cast<uint16_t*>(shared)[i] = 2 * i < bytes ? static_cast<const uint16_t*>(address)[i] : 0;
    }
  }
#endif
}
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Until at most `kPending` of this thread's newest groups are under way.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// ---- Shared memory by its 32-bit addresses, for kernels whose rings would otherwise cost them 64-bit arithmetic.
__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
// The same value, which the compiler keeps rather than computes anew.
__device__ __forceinline__ uint32_t kept(uint32_t v) {
  asm volatile("" : "+r"(v));
  return v;
}
__device__ __forceinline__ uint4 load_shared_16(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address));
  return v;
}
__device__ __forceinline__ uint2 load_shared_8(uint32_t address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address));
  return v;
}
__device__ __forceinline__ uint32_t load_shared_4(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address));
  return v;
}
__device__ __forceinline__ uint16_t load_shared_2(uint32_t address) {
  uint16_t v;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(address));
  return v;
}
__device__ __forceinline__ uint32_t load_shared_1(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(address));
  return v;
}
__device__ __forceinline__ void store_shared_16(uint32_t address, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ __forceinline__ void store_shared_2(uint32_t address, uint16_t v) {
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(address), "h"(v) : "memory");
}
// 16 bytes of local memory, which the compiler may not keep in registers.
__device__ __forceinline__ void store_local_16(float4* to, float4 v) {
  asm volatile("st.local.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(static_cast<uint32_t>(__cvta_generic_to_local(to))),
               "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
               : "memory");
}
__device__ __forceinline__ float4 load_local_16(const float4* from) {
  float4 v;
  asm volatile("ld.local.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_local(from)))
               : "memory");
  return v;
}
// A barrier of THREADS threads, whole warps, of the thread block: number `set` of four. (With a number that the
// compiler does not know it reserves all sixteen.)
template <int THREADS>
__device__ __forceinline__ void sync_threads(int set) {
  if (set == 0) {
    asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory");
  } else if (set == 1) {
    asm volatile("bar.sync 2, %0;" ::"n"(THREADS) : "memory");
  } else if (set == 2) {
    asm volatile("bar.sync 3, %0;" ::"n"(THREADS) : "memory");
  } else {
    asm volatile("bar.sync 4, %0;" ::"n"(THREADS) : "memory");
  }
}
// load_matrices of a row's address.
__device__ __forceinline__ void load_matrices_at(uint32_t (&r)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row));
}
// (a & b) | c, which the compiler makes two instructions when b and c are constants.
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t v;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(v) : "r"(a), "r"(b), "r"(c));
  return v;
}
// 16 bytes to an address in shared memory behind the threads' back. sm_75 copies at once.
__device__ __forceinline__ void copy_async_at(uint32_t shared, const void* address) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(address) : "memory");
#else
  store_shared_16(shared, *static_cast<const uint4*>(address));
#endif
}
// copy_part_async to an address.
__device__ __forceinline__ void copy_part_async_at(uint32_t shared, const void* address, int bytes) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(address), "r"(bytes) : "memory");
#else
  uint4 v = {};
  if (bytes > 0) {
    v = *static_cast<const uint4*>(address);
    uint32_t* words = &v.x;
    for (int i = 0; i < 4; i++) words[i] = bytes >= 4 * i + 4 ? words[i] : bytes > 4 * i ? words[i] & 0xffff : 0;
  }
  store_shared_16(shared, v);
#endif
}

// Weights on their way to shared memory, counted by a barrier in shared memory. All lanes of a warp call these
// together: begin, copies, end; and, to read, wait. sm_90 and later: the bulk copy engine, started by lane 0; sm_80:
// asynchronous copies by all lanes; sm_75: plain copies. Addresses and sizes are multiples of 16. `parity` is that of
// the number of rounds (begin .. end) that the barrier has counted before the one waited for.
__device__ __forceinline__ void warp_copy_init(uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
#elif __CUDA_ARCH__ >= 800
  asm volatile("mbarrier.init.shared.b64 [%0], 32;" ::"r"(barrier) : "memory");
#endif
}
// After the last warp_copy_init, by the lane that called it.
__device__ __forceinline__ void warp_copy_init_fence() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
// Before reuse of shared memory that ordinary stores or loads touched, by each lane that did.
__device__ __forceinline__ void warp_copy_fence() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
__device__ __forceinline__ void warp_copy_begin(uint32_t barrier, uint32_t bytes, int lane) {
#if __CUDA_ARCH__ >= 900
  if (lane == 0) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
  }
#endif
}
__device__ __forceinline__ void warp_copy(uint32_t shared, const void* address, uint32_t bytes, uint32_t barrier,
                                          int lane) {
#if __CUDA_ARCH__ >= 900
  if (lane == 0) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
        "l"(address), "r"(bytes), "r"(barrier)
        : "memory");
  }
#else
  for (uint32_t at = 16 * lane; at < bytes; at += 512) {
    copy_part_async_at(shared + at, static_cast<const char*>(address) + at, 16);
  }
#endif
}
__device__ __forceinline__ void warp_copy_end(uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
#else
  __syncwarp();
#endif
}
// Begin, one copy (of no bytes: counted all the same) and end, by all lanes of a converged warp and without a branch.
__device__ __forceinline__ void warp_copy_all(uint32_t shared, const void* address, uint32_t bytes, uint32_t barrier,
                                              int lane) {
#if __CUDA_ARCH__ >= 900
  static_cast<void>(lane);
  asm volatile(
      "{\n"
      " .reg .pred one, some;\n"
      " elect.sync _|one, 0xffffffff;\n"
      " setp.ne.and.u32 some, %2, 0, one;\n"
      " @one mbarrier.arrive.expect_tx.shared::cta.b64 _, [%3], %2;\n"
      " @some cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n"
      "}\n" ::"r"(shared),
      "l"(address), "r"(bytes), "r"(barrier)
      : "memory");
#else
  warp_copy_begin(barrier, bytes, lane);
  warp_copy(shared, address, bytes, barrier, lane);
  warp_copy_end(barrier);
#endif
}
__device__ __forceinline__ void warp_copy_wait(uint32_t barrier, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      " .reg .pred p;\n"
      "again:\n"
      " mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      " @!p bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
#elif __CUDA_ARCH__ >= 800
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n"
        " .reg .pred p;\n"
        " mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
        " selp.b32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
#endif
}

// The same barriers for each lane's own copies: init, then a round's copies and end by all lanes, then wait.
__device__ __forceinline__ void lane_copies_init(uint32_t barrier) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mbarrier.init.shared.b64 [%0], 32;" ::"r"(barrier) : "memory");
#endif
}
__device__ __forceinline__ void lane_copies_end(uint32_t barrier) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}

// ---- Clusters (sm_90 and later): the rank of a thread block in its cluster, a barrier of all threads of the cluster
// in two steps (what was written before arrival is seen after the wait), and a store to another block's shared memory.
__device__ __forceinline__ uint32_t cluster_rank() {
#if __CUDA_ARCH__ >= 900
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return 0;
#endif
}
// Arrival that orders no memory: only says that the block runs (its barriers' init has its own fence).
__device__ __forceinline__ void cluster_arrive_relaxed() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
// Arrival that orders memory: what this thread wrote is seen by all that wait.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
// 16 bytes of the shared memory of block `rank`.
__device__ __forceinline__ uint4 load_cluster_16(uint32_t rank, uint32_t address) {
  uint4 v{};
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      " .reg .b32 remote;\n"
      " mapa.shared::cluster.u32 remote, %4, %5;\n"
      " ld.shared::cluster.v4.u32 {%0,%1,%2,%3}, [remote];\n"
      "}\n"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "r"(address), "r"(rank)
      : "memory");
#endif
  return v;
}
// 16 bytes to another block's shared memory, counted by the barrier there (warp_copy_begin and _wait with the sum of
// all).
__device__ __forceinline__ void store_cluster_counted_16(uint32_t rank, uint32_t address, uint32_t barrier, float4 v) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      " .reg .b32 remote, counter;\n"
      " mapa.shared::cluster.u32 remote, %0, %2;\n"
      " mapa.shared::cluster.u32 counter, %1, %2;\n"
      " st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [remote], {%3,%4,%5,%6}, [counter];\n"
      "}\n" ::"r"(address),
      "r"(barrier), "r"(rank), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
      : "memory");
#endif
}
// The same of 8 bytes.
__device__ __forceinline__ void store_cluster_counted_8(uint32_t rank, uint32_t address, uint32_t barrier, float2 v) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      " .reg .b32 remote, counter;\n"
      " mapa.shared::cluster.u32 remote, %0, %2;\n"
      " mapa.shared::cluster.u32 counter, %1, %2;\n"
      " st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [remote], {%3,%4}, [counter];\n"
      "}\n" ::"r"(address),
      "r"(barrier), "r"(rank), "f"(v.x), "f"(v.y)
      : "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The same product as mma_m16n8k16 of bfloat16. sm_75 has none: there by shuffles, slow and right.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                                  uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const uint32_t a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
  for (int pair = 0; pair < 2; pair++) {
    for (int from = 0; from < 4; from++) {
      const uint32_t low = __shfl_sync(0xffffffff, a[2 * pair], 4 * g + from);
      const uint32_t high = __shfl_sync(0xffffffff, a[2 * pair + 1], 4 * g + from);
      for (int column = 0; column < 2; column++) {
        const uint32_t x = __shfl_sync(0xffffffff, b[pair], 4 * (2 * t + column) + from);
        for (int half = 0; half < 2; half++) {
          const auto value = [&](uint32_t v) { return __uint_as_float(half ? v & 0xffff0000u : v << 16); };
          d[column] = fmaf(value(low), value(x), d[column]);
          d[2 + column] = fmaf(value(high), value(x), d[2 + column]);
        }
      }
    }
  }
#endif
}

// 2^x, relative error below 2^-22; 0 for -infinity.
__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A kernel launch by a plan. `programmatic`: it may begin before its predecessor has ended, where the code that runs
// can wait for it.
//
// LaunchShape::packed: thread blocks of a cluster may share an SM, where each would have one of its own otherwise; then
// as many clusters run at once as there is room for thread blocks (of 64 clusters of four, two thread blocks an SM, an
// H100 runs 62 otherwise, and two have to wait for their end).
template <typename... Parameters, typename... Arguments>
cudaError_t launch_planned(const LaunchShape& shape, void (*kernel)(Parameters...), cudaStream_t stream,
                           bool programmatic, Arguments... arguments) {
  const DeviceFacts* facts = nullptr;
  if (const cudaError_t status = device_facts(&facts); status != cudaSuccess) return status;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.grid[0]), static_cast<unsigned>(shape.grid[1]),
                        static_cast<unsigned>(shape.grid[2]));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.dynamic_bytes);
  config.stream = stream;
  cudaLaunchAttribute attributes[3]{};
  unsigned count = 0;
  if (programmatic && facts->programmatic()) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
  }
  if (shape.packed) {
    attributes[count].id = cudaLaunchAttributeClusterSchedulingPolicyPreference;
    attributes[count++].val.clusterSchedulingPolicyPreference = cudaClusterSchedulingPolicyLoadBalancing;
  }
  config.attrs = attributes;
  config.numAttrs = count;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   bool programmatic, Arguments... arguments) {
  LaunchShape shape;
  shape.grid[0] = static_cast<int>(grid.x);
  shape.grid[1] = static_cast<int>(grid.y);
  shape.grid[2] = static_cast<int>(grid.z);
  shape.threads = static_cast<int>(block.x);
  shape.dynamic_bytes = static_cast<int>(shared_bytes);
  return launch_planned(shape, kernel, stream, programmatic, arguments...);
}

}  // namespace millrace::cuda

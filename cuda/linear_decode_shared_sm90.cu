// linear_decode for 9 to 32 rows: warps that work on the same chunk of k share its x, which the tensor copy engine
// brings once for all of them, and each weight is made float16 once.
//
// The same sums as in linear_decode.cuh, to the bit (tests compare them): the warp w of thread block `rank` there is
// the turn v = 8 rank + w here.
//
//   a thread block   one or two row blocks, and one of `parts` runs of turns; up to 32 rows
//   a team           the warps that do the same turn at the same time: one a row block or two, each with half of its
//                    features; a block has 4 teams or 2, which do turns first, first + 1, ...
//   a cluster        the parts; each adds up its share of the outputs, part after part
//
// A team has a ring of stages: its chunks of weights and one of x, one barrier a stage. Its warps meet after each round
// and copy what comes next, each a part.
//
// Budget of an 8B layer on an H100, 16 / 32 rows (26,600 chunks of 4.2 KB; its bytes take 38 us from HBM): from the L2
// 112 MB of weights and some 75 / 145 of x; 560 / 840 instructions a chunk, 15 / 23 us if all schedulers issued one a
// cycle, of which 64 / 128 products; 50 / 34 KB of weights on their way a thread block, of which two fit an SM: the
// second, or the next launch's first, covers the ends. Without x no faster; without products 49 / 64 us of 58 / 95
// (measured with two row blocks everywhere): instructions are what bounds it where one SM has two thread blocks and
// another none.
#include "cuda/common_sm90.cuh"
#include "cuda/linear_decode_shared.cuh"

namespace millrace::cuda {
namespace {

constexpr int kMostParts = kWideParts;

// BLOCKS: row blocks of a thread block; HALVES: warps of a row block's chunk.
template <class Code, int ROWS, int BLOCKS, int HALVES>
struct Shape {
  static constexpr SharedShape kShape{Code::kStageBytes, ROWS, BLOCKS, HALVES};
  static constexpr int kTiles = kShape.tiles();
  static constexpr int kHalves = HALVES;
  static constexpr int kWords = kShape.words();
  static constexpr int kTeamWarps = kShape.team_warps();
  static constexpr int kTeams = kShape.teams();
  static constexpr int kPanels = kShape.panels();
  static constexpr int kPanelBytes = kShape.panel_bytes();
  static constexpr int kXBytes = kShape.x_bytes();
  static constexpr int kWeightStage = kShape.weight_stage();
  static constexpr int kStageBytes = kShape.stage_bytes();
  static constexpr int kSumBytes = kShape.sum_bytes();
  static constexpr int kOutputBytes = kShape.output_bytes();
  static constexpr int kOutputs = kOutputBytes / 16 / kDecodeThreads;  // how often each thread has 16 bytes of them
  static constexpr bool kParks = ROWS > 16;                            // sums between turns, in local memory
  static_assert(Code::kSlices * kTileK / 64 == kPanels);
  static_assert(kTeams <= 4 && kOutputs >= 1 && kPanels % BLOCKS == 0);
  static_assert(kSumBytes <= kWeightStage && (kHalves == 1 || BLOCKS * kSumBytes <= kXBytes));
};

template <int ROWS, int HALVES>
using SharedSums = float[ROWS / 8][4 / HALVES][4];

// Adds the products of a chunk and words first_word .. + kWords - 1, scaled. x: the stage's first panel; x_even: this
// lane's place in a swizzled panel, of an even pair of slices.
template <int GROUP_SLICES, bool ZEROS, int ROWS, int BLOCKS, int HALVES, bool FULL>
__device__ __forceinline__ void multiply(bool bfloat16_scales, uint32_t stage, uint32_t x, uint32_t x_even, int n,
                                         int lane, int first_word, SharedSums<ROWS, HALVES>& sums) {
  using Code = Q4Code<GROUP_SLICES, ZEROS>;
  using S = Shape<Code, ROWS, BLOCKS, HALVES>;
  constexpr int kGroup = Code::kGroup, kTiles = S::kTiles, kWords = S::kWords;
  static_assert(kGroup % 2 == 0);
  const uint32_t exponent = kept(0x64006400);
#pragma unroll 1  // registers for one group's products only
  for (int first = 0; first < Code::kSlices; first += kGroup) {
    if (!FULL && first >= n) break;
    const uint32_t header = stage + first / kGroup * Code::kGroupBytes;
    const uint32_t own = header + Code::kHeaderBytes + lane * 16 + first_word * 4;
    uint32_t scale_bits[2][kWords / 2];  // the lane's: [half][two words]
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint32_t at = header + lane / 4 * 16 + half * 8 + first_word * 2;
      if constexpr (kWords == 4) {
        const uint2 v = load_shared_8(at);
        scale_bits[half][0] = v.x, scale_bits[half][1] = v.y;
      } else {
        scale_bits[half][0] = load_shared_4(at);
      }
    }
    ZeroShift shifts[kWords];
    uint2 zeros;
    if constexpr (ZEROS) zeros = load_shared_8(header + 128 + lane / 4 * 8);
#pragma unroll
    for (int j = 0; j < kWords; j++) {
      if constexpr (ZEROS) {
        const int shift = 8 * (first_word + j);
        shifts[j] = nibble_shift((zeros.x >> shift) & 0xff, (zeros.y >> shift) & 0xff);
      } else {
        shifts[j] = nibble_shift(8, 8);
      }
    }
    float d[kTiles][kWords][4];
#pragma unroll
    for (int begin = 0; begin < kGroup; begin += 2) {
      uint32_t words[2][kWords], b[kTiles][4];
      const int pair = kGroup == 2 ? first / 2 : begin / 2;  // of a panel's, or of two panels'
      const uint32_t panels = x + (kGroup == 4 ? first / 4 * S::kPanelBytes : 0);
#pragma unroll
      for (int i = 0; i < kTiles; i++) {
        load_matrices_at(b[i], panels + pair / 2 * S::kPanelBytes + (x_even ^ pair % 2 * 64) + i * 1024);
      }
#pragma unroll
      for (int s = begin; s < begin + 2; s++) {
        const uint32_t at = own + s * static_cast<int>(kQ4TileBytes);
        if constexpr (kWords == 4) {
          const uint4 v = load_shared_16(at);
          words[s - begin][0] = v.x, words[s - begin][1] = v.y, words[s - begin][2] = v.z, words[s - begin][3] = v.w;
        } else {
          const uint2 v = load_shared_8(at);
          words[s - begin][0] = v.x, words[s - begin][1] = v.y;
        }
      }
#pragma unroll
      for (int s = begin; s < begin + 2; s++) {
        if (!FULL && first + s >= n) break;
        const int h = s % 2 * 2;
#pragma unroll
        for (int j = 0; j < kWords; j++) {
          uint32_t a[4];
          nibble_registers(words[s - begin][j], exponent, shifts[j], a);
#pragma unroll
          for (int i = 0; i < kTiles; i++) {
            if (s == 0) {
              mma_m16n8k16_first(d[i][j], a[0], a[1], a[2], a[3], b[i][h], b[i][h + 1]);
            } else {
              mma_m16n8k16(d[i][j], a[0], a[1], a[2], a[3], b[i][h], b[i][h + 1]);
            }
          }
        }
      }
    }
    float scales[2][kWords];
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int p = 0; p < kWords / 2; p++) {
        const uint32_t bits = scale_bits[half][p];
        if (bfloat16_scales) {
          scales[half][2 * p] = __uint_as_float(bits << 16);
          scales[half][2 * p + 1] = __uint_as_float(bits & 0xffff0000);
        } else {
          const float2 v = __half22float2(*reinterpret_cast<const __half2*>(&bits));
          scales[half][2 * p] = v.x;
          scales[half][2 * p + 1] = v.y;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kWords; j++) {
#pragma unroll
      for (int i = 0; i < kTiles; i++) {
#pragma unroll
        for (int c = 0; c < 4; c++) sums[i][j][c] = fmaf(scales[c / 2][j], d[i][j][c], sums[i][j][c]);
      }
    }
  }
}

template <int GROUP_SLICES, bool ZEROS, int ROWS, int BLOCKS, int HALVES>
__global__ void __launch_bounds__(kDecodeThreads, kSharedResidents)
    linear_decode_shared_kernel(const __grid_constant__ DecodeTask task, const __grid_constant__ CUtensorMap x_map,
                                const int parts) {
  using Code = Q4Code<GROUP_SLICES, ZEROS>;
  using S = Shape<Code, ROWS, BLOCKS, HALVES>;
  constexpr int kTiles = S::kTiles, kWords = S::kWords, kTeams = S::kTeams;
  extern __shared__ uint8_t shared[];

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int team = warp / S::kTeamWarps, own_block = warp / S::kHalves % BLOCKS, half = warp % S::kHalves;
  const int parts_log2 = parts / 2;  // of 1, 2, 4
  const int part = parts > 1 ? static_cast<int>(cluster_rank()) : 0;
  const int stripe = static_cast<int>(blockIdx.x) >> parts_log2;
  int first_group = stripe, end_group = stripe + 1;  // of row blocks
  if (parts == 1) {
    const int groups = (task.n_blocks + BLOCKS - 1) / BLOCKS;
    first_group = stripe * groups / task.stripes;
    end_group = (stripe + 1) * groups / task.stripes;
  }

  // Shared memory: teams' rings of x, then of weights, other parts' sums, barriers.
  const int stages = task.stages;
  const uint32_t base = kept((shared_address(shared) + 1023) / 1024 * 1024);
  const auto x_stage = [&](int t, int slot) { return base + (t * stages + slot) * S::kXBytes; };
  const uint32_t weights_base = base + kTeams * stages * S::kXBytes;
  const auto weight_stage = [&](int t, int slot, int block) {
    return weights_base + ((t * stages + slot) * BLOCKS + block) * S::kWeightStage;
  };
  const uint32_t others = base + stages * S::kStageBytes;
  const uint32_t others_barrier = others + ((parts - 1) * S::kOutputBytes >> parts_log2);
  const uint32_t full = kept(others_barrier + 8 + team * stages * 8);

  if (thread % (32 * S::kTeamWarps) == 0) {
    prefetch_tensor_map(&x_map);
    for (int i = 0; i < stages; i++) barrier_init(full + 8 * i, BLOCKS + S::kPanels);
    if (thread == 0) barrier_init(others_barrier, 1);
    barrier_init_fence();
  }
  sync_threads<32 * S::kTeamWarps>(team);
  if (!task.early) wait_for_predecessor();

  // A team's turns, each of `rounds` chunks, `step` from one to the next; then the next group.
  const int first_turn = part * task.sum_warps + team, end_turn = (part + 1) * task.sum_warps;
  // Its copies: a row block's first warp brings the weights, its last one or both of the two panels of x. Rounds
  // without a chunk count, too.
  const bool copies_weights = half == 0, copies_x = half == S::kHalves - 1;
  int group_ahead = first_group, turn_ahead = first_turn, chunk_ahead = first_turn;
  const std::byte* ahead =
      task.units[task.unit] + task.matrix_offset +
      static_cast<uint64_t>(static_cast<unsigned>(first_group * BLOCKS + own_block)) * task.row_block_bytes;
  const auto fetch_weights = [&](int slot) {
    if (group_ahead * BLOCKS + own_block < task.n_blocks && chunk_ahead < task.chunks) {
      Code::fetch(task, ahead, chunk_ahead, weight_stage(team, slot, own_block), full + 8 * slot, 0);
    } else {
      barrier_arrive(full + 8 * slot);
    }
  };
  constexpr int kOwnPanels = S::kPanels / BLOCKS;
  const auto fetch_x = [&](int slot) {
    if (chunk_ahead < task.chunks) {
      const int k = Code::first_slice(task, chunk_ahead) * kTileK;
#pragma unroll
      for (int i = 0; i < kOwnPanels; i++) {
        const int panel = own_block * kOwnPanels + i;
        barrier_arrive_expect(full + 8 * slot, S::kPanelBytes);
        bulk_copy_tensor(x_stage(team, slot) + panel * S::kPanelBytes, &x_map, k + panel * 64, 0, full + 8 * slot);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kOwnPanels; i++) barrier_arrive(full + 8 * slot);
    }
  };
  const auto advance = [&] {
    chunk_ahead += task.step;
    if (chunk_ahead < turn_ahead + task.rounds * task.step) return;
    turn_ahead += kTeams;
    if (turn_ahead >= end_turn) {
      turn_ahead = first_turn;
      group_ahead++;
      ahead += BLOCKS * task.row_block_bytes;
    }
    chunk_ahead = turn_ahead;
  };
  if (lane == 0) {
#pragma unroll 1
    for (int i = 0; i < stages && group_ahead < end_group; i++) {
      if (copies_weights) fetch_weights(i);
      advance();
    }
  }
  __syncthreads();
  allow_successor();
  if (parts > 1) {  // all sums of the other parts complete one round of this barrier
    if (thread == 0) barrier_arrive_expect(others_barrier, ((parts - 1) * S::kOutputBytes >> parts_log2));
    __syncwarp();
    cluster_arrive_relaxed();
  }
  if (task.early) wait_for_predecessor();
  if (lane == 0 && copies_x) {
    group_ahead = first_group, turn_ahead = chunk_ahead = first_turn;
#pragma unroll 1
    for (int i = 0; i < stages && group_ahead < end_group; i++) {
      fetch_x(i);
      advance();
    }
  }

  // Where this lane's addresses of B fragments begin in a panel of x.
  const uint32_t x_even = lane % 8 * 128 + (lane / 8 ^ lane % 8) * 16;
  // Sums of a warp q of a team: [tile][word][lane] of 16 bytes, in a stage that the team has left. Of all 16 bytes of
  // a team's warps a thread adds up, after each turn, the teams' number output(i).
  const auto sums_at = [&](int t, int slot, int q) {
    if constexpr (S::kHalves == 1) return weight_stage(t, slot, q);
    return q % 2 == 0 ? x_stage(t, slot) + q / 2 * S::kSumBytes : weight_stage(t, slot, q / 2);
  };
  constexpr int kWarpOutputs = S::kSumBytes / 16, kAllOutputs = S::kOutputs * kDecodeThreads;
  const auto output_at = [&](int t, int slot, int output) {
    return sums_at(t, slot, output / kWarpOutputs) + output % kWarpOutputs * 16;
  };
  // They are features f and f + 8 of rows r and r + 1; which part of a cluster completes and stores them.
  const auto out_row = [&](int output) { return output % kWarpOutputs / 32 / kWords * 8 + output % 4 * 2; };
  const auto out_feature = [&](int group, int output) {
    const int q = output / kWarpOutputs, j = q % S::kHalves * kWords + output / 32 % kWords;
    return (group * BLOCKS + q / S::kHalves) * kTileN + 16 * j + output % 32 / 4;
  };
  const int share = kAllOutputs >> parts_log2;
  const auto owner = [&](int output) { return output * parts / kAllOutputs; };

  int slot = 0;
  uint32_t parity = 0;
#pragma unroll 1
  for (int group = first_group; group < end_group; group++) {
    const bool has_block = group * BLOCKS + own_block < task.n_blocks;
    float total[S::kOutputs][4] = {};
    // Between turns they leave the registers to the products: the compiler would have others go, in the inner loop.
    float4 parked[S::kOutputs];
#pragma unroll 1
    for (int turn = first_turn; turn < end_turn; turn += kTeams) {
      SharedSums<ROWS, HALVES> sums = {};
#pragma unroll 1
      for (int chunk = turn, left = task.rounds; left > 0; left--, chunk += task.step) {
        barrier_wait(full + 8 * slot, parity);
        if (has_block && chunk < task.chunks) {
          const uint32_t stage = weight_stage(team, slot, own_block), x = x_stage(team, slot);
          const int n = Code::count(task, chunk), word = half * kWords;
          if (n == Code::kSlices) {
            multiply<GROUP_SLICES, ZEROS, ROWS, BLOCKS, HALVES, true>(task.bfloat16_scales, stage, x, x_even, n, lane,
                                                                      word, sums);
          } else {
            multiply<GROUP_SLICES, ZEROS, ROWS, BLOCKS, HALVES, false>(task.bfloat16_scales, stage, x, x_even, n, lane,
                                                                       word, sums);
          }
        }
        if (left == 1) {
          if constexpr (S::kHalves > 1) {
            __syncthreads();
          } else {
            __syncwarp();
          }
          const uint32_t to = sums_at(team, slot, own_block * S::kHalves + half) + lane * 16;
#pragma unroll
          for (int i = 0; i < kTiles; i++) {
#pragma unroll
            for (int j = 0; j < kWords; j++) {
              const float(&d)[4] = sums[i][j];
              store_shared_16(to + (i * kWords + j) * 512, {__float_as_uint(d[0]), __float_as_uint(d[1]),
                                                            __float_as_uint(d[2]), __float_as_uint(d[3])});
            }
          }
          __syncthreads();
          const int first = static_cast<int>(kept(threadIdx.x));  // else what follows from it takes registers above
#pragma unroll
          for (int q = 0; q < S::kOutputs; q++) {
            if constexpr (S::kParks) {
#pragma unroll
              for (int c = 0; c < 4; c++) total[q][c] = 0;
              if (turn > first_turn) {
                const float4 v = load_local_16(parked + q);
                total[q][0] = v.x, total[q][1] = v.y, total[q][2] = v.z, total[q][3] = v.w;
              }
            }
#pragma unroll
            for (int t = 0; t < kTeams; t++) {
              const uint4 v = load_shared_16(output_at(t, slot, first + q * kDecodeThreads));
              total[q][0] += __uint_as_float(v.x);
              total[q][1] += __uint_as_float(v.y);
              total[q][2] += __uint_as_float(v.z);
              total[q][3] += __uint_as_float(v.w);
            }
            if constexpr (S::kParks) {
              store_local_16(parked + q, {total[q][0], total[q][1], total[q][2], total[q][3]});
            }
          }
          warp_copy_fence();
          __syncthreads();
        } else {
          sync_threads<32 * S::kTeamWarps>(team);  // its stage is free
        }
        if (lane == 0 && group_ahead < end_group) {
          if (copies_weights) fetch_weights(slot);
          if (copies_x) fetch_x(slot);
          advance();
        }
        if (++slot == stages) {
          slot = 0;
          parity ^= 1;
        }
      }
    }

    const int first = static_cast<int>(kept(threadIdx.x));
    const auto output = [&](int q) { return first + q * kDecodeThreads; };
    if constexpr (S::kParks) {
#pragma unroll
      for (int q = 0; q < S::kOutputs; q++) {
        const float4 v = load_local_16(parked + q);
        total[q][0] = v.x, total[q][1] = v.y, total[q][2] = v.z, total[q][3] = v.w;
      }
    }
    float addend[S::kOutputs][4] = {};
    if (task.epilogue == LinearEpilogue::add) {
#pragma unroll
      for (int q = 0; q < S::kOutputs; q++) {
        const int feature = out_feature(group, output(q)), row = out_row(output(q));
        const float* y = task.y + static_cast<size_t>(row) * task.y_stride + feature;
#pragma unroll
        for (int c = 0; c < 4; c++) {
          if (owner(output(q)) == part && row + c % 2 < task.rows && feature + c / 2 * 8 < task.n) {
            addend[q][c] = __ldcg(y + static_cast<size_t>(c % 2) * task.y_stride + c / 2 * 8);
          }
        }
      }
    }
    if (parts > 1) {
      cluster_wait();  // all of the cluster run, so that their shared memory may be written
#pragma unroll
      for (int q = 0; q < S::kOutputs; q++) {
        const int to = owner(output(q));
        if (to == part) continue;
        const int from = part < to ? part : part - 1;
        store_cluster_counted_16(to, others + (from * share + (output(q) & (share - 1))) * 16, others_barrier,
                                 {total[q][0], total[q][1], total[q][2], total[q][3]});
      }
      barrier_wait(others_barrier, 0);
      const int parts_of_rank = task.splits > 1 ? parts / 2 : parts;
#pragma unroll
      for (int q = 0; q < S::kOutputs; q++) {
        if (owner(output(q)) != part) continue;
        const uint32_t from = others + (output(q) & (share - 1)) * 16;
        float v[4] = {}, of_rank[4] = {};
#pragma unroll
        for (int p = 0; p < kMostParts; p++) {
          if (p >= parts) break;
          float sum[4] = {total[q][0], total[q][1], total[q][2], total[q][3]};
          if (p != part) {
            const uint4 s = load_shared_16(from + (p < part ? p : p - 1) * share * 16);
            sum[0] = __uint_as_float(s.x);
            sum[1] = __uint_as_float(s.y);
            sum[2] = __uint_as_float(s.z);
            sum[3] = __uint_as_float(s.w);
          }
          const bool rank_ends = ((p + 1) & (parts_of_rank - 1)) == 0;
#pragma unroll
          for (int c = 0; c < 4; c++) {
            of_rank[c] += sum[c];
            if (!rank_ends) continue;
            v[c] += of_rank[c];
            of_rank[c] = 0;
          }
        }
#pragma unroll
        for (int c = 0; c < 4; c++) total[q][c] = v[c];
      }
    }
#pragma unroll
    for (int q = 0; q < S::kOutputs; q++) {
      const int feature = out_feature(group, output(q)), row = out_row(output(q));
      if (owner(output(q)) != part || feature >= task.n_blocks * kTileN) continue;
      if (task.epilogue == LinearEpilogue::silu_mul) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
          if (row + c < task.rows) {
            put_act(task, row + c, feature / 16 * 8 + lane / 4, total[q][c], total[q][2 + c]);
          }
        }
      } else {
        float* y = task.y + static_cast<size_t>(row) * task.y_stride + feature;
#pragma unroll
        for (int c = 0; c < 4; c++) {
          if (row + c % 2 < task.rows && feature + c / 2 * 8 < task.n) {
            y[static_cast<size_t>(c % 2) * task.y_stride + c / 2 * 8] = addend[q][c] + total[q][c];
          }
        }
      }
    }
  }
}

template <int GROUP_SLICES, bool ZEROS, int ROWS, int BLOCKS, int HALVES>
struct Launcher {
  static cudaError_t prepare() {
    auto* kernel = linear_decode_shared_kernel<GROUP_SLICES, ZEROS, ROWS, BLOCKS, HALVES>;
    return allow_shared_memory(reinterpret_cast<const void*>(kernel), 0, true);
  }
  static cudaError_t launch(const DecodeTask& task, const DecodePlan& plan, cudaStream_t stream, bool programmatic) {
    CUtensorMap x_map;
    if (const cudaError_t status = encode_rows(&x_map, task.x, task.rows, task.k, task.x_stride, ROWS);
        status != cudaSuccess) {
      return status;
    }
    return launch_planned(plan.launch, linear_decode_shared_kernel<GROUP_SLICES, ZEROS, ROWS, BLOCKS, HALVES>, stream,
                          programmatic, task, x_map, plan.parts);
  }
};

template <int GROUP_SLICES, bool ZEROS, int ROWS>
cudaError_t launch_blocks(const DecodeTask& task, const DecodePlan& plan, cudaStream_t stream, bool programmatic) {
  if (plan.blocks == 1) return Launcher<GROUP_SLICES, ZEROS, ROWS, 1, 2>::launch(task, plan, stream, programmatic);
  if constexpr (ROWS <= 16) {
    if (plan.halves == 1) return Launcher<GROUP_SLICES, ZEROS, ROWS, 2, 1>::launch(task, plan, stream, programmatic);
  }
  return Launcher<GROUP_SLICES, ZEROS, ROWS, 2, 2>::launch(task, plan, stream, programmatic);
}

template <int GROUP_SLICES, bool ZEROS>
cudaError_t launch_rows(const DecodeTask& task, const DecodePlan& plan, cudaStream_t stream, bool programmatic) {
  return plan.tile_rows == 16 ? launch_blocks<GROUP_SLICES, ZEROS, 16>(task, plan, stream, programmatic)
                              : launch_blocks<GROUP_SLICES, ZEROS, 32>(task, plan, stream, programmatic);
}

template <bool ZEROS>
cudaError_t launch_group(const DecodeTask& task, const DecodePlan& plan, cudaStream_t stream, bool programmatic) {
  switch (task.group_slices) {
    case 2:
      return launch_rows<2, ZEROS>(task, plan, stream, programmatic);
    case 4:
      return launch_rows<4, ZEROS>(task, plan, stream, programmatic);
    case 8:
      return launch_rows<8, ZEROS>(task, plan, stream, programmatic);
    default:
      return launch_rows<0, ZEROS>(task, plan, stream, programmatic);
  }
}

template <int GROUP_SLICES, bool ZEROS>
cudaError_t prepare_rows() {
  for (cudaError_t (*prepare)() :
       {Launcher<GROUP_SLICES, ZEROS, 16, 1, 2>::prepare, Launcher<GROUP_SLICES, ZEROS, 16, 2, 1>::prepare,
        Launcher<GROUP_SLICES, ZEROS, 16, 2, 2>::prepare, Launcher<GROUP_SLICES, ZEROS, 32, 1, 2>::prepare,
        Launcher<GROUP_SLICES, ZEROS, 32, 2, 2>::prepare}) {
    if (const cudaError_t status = prepare(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t launch_decode_shared(const DecodeTask& task, bool zeros, const DecodePlan& plan, cudaStream_t stream,
                                 bool programmatic) {
  return zeros ? launch_group<true>(task, plan, stream, programmatic)
               : launch_group<false>(task, plan, stream, programmatic);
}

cudaError_t prepare_decode_shared() {
  for (cudaError_t (*prepare)() :
       {prepare_rows<2, false>, prepare_rows<4, false>, prepare_rows<8, false>, prepare_rows<0, false>,
        prepare_rows<2, true>, prepare_rows<4, true>, prepare_rows<8, true>, prepare_rows<0, true>}) {
    if (const cudaError_t status = prepare(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace millrace::cuda

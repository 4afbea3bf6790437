// Plans of launches, over the GPUs that there are: every problem has one, within the shared memory of a thread block
// and covering each row once; a row's order of sums is that of its matrix alone; on an H100 the launches are those that
// were measured and whose bits are promised (golden_sm90.txt).
#include <fstream>
#include <iterator>
#include <set>

#include "check.h"
#include "cuda/plan/attention.h"
#include "cuda/plan/cases.h"
#include "cuda/plan/decode.h"
#include "cuda/plan/prefill.h"
#include "cuda/plan/refusal.h"
#include "model/slab_layout.h"

using namespace millrace;
using namespace millrace::cuda;
namespace cases = millrace::plan_cases;

namespace {

constexpr DeviceFacts kH100{.capability = 90, .sms = 132, .sm_bytes = 233472, .block_bytes = 232448, .sm90 = true};

// All of them, also those that no GPU has: a T4's memory with a B200's code, and so on; with many SMs and with few.
std::vector<DeviceFacts> devices() {
  std::vector<DeviceFacts> all;
  for (const int block_bytes : {65536, 101376, 166912, 232448}) {
    for (const int capability : {75, 80, 86, 89, 90, 100, 120}) {
      for (const int sms : {20, 132}) {
        const int reserved = capability >= 80 ? kReservedBytes : 0;
        all.push_back({capability, sms, block_bytes + reserved, block_bytes, capability == 90});
        if (capability == 90) all.push_back({capability, sms, block_bytes + reserved, block_bytes, false});
      }
    }
  }
  return all;
}

void check_fits(const LaunchShape& launch, const DeviceFacts& device) {
  CHECK(launch.dynamic_bytes >= 0 && launch.static_bytes + launch.dynamic_bytes <= device.block_bytes);
  for (const int size : launch.grid) CHECK(size > 0);
  CHECK(launch.grid[1] <= 65535 && launch.grid[2] <= 65535);
  CHECK(launch.threads > 0 && launch.threads % 32 == 0 && launch.threads <= 1024);
  CHECK(launch.cluster == 1 || (device.clusters() && launch.cluster <= 8));
  CHECK_EQ(launch.grid[0] % launch.cluster, 0);
}

int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

}  // namespace

TEST(decode_has_a_plan_for_every_gpu_matrix_and_number_of_rows) {
  for (const DeviceFacts& device : devices()) {
    for (const cases::Matrix& matrix : cases::kMatrices) {
      for (const MatrixCode& code : cases::codes()) {
        const MatrixLayout m = cases::layout(matrix, code);
        std::set<std::vector<int>> orders;
        for (int rows = 1; rows <= kDecodeRows; rows++) {
          for (const bool norms : {false, true}) {
            if (norms && !decode_norms(m, rows)) continue;
            const auto plan = plan_decode(device, m, rows, norms);
            REQUIRE(plan.has_value());
            check_fits(plan->launch, device);
            orders.insert({plan->chunks, plan->rounds, plan->splits, plan->step, plan->parts, plan->sum_warps});
            // Tiles cover the rows, each of them has some; no tile is larger than its kernel's.
            CHECK(plan->tiles * plan->tile_rows >= rows && (plan->tiles - 1) * plan->tile_rows < rows);
            CHECK(plan->stages >= 1);
            CHECK_EQ(plan->step, kDecodeWarps * plan->splits);
            CHECK(plan->rounds * plan->step >= plan->chunks && (plan->rounds - 1) * plan->step < plan->chunks);
            CHECK_EQ(plan->parts * plan->sum_warps, plan->step);
            switch (plan->kernel) {
              case DecodeKernel::portable:
                CHECK(plan->tile_rows == 8 || plan->tile_rows == 16 || plan->tile_rows == 32);
                CHECK_EQ(plan->x_rows, std::min(rows, plan->tile_rows));
                CHECK(norms ? plan->x_stages == 0 && plan->tile_rows == 8 : plan->x_stages >= 1);
                CHECK(plan->stripes >= 1 && plan->stripes <= m.n_blocks());
                CHECK(plan->splits == 1 || plan->stripes == m.n_blocks());
                CHECK_EQ(plan->launch.grid[0], plan->stripes * plan->tiles * plan->splits);
                break;
              case DecodeKernel::shared:
                CHECK(device.sm90 && plan->tiles == 1 && code.type == WeightType::q4 && !code.permuted);
                CHECK_EQ(plan->launch.grid[0], plan->stripes * plan->parts);
                CHECK(plan->stripes <= ceil_div(m.n_blocks(), plan->blocks));
                break;
              case DecodeKernel::wide:
                CHECK(device.sm90 && plan->stages >= 2 && code.type == WeightType::q4 && !code.permuted);
                // Each part has its warpgroups, and each row block its thread block.
                CHECK(plan->parts == 1 ? plan->block_parts == 1 : plan->parts % plan->block_parts == 0);
                CHECK_EQ(plan->launch.cluster, plan->parts / plan->block_parts);
                CHECK_EQ(plan->launch.threads, 128 * (plan->blocks * plan->block_parts + 1));
                break;
            }
          }
        }
        CHECK_EQ(orders.size(), 1u);  // whatever the rows
      }
    }
  }
}

TEST(decode_has_a_plan_of_sixteen_rows_and_of_eight_where_memory_is_short) {
  // An RTX 30, 40 and 50, and a T4: with all that two stages of x take, these had none.
  const MatrixLayout m = cases::layout({"8b.qkv", 6144, 4096}, {.type = WeightType::q4, .zeros = true, .group = 32});
  for (const auto& [block_bytes, rows, tile_rows] :
       {std::tuple{101376, 16, 16}, {101376, 32, 16}, {65536, 8, 8}, {65536, 16, 8}, {65536, 256, 8}}) {
    const DeviceFacts device{86, 82, block_bytes + kReservedBytes, block_bytes, false};
    const auto plan = plan_decode(device, m, rows, false);
    REQUIRE(plan.has_value());
    CHECK_EQ(plan->tile_rows, tile_rows);
    CHECK_EQ(plan->x_stages, 1);
  }
}

TEST(prefill_has_a_plan_for_every_gpu_matrix_and_number_of_rows) {
  for (const DeviceFacts& device : devices()) {
    for (const cases::Matrix& matrix : cases::kMatrices) {
      for (const MatrixCode& code : cases::codes()) {
        const MatrixLayout m = cases::layout(matrix, code);
        bool first_is_wgmma = false;
        for (int rows = 1; rows <= 4096; rows += rows < 256 ? 1 : 256) {
          const auto plan = plan_prefill(device, m, rows);
          REQUIRE(plan.has_value());
          check_fits(plan->launch, device);
          if (rows == 1) first_is_wgmma = plan->wgmma;
          CHECK_EQ(plan->wgmma, first_is_wgmma);  // which of the two kernels, no number of rows decides
          CHECK(!plan->wgmma || (device.sm90 && wgmma_takes(code.type)));
          if (plan->wgmma) continue;
          CHECK_EQ(plan->launch.grid[0], ceil_div(rows, plan->rows));
          CHECK_EQ(plan->launch.grid[1], ceil_div(m.n_blocks(), kMmaRowBlocks));
        }
      }
    }
  }
}

TEST(prefill_of_other_codes_is_on_wgmma_where_it_fits_and_else_left_to_decode) {
  for (const DeviceFacts& device : devices()) {
    for (int type = 0; type < kWeightTypes; type++) {
      MatrixCode code{.type = static_cast<WeightType>(type)};
      if (!prefill_by_decode(code.type)) continue;
      for (const bool zeros : {false, true}) {
        if (zeros && !code.traits().zeros) continue;
        code.zeros = zeros;
        for (const int group : {groups_of(code.type).least, groups_of(code.type).most}) {
          code.group = group;
          const MatrixLayout m = cases::layout({"8b.down", 4096, 14336}, code);
          for (const int rows : {1, 64, 65, 4096}) {
            const auto plan = plan_prefill(device, m, rows);
            const bool can = device.sm90 && wgmma_takes(code.type);
            CHECK(can || !plan);
            CHECK(plan || !can || device.block_bytes < kWgmmaMostBytes);
            if (!plan) continue;
            CHECK(plan->wgmma && !plan->fine);
            check_fits(plan->launch, device);
          }
        }
      }
    }
  }
}

TEST(attention_has_a_plan_for_every_gpu_head_and_number_of_rows) {
  for (const DeviceFacts& device : devices()) {
    for (int head_dim = 2; head_dim <= kMostHeadDim; head_dim += head_dim < 16 ? 2 : 6) {
      for (const int group : {1, 2, 3, 4, 7, 8, 12, 16, 17, 32, 33, 64, 71, 128, 200}) {
        const KvType type = (head_dim / 2 + group) % 2 == 0 ? KvType::f16 : KvType::q8;
        const AttentionShape shape{3 * group, 3, head_dim, type};
        for (const int context : cases::kContexts) {
          std::set<int> shifts;
          for (const int rows : {1, 2, 8, 9, 16, 64, 256}) {
            const auto plan = plan_attention_decode(device, shape, rows, context);
            REQUIRE(plan.has_value());
            check_fits(plan->launch, device);
            shifts.insert(plan->most_parts_shift);
            CHECK(plan->dim >= head_dim && plan->exact == (plan->dim == head_dim && head_dim < 256));
            CHECK(plan->query_tiles * kQueries >= group && (plan->query_tiles - 1) * kQueries < group);
            CHECK(plan->warp_bytes >= plan->stages * static_cast<int>(kv_part_bytes(type, head_dim)));
            CHECK_EQ(plan->launch.grid[0], plan->parts);
            CHECK_EQ(plan->launch.grid[2], rows);
            CHECK_EQ(plan->launch.cluster, plan->cluster ? plan->parts : 1);
            // The bucket's longest row has so many parts and no more.
            const int warps = attention_warps(plan->dim), visible = ceil_div(context, kBlockPositions);
            CHECK(ceil_div(visible, part_blocks_of(visible, plan->most_parts_shift, warps)) <= plan->parts);
          }
          CHECK_EQ(shifts.size(), 1u);
        }
        std::set<int> keys;
        for (const int rows : {1, 2, 15, 64, 65, 512, 4096}) {
          const auto plan = plan_attention_prefill(device, shape, rows);
          REQUIRE(plan.has_value());
          check_fits(plan->launch, device);
          const PrefillTile& tile = kPrefillTiles[plan->tile];
          keys.insert(tile.keys);
          CHECK(tile.dim >= head_dim && (!tile.exact || tile.dim == head_dim));
          CHECK_EQ(plan->heads * plan->head_tiles, group);
          CHECK(plan->tile_rows >= 1 && plan->tile_rows * plan->heads <= tile.rows());
          CHECK_EQ(plan->launch.grid[0], 3 * plan->head_tiles);
          CHECK_EQ(plan->launch.grid[1], ceil_div(rows, plan->tile_rows));
        }
        CHECK_EQ(keys.size(), 1u);  // a row's bits follow from the number of keys a tile
      }
    }
  }
}

TEST(launches_on_an_h100_are_those_of_the_golden_file) {
  const auto decode = [](const MatrixLayout& m, int rows, bool norms) {
    cases::Launch l;
    if (norms && !decode_norms(m, rows)) return l;
    const auto p = plan_decode(kH100, m, rows, norms);
    if (!p) return l;
    switch (p->kernel) {
      case DecodeKernel::portable:
        l.kernel = format("portable %d", p->tile_rows / 8);
        l.numbers = {p->chunks,  p->rounds, p->step,   p->splits,   p->sum_warps,
                     p->stripes, p->tiles,  p->stages, p->x_stages, p->x_rows};
        break;
      case DecodeKernel::shared:
        l.kernel = format("shared %d %d %d", p->tile_rows, p->blocks, p->halves);
        l.numbers = {p->chunks, p->rounds, p->step, p->splits, p->sum_warps, p->stripes, 0, p->stages, p->parts};
        break;
      case DecodeKernel::wide:
        l.kernel = format("wide %d %d %d", p->blocks, p->block_parts, p->tile_rows);
        l.numbers = {p->chunks, p->rounds, p->step, p->splits, p->sum_warps, 0, p->tiles, p->stages, p->parts};
        break;
    }
    cases::put(p->launch, l);
    return l;
  };
  const auto prefill = [](const MatrixLayout& m, int rows) {
    cases::Launch l;
    const auto p = plan_prefill(kH100, m, rows);
    if (!p) return l;
    l.kernel = p->wgmma ? format("wgmma %d %d", p->rows, p->fine ? 1 : 0) : format("mma %d %d", p->rows, p->stages);
    cases::put(p->launch, l);
    return l;
  };
  const auto attention_decode = [](const cases::Heads& h, int context, int rows, KvType type) {
    cases::Launch l;
    const auto p = plan_attention_decode(kH100, {h.heads, h.kv_heads, h.head_dim, type}, rows, context);
    if (!p) return l;
    l.kernel = format("split %d %d", p->dim, p->exact ? 1 : 0);
    l.numbers = {p->group, p->query_tiles, p->parts, p->most_parts_shift, p->stages, p->warp_bytes};
    cases::put(p->launch, l);
    return l;
  };
  const auto attention_prefill = [](const cases::Heads& h, int rows) {
    cases::Launch l;
    const auto p = plan_attention_prefill(kH100, {h.heads, h.kv_heads, h.head_dim}, rows);
    if (!p) return l;
    const PrefillTile& t = kPrefillTiles[p->tile];
    l.kernel = format("flash %d %d %d %d %d %d", t.dim, t.warps, t.warp_tiles, t.keys, t.residents, t.exact ? 1 : 0);
    l.numbers = {p->heads, p->tile_rows};
    cases::put(p->launch, l);
    return l;
  };
  const std::string found = cases::golden(decode, prefill, attention_decode, attention_prefill);
  std::ifstream file("test/cuda/plan/golden_sm90.txt");
  REQUIRE(file.good());
  const std::string expected{std::istreambuf_iterator<char>(file), {}};
  size_t same = 0;
  while (same < found.size() && same < expected.size() && found[same] == expected[same]) same++;
  if (found != expected) {
    const size_t line = found.rfind('\n', same) + 1;
    std::printf("the first other line: %s\n", found.substr(line, found.find('\n', same) - line).c_str());
  }
  CHECK(found == expected);
}

TEST(facts_as_a_smaller_gpu_has_them) {
  const DeviceFacts same = limited(kH100, 0, 0);
  CHECK(same.capability == 90 && same.sm90 && same.block_bytes == kH100.block_bytes && same.sm_bytes == 233472);
  const DeviceFacts ampere = limited(kH100, 101376, 86);
  CHECK(ampere.capability == 86 && !ampere.sm90 && !ampere.clusters() && !ampere.programmatic());
  CHECK(ampere.block_bytes == 101376 && ampere.sm_bytes == 102400);
  const DeviceFacts turing = limited(kH100, 65536, 75);
  CHECK(turing.sm_bytes == 65536);
  const DeviceFacts small = limited(kH100, 65536, 0);
  CHECK(small.capability == 90 && small.sm90);
  CHECK_EQ(limited(ampere, 1 << 20, 120).block_bytes, 101376);  // no more than there is
  CHECK_EQ(limited(ampere, 1 << 20, 120).capability, 86);
}

TEST(what_a_gpu_cannot_run_is_refused_by_name) {
  CHECK(!refusal_of(DeviceFacts{75, 40, 65536, 65536, false}));
  const auto old = refusal_of(DeviceFacts{70, 80, 98304, 98304, false});
  REQUIRE(old.has_value());
  CHECK(old->find("7.0") != std::string::npos && old->find("7.5") != std::string::npos);

  AttendOp attend;
  attend.heads = 8, attend.kv_heads = 2, attend.head_dim = 128;
  Program spec;
  spec.units.emplace_back().ops = {attend};
  spec.kv = {{1, 0, attend.kv_heads, attend.head_dim}};
  UnitLayout unit;
  unit.linears.emplace_back().segments.push_back(
      {measure_matrix({.type = WeightType::q4, .zeros = true, .group = 32}, 6144, 4096, 4096), 0});
  const std::vector<UnitLayout> units{unit};
  CHECK(!refusal_of(DeviceFacts{75, 40, 65536, 65536, false}, spec, units));
  const auto linear = refusal_of(DeviceFacts{86, 82, 52224, 51200, false}, spec, units);
  REQUIRE(linear.has_value());
  CHECK(linear->find("6144 x 4096") != std::string::npos);
  const auto attention = refusal_of(DeviceFacts{86, 82, 31744, 30720, false}, spec, units);
  REQUIRE(attention.has_value());
  CHECK(attention->find("attention") != std::string::npos);
  spec.kv = kept_as(spec.kv, KvType::q8);
  CHECK(!refusal_of(DeviceFacts{75, 40, 65536, 65536, false}, spec, units));
}

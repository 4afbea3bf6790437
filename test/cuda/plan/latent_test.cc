// Plans of latent attention, over the GPUs that there are: each fits, covers all heads and positions, and cuts a row by
// its own position alone.
#include "cuda/plan/latent.h"

#include <set>

#include "check.h"
#include "cuda/plan/refusal.h"
#include "model/slab_layout.h"

using namespace millrace;
using namespace millrace::cuda;

namespace {

constexpr DeviceFacts kH100{.capability = 90, .sms = 132, .sm_bytes = 233472, .block_bytes = 232448, .sm90 = true};

std::vector<DeviceFacts> devices() {
  std::vector<DeviceFacts> all;
  for (const int block_bytes : {65536, 101376, 166912, 232448}) {
    for (const int capability : {75, 80, 86, 90, 120}) all.push_back({capability, 80, block_bytes, block_bytes, false});
  }
  return all;
}

MatrixLayout matrix_of(const LatentShape& s, int k_stored = 0) {
  MatrixCode code{.type = WeightType::q4, .group = 16};
  code.permuted = k_stored > 0;
  return measure_matrix(code, s.heads * (s.nope + s.value_dim), s.rank,
                        k_stored > 0 ? k_stored : (s.rank + 15) / 16 * 16);
}

void check_fits(const LaunchShape& launch, const DeviceFacts& device) {
  CHECK(launch.static_bytes + launch.dynamic_bytes <= device.block_bytes);
  CHECK(launch.grid[0] > 0 && launch.grid[1] > 0 && launch.grid[1] <= 65535);
  CHECK(launch.grid[2] > 0 && launch.grid[2] <= 65535);
}

const std::vector<LatentShape> kShapes = {
    {20, 512, 192, 64, 256}, {128, 512, 128, 64, 128}, {64, 512, 128, 64, 128}, {16, 512, 128, 64, 128},
    {40, 256, 64, 32, 64},   {4, 32, 16, 8, 16},       {1, 8, 1, 8, 1},         {500, 512, 256, 64, 1000},
};

}  // namespace

TEST(every_gpu_has_launches_of_every_shape) {
  for (const DeviceFacts& device : devices()) {
    for (const LatentShape& shape : kShapes) {
      std::set<int> tiles;
      for (const int rows : {1, 2, 15, 64, 256, 4096, 16384}) {
        for (const auto& matrix : {matrix_of(shape), matrix_of(shape, 512)}) {
          const auto queries = plan_latent_queries(device, shape, matrix, rows);
          const auto values = plan_latent_values(device, shape, matrix, rows);
          REQUIRE(queries && values);
          check_fits(*queries, device);
          check_fits(*values, device);
          // Every column of a head and the part that turns; every feature of its value.
          CHECK((queries->grid[0] / shape.heads - 1) * kLatentColumns >= matrix.k_stored);
          CHECK(values->grid[0] / shape.heads * kLatentFeatures >= shape.value_dim);
        }
        for (const bool decode : {true, false}) {
          for (const int context : {1, 64, 65, 512, 4096, 200000}) {
            const int together = std::min(rows, latent_rows(shape, context, decode));
            const auto plan = plan_latent(device, shape, together, context, decode);
            REQUIRE(plan.has_value());
            check_fits(plan->launch, device);
            tiles.insert(plan->tile);
            CHECK(plan->head_tiles * kLatentTiles[plan->tile].heads() >= shape.heads);
            CHECK_EQ(plan->launch.grid[2], together);
            CHECK(decode || plan->parts == 1);
            // The working memory that an executor of such contexts has.
            CHECK(static_cast<size_t>(together) * shape.heads * shape.key_dim() * 2 <= latent_query_bytes(shape, rows));
            if (plan->parts > 1) {
              CHECK(static_cast<size_t>(together) * shape.heads * plan->parts * (shape.rank + 2) * 4 <=
                    latent_partial_bytes(shape, rows, 200000));
            }
          }
        }
      }
      CHECK_EQ(tiles.size(), 1u);  // a row's bits follow from the number of keys a tile
    }
  }
}

TEST(parts_follow_from_a_row_s_position) {
  for (int visible = 1; visible < 20000; visible++) {
    const int positions = latent_part_positions(visible);
    CHECK_EQ(positions % kLatentPartPositions, 0);
    for (const LatentTile& tile : kLatentTiles) CHECK_EQ(positions % tile.keys, 0);
    const int parts = (visible + positions - 1) / positions;
    CHECK(parts >= 1 && parts <= kLatentParts);
    // No bucket that has the row has fewer.
    CHECK(parts <= plan_latent(kH100, kShapes[0], 1, visible, true)->parts);
  }
}

TEST(launches_on_an_h100) {
  const LatentShape flash = kShapes[0], v3 = kShapes[1];
  const auto alone = plan_latent(kH100, flash, 1, 8192, true);
  CHECK_EQ(alone->tile, 0);
  CHECK_EQ(alone->launch.grid[0], 32);
  CHECK_EQ(alone->launch.grid[1], 1);
  CHECK_EQ(alone->launch.dynamic_bytes, 188416);
  CHECK_EQ(latent_rows(flash, 8192, true), 16);
  CHECK_EQ(latent_rows(flash, 8192, false), 1638);
  CHECK_EQ(plan_latent(kH100, v3, 1, 512, true)->launch.grid[0], 8);
  CHECK_EQ(plan_latent(kH100, v3, 1, 512, true)->launch.grid[1], 4);
  CHECK_EQ(plan_latent_queries(kH100, flash, matrix_of(flash), 1)->grid[0], 20 * 9);
  CHECK_EQ(plan_latent_values(kH100, flash, matrix_of(flash), 1)->grid[0], 20 * 8);
  CHECK_EQ(plan_latent_values(kH100, flash, matrix_of(flash), 4096)->grid[1], 6);
}

TEST(what_a_gpu_cannot_run_is_refused_by_name) {
  const auto refused = [](LatentOp op, DeviceFacts device = kH100) {
    Program program;
    program.kv.push_back({.layers = 1, .kv_heads = 1, .head_dim = op.key_dim(), .latent = true});
    program.units.emplace_back().name = "attention 3";
    program.units.back().ops = {op};
    UnitLayout unit;
    const LatentShape shape{op.heads, op.rank, op.nope, op.rotary, op.value_dim};
    unit.linears.emplace_back().segments.push_back({matrix_of(shape), 0});
    return refusal_of(device, program, std::vector<UnitLayout>{unit}).value_or("");
  };
  LatentOp op;
  op.heads = 20, op.rank = 512, op.nope = 192, op.rotary = 64, op.value_dim = 256;
  CHECK_EQ(refused(op), "");
  CHECK_EQ(refused(op, {75, 40, 65536, 65536, false}), "");
  CHECK(refused(op, {75, 40, 49152, 49152, false}).find("latent attention with 512 elements") != std::string::npos);
  LatentOp larger = op;
  larger.rank = 576;
  CHECK(refused(larger).find("attention 3") != std::string::npos && refused(larger).find("576") != std::string::npos);
  larger = op;
  larger.rotary = 12;
  CHECK(refused(larger).find("12") != std::string::npos);
}

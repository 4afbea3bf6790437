// Plans of mixtures: within every GPU's memory, and no fewer tiles than any choice of experts fills.
#include "cuda/plan/experts.h"

#include <algorithm>

#include "cases.h"
#include "check.h"

using namespace millrace;
using namespace millrace::cuda;
namespace cases = millrace::plan_cases;

namespace {

constexpr DeviceFacts kH100{.capability = 90, .sms = 132, .sm_bytes = 233472, .block_bytes = 232448, .sm90 = true};
constexpr DeviceFacts kT4{.capability = 75, .sms = 40, .sm_bytes = 65536, .block_bytes = 65536, .sm90 = false};

}  // namespace

TEST(tiles_suffice_for_whatever_rows_choose) {
  auto random = check::random();
  for (int round = 0; round < 2000; round++) {
    const int experts = 1 + static_cast<int>(random() % 40), top_k = 1 + static_cast<int>(random() % experts);
    const int rows = 1 + static_cast<int>(random() % 300);
    const uint64_t skew = random() % 4;
    std::vector<int> counts(experts, 0), order(experts);
    for (int e = 0; e < experts; e++) order[e] = e;
    for (int row = 0; row < rows; row++) {
      if (skew > 0 && row % static_cast<int>(skew) == 0) std::shuffle(order.begin(), order.end(), random);
      for (int rank = 0; rank < top_k; rank++) counts[order[rank]]++;
    }
    for (const int many : {kManyRows, kFewRows}) {
      int few_found = 0, many_found = 0;
      for (const int count : counts) {
        if (count > kFewRows) {
          many_found += (count + many - 1) / many;
        } else if (count > 0) {
          few_found++;
        }
      }
      CHECK(few_found <= few_tiles(rows * top_k, experts));
      CHECK(many_found <= many_tiles(rows * top_k, experts, many));
      if (rows <= kFewRows) CHECK_EQ(many_found, 0);
    }
    for (const int tile : {64, 128}) {
      int found = 0;
      for (const int count : counts) found += (count + tile - 1) / tile;
      CHECK(found <= prompt_tiles(rows * top_k, experts, tile));
    }
  }
}

TEST(every_expert_has_a_plan_in_the_memory_of_every_gpu) {
  for (const DeviceFacts& device : {kH100, kT4}) {
    for (const cases::Matrix& matrix : cases::kMatrices) {
      for (const MatrixCode& code : cases::codes()) {
        const MatrixLayout m = cases::layout(matrix, code);
        ExpertsLayout experts;
        experts.gate_up.segments.push_back({m, 0});
        experts.down.segments.push_back({m, 0});
        const int most = many_rows(device, experts);
        CHECK(most == kFewRows || most == kManyRows);
        if (device.block_bytes == kH100.block_bytes) CHECK_EQ(most, kManyRows);
        for (const int tile : {kFewRows, most}) {
          const auto plan = plan_experts(device, m, tile, 1000, 7);
          REQUIRE(plan.has_value());
          CHECK(plan->launch.dynamic_bytes <= device.block_bytes);
          CHECK(plan->stages >= 1);
          // The runs cover the chunks.
          CHECK(plan->each * kExpertParts >= plan->chunks);
          CHECK(plan->launch.grid[0] == m.n_blocks() && plan->launch.grid[1] == 7);
        }
      }
    }
  }
}

TEST(prompts_have_plans_of_their_own_where_a_gpu_has_the_kernels) {
  for (const cases::Matrix& matrix : cases::kMatrices) {
    for (const MatrixCode& code : cases::codes()) {
      const MatrixLayout m = cases::layout(matrix, code);
      ExpertsLayout experts;
      experts.gate_up.interleaved = true;
      experts.gate_up.segments.push_back({m, 0});
      experts.down.segments.push_back({m, 0});
      const bool own = wgmma_takes(code.type) && !code.permuted;
      CHECK_EQ(computes_prompts(kH100, experts), own);
      CHECK(!computes_prompts(kT4, experts));
      if (!own) continue;
      const int columns = (m.n_blocks() + kWgmmaBlocks - 1) / kWgmmaBlocks;
      for (const int places : {1, 8, 800, 8 * 2048}) {
        const auto plan = plan_prompt(kH100, m, places, 128);
        REQUIRE(plan.has_value());
        CHECK_EQ(plan->rows, prompt_tile_rows(places, 128));
        CHECK(plan->launch.dynamic_bytes <= kH100.block_bytes);
        // No thread block without a tile, where each place is another expert's.
        CHECK(plan->launch.grid[0] <= columns * places && plan->launch.grid[0] <= kH100.sms);
      }
      experts.gate_up.interleaved = false;  // there is no activation to leave
      CHECK(!computes_prompts(kH100, experts));
    }
  }
  CHECK_EQ(prompt_tile_rows(64 * 128, 128), 64);
  CHECK_EQ(prompt_tile_rows(64 * 128 + 1, 128), 128);
}

TEST(rows_at_once_leave_no_more_than_there_is_room_for) {
  CHECK_EQ(expert_rows(3000, 8, 2048), 2048);
  CHECK_EQ(expert_rows(300, 8, 2048), 300);
  CHECK_EQ(expert_rows(300, 4096, 1 << 20), 1);
}

TEST(tiles_of_one_row_meet_in_a_cluster_of_the_same_size) {
  for (const MatrixCode& code : cases::codes()) {
    const MatrixLayout m = cases::layout({"qwen3.down", 2048, 768}, code);
    for (const int top_k : {2, 4, 8}) {
      REQUIRE(combines_itself(kH100, 1, top_k));
      const auto alone = plan_experts(kH100, m, kFewRows, 1, top_k),
                 meet = plan_experts(kH100, m, kFewRows, 1, top_k, true);
      REQUIRE(alone.has_value() && meet.has_value());
      CHECK_EQ(meet->each, alone->each);  // the order of sums
      CHECK_EQ(meet->launch.cluster, top_k);
      CHECK(meet->launch.grid[0] == top_k && meet->launch.grid[1] == m.n_blocks());
      CHECK(meet->sums_at % 16 == 0 && meet->sums_at + top_k * kTileN * 4 + 8 <= meet->launch.dynamic_bytes);
      CHECK(meet->launch.dynamic_bytes <= kH100.sm_bytes / 2 - kReservedBytes || meet->stages == 1);
    }
  }
  CHECK(!combines_itself(kT4, 1, 8) && !combines_itself(kH100, 2, 8) && !combines_itself(kH100, 1, 6));
}

TEST(a_router_has_its_own_launch_where_its_features_fill_no_more_than_a_cluster) {
  const auto plan_of = [](const DeviceFacts& device, WeightType type, int experts, int hidden, int rows) {
    const MatrixLayout m = measure_matrix({.type = type}, experts, hidden, hidden);
    return plan_router(device, m, rows, 1100);
  };
  for (const int hidden : {64, 2048, 2880, 4096}) {
    for (const int experts : {8, 32, 64, 128}) {
      const auto plan = plan_of(kH100, WeightType::bf16, experts, hidden, 1);
      REQUIRE(plan.has_value());
      const MatrixLayout m = measure_matrix({.type = WeightType::bf16}, experts, hidden, hidden);
      const auto decode = plan_decode(kH100, m, 20, false);  // of any number of rows the same order
      CHECK(plan->splits == decode->splits && plan->step == decode->step && plan->sum_warps == decode->sum_warps);
      CHECK(plan->rounds * plan->step >= decode->chunks);
      CHECK_EQ(plan->launch.cluster, 4 * m.n_blocks());
      CHECK(plan->launch.cluster <= 8 && plan->launch.grid[0] % plan->launch.cluster == 0);
      CHECK(plan->launch.grid[1] == 1 && plan->launch.threads == kDecodeThreads);
      CHECK(plan->squares_at % 16 == 0 && plan->barrier_at % 16 == 0 && plan->sums_at % 16 == 0);
      CHECK(plan->launch.dynamic_bytes <= kH100.block_bytes);
    }
  }
  CHECK(!plan_of(kT4, WeightType::bf16, 128, 2048, 1).has_value());
  CHECK(!plan_of(kH100, WeightType::bf16, 256, 2048, 1).has_value());
  CHECK(!plan_of(kH100, WeightType::f32, 128, 2048, 1).has_value());
  CHECK(!plan_of(kH100, WeightType::bf16, 128, 2048, 3).has_value());
}

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

TEST(rows_at_once_leave_no_more_than_there_is_room_for) {
  CHECK_EQ(expert_rows(2000, 8, 2048), 1024);
  CHECK_EQ(expert_rows(300, 8, 2048), 300);
  CHECK_EQ(expert_rows(300, 4096, 1 << 20), 1);
}

// The CPU's answers beside a device: each row's bits those of the row by itself, whatever the threads and the task; the
// ticket; and what becomes of a task that fails or is given up.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "backend/cpu/expert_answer.h"
#include "backend/expert_mail.h"
#include "check.h"
#include "core/error.h"
#include "core/memory.h"
#include "stream/synthetic.h"

using namespace millrace;

namespace {

constexpr int kExperts = 6, kTopK = 3, kRows = 8, kHidden = 192, kFeatures = 96;

LinearLayout linear_in(SlabBuilder& builder, WeightType type, int n, int k, bool interleaved) {
  MatrixCode code;
  code.type = type;
  code.group = 32;
  LinearLayout linear;
  linear.n = n;
  linear.k = k;
  linear.interleaved = interleaved;
  linear.segments.push_back({builder.matrix(code, n, k, static_cast<int>(round_up(k, kTileK))), 0});
  return linear;
}

// Mail and experts of one unit; the test is the device.
struct Setup {
  explicit Setup(WeightType type = WeightType::q4, bool interleaved = true, Activation activation = Activation::silu) {
    SlabBuilder builder;
    layout.gate_up = linear_in(builder, type, 2 * kFeatures, kHidden, interleaved);
    layout.down = linear_in(builder, type, kHidden, kFeatures, false);
    layout.stride = round_up(builder.bytes(), 256);
    op.experts = kExperts;
    op.activation = activation;
    op.alpha = 1.7f;
    op.limit = 0.4f;
    slab = HostMemory(kExperts * layout.stride, "experts");
    for (int e = 0; e < kExperts; e++) {
      for (const LinearLayout* linear : {&layout.gate_up, &layout.down}) {
        const MatrixLayout& m = linear->segments.front().matrix;
        for (int block = 0; block < m.n_blocks(); block++) {
          fill_row_block(m, slab.data() + e * layout.stride + m.offset + block * m.row_block_bytes(), random());
        }
      }
    }
    mail->state = &state;
    mail->task = &task;
    mail->entries = entries.data();
    mail->places = places.data();
    mail->x = x.data();
    mail->y = y.data();
    mail->most_rows = kRows;
    mail->most_places = kRows * kTopK;
    mail->width = kHidden;
  }

  std::unique_ptr<ExpertAnswers> answers(int threads, const AnswerHooks& hooks = {}) {
    return create_expert_answers(mail, {{5, &op, layout, slab.data()}}, threads, hooks);
  }

  // Some experts, each for some places; what they are to answer in `expected`.
  void make_task() {
    for (float& value : x) value = static_cast<float>(random() % 2001) / 512.0f - 2.0f;
    std::vector<int> all(kRows * kTopK);
    for (size_t i = 0; i < all.size(); i++) all[i] = static_cast<int>(i);
    std::shuffle(all.begin(), all.end(), random);
    std::fill(expected.begin(), expected.end(), -7.0f);
    std::fill(y.begin(), y.end(), -7.0f);
    task = {5, 1 + static_cast<int>(random() % kExperts), kRows, kTopK};
    int at = 0;
    for (int i = 0; i < task.experts; i++) {
      entries[i] = {(i + 2) % kExperts, at, 1 + static_cast<int>(random() % 4), 0};
      for (int r = 0; r < entries[i].count; r++, at++) {
        places[at] = all[at];
        expect(entries[i].expert, places[at]);
      }
    }
  }

  void send() { state.sent.store(++ticket, std::memory_order_release); }
  void wait() {
    while (state.answered.load(std::memory_order_acquire) < ticket &&
           state.given_up.load(std::memory_order_acquire) == 0) {
      std::this_thread::yield();
    }
  }
  bool right() const { return std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0; }

  std::mt19937_64 random = check::random();
  ExpertsOp op;
  ExpertsLayout layout;
  HostMemory slab;
  ExpertMailState state;
  ExpertMailTask task;
  std::vector<ExpertMailEntry> entries = std::vector<ExpertMailEntry>(kRows * kTopK);
  std::vector<int32_t> places = std::vector<int32_t>(kRows * kTopK);
  std::vector<float> x = std::vector<float>(kRows * kHidden), y = std::vector<float>(kRows * kTopK * kHidden);
  std::vector<float> expected = y;
  std::shared_ptr<ExpertMail> mail = std::make_shared<ExpertMail>();
  uint64_t ticket = 0;

 private:
  // One row through one expert, on this thread.
  void expect(int expert, int place) {
    const float* in = x.data() + static_cast<size_t>(place / kTopK) * kHidden;
    float* out = expected.data() + static_cast<size_t>(place) * kHidden;
    ExpertCall call;
    call.gate_up = &layout.gate_up;
    call.down = &layout.down;
    call.expert = slab.data() + expert * layout.stride;
    call.activation = op.activation;
    call.alpha = op.alpha;
    call.limit = op.limit;
    call.rows = 1;
    call.x = &in;
    call.y = &out;
    answer_expert(call, alone);
  }
  ExpertAnswer alone;
};

std::string code_of_failure(ExpertAnswers& answers) {
  try {
    answers.check();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

}  // namespace

TEST(an_answer_has_the_bits_of_each_row_by_itself) {
  for (const WeightType type : {WeightType::q4, WeightType::q8, WeightType::mxfp4}) {
    for (const bool interleaved : {true, false}) {
      for (const Activation activation : {Activation::silu, Activation::clamped_swiglu}) {
        Setup setup(type, interleaved, activation);
        const auto answers = setup.answers(3);
        answers->begin_pass();
        uint64_t experts = 0;
        for (int i = 0; i < 20; i++) {
          setup.make_task();
          experts += static_cast<uint64_t>(setup.task.experts);
          setup.send();
          setup.wait();
          CHECK(setup.right());
        }
        answers->check();
        CHECK_EQ(answers->answered_experts(), experts);
        answers->end_pass();
      }
    }
  }
}

TEST(whoever_does_not_wait_for_the_ticket_finds_nothing) {
  if (kRaceDetector) SKIP("the wait that is left out is a race");
  Setup setup;
  AnswerHooks hooks;
  hooks.delay_us = 20000;
  const auto answers = setup.answers(1, hooks);
  answers->begin_pass();
  setup.make_task();
  setup.send();
  CHECK(!setup.right());
  setup.wait();
  CHECK(setup.right());
}

TEST(nobody_answers_between_passes_and_all_of_the_next_is_answered) {
  Setup setup;
  const auto answers = setup.answers(2);
  for (int pass = 0; pass < 20; pass++) {
    answers->begin_pass();
    if (pass % 3 != 0) {
      setup.make_task();
      setup.send();
      setup.wait();
      CHECK(setup.right());
    }
    answers->end_pass();
  }
}

TEST(a_task_that_fails_is_told_and_the_next_pass_starts_clean) {
  Setup setup;
  AnswerHooks hooks;
  hooks.fail_at = 1;
  const auto answers = setup.answers(2, hooks);
  const auto ask = [&] {
    answers->begin_pass();
    setup.make_task();
    setup.send();
    setup.wait();
  };
  ask();
  CHECK(setup.right());
  CHECK_EQ(code_of_failure(*answers), "");
  answers->end_pass();
  ask();  // comes back, without an answer
  CHECK(!setup.right());
  CHECK_EQ(code_of_failure(*answers), std::string(code::kInternal));
  answers->give_up();
  answers->restart();
  CHECK_EQ(code_of_failure(*answers), "");
  for (int i = 0; i < 3; i++) {
    ask();
    CHECK(setup.right());
    answers->end_pass();
  }
}

TEST(a_pass_that_is_given_up_holds_up_nobody) {
  Setup setup;
  AnswerHooks hooks;
  hooks.delay_us = 3000;
  const auto answers = setup.answers(2, hooks);
  for (int i = 0; i < 10; i++) {
    answers->begin_pass();
    setup.make_task();
    setup.send();
    if (i % 2 == 0) {
      answers->give_up();
      setup.wait();
      answers->restart();  // waits for a task under way
      continue;
    }
    setup.wait();
    CHECK(setup.right());
    answers->end_pass();
  }
}

TEST(misses_are_shared_out_so_that_both_end_soonest) {
  AnswerRates rates;
  rates.link = 50e9;
  rates.cpu = 75e9;
  rates.hop = 20e-6;
  const size_t bytes = 2'430'000;
  const std::vector<uint16_t> split = split_of_misses(128, bytes, rates);
  const auto seconds = [&](int missed, int answered) {
    const double over = (missed - answered) * static_cast<double>(bytes) / rates.link;
    return answered == 0 ? over : std::max(over, rates.hop + answered * static_cast<double>(bytes) / rates.cpu);
  };
  REQUIRE(split.size() == 129);
  CHECK_EQ(split[0], 0);
  CHECK_EQ(split[1], 0);  // on its way longer than over the link
  for (int missed = 0; missed <= 128; missed++) {
    for (int other = 0; other <= missed; other++) {
      CHECK(seconds(missed, split[static_cast<size_t>(missed)]) <= seconds(missed, other));
    }
  }
}

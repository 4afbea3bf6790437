// The logit stage of a GPU against the twin's: the same choices and orders, log-probabilities to the last bits of a
// float32, whatever is asked for, over steps that count what they have chosen.
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "backend/logit_table.h"
#include "backend/sample_row.h"
#include "check.h"
#include "cuda/check.h"
#include "cuda/logit_stage.h"
#include "gpu.h"

using namespace millrace;
using namespace millrace::cuda;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One step after the other of a stage, on logits that the test makes.
class Staged {
 public:
  Staged(int rows, int vocab)
      : vocab_(vocab),
        stream_(0),
        stage_(0, rows, rows, vocab, stream_),
        logits_(0, CudaMemory::Place::device, static_cast<size_t>(rows) * vocab * sizeof(float), "logits"),
        requests_(0, CudaMemory::Place::device, rows * sizeof(LogitRequest), "requests"),
        inputs_(0, CudaMemory::Place::device, sizeof(LogitInputs), "inputs"),
        results_(0, CudaMemory::Place::device, 2 * static_cast<size_t>(rows) * sizeof(float), "results") {}

  // `meanwhile`: once all has been launched.
  template <typename Meanwhile>
  StepOutput run(std::vector<float>& logits, const Step& step, Meanwhile&& meanwhile) {
    std::vector<LogitRequest> requests(step.logits.begin(), step.logits.end());
    for (size_t i = 0; i < requests.size(); i++) requests[i].row = static_cast<int32_t>(i);
    const int pass = passes_++ % 2;
    const LogitInputs inputs = stage_.begin(pass, step, requests, stream_);
    const auto bring = [&](CudaMemory& to, const void* from, size_t bytes) {
      stream_.copy(to.data(), static_cast<const std::byte*>(from), bytes);
    };
    bring(logits_, logits.data(), logits.size() * sizeof(float));
    bring(requests_, requests.data(), requests.size() * sizeof(LogitRequest));
    bring(inputs_, &inputs, sizeof inputs);
    const size_t count = requests.size();
    SampleArguments a;
    a.logits = reinterpret_cast<float*>(logits_.data());
    a.vocab = vocab_;
    a.requests = reinterpret_cast<const LogitRequest*>(requests_.data());
    a.count = static_cast<int>(count);
    a.inputs = reinterpret_cast<const LogitInputs*>(inputs_.data());
    a.tokens = reinterpret_cast<int32_t*>(results_.data());
    a.logprobs = reinterpret_cast<float*>(results_.data()) + count;
    stage_.run(a, stream_.get());
    stage_.end(pass, stream_);
    meanwhile();
    StepOutput output;
    output.tokens.resize(count);
    output.logprobs.resize(count);
    stream_.copy(reinterpret_cast<std::byte*>(output.tokens.data()), results_.data(), count * sizeof(int32_t));
    stream_.copy(reinterpret_cast<std::byte*>(output.logprobs.data()), results_.data() + count * sizeof(int32_t),
                 count * sizeof(float));
    stream_.copy(reinterpret_cast<std::byte*>(logits.data()), logits_.data(), logits.size() * sizeof(float));
    stream_.synchronize();
    stage_.collect(pass, output);
    return output;
  }

 private:
  int vocab_;
  int passes_ = 0;
  CudaStream stream_;
  LogitStage stage_;
  CudaMemory logits_, requests_, inputs_, results_;
};

void check_logprob(float found, float expected) {
  if (std::isnan(expected) || std::isinf(expected)) {
    CHECK_EQ(std::isnan(found), std::isnan(expected));
    CHECK_EQ(std::isinf(found), std::isinf(expected));
  } else {
    CHECK_NEAR(found, expected, 1e-6 * (1 + std::fabs(expected)));
  }
}

// A row of logits with ties, tokens that cannot be and, now and then, of no distribution.
void fill_row(std::mt19937_64& random, std::span<float> row) {
  const float scale = std::array{0.5f, 3.0f, 30.0f}[random() % 3];
  const bool coarse = random() % 3 == 0;
  for (float& logit : row) {
    const float uniform = static_cast<float>(random() >> 40) * 0x1p-23f - 1.0f;
    logit = scale * (coarse ? std::round(uniform * 8) / 4 : uniform * uniform * uniform * 4);
    if (random() % 50 == 0) logit = -kInfinity;
  }
  const auto any = [&]() -> float& { return row[random() % row.size()]; };
  if (random() % 40 == 0) any() = std::numeric_limits<float>::quiet_NaN();
  if (random() % 40 == 0) any() = kInfinity;
  if (random() % 40 == 0) std::fill(row.begin(), row.end(), -kInfinity);
  if (random() % 8 == 0) std::sort(row.begin(), row.end());  // the highest side by side
}

LogitRequest random_request(std::mt19937_64& random, int vocab) {
  LogitRequest request;
  const auto one_in = [&](int n) { return random() % n == 0; };
  request.want_logprob = one_in(2);
  if (one_in(10)) request.target = static_cast<int32_t>(random() % vocab);
  if (one_in(12)) request.sample = false;
  if (!one_in(3)) request.temperature = std::array{0.3f, 1.0f, 2.5f}[random() % 3];
  if (one_in(4)) request.top_k = 1 + static_cast<int32_t>(random() % 60);
  if (one_in(3)) request.top_p = std::array{0.0f, 0.5f, 0.97f}[random() % 3];
  if (one_in(4)) request.min_p = 0.02f;
  if (one_in(3)) request.typical_p = std::array{0.05f, 0.5f, 0.95f}[random() % 3];
  if (one_in(2)) request.repetition_penalty = 1.3f;
  if (one_in(2)) request.presence_penalty = 0.7f;
  if (one_in(2)) request.frequency_penalty = 0.25f;
  if (one_in(3)) request.top_logprobs = std::array{1, 5, 20, 64}[random() % 4];
  request.seed = random();
  request.counter = random() % 1000;
  return request;
}

// So many different tokens in order, with what a request may say of them.
std::vector<LogitAdjustment> random_adjustments(std::mt19937_64& random, int count, int vocab) {
  std::vector<LogitAdjustment> all;
  for (int i = 0; i < count; i++) {
    LogitAdjustment a{static_cast<int32_t>(random() % vocab)};
    a.seen = static_cast<int32_t>(random() % 2);
    a.generated = a.seen != 0 ? static_cast<int32_t>(random() % 4) : 0;
    a.bias = std::array{0.0f, 1.5f, -4.0f, 20.0f, -kInfinity}[random() % 5];
    adjustment_of(all, 0, a) = a;
  }
  return all;
}

}  // namespace

TEST(choices_and_log_probabilities_are_the_twins) {
  require_gpus();
  Watchdog watchdog(std::chrono::seconds(120));
  auto random = check::random(71);
  for (const int vocab : {97, 5000, 32000, 151936}) {
    const int rows = vocab > 100000 ? 7 : 12;
    watchdog.at(format("vocabulary of %d", vocab));
    Staged device(rows, vocab);
    std::vector<std::vector<LogitAdjustment>> tables(rows);
    std::vector<bool> known(rows, false);
    RowScratch scratch;
    for (int s = 0; s < (vocab > 100000 ? 12 : 30); s++) {
      std::vector<float> logits(static_cast<size_t>(rows) * vocab);
      std::vector<LogitRequest> requests;
      std::vector<LogitAdjustment> adjustments;
      std::vector<LogitTableUpdate> updates;
      std::vector<TokenMask> masks(rows);
      std::vector<const TokenMask*> mask_pointers;
      std::vector<std::shared_ptr<TokenMask::Words>> words;
      const auto append = [&](const std::vector<LogitAdjustment>& more) {
        const auto begin = static_cast<int32_t>(adjustments.size());
        adjustments.insert(adjustments.end(), more.begin(), more.end());
        return std::pair{begin, static_cast<int32_t>(more.size())};
      };
      const bool plain = s % 5 == 4;  // the variant that most steps are of
      for (int r = 0; r < rows; r++) {
        fill_row(random, std::span(logits).subspan(static_cast<size_t>(r) * vocab, vocab));
        LogitRequest request = random_request(random, vocab);
        if (plain) request.top_logprobs = 0;
        if (!plain && random() % 2 == 0) {
          request.slot = r;
          request.counts = random() % 4 != 0;
          if (!known[r] || random() % 4 == 0) {
            const bool whole = !known[r] || random() % 2 == 0;
            const int most = std::min(vocab / 2, whole ? 3000 : 6);
            const auto entries = random_adjustments(random, static_cast<int>(random() % most), vocab);
            const auto [begin, count] = append(entries);
            updates.push_back({r, whole ? 1 : 0, begin, count});
            update_table(tables[r], whole, entries);
            known[r] = true;
          }
        }
        if (!plain && random() % 3 == 0) {
          std::tie(request.adjustments_begin, request.adjustments) =
              append(random_adjustments(random, 1 + static_cast<int>(random() % 20), vocab));
        }
        if (!plain && random() % 3 == 0) {
          request.mask = static_cast<int32_t>(mask_pointers.size());
          mask_pointers.push_back(&masks[mask_pointers.size()]);
          const uint64_t kind = random() % 6;
          words.push_back(std::make_shared<TokenMask::Words>((vocab + 31) / 32 - (kind == 1 ? 1 : 0)));
          for (uint32_t& word : *words.back()) {
            word = kind == 0 ? 0 : kind == 2 ? 0xffffffff : static_cast<uint32_t>(random() & random() & random());
          }
        } else if (request.slot < 0 || random() % 2 == 0) {
          request.keep_logits = random() % 4 == 0;
        }
        requests.push_back(request);
      }
      Step step;
      step.logits = requests;
      step.adjustments = adjustments;
      step.table_updates = updates;
      step.masks = mask_pointers;
      // Half of the masks are there already; the others come while the device waits for them.
      const auto settle = [&](size_t from) {
        for (size_t m = from; m < words.size(); m += 2) {
          if (m % 7 == 6) {
            masks[m].fail(Error(code::kInternal, "no mask", "none"));
          } else {
            masks[m].set(words[m]);
          }
        }
      };
      settle(0);
      std::vector<float> after = logits;
      const StepOutput found = device.run(after, step, [&] {
        if (words.size() > 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        settle(1);
      });
      size_t top = 0;
      for (int r = 0; r < rows; r++) {
        const LogitRequest& request = requests[r];
        const std::span<const float> row = std::span(logits).subspan(static_cast<size_t>(r) * vocab, vocab);
        std::vector<int32_t> top_tokens(request.top_logprobs);
        std::vector<float> top_logprobs(request.top_logprobs);
        RowChanges changes{{}, adjustments, mask_pointers};
        if (request.slot >= 0) changes.table = tables[request.slot];
        const RowAnswer answer = answer_row(request, row, changes, top_tokens, top_logprobs, scratch);
        if (request.counts && answer.token >= 0 && request.sample && request.target < 0) {
          count_generated(adjustment_of(tables[request.slot], 0, {answer.token}));
        }
        CHECK_EQ(found.tokens[r], answer.token);
        check_logprob(found.logprobs[r], answer.logprob);
        for (int i = 0; i < request.top_logprobs; i++, top++) {
          CHECK_EQ(found.top_tokens[top], top_tokens[i]);
          check_logprob(found.top_logprobs[top], top_logprobs[i]);
          if (found.top_tokens[top] == found.tokens[r] && request.want_logprob) {
            CHECK_EQ(std::memcmp(&found.top_logprobs[top], &found.logprobs[r], sizeof(float)), 0);
          }
        }
        if (request.keep_logits) {
          CHECK(std::memcmp(&after[static_cast<size_t>(r) * vocab], row.data(), vocab * sizeof(float)) == 0);
        }
      }
      CHECK_EQ(found.top_tokens.size(), top);
    }
  }
}

// A pass that is given up leaves no kernel waiting for a mask that nobody makes any more.
TEST(a_mask_that_never_comes_is_given_up) {
  require_gpus();
  Watchdog watchdog(std::chrono::seconds(30));
  constexpr int kVocab = 300;
  CudaStream stream(0);
  LogitStage stage(0, 2, 2, kVocab, stream);
  const CudaMemory memory(0, CudaMemory::Place::device, 1 << 16, "a test");
  const TokenMask never;
  const std::vector<const TokenMask*> masks = {&never};
  std::vector<LogitRequest> requests(1);
  requests[0].mask = 0;
  Step step;
  step.logits = requests;
  step.masks = masks;
  std::vector<float> logits(kVocab, 1.0f);
  const LogitInputs inputs = stage.begin(0, step, requests, stream);
  std::byte* at = memory.data();
  const auto put = [&](const void* from, size_t bytes) {
    std::byte* to = at;
    stream.copy(to, static_cast<const std::byte*>(from), bytes);
    at += (bytes + 255) / 256 * 256;
    return to;
  };
  SampleArguments a;
  a.logits = reinterpret_cast<float*>(put(logits.data(), logits.size() * sizeof(float)));
  a.requests = reinterpret_cast<const LogitRequest*>(put(requests.data(), sizeof(LogitRequest)));
  a.inputs = reinterpret_cast<const LogitInputs*>(put(&inputs, sizeof inputs));
  a.vocab = kVocab;
  a.count = 1;
  a.tokens = reinterpret_cast<int32_t*>(at);
  a.logprobs = reinterpret_cast<float*>(at) + 1;
  stage.run(a, stream.get());
  const auto event = std::make_unique<CudaEvent>(EventUse::order);
  stream.record(*event);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(!event->done());
  stage.abandon();
  stream.synchronize();
  int32_t token = 0;
  stream.copy(reinterpret_cast<std::byte*>(&token), at, sizeof token);
  stream.synchronize();
  CHECK_EQ(token, kAllForbidden);
}

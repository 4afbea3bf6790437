// Embeddings and minTokens through the engine; that they are the same in any crowd and placement is in engine_test.cc.
#include <cmath>

#include "engine/pooling.h"
#include "harness.h"

using namespace millrace;

namespace {

Result answer(Engine& engine, const std::shared_ptr<Model>& model, const RequestOptions& options) {
  const auto sink = std::make_shared<Collector>();
  return sink->wait(engine.submit(model, options, sink));
}

RequestOptions embed(std::vector<int32_t> tokens, Pooling pooling) {
  RequestOptions options;
  options.kind = RequestKind::embed;
  options.tokens = std::move(tokens);
  options.pooling = pooling;
  return options;
}

}  // namespace

TEST(pooled_rows_are_the_mean_of_length_one) {
  PooledRows pooled;
  pooled.add(std::vector<float>{1, 2, 0});
  pooled.add(std::vector<float>{5, 6, 0});
  const std::vector<float> found = pooled.unit_length();
  CHECK_EQ(found.size(), 3u);
  CHECK_EQ(found[0], 0.6f);
  CHECK_EQ(found[1], 0.8f);
  CHECK_EQ(found[2], 0.0f);
  PooledRows zeros;
  zeros.add(std::vector<float>{0, 0});
  CHECK(zeros.unit_length() == (std::vector<float>{0, 0}));
  PooledRows damaged;
  damaged.add(std::vector<float>{NAN, 1});
  CHECK(damaged.unit_length().empty());
}

TEST(norms_before_the_head_and_nothing_behind_them) {
  UnitLayout layout;
  layout.vectors = {0, 16};
  const float vectors[] = {1, 2, 3, 4, 10, 20, 30, 40};
  NormOp norm;
  norm.width = 4;
  norm.weight = 0;
  norm.epsilon = 0;
  std::vector<Op> head = {norm, LinearOp{}, norm};
  std::vector<float> row = {1, 1, 1, -1};
  final_norm(head, layout, reinterpret_cast<const std::byte*>(vectors), row);
  CHECK(row == (std::vector<float>{1, 2, 3, -4}));
  norm.mean = true;
  norm.bias = 1;
  head = {norm};
  row = {3, 3, 1, 1};  // mean 2, deviations of 1
  final_norm(head, layout, reinterpret_cast<const std::byte*>(vectors), row);
  CHECK(row == (std::vector<float>{11, 22, 27, 36}));
}

// A text of one token has one row; the mean of several is another vector than the last; each is the same whether the
// steps are of one row or of all, and the head is read for none of them.
TEST(embeddings_of_any_chunks_and_no_head) {
  const auto host = tiny_model(5);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 50; i++) tokens.push_back(i * 7 % 97);
  Engine engine;
  std::vector<Result> seen[2];
  for (const int max_rows : {1, 7, 64}) {
    Placement placement;
    placement.max_rows = max_rows;
    placement.max_logit_rows = 1;
    const auto model = make_model(host, placement);
    engine.add(model);
    seen[0].push_back(answer(engine, model, embed(tokens, Pooling::mean)));
    seen[1].push_back(answer(engine, model, embed(tokens, Pooling::last)));
    if (max_rows == 64) CHECK_EQ(model->counters().steps.load(), 2u);
    size_t layers = 0;
    for (size_t unit = 0; unit + 1 < host->units().size(); unit++) {
      for (const LinearLayout& linear : host->units()[unit].linears) {
        for (const auto& segment : linear.segments) layers += segment.matrix.bytes;
      }
    }
    CHECK_EQ(model->counters().weight_bytes_read.load(), layers * model->counters().steps.load());
    const Result one_mean = answer(engine, model, embed({9}, Pooling::mean));
    check_same(one_mean, answer(engine, model, embed({9}, Pooling::last)));
    close_and_wait(engine, model);
  }
  for (const auto& results : seen) {
    for (const Result& result : results) {
      check_same(result, results[0]);
      double squares = 0;
      for (const float value : result.embedding) squares += double{value} * value;
      CHECK_EQ(result.embedding.size(), 64u);
      CHECK(std::abs(squares - 1) < 1e-6);
    }
  }
  CHECK(seen[0][0].embedding != seen[1][0].embedding);
}

// Spread over devices with the head on another than the last layer: the rows go there though no logits are wanted.
TEST(embeddings_of_a_head_on_another_device) {
  const auto host = tiny_model(6);
  Engine engine;
  const auto options = embed({4, 8, 15, 16, 23, 42}, Pooling::mean);
  std::vector<Result> results;
  for (const int devices : {1, 2, 3}) {
    Placement placement;
    placement.devices = devices;
    placement.scatter = true;
    const auto model = make_model(host, placement);
    engine.add(model);
    results.push_back(answer(engine, model, options));
    close_and_wait(engine, model);
    check_same(results.back(), results[0]);
  }
}

// None of the stop tokens before so many: what comes instead is what logitBias of -infinity leaves.
TEST(min_tokens_keep_stop_tokens_away) {
  const auto host = tiny_model(7);
  Engine engine;
  const auto model = make_model(host, {});
  engine.add(model);
  RequestOptions options;
  options.tokens = {1, 2, 3, 4};
  options.max_tokens = 20;
  options.logprobs = true;
  const Result free = answer(engine, model, options);
  options.stop_tokens = {free.tokens[0], free.tokens[2], 96, 0};
  CHECK(answer(engine, model, options).finish == Finish::stop);

  RequestOptions forbidden = options;
  forbidden.stop_tokens = {};
  forbidden.max_tokens = 10;
  forbidden.logit_bias = {{free.tokens[1], -0.5f}};
  for (const int32_t token : options.stop_tokens) forbidden.logit_bias.emplace_back(token, -INFINITY);
  const Result expected = answer(engine, model, forbidden);
  options.logit_bias = {{free.tokens[1], -0.5f}, {free.tokens[0], 2.0f}};
  options.min_tokens = 10;
  const Result held = answer(engine, model, options);
  REQUIRE(held.tokens.size() >= 10);
  for (int i = 0; i < 10; i++) {
    CHECK_EQ(held.tokens[i], expected.tokens[i]);
    CHECK_EQ(held.logprobs[i], expected.logprobs[i]);
  }
  // From then on they come again.
  options.logit_bias = {{free.tokens[0], 100.0f}};
  const Result ended = answer(engine, model, options);
  CHECK(ended.finish == Finish::stop);
  CHECK_EQ(ended.tokens.size(), 10u);
  close_and_wait(engine, model);
}

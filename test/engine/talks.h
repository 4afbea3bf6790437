#pragma once
// Talks of several turns, and what comes of each turn by itself.
#include <algorithm>

#include "engine/engine.h"
#include "harness.h"

namespace millrace {

inline int whole_blocks(int tokens) {
  return tokens / kKvBlockTokens * kKvBlockTokens;
}

inline RequestOptions turn(std::vector<int32_t> tokens, int max_tokens) {
  RequestOptions options;
  options.tokens = std::move(tokens);
  options.max_tokens = max_tokens;
  options.logprobs = true;
  return options;
}

inline std::vector<int32_t> text(std::mt19937_64& random, int count) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; i++) tokens.push_back(static_cast<int32_t>(random() % 97));
  return tokens;
}

inline std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// What is asked, and what comes of it with nothing reused.
struct Asked {
  RequestOptions options;
  Result alone;
};

// One model that knows nothing of the others' texts.
class Anew {
 public:
  Anew(Engine& engine, const std::shared_ptr<const HostModel>& host, KvType kv_type = KvType::f16) : engine_(engine) {
    Placement placement;
    placement.kv_type = kv_type;
    placement.prefix_reuse = false;
    model_ = make_model(host, placement);
    engine.add(model_);
  }
  ~Anew() {
    CHECK_EQ(model_->counters().reused_tokens.load(), 0u);
    close_and_wait(engine_, model_);
  }
  Result answer(const RequestOptions& options) { return sink_->wait(engine_.submit(model_, options, sink_)); }

 private:
  Engine& engine_;
  std::shared_ptr<Model> model_;
  std::shared_ptr<Collector> sink_ = std::make_shared<Collector>();
};

// Turns of talks: a new one, or one that goes on with an answer, parts from a text before its end, or asks again.
inline std::vector<Asked> talks(Anew& anew, std::mt19937_64& random, int count) {
  std::vector<Asked> asked;
  while (static_cast<int>(asked.size()) < count) {
    std::vector<int32_t> tokens;
    if (!asked.empty() && random() % 6 != 0) {
      const Asked& before = asked[asked.size() - 1 - random() % std::min<size_t>(asked.size(), 6)];
      tokens = before.options.tokens;
      const uint64_t how = random() % 5;
      if (how < 3) tokens = joined(std::move(tokens), before.alone.tokens);
      if (how == 3) tokens.resize(1 + random() % tokens.size());
      if (how != 4) tokens = joined(std::move(tokens), text(random, static_cast<int>(random() % 30)));
    }
    if (tokens.empty() || tokens.size() > 110) tokens = text(random, 1 + static_cast<int>(random() % 70));
    RequestOptions options = turn(std::move(tokens), 1 + static_cast<int>(random() % 40));
    options.seed = random() % 1000;
    options.priority = static_cast<int>(random() % 2);
    if (random() % 2 == 0) options.temperature = 0.8f;
    if (random() % 3 == 0) options.stop_tokens = text(random, 9);
    if (random() % 8 == 0) options.kind = RequestKind::score;
    options.drafts = static_cast<DraftMethod>(random() % 3);
    options.draft_tokens = static_cast<int>(random() % 9);
    Result alone = anew.answer(options);
    asked.push_back({std::move(options), std::move(alone)});
  }
  return asked;
}

// Tokens that `options` finds computed.
inline uint64_t reused_by(Engine& engine, const std::shared_ptr<Model>& model, const RequestOptions& options,
                          Result& result) {
  const uint64_t before = model->counters().reused_tokens;
  const auto sink = std::make_shared<Collector>();
  result = sink->wait(engine.submit(model, options, sink));
  return model->counters().reused_tokens - before;
}

}  // namespace millrace

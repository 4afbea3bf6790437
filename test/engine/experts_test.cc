// Experts on demand of which CPU threads answer some: the bits of a model whose experts are all resident; the wait for
// the ticket; and an answer that fails.
#include "harness.h"
#include "model/experts_layout.h"

using namespace millrace;

namespace {

constexpr int kExperts = 8, kTopK = 4;

std::shared_ptr<const HostModel> tiny_mixture(uint64_t seed) {
  DenseSpec spec = tiny_spec();
  Program program = dense_program(spec);
  const auto value = [&](int width) {
    program.values.push_back(width);
    return static_cast<int>(program.values.size()) - 1;
  };
  RouteOp route;
  route.experts = kExperts;
  route.top_k = kTopK;
  route.renormalise = true;
  route.in = value(kExperts);
  route.out = value(2 * kTopK);
  ExpertsOp experts;
  experts.routes = route.out;
  experts.out = value(spec.hidden);
  experts.linear = 1;
  experts.experts = kExperts;
  for (int layer = 0; layer < spec.layers; layer++) {
    ProgramUnit& unit = program.units[feed_forward_unit(layer)];
    const Op normed = unit.ops.front();
    experts.in = std::get<NormOp>(normed).out;
    unit.linears = {{spec.hidden, {kExperts}}};
    for (int e = 0; e < kExperts; e++) {
      unit.linears.push_back({spec.hidden, {spec.intermediate, spec.intermediate}, true});
      unit.linears.push_back({spec.intermediate, {spec.hidden}});
    }
    unit.ops = {normed, LinearOp{experts.in, route.in, 0}, route, experts, AddOp{experts.out, kResidual}};
  }
  return made_of(program, seed);
}

struct Answering {
  bool demand = true;
  int threads = 2;
  AnswerHooks hooks;
  int64_t skip_wait = -1;
};

const Answering kResident = [] {
  Answering none;
  none.demand = false;
  return none;
}();

std::shared_ptr<Model> mixture_on(const std::shared_ptr<const HostModel>& host, const Answering& answering) {
  ModelConfig config;
  for (const ProgramUnit& unit : host->program().units) {
    const bool mixture = answering.demand && experts_of(unit) != nullptr;
    config.homes.push_back(mixture ? Home::demand : Home::resident);
  }
  size_t largest = 0;
  for (const UnitLayout& unit : host->units()) largest = std::max(largest, unit.bytes);
  config.ring_bytes = {2 * largest};
  config.expert_threads = answering.demand ? answering.threads : 0;
  config.answer_rates = {1e9, 1e9, 0};  // half of what is missed
  config.answer_hooks = answering.hooks;
  config.skip_answer_wait = answering.skip_wait;
  config.context_length = kContext;
  config.kv_blocks = {40};
  config.max_rows = 48;
  config.max_logit_rows = 24;
  config.prefix_reuse = false;
  config.watch_costs = false;
  return std::make_shared<Model>(Engine::next_id(), create_cpu_backend(2), host, config);
}

RequestOptions asked(int seed, int tokens = 12) {
  RequestOptions options;
  for (int t = 0; t < 3 + seed; t++) options.tokens.push_back((t * 7 + seed * 13) % 97);
  options.max_tokens = tokens;
  options.logprobs = true;
  return options;
}

// A model on an engine of its own.
class Asked {
 public:
  Asked(const std::shared_ptr<const HostModel>& host, const Answering& answering)
      : model_(mixture_on(host, answering)) {
    engine_.add(model_);
  }
  ~Asked() { close_and_wait(engine_, model_); }
  Result ask(const RequestOptions& options) {
    const auto sink = std::make_shared<Collector>();
    return sink->wait(engine_.submit(model_, options, sink));
  }
  uint64_t answered() const { return model_->counters().expert_cpu.load(); }
  uint64_t mapped() const { return model_->counters().expert_mapped.load(); }

 private:
  Engine engine_;
  std::shared_ptr<Model> model_;
};

}  // namespace

TEST(answers_have_the_bits_of_resident_experts) {
  const auto host = tiny_mixture(check::seed());
  Asked resident(host, kResident), answered(host, {});
  for (int seed = 0; seed < 6; seed++) check_same(resident.ask(asked(seed)), answered.ask(asked(seed)));
  CHECK(answered.answered() > 0);
  CHECK(answered.mapped() > 0);
  CHECK_EQ(resident.answered(), 0u);
}

TEST(each_wait_for_an_answer_is_needed) {
  if (kRaceDetector) SKIP("the wait that is left out is a race");
  const auto host = tiny_mixture(check::seed());
  const Result expected = Asked(host, kResident).ask(asked(2));
  for (const int64_t wait : {0, 7, 19}) {
    Answering answering;
    answering.hooks.delay_us = 3000;
    answering.skip_wait = wait;
    CHECK(Asked(host, answering).ask(asked(2)).logprobs != expected.logprobs);
  }
}

TEST(an_answer_that_fails_ends_its_requests_and_later_ones_go_on) {
  const auto host = tiny_mixture(check::seed());
  const Result expected = Asked(host, kResident).ask(asked(3));
  Answering answering;
  answering.hooks.fail_at = 11;
  Asked model(host, answering);
  const Result failed = model.ask(asked(3));
  CHECK(failed.finish == Finish::error);
  CHECK_EQ(failed.error_code, std::string(code::kInternal));
  CHECK(failed.tokens.size() < expected.tokens.size());
  for (int i = 0; i < 3; i++) check_same(model.ask(asked(3)), expected);
}

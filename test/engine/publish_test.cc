// Kernels of a GPU find weights through a table of addresses that launches write. A launch that fails ends its pass;
// the passes after it must not read what an earlier one left in the table.
#include "backend/unit_table.h"
#include "harness.h"

using namespace millrace;

namespace {

// The twin with such a table: it computes with an address only once that was published.
class TableExecutor final : public FaultyExecutor {
 public:
  TableExecutor(std::unique_ptr<Executor> inner, size_t units, int fails)
      : FaultyExecutor(std::move(inner), -1, code::kInternal, -1), table_(units), fails_(fails) {}
  void set_unit(Stream& stream, int unit, const std::byte* slab, bool permanent) override {
    if (!table_.changes(unit, slab, permanent)) return;
    table_.set(unit, slab, permanent, [&] {
      if (launches_++ == fails_) throw Error(code::kInternal, "a launch that failed", "none");
      FaultyExecutor::set_unit(stream, unit, slab, permanent);
    });
  }

 private:
  UnitTable table_;
  int launches_ = 0;
  int fails_;
};

class TableBackend final : public FaultyBackend {
 public:
  explicit TableBackend(int fails) : FaultyBackend(-1, code::kInternal), fails_(fails) {}
  std::unique_ptr<Executor> create_executor(const ExecutorConfig& config) override {
    return std::make_unique<TableExecutor>(FaultyBackend::create_executor(config), config.units.size(), fails_);
  }

 private:
  int fails_;
};

}  // namespace

TEST(after_an_address_that_could_not_be_published_the_next_pass_is_right) {
  const auto host = tiny_model(51);
  Engine engine;
  RequestOptions options;
  for (int t = 0; t < 20; t++) options.tokens.push_back(t * 3 % 97);
  options.max_tokens = 4;
  options.logprobs = true;
  Placement placement;
  placement.layers = Home::streamed;
  placement.head_streamed = true;
  placement.poison = true;
  const ModelConfig config = make_model(host, placement)->config();
  const auto run = [&](int fails) {
    const auto model =
        std::make_shared<Model>(Engine::next_id(), std::make_unique<TableBackend>(fails), host, config, nullptr);
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    const Result first = sink->wait(engine.submit(model, options, sink));
    const Result second = sink->wait(engine.submit(model, options, sink));
    close_and_wait(engine, model);
    return std::pair(first, second);
  };
  const auto [whole, again] = run(-1);
  CHECK(whole.finish == Finish::length);
  check_same(again, whole);
  // In the prompt's pass, and in those of the tokens after it.
  int failures = 0;
  for (;; failures++) {
    const auto [failed, next] = run(failures);
    if (failed.finish == Finish::length) break;  // it was none of this request's
    check_same(next, whole);
    CHECK_EQ(failed.error_code, std::string(code::kInternal));
  }
  CHECK(failures >= 2 * static_cast<int>(host->units().size()));
}

// Passes are captured as graphs whenever a model meets a new shape. Whatever other threads do with the GPU meanwhile
// fails neither them nor the pass.
#include <atomic>

#include "core/thread_pool.h"
#include "cuda/check.h"
#include "cuda/cuda_backend.h"
#include "cuda/hop.h"
#include "cuda/lab.h"
#include "cuda/runtime/graph.h"
#include "cuda/runtime/memory.h"
#include "cuda/runtime/stream.h"
#include "engine/constraints.h"
#include "engine/harness.h"
#include "gpu.h"
#include "lab/session.h"
#include "stream/synthetic.h"

using namespace millrace;

namespace {

std::shared_ptr<const HostModel> small_model() {
  DenseSpec spec;
  spec.vocab = 256;
  spec.hidden = 256;
  spec.layers = 2;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 64;
  spec.intermediate = 512;
  spec.max_position = 4096;
  SyntheticOptions options;
  options.group = 64;
  ThreadPool pool(2);
  return synthetic_model(dense_program(spec), options, pool);
}

std::shared_ptr<Model> resident_model(const std::shared_ptr<const HostModel>& host, const std::vector<int>& gpus) {
  ModelConfig config;
  const size_t units = host->units().size();
  config.homes.assign(units, Home::resident);
  config.ring_bytes.assign(gpus.size(), 0);
  for (size_t unit = 0; gpus.size() > 1 && unit < units; unit++) {
    config.devices.push_back(unit / 2 % gpus.size() == 0 ? 0 : 1);
  }
  config.context_length = 256;
  config.kv_blocks = {40 * 16};
  config.max_rows = 64;
  config.max_logit_rows = 64;
  config.prefix_reuse = false;
  std::vector<std::unique_ptr<Backend>> backends;
  for (const int gpu : gpus) backends.push_back(create_cuda_backend(gpu));
  return std::make_shared<Model>(Engine::next_id(), std::move(backends), host, config);
}

RequestOptions question(int r) {
  RequestOptions options;
  for (int i = 0; i < 5 + r; i++) options.tokens.push_back((r * 37 + i * 11) % 256);
  options.max_tokens = 4;
  options.logprobs = true;
  if (r % 2 == 0) {  // whose passes wait for the host, while others free what waits for them
    static const auto constraint = in_turns();
    options.constraint = constraint;
    options.max_tokens = 12;
  }
  return options;
}

// Answers of crowds of 1, 2, 3 ... requests: the shapes of their passes are all new to the model.
constexpr int kLargest = 16;
std::vector<Result> crowds(Engine& engine, const std::shared_ptr<Model>& model) {
  const auto sink = std::make_shared<Collector>();
  std::vector<Result> results;
  for (int crowd = 1; crowd <= kLargest; crowd++) {
    std::vector<uint64_t> ids;
    for (int r = 0; r < crowd; r++) ids.push_back(engine.submit(model, question(r), sink));
    for (const uint64_t id : ids) results.push_back(sink->wait(id));
  }
  return results;
}

// One after the other.
std::vector<Result> answers(Engine& engine, const std::shared_ptr<Model>& model) {
  const auto sink = std::make_shared<Collector>();
  std::vector<Result> results;
  for (int r = 0; r < kLargest; r++) results.push_back(sink->wait(engine.submit(model, question(r), sink)));
  return results;
}

// New models that capture all their shapes, for some seconds; what differs from the answers is a failure.
int serve(Engine& engine, const std::shared_ptr<const HostModel>& host, const std::vector<Result>& alone, int seconds,
          Watchdog& watchdog) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  int models = 0;
  while (std::chrono::steady_clock::now() < until) {
    watchdog.at(format("model %d captures its shapes", models));
    const auto model = resident_model(host, {0});
    engine.add(model);
    const std::vector<Result> found = crowds(engine, model);
    size_t at = 0;
    for (int crowd = 1; crowd <= kLargest; crowd++) {
      for (int r = 0; r < crowd; r++, at++) {
        if (found[at].finish == Finish::error) {
          check::fail(__FILE__, __LINE__, "a request failed with " + found[at].error_code);
        } else {
          check_same(found[at], alone[r]);
        }
      }
    }
    close_and_wait(engine, model);
    models++;
  }
  return models;
}

// Runs `work` again and again on a thread of its own until the end of the scope; what it throws is a failure.
class Meanwhile {
 public:
  Meanwhile(const char* what, std::function<void()> work)
      : thread_([this, what, work = std::move(work)] {
          while (!over_.load()) {
            try {
              work();
              rounds_++;
            } catch (const Error& error) {
              check::fail(__FILE__, __LINE__, format("%s failed: %s: %s", what, error.code(), error.what()));
              return;
            }
          }
        }) {}
  ~Meanwhile() { end(); }
  int end() {
    over_ = true;
    if (thread_.joinable()) thread_.join();
    return rounds_;
  }

 private:
  std::atomic<bool> over_{false};
  std::atomic<int> rounds_{0};
  std::thread thread_;
};

constexpr int kAddresses = 4500;  // more than a lab keeps at a time

// Launches whose weights are at more addresses than the lab's table has room for, and a timing of some of them.
void use_lab(int gpu) {
  lab::Session session(create_cuda_lab(gpu));
  const std::map<std::string, double> dimensions = {{"rows", 1}, {"n", 64}, {"k", 64}, {"group", 64}};
  const lab::Problem problem = lab::make_problem("gemv_q4", dimensions);
  const size_t slab = (problem.arguments[0].bytes + 255) / 256 * 256;
  const uint32_t weights = session.allocate(slab * kAddresses, false);
  const uint32_t x = session.allocate(problem.arguments[1].bytes, false);
  const uint32_t y = session.allocate(problem.arguments[2].bytes, false);
  const uint32_t stream = session.create_stream();
  const auto at = [&](size_t i) {
    return lab::LaunchRequest{"gemv_q4", dimensions, {{weights, i * slab}, {x, 0}, {y, 0}}, 0};
  };
  session.fill(stream, weights, 0, slab * kAddresses, 0);
  for (size_t i = 0; i < kAddresses; i++) session.launch(stream, at(i));
  session.synchronize(stream);
  std::vector<lab::LaunchRequest> some;
  for (size_t i = 0; i < 64; i++) some.push_back(at(i * 7));
  session.time(some, 64, 2);
}

}  // namespace

// Loads on all GPUs and labs come and go, with all that they allocate, free, pin, load and copy.
TEST(models_and_labs_come_and_go_while_passes_are_captured) {
  const int gpus = require_gpus();
  Watchdog watchdog(std::chrono::seconds(90));
  const auto host = small_model();
  Engine engine;
  const auto first = resident_model(host, {0});
  engine.add(first);
  const std::vector<Result> alone = answers(engine, first);
  for (const Result& result : alone) REQUIRE(result.finish == Finish::length);
  std::vector<int> all;
  for (int gpu = 0; gpu < std::max(2, std::min(gpus, 2)); gpu++) all.push_back(gpu % gpus);
  Meanwhile loads("a load on two GPUs", [&] { resident_model(host, all); });
  Meanwhile pins("pinned memory", [&] {
    const auto other = small_model();
    other->pin({create_cuda_backend(0)->pinner(), {}});
    other->wait_until_pinned();
  });
  Meanwhile labs("a lab", [&] { use_lab(0); });
  const int models = serve(engine, host, alone, 8, watchdog);
  watchdog.at("loads, pins and labs come to their ends");
  std::printf("%d models captured their shapes beside %d loads, %d pinned models and %d labs\n", models, loads.end(),
              pins.end(), labs.end());
  CHECK(models > 0);
  close_and_wait(engine, first);
}

// Deterministic: somebody waits for the very stream that is being captured.
TEST(an_invalidated_capture_gives_no_graph_and_its_stream_goes_on) {
  require_gpus();
  Watchdog watchdog(std::chrono::seconds(30));
  cuda::CudaStream stream(0);
  const cuda::CudaMemory memory(0, cuda::CudaMemory::Place::device, 256, "a test");
  const auto fill = [&](int value) {
    cuda::check(cudaMemsetAsync(memory.data(), value, 256, stream.get()), "filling");
  };
  const auto first_byte = [&] {
    std::byte byte{};
    stream.copy(&byte, memory.data(), 1);
    stream.synchronize();
    return static_cast<int>(byte);
  };
  const auto interfere = [&] {
    std::thread([&] {
      cudaSetDevice(0);
      CHECK(cudaStreamSynchronize(stream.get()) != cudaSuccess);
      cudaGetLastError();
    }).join();
  };
  fill(1);
  // Before the last launch of the capture, which then fails, and after it.
  for (const bool last : {false, true}) {
    const cuda::Graph none = cuda::capture(stream.get(), "a capture", [&] {
      fill(2);
      interfere();
      if (!last) fill(3);
    });
    CHECK(none == nullptr);
    CHECK_EQ(first_byte(), 1);
  }
  const cuda::Graph graph = cuda::capture(stream.get(), "a capture", [&] { fill(4); });
  REQUIRE(graph != nullptr);
  CHECK_EQ(first_byte(), 1);
  cuda::check(cudaGraphLaunch(graph.get(), stream.get()), "launching");
  CHECK_EQ(first_byte(), 4);
  // What fails for a reason of its own is told.
  CHECK_THROWS_CODE(
      cuda::capture(stream.get(), "a capture", [] { throw Error(code::kInvalidArgument, "of its own", "none"); }),
      code::kInvalidArgument);
  fill(5);
  CHECK_EQ(first_byte(), 5);
}

// More addresses than a lab's table has room for: each launch finds its own weights.
TEST(a_lab_keeps_apart_more_addresses_than_its_table_holds) {
  require_gpus();
  Watchdog watchdog(std::chrono::seconds(60));
  lab::Session session(create_cuda_lab(0));
  const std::map<std::string, double> dimensions = {{"rows", 1}, {"n", 64}};
  const lab::Problem problem = lab::make_problem("add_bias", dimensions);
  const size_t each = 64 * sizeof(float);
  const uint32_t biases = session.allocate(each * kAddresses, false);
  const uint32_t y = session.allocate(problem.arguments[1].bytes, false);
  const uint32_t stream = session.create_stream();
  std::vector<float> values(64 * kAddresses);
  for (size_t i = 0; i < values.size(); i++) values[i] = static_cast<float>(i / 64);
  const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
  session.write(biases, 0, {bytes, bytes + values.size() * sizeof(float)});
  session.fill(stream, y, 0, problem.arguments[1].bytes, 0);
  double sum = 0;
  for (int round = 0; round < 2; round++) {
    for (size_t i = 0; i < kAddresses; i += 1 + round) {
      session.launch(stream, {"add_bias", dimensions, {{biases, i * each}, {y, 0}}, 0});
      sum += static_cast<double>(i);
    }
  }
  session.synchronize(stream);
  const std::vector<std::byte> out = session.read(y, 0, sizeof(float));
  float found = 0;
  std::memcpy(&found, out.data(), sizeof found);
  CHECK_NEAR(found, sum, 4);  // whole numbers below 2^24
}

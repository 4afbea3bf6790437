// What a step costs the host: choosing the rows, launching the pass, reading it and handing out its tokens, beside what
// the device takes, with the next pass launched before the last one has been read and without.
//   engine_step_bench [--device cpu|cuda] [--shape toy|tinyllama-1.1b|llama3-8b] [--rows 1,64,256] [--steps N]
// Random weights, all resident; rows decode side by side. Two models of each kind take turns, so that what else the
// machine does disturbs both alike.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "bench/cuda/shapes.h"
#include "bench/usage.h"
#include "cuda/cuda_backend.h"
#include "engine/engine.h"
#include "stream/synthetic.h"

using namespace millrace;

namespace {

constexpr int kPrompt = 16;
constexpr int kWarm = 8;  // steps that are not counted

struct Options {
  std::string device = "cpu", shape = "toy";
  std::vector<int> rows = {1, 64, 256};
  int steps = 100;
};

class NoSink : public EventSink {
 public:
  void post(TokenEvent&&) override {}
  void flush() override {}
};

// As many layers as a large model has, each next to nothing: what is left is the host's part.
DenseSpec toy() {
  DenseSpec spec;
  spec.vocab = 1024, spec.hidden = 64, spec.layers = 32, spec.heads = 4, spec.kv_heads = 2, spec.head_dim = 16;
  spec.intermediate = 96, spec.max_position = 4096;
  return spec;
}

double thread_ms() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
}

struct Times {
  double wall = 0, wait = 0, cpu = 0;  // ms a step
  double ahead = 0;                    // share of the steps
};

std::unique_ptr<Backend> backend_of(const Options& options) {
  return options.device == "cpu" ? create_cpu_backend(static_cast<int>(std::thread::hardware_concurrency()))
                                 : create_cuda_backend(0);
}

Times measure(const Options& options, const std::shared_ptr<const HostModel>& host, int rows, StepsAhead ahead) {
  const int tokens = kPrompt + kWarm + options.steps + 64;
  const int blocks = KvPool::blocks_for(tokens);
  ModelConfig config;
  config.homes.assign(host->units().size(), Home::resident);
  config.ring_bytes = {0};
  config.context_length = blocks * kKvBlockTokens;
  config.kv_blocks = {blocks * rows};
  config.max_rows = std::max(kPrompt * rows, 64);
  config.max_logit_rows = rows;
  config.prefix_reuse = false;
  config.steps_ahead = ahead;
  Model model(Engine::next_id(), backend_of(options), host, config);
  const auto sink = std::make_shared<NoSink>();
  for (int i = 0; i < rows; i++) {
    auto sequence = std::make_unique<Sequence>();
    model.enter_queue();
    sequence->id = Engine::next_id();
    for (int t = 0; t < kPrompt; t++) sequence->options.tokens.push_back((i * 31 + t * 7) % host->program().vocab);
    sequence->tokens = sequence->options.tokens;
    sequence->options.max_tokens = tokens - kPrompt;
    sequence->options.logprobs = true;
    sequence->sink = sink;
    sequence->submitted = Clock::now();
    model.enqueue(std::move(sequence));
  }
  for (int i = 0; i < kWarm; i++) model.step();
  const ModelCounters& counters = model.counters();
  const auto began = Clock::now();
  const double cpu = thread_ms(), wait = counters.wait_ms;
  const uint64_t before = counters.steps_ahead;
  for (int i = 0; i < options.steps; i++) model.step();
  Times times;
  const double steps = options.steps;
  times.wall = std::chrono::duration<double, std::milli>(Clock::now() - began).count() / steps;
  times.cpu = (thread_ms() - cpu) / steps;
  times.wait = (counters.wait_ms - wait) / steps;
  times.ahead = static_cast<double>(counters.steps_ahead - before) / steps;
  return times;
}

}  // namespace

int main(int argc, char** argv) {
  const char* usage =
      "engine_step_bench [--device cpu|cuda] [--shape toy|tinyllama-1.1b|llama3-8b] [--rows 1,64,256] [--steps N]\n"
      "What a step costs the host, beside what the device takes.\n";
  help_if_asked(argc, argv, usage);
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (i + 1 >= argc) refuse(flag, usage);
    const std::string value = argv[i + 1];
    if (flag == "--device" && (value == "cpu" || value == "cuda")) {
      options.device = value;
    } else if (flag == "--shape") {
      options.shape = value;
    } else if (flag == "--steps") {
      options.steps = std::max(1, std::atoi(value.c_str()));
    } else if (flag == "--rows") {
      options.rows.clear();
      std::stringstream list(value);
      for (std::string one; std::getline(list, one, ',');) options.rows.push_back(std::max(1, std::atoi(one.c_str())));
    } else {
      refuse(flag, usage);
    }
  }
  const DenseSpec spec = options.shape == "toy" ? toy() : shape(options.shape);
  SyntheticOptions weights;
  weights.group = options.shape == "toy" ? 32 : 128;
  weights.head = WeightType::q4;
  ThreadPool pool(static_cast<int>(std::thread::hardware_concurrency()));
  const auto host = synthetic_model(dense_program(spec), weights, pool);
  std::printf("%s on %s, ms a step; host: the worker's processor time less what it polled on a GPU\n",
              options.shape.c_str(), options.device.c_str());
  for (const int rows : options.rows) {
    for (int round = 0; round < 2; round++) {
      for (const StepsAhead ahead : {StepsAhead::never, StepsAhead::always}) {
        const Times t = measure(options, host, rows, ahead);
        const double host_ms = options.device == "cpu" ? t.cpu : t.wall - t.wait;
        std::printf("rows %3d %-9s | host %.3f, waits %.3f, step %.3f | %.0f %% launched ahead\n", rows,
                    ahead == StepsAhead::never ? "in turn" : "one ahead", host_ms, t.wait, t.wall, 100 * t.ahead);
      }
    }
  }
  return 0;
}

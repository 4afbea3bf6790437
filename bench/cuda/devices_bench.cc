// A model of random weights in a real shape on one GPU and spread over several: is every answer the same, and how much
// faster is it?
//   cuda_devices_bench [--shape llama3-8b|tinyllama-1.1b] [--devices 0,1] [--tokens N] [--prompt N] [--long-prompt N]
//       [--batches 1,8] [--indirect]
// Prints, of the same run: the link of each GPU alone and of all at once; for one GPU and for all, each of all streamed
// and all resident, decoding tokens a second and prefill, the share of the links; and whether the tokens are the same.
// --devices 0,0 is a check of the machinery on a machine with one GPU. --indirect: rows cross by way of system RAM.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "bench/cuda/shapes.h"
#include "bench/usage.h"
#include "cuda/cuda_backend.h"
#include "engine/engine.h"
#include "stream/link.h"
#include "stream/synthetic.h"

using namespace millrace;
using SteadyClock = std::chrono::steady_clock;

namespace {

struct Flags {
  std::string shape = "llama3-8b";
  std::vector<int> devices = {0, 1};
  std::vector<int> batches = {1};
  int tokens = 64;
  int prompt = 64;
  int long_prompt = 2048;
  bool indirect = false;
};

std::vector<int> numbers(const char* text) {
  std::vector<int> found;
  for (const char* at = text; *at != 0;) {
    char* end = nullptr;
    found.push_back(static_cast<int>(std::strtol(at, &end, 10)));
    at = *end == ',' ? end + 1 : end + std::strlen(end);
  }
  return found;
}

double seconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

class Collector final : public EventSink {
 public:
  void post(TokenEvent&& event) override {
    std::lock_guard lock(mutex_);
    Answer& answer = answers_[event.request];
    if (answer.tokens.empty() && !event.tokens.empty()) answer.first = SteadyClock::now();
    answer.tokens.insert(answer.tokens.end(), event.tokens.begin(), event.tokens.end());
    if (event.finish == Finish::none) return;
    answer.ended = true;
    if (event.finish == Finish::error) {
      std::printf("a request failed: %s: %s\n", event.error_code.c_str(), event.error_message.c_str());
      std::exit(1);
    }
  }
  void post_step(const StepEvent&) override {}
  void flush() override { changed_.notify_all(); }

  struct Answer {
    std::vector<int32_t> tokens;
    SteadyClock::time_point first;
    bool ended = false;
  };
  Answer wait(uint64_t request) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return answers_[request].ended; });
    return answers_[request];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, Answer> answers_;
};

struct Measured {
  double decode = 0, prefill = 0, link = 0;  // tokens a second; bytes a second over all links while decoding
  std::vector<std::vector<int32_t>> tokens;
};

struct Bench {
  Flags flags;
  DenseSpec spec;
  std::shared_ptr<const HostModel> host;
  Engine engine;

  std::shared_ptr<Model> load(const std::vector<int>& devices, Home layers, int batch) {
    ModelConfig config;
    const int count = static_cast<int>(devices.size());
    size_t largest = 0;
    for (size_t u = 0; u < host->units().size(); u++) {
      const ProgramUnit& unit = host->program().units[u];
      config.homes.push_back(unit.head ? Home::resident : layers);
      if (count > 1) config.devices.push_back(unit.layer % count);
      if (!unit.head) largest = std::max(largest, host->units()[u].bytes);
    }
    config.ring_bytes.assign(count, 2 * largest);
    config.context_length = flags.long_prompt + 64;
    config.kv_blocks = {KvPool::blocks_for(config.context_length) +
                        batch * KvPool::blocks_for(flags.prompt + flags.tokens)};
    config.max_rows = 64 + 1984;
    config.max_logit_rows = 64;
    config.prefix_reuse = false;
    config.direct_hops = !flags.indirect;
    std::vector<std::unique_ptr<Backend>> backends;
    for (const int device : devices) backends.push_back(create_cuda_backend(device));
    if (layers != Home::resident) {
      host->pin({backends[0]->pinner(), backends[0]->pinner()});
      host->wait_until_pinned();
    }
    auto model = std::make_shared<Model>(Engine::next_id(), std::move(backends), host, config);
    engine.add(model);
    return model;
  }

  void close(const std::shared_ptr<Model>& model) {
    std::mutex mutex;
    std::condition_variable changed;
    bool closed = false;
    engine.close(model, true, std::chrono::seconds(60), [&] {
      std::lock_guard lock(mutex);
      closed = true;
      changed.notify_all();
    });
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return closed; });
  }

  uint64_t submit(const std::shared_ptr<Model>& model, const std::shared_ptr<Collector>& sink, int seed, int prompt,
                  int tokens) {
    RequestOptions options;
    for (int i = 0; i < prompt; i++) {
      options.tokens.push_back(static_cast<int32_t>((int64_t{seed} * 7919 + int64_t{i} * 104729) % spec.vocab));
    }
    options.max_tokens = tokens;
    return engine.submit(model, options, sink);
  }

  Measured measure(const std::vector<int>& devices, Home layers, int batch) {
    const auto model = load(devices, layers, batch);
    const auto sink = std::make_shared<Collector>();
    sink->wait(submit(model, sink, 99, 16, 4));  // warm
    Measured found;
    // The same prompts, in one chunk each: the first answers are those that are compared.
    std::vector<uint64_t> ids;
    const uint64_t copied = model->counters().copied_bytes;
    const auto begin = SteadyClock::now();
    for (int i = 0; i < batch; i++) ids.push_back(submit(model, sink, i + 1, flags.prompt, flags.tokens));
    SteadyClock::time_point last_first = begin;
    for (const uint64_t id : ids) {
      const Collector::Answer answer = sink->wait(id);
      found.tokens.push_back(answer.tokens);
      last_first = std::max(last_first, answer.first);
    }
    const double whole = seconds_since(begin);
    const double decode = seconds_since(last_first);
    found.decode = batch * (flags.tokens - 1) / decode;
    found.link = static_cast<double>(model->counters().copied_bytes - copied) / whole;
    sink->wait(submit(model, sink, 77, flags.long_prompt, 1));  // the kernels of many rows
    const auto prefill = SteadyClock::now();
    found.tokens.push_back(sink->wait(submit(model, sink, 78, flags.long_prompt, 1)).tokens);
    found.prefill = flags.long_prompt / seconds_since(prefill);
    for (const DeviceCounters& device : model->devices()) {
      std::printf("    %s: resident %.2f GB, ring %.2f, KV %.2f, workspace %.2f, copied %.1f, rows come %s\n",
                  device.name.c_str(), device.resident_bytes / 1e9, device.ring_bytes / 1e9, device.kv_bytes / 1e9,
                  device.workspace_bytes / 1e9, device.copied_bytes / 1e9,
                  devices.size() == 1  ? "from nowhere"
                  : device.direct_hops ? "directly"
                                       : "through RAM");
    }
    close(model);
    return found;
  }
};

double links_at_once(const std::vector<int>& devices) {
  constexpr size_t kBytes = size_t{1} << 30;
  std::vector<std::thread> threads;
  std::vector<double> found(devices.size());
  for (size_t i = 0; i < devices.size(); i++) {
    threads.emplace_back([&, i] { found[i] = measure_copy_bandwidth(*create_cuda_backend(devices[i]), kBytes); });
  }
  for (std::thread& thread : threads) thread.join();
  double sum = 0;
  for (size_t i = 0; i < devices.size(); i++) {
    std::printf("  cuda:%d beside the others %.2f GB/s\n", devices[i], found[i] / 1e9);
    sum += found[i];
  }
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  const char* usage =
      "cuda_devices_bench [--shape llama3-8b|tinyllama-1.1b] [--devices 0,1] [--tokens N] [--prompt N]\n"
      "  [--long-prompt N] [--batches 1,8] [--indirect]\n"
      "A model of random weights on one GPU and spread over several: are the tokens the same, and how much faster is "
      "it?\n"
      "--devices 0,0 checks the machinery on one GPU; --indirect: rows cross by way of system RAM.\n";
  help_if_asked(argc, argv, usage);
  Bench bench;
  Flags& flags = bench.flags;
  for (int i = 1; i < argc; i++) {
    const std::string flag = argv[i];
    if (flag == "--indirect") {
      flags.indirect = true;
      continue;
    }
    if (i + 1 >= argc) refuse(flag, usage);
    const char* value = argv[++i];
    if (flag == "--shape") {
      flags.shape = value;
    } else if (flag == "--devices") {
      flags.devices = numbers(value);
    } else if (flag == "--batches") {
      flags.batches = numbers(value);
    } else if (flag == "--tokens") {
      flags.tokens = std::atoi(value);
    } else if (flag == "--prompt") {
      flags.prompt = std::atoi(value);
    } else if (flag == "--long-prompt") {
      flags.long_prompt = std::atoi(value);
    } else {
      refuse(flag, usage);
    }
  }
  const auto began = SteadyClock::now();
  bench.spec = shape(flags.shape);
  ThreadPool pool(static_cast<int>(std::thread::hardware_concurrency()));
  const std::vector<int>& devices = flags.devices;
  double best_link = 0;
  for (const int device : devices) {
    const double link = measure_copy_bandwidth(*create_cuda_backend(device), size_t{1} << 30);
    std::printf("cuda:%d alone %.2f GB/s\n", device, link / 1e9);
    best_link = std::max(best_link, link);
  }
  const double together = links_at_once(devices);
  std::printf("together %.2f GB/s, %.2f x one; %.1f s so far\n", together / 1e9, together / best_link,
              seconds_since(began));
  const auto first = create_cuda_backend(devices[0]);
  bench.host = synthetic_model(dense_program(bench.spec), {}, pool, {first->pinner(), first->pinner()});
  size_t bytes = 0;
  for (size_t u = 0; u + 1 < bench.host->units().size(); u++) bytes += bench.host->units()[u].bytes;  // but the head
  std::printf("%s: layers of %.2f GB; %.1f s so far\n", flags.shape.c_str(), bytes / 1e9, seconds_since(began));
  bool same = true;
  for (const int batch : flags.batches) {
    for (const Home layers : {Home::streamed, Home::resident}) {
      const char* homes = layers == Home::streamed ? "streamed" : "resident";
      std::printf("batch %d, all %s\n", batch, homes);
      const Measured one = bench.measure({devices[0]}, layers, batch);
      const Measured all = bench.measure(devices, layers, batch);
      const bool equal = one.tokens == all.tokens;
      same = same && equal;
      std::printf(
          "  one GPU %.2f tok/s (%.1f %% of its link), prefill %.0f tok/s\n"
          "  %zu GPUs %.2f tok/s (%.1f %% of the links at once), prefill %.0f tok/s\n"
          "  decode %.3f x, prefill %.3f x, tokens %s; %.1f s so far\n",
          one.decode, 100 * one.link / best_link, one.prefill, devices.size(), all.decode, 100 * all.link / together,
          all.prefill, all.decode / one.decode, all.prefill / one.prefill, equal ? "the same" : "DIFFER",
          seconds_since(began));
      std::fflush(stdout);
    }
  }
  return same ? 0 : 1;
}

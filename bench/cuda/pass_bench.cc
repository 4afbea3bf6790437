// Where a decode step's time goes: whole passes of a model of random weights in a real shape, without Node.
//   cuda_pass_bench [--shape llama3-8b|tinyllama-1.1b] [--rows N] [--context N] [--head q4|f16] [--passes N]
// Prints, of the same run: passes back to back (the GPU's own time), steps as the engine takes them (inputs, pass,
// wait, tokens), and the bytes of weights a pass reads beside a plain read of the GPU's memory.
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "bench/cuda/shapes.h"
#include "bench/usage.h"
#include "cuda/cuda_backend.h"
#include "stream/feeder.h"
#include "stream/synthetic.h"

using namespace millrace;
using Clock = std::chrono::steady_clock;

namespace {

double milliseconds(Clock::duration d) {
  return std::chrono::duration<double, std::milli>(d).count();
}

}  // namespace

int main(int argc, char** argv) {
  const char* usage =
      "cuda_pass_bench [--shape llama3-8b|tinyllama-1.1b] [--rows N] [--context N] [--head q4|f16] [--passes N]\n"
      "Where a decode step's time goes: whole passes of a model of random weights, without Node.\n";
  help_if_asked(argc, argv, usage);
  std::string name = "llama3-8b", head = "f16";
  int rows = 1, context = 128, passes = 200;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (i + 1 >= argc) refuse(flag, usage);
    const char* value = argv[i + 1];
    if (flag == "--shape") {
      name = value;
    } else if (flag == "--head") {
      head = value;
    } else if (flag == "--rows") {
      rows = std::atoi(value);
    } else if (flag == "--context") {
      context = std::atoi(value);
    } else if (flag == "--passes") {
      passes = std::atoi(value);
    } else {
      refuse(flag, usage);
    }
  }
  const DenseSpec spec = shape(name);
  SyntheticOptions options;
  options.head = head == "q4" ? WeightType::q4 : WeightType::f16;
  ThreadPool pool(static_cast<int>(std::thread::hardware_concurrency()));
  const auto host = synthetic_model(dense_program(spec), options, pool);
  const auto backend = create_cuda_backend(0);

  FeederConfig feeding;
  size_t bytes = 0;
  for (const UnitLayout& unit : host->units()) {
    feeding.unit_bytes.push_back(unit.bytes);
    bytes += unit.bytes;
  }
  feeding.homes.assign(host->units().size(), Home::resident);
  Feeder feeder(*backend, *host, feeding);
  const auto compute = backend->create_stream();
  const auto done = backend->create_event();
  const int blocks_a_sequence = (context + 16) / kKvBlockTokens + 1;
  const int blocks = rows * blocks_a_sequence;
  const auto kv = backend->allocate(static_cast<size_t>(blocks) * spec.layers * kv_block_bytes(spec), "the KV cache");
  compute->fill(kv->data(), 0, kv->size());
  ExecutorConfig config;
  config.program = host->program();
  config.units = host->units();
  config.tables = {{host->embedding(), host->tables()[0].type}};
  config.kv = {{kv->data(), {}, blocks}};
  config.max_rows = std::max(rows, 64);
  config.max_logit_rows = std::max(rows, 64);
  config.max_context = blocks_a_sequence * kKvBlockTokens;
  const auto executor = backend->create_executor(config);
  // Twice: units are read ahead from the second time on that they are where they were.
  for (size_t i = 0; i < 2 * config.units.size(); i++) {
    const size_t unit = i % config.units.size();
    executor->set_unit(*compute, static_cast<int>(unit), feeder.acquire(*compute, static_cast<int>(unit)), true);
  }

  std::vector<int32_t> tokens(rows), positions(rows, context - 1), sequences(rows), tables(blocks);
  std::vector<LogitRequest> logits(rows);
  for (int r = 0; r < rows; r++) {
    tokens[r] = 1000 + r;
    sequences[r] = r;
    logits[r].row = r;
    logits[r].want_logprob = true;
  }
  for (int b = 0; b < blocks; b++) tables[b] = b;
  Step step;
  step.rows = step.decode_rows = rows;
  step.tokens = tokens;
  step.positions = positions;
  step.sequences = sequences;
  step.block_tables = tables;
  step.block_table_stride = blocks_a_sequence;
  step.logits = logits;
  StepOutput output;
  const auto pass = [&] {
    executor->begin(*compute, step, output);
    executor->embed(*compute);
    for (int unit = 0; unit < static_cast<int>(config.units.size()); unit++) executor->run(*compute, unit);
    executor->sample(*compute);
    executor->end(*compute);
  };
  for (int i = 0; i < 5; i++) pass();
  compute->synchronize();

  // The inputs of two passes under way would overwrite each other; they are the same here.
  std::vector<double> back_to_back, steps;
  for (int round = 0; round < 5; round++) {
    const auto begin = Clock::now();
    for (int i = 0; i < passes; i++) pass();
    compute->synchronize();
    back_to_back.push_back(milliseconds(Clock::now() - begin) / passes);
  }
  uint64_t digest = 0;  // of the first row's tokens and log-probabilities: the same for any number of rows
  for (int i = 0; i < passes; i++) {
    const auto begin = Clock::now();
    pass();
    compute->record(*done);
    done->synchronize();
    executor->collect(output);
    steps.push_back(milliseconds(Clock::now() - begin));
    tokens[0] = output.tokens[0] >= 0 ? output.tokens[0] : 1;
    digest = (digest * 31 + static_cast<uint32_t>(tokens[0])) * 31 + std::bit_cast<uint32_t>(output.logprobs[0]);
  }
  std::sort(back_to_back.begin(), back_to_back.end());
  std::sort(steps.begin(), steps.end());
  const double gpu = back_to_back[2], whole = steps[steps.size() / 2];
  std::printf(
      "%-4s head %-4s rows %3d context %6d | pass %.3f ms, step %.3f ms, %.1f tok/s | %.2f TB/s of weights | %08x\n",
      name.c_str(), head.c_str(), rows, context, gpu, whole, rows / whole * 1e3, static_cast<double>(bytes) / gpu / 1e9,
      static_cast<unsigned>(digest ^ digest >> 32));
  return 0;
}

// Times experts on the CPU (backend/cpu/expert_answer.h), one thread an expert, on more weights than any cache holds.
//
//   cpu_expert_bench [--hidden 2048] [--features 768] [--rows 1,2,4,8] [--threads 1] [--megabytes 384]
//
// Weights are q4 in groups of 128. A line's time is the mean of 2 s.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include "backend/cpu/expert_answer.h"
#include "backend/cpu/linear.h"
#include "bench/usage.h"
#include "core/memory.h"
#include "stream/synthetic.h"

using namespace millrace;

namespace {

constexpr const char* kUsage =
    "cpu_expert_bench [--hidden 2048] [--features 768] [--rows 1,2,4,8] [--threads 1] [--megabytes 384]\n"
    "Times experts of 4 bits on the CPU, one thread an expert.\n";

}  // namespace

int main(int argc, char** argv) {
  help_if_asked(argc, argv, kUsage);
  int hidden = 2048, features = 768, threads = 1;
  size_t bytes = size_t{384} << 20;
  std::vector<int> rows = {1, 2, 4, 8};
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) refuse(name, kUsage);
    const int value = std::max(1, std::atoi(argv[i + 1]));
    if (name == "--hidden") {
      hidden = static_cast<int>(round_up(static_cast<size_t>(value), 128));
    } else if (name == "--features") {
      features = static_cast<int>(round_up(static_cast<size_t>(value), 128));
    } else if (name == "--threads") {
      threads = value;
    } else if (name == "--megabytes") {
      bytes = static_cast<size_t>(value) << 20;
    } else if (name == "--rows") {
      rows.clear();
      for (const char* p = argv[i + 1]; *p != '\0';) {
        rows.push_back(std::max(1, static_cast<int>(std::strtol(p, const_cast<char**>(&p), 10))));
        if (*p != '\0') p++;
      }
    } else {
      refuse(name, kUsage);
    }
  }
  LinearLayout gate_up, down;
  SlabBuilder builder;
  const MatrixCode code{WeightType::q4, ScaleType::f16, false, false, 128};
  gate_up.n = 2 * features, gate_up.k = hidden, gate_up.interleaved = true;
  gate_up.segments.push_back({builder.matrix(code, gate_up.n, hidden, hidden), 0});
  down.n = hidden, down.k = features;
  down.segments.push_back({builder.matrix(code, hidden, features, features), 0});
  const size_t stride = round_up(builder.bytes(), 4096);
  const int copies = static_cast<int>(std::max<size_t>(bytes / stride, 1));
  const HostMemory memory(stride * copies, "a bench's experts");
  for (int i = 0; i < copies; i++) {
    for (const LinearLayout* linear : {&gate_up, &down}) {
      const MatrixLayout& m = linear->segments[0].matrix;
      for (int b = 0; b < m.n_blocks(); b++) {
        fill_row_block(m, memory.data() + i * stride + m.offset + b * m.row_block_bytes(), i * 1000 + b);
      }
    }
  }
  std::printf("%s, %d x %d, %.2f MB an expert, %d threads\n", selected_kernels(), hidden, features,
              builder.bytes() / 1e6, threads);
  for (const int count : rows) {
    std::atomic<int64_t> done{0};
    std::atomic<int> next{0};
    std::atomic<bool> over{false};
    const auto work = [&] {
      std::vector<float> x(static_cast<size_t>(hidden), 0.5f), y(static_cast<size_t>(count) * hidden);
      std::vector<const float*> in(count, x.data());
      std::vector<float*> out;
      for (int r = 0; r < count; r++) out.push_back(y.data() + static_cast<size_t>(r) * hidden);
      ExpertAnswer answer;
      ExpertCall call;
      call.gate_up = &gate_up, call.down = &down, call.rows = count, call.x = in.data(), call.y = out.data();
      while (!over) {
        call.expert = memory.data() + static_cast<size_t>(next++ % copies) * stride;
        answer_expert(call, answer);
        done++;
      }
    };
    const auto begin = std::chrono::steady_clock::now();
    const std::clock_t processor = std::clock();
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; t++) workers.emplace_back(work);
    std::this_thread::sleep_for(std::chrono::seconds(2));
    over = true;
    for (std::thread& worker : workers) worker.join();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    const double busy = static_cast<double>(std::clock() - processor) / CLOCKS_PER_SEC;
    std::printf("%3d rows: %8.1f us an expert and thread, %8.1f of processor time, %6.1f GB/s\n", count,
                seconds * threads / done * 1e6, busy / done * 1e6, builder.bytes() * done / seconds / 1e9);
  }
}

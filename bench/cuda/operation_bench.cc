// Every operation of the lab's table against the CPU twin on random inputs, then its time: a kernel's test and bench
// without Node. Build it alone: cmake --build <tree> --target cuda_operation_bench.
//   cuda_operation_bench [operation [dimension=value ...]] [--kernel file] [--check]
// Without dimensions, a list of awkward and of real ones. Exits with 1 if anything differs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "bench/usage.h"
#include "core/error.h"
#include "core/half.h"
#include "cuda/lab.h"
#include "lab/session.h"

using namespace millrace;
using namespace millrace::lab;

namespace {

using Dimensions = std::map<std::string, double>;

std::vector<Dimensions> usual_dimensions(const Operation& operation) {
  switch (operation.kind) {
    case Kind::gemv:
    case Kind::gemm: {
      const double rows = operation.kind == Kind::gemv ? 1 : 512;
      std::vector<Dimensions> out = {
          {{"rows", 3}, {"n", 192}, {"k", 576}},
          {{"rows", operation.kind == Kind::gemv ? 64 : 130}, {"n", 576}, {"k", 576}, {"permuted", 1}, {"epilogue", 1}},
          {{"rows", 9}, {"n", 592}, {"k", 1000}, {"epilogue", 2}},
          {{"rows", rows}, {"n", 6144}, {"k", 4096}}};
      if (operation.weights == WeightType::q4) {
        out.push_back({{"rows", 5}, {"n", 200}, {"k", 192}, {"group", 32}, {"zeros", 1}, {"scaleType", 1}});
        out.push_back({{"rows", rows}, {"n", 28672}, {"k", 4096}, {"epilogue", 2}});
        out.push_back({{"rows", 17}, {"n", 576}, {"k", 576}, {"group", 0}, {"zeros", 1}, {"permuted", 1}});
      }
      return out;
    }
    case Kind::rms_norm:
      return {{{"rows", 3}, {"width", 100}}, {{"rows", 1}, {"width", 4096}}, {{"rows", 512}, {"width", 4096}}};
    case Kind::norm_heads:
      return {{{"rows", 3}, {"heads", 4}, {"kvHeads", 2}, {"headDim", 64}},
              {{"rows", 64}, {"heads", 32}, {"kvHeads", 8}, {"headDim", 128}}};
    case Kind::add_bias:
      return {{{"rows", 3}, {"n", 100}}, {{"rows", 64}, {"n", 6144}}};
    case Kind::silu_mul:
      return {{{"rows", 3}, {"intermediate", 96}, {"interleaved", 1}}, {{"rows", 64}, {"intermediate", 14336}}};
    case Kind::embed:
      return {{{"rows", 3}, {"vocab", 50}, {"hidden", 72}, {"tableType", 2}},
              {{"rows", 64}, {"vocab", 32000}, {"hidden", 4096}}};
    case Kind::attention_decode:
      return {{{"rows", 3}, {"context", 300}, {"heads", 6}, {"kvHeads", 2}, {"headDim", 64}, {"window", 100}},
              {{"rows", 1}, {"context", 8192}, {"heads", 32}, {"kvHeads", 8}, {"headDim", 128}}};
    case Kind::attention_prefill:
      return {{{"rows", 70}, {"context", 133}, {"heads", 6}, {"kvHeads", 2}, {"headDim", 64}},
              {{"rows", 512}, {"context", 1024}, {"heads", 32}, {"kvHeads", 8}, {"headDim", 128}}};
    case Kind::route:
      return {{{"rows", 3}, {"experts", 10}, {"topK", 3}, {"sigmoid", 1}},
              {{"rows", 64}, {"experts", 128}, {"topK", 8}}};
    case Kind::experts:
      return {{{"rows", 3}, {"experts", 7}, {"topK", 2}, {"n", 192}, {"k", 576}, {"epilogue", 2}},
              {{"rows", 40}, {"experts", 4}, {"topK", 3}, {"n", 200}, {"k", 200}, {"permuted", 1}, {"places", 1}},
              {{"rows", 1}, {"experts", 128}, {"topK", 8}, {"n", 1536}, {"k", 2048}, {"epilogue", 2}},
              {{"rows", 32}, {"experts", 128}, {"topK", 8}, {"n", 2048}, {"k", 768}, {"places", 1}}};
    case Kind::combine:
      return {{{"rows", 3}, {"topK", 3}, {"width", 100}}, {{"rows", 64}, {"topK", 8}, {"width", 2048}}};
    case Kind::sample:
      return {{{"rows", 3}, {"vocab", 1000}, {"topK", 20}, {"topP", 0.9}},
              {{"rows", 64}, {"vocab", 32000}},
              {{"rows", 1}, {"vocab", 128256}, {"temperature", 0}}};
  }
  return {};
}

LaunchRequest prepare(Session& session, const Problem& problem, uint32_t kernel) {
  LaunchRequest request;
  request.operation = problem.operation->name;
  request.dimensions = problem.dimensions;
  request.kernel = kernel;
  for (const Argument& argument : problem.arguments) {
    request.arguments.emplace_back(
        session.allocate(argument.bytes, std::strcmp(argument.parameter->name, "table") == 0), 0);
  }
  session.randomise(request, 1, true);
  return request;
}

double value_of(const Argument& argument, const std::byte* bytes, size_t i) {
  if (argument.element == Element::f16) {
    uint16_t bits;
    std::memcpy(&bits, bytes + 2 * i, 2);
    return half_to_float(bits);
  }
  if (argument.element == Element::i32) {
    int32_t v;
    std::memcpy(&v, bytes + 4 * i, 4);
    return v;
  }
  float v;
  std::memcpy(&v, bytes + 4 * i, 4);
  return v;
}

// Relative error of all that the operation writes; NaN where a number is missing.
double compare(Session& twin, Session& gpu, const Problem& problem, uint32_t kernel) {
  double worst = 0;
  const LaunchRequest expected = prepare(twin, problem, 0), found = prepare(gpu, problem, kernel);
  const uint32_t twin_stream = twin.create_stream(), gpu_stream = gpu.create_stream();
  twin.launch(twin_stream, expected);
  gpu.launch(gpu_stream, found);
  for (size_t a = 0; a < problem.arguments.size(); a++) {
    const Argument& argument = problem.arguments[a];
    if (argument.parameter->access == lab::Access::in) continue;
    const std::vector<std::byte> want = twin.read(expected.arguments[a].first, 0, argument.bytes);
    const std::vector<std::byte> have = gpu.read(found.arguments[a].first, 0, argument.bytes);
    double difference = 0, size = 1e-300;
    for (size_t i = 0; i < argument.bytes / bytes_of(argument.element); i++) {
      const double w = value_of(argument, want.data(), i), h = value_of(argument, have.data(), i);
      if (std::isnan(w)) continue;  // columns of padding
      difference += (w - h) * (w - h);
      size += w * w;
    }
    const double error = std::sqrt(difference / size);
    worst = error <= worst ? worst : error;
  }
  for (const auto& [buffer, offset] : expected.arguments) twin.release(buffer);
  for (const auto& [buffer, offset] : found.arguments) gpu.release(buffer);
  return worst;
}

std::string text_of(const Dimensions& dimensions) {
  std::string out;
  for (const auto& [name, value] : dimensions) out += (out.empty() ? "" : " ") + name + format("=%g", value);
  return out;
}

}  // namespace

int main(int argc, char** argv) try {
  const char* usage =
      "cuda_operation_bench [operation [dimension=value ...]] [--kernel file] [--check]\n"
      "Operations of the lab against the CPU twin on random inputs, then their times (not with --check). Without\n"
      "dimensions, a list of awkward and of real ones.\n";
  help_if_asked(argc, argv, usage);
  std::string only, kernel_file;
  Dimensions given;
  bool check_only = false;
  for (int i = 1; i < argc; i++) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    if (argument == "--kernel" && i + 1 < argc) {
      kernel_file = argv[++i];
    } else if (argument == "--check") {
      check_only = true;
    } else if (equals != std::string::npos) {
      given[argument.substr(0, equals)] = std::atof(argument.c_str() + equals + 1);
    } else if (argument.starts_with("--")) {
      refuse(argument, usage);
    } else {
      only = find_operation(argument).name;
    }
  }
  Session twin(create_cpu_device(static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))));
  Session gpu(create_cuda_lab(0));
  uint32_t kernel = 0;
  if (!kernel_file.empty()) {
    std::ifstream file(kernel_file, std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
    if (only.empty()) only = "gemv_q4";
    kernel = gpu.load_kernel({only, kernel_file, {data, data + bytes.size()}});
  }
  const double peak = gpu.read_bandwidth();
  std::printf("read peak %.1f GB/s\n", peak / 1e9);
  int failures = 0;
  for (const Operation& operation : operations()) {
    if (!only.empty() && operation.name != only) continue;
    for (const Dimensions& dimensions : given.empty() ? usual_dimensions(operation) : std::vector{given}) {
      const Problem problem = make_problem(operation.name, dimensions);
      const double error = compare(twin, gpu, problem, kernel);
      const bool good = error < 2e-3;
      failures += good ? 0 : 1;
      std::printf("%-6s %-18s error %.1e", good ? "ok" : "FAILED", operation.name.c_str(), error);
      if (!check_only) {  // as many copies of the weights as no cache holds
        std::vector<LaunchRequest> works = {prepare(gpu, problem, kernel)};
        const size_t copies =
            std::clamp<size_t>((size_t{512} << 20) / std::max<size_t>(problem.weight_bytes, 1), 1, 32);
        const bool slab = std::strcmp(problem.arguments[0].parameter->name, "slab") == 0;
        for (size_t c = 1; slab && c < copies; c++) {
          works.push_back(works[0]);
          works.back().arguments[0].first = gpu.allocate(problem.arguments[0].bytes, false);
          gpu.copy(gpu.create_stream(), works.back().arguments[0].first, 0, works[0].arguments[0].first, 0,
                   problem.arguments[0].bytes);
        }
        std::vector<double> times = gpu.time(works, std::max<int>(20, static_cast<int>(works.size())), 9);
        std::sort(times.begin(), times.end());
        const double rate = static_cast<double>(problem.bytes) / times[4] * 1e6;
        std::printf(" %10.2f us %8.1f GB/s %4.0f %% of peak %9.0f GFLOP/s", times[4], rate / 1e9, rate / peak * 100,
                    problem.operations / times[4] / 1e3);
        for (const LaunchRequest& work : works) {
          for (const auto& [buffer, offset] : work.arguments) gpu.release(buffer);
        }
      }
      std::printf("  %s\n", text_of(dimensions).c_str());
    }
  }
  std::printf("%s\n", failures == 0 ? "all agree with the CPU twin" : "SOME DIFFER");
  return failures == 0 ? 0 : 1;
} catch (const Error& error) {
  std::printf("%s: %s\n  %s\n", error.code(), error.what(), error.remedy().c_str());
  return 1;
}

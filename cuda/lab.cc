#include "cuda/lab.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "core/error.h"
#include "core/memory.h"
#include "cuda/attention.h"
#include "cuda/check.h"
#include "cuda/cuda_backend.h"
#include "cuda/device.h"
#include "cuda/elementwise.h"
#include "cuda/embed.h"
#include "cuda/hop.h"
#include "cuda/linear.h"
#include "cuda/moe/route.h"
#include "cuda/norm.h"
#include "cuda/read_bandwidth.h"
#include "cuda/runtime/graph.h"
#include "cuda/runtime/stream.h"
#include "cuda/sample.h"
#include "cuda/user_kernel.h"

namespace millrace {

namespace cuda {
namespace {

using namespace lab;

class CudaLab final : public Device {
 public:
  explicit CudaLab(int device) : device_(device), backend_(create_cuda_backend(device)), stream_(device) {
    check(linear_decode_prepare(), "loading the kernels");
  }

  Backend& backend() override { return *backend_; }
  std::shared_ptr<Kernel> load_kernel(const KernelImage& image) override {
    check(cudaSetDevice(device_), "choosing the GPU");
    return std::make_shared<UserKernel>(image);
  }
  void launch(Stream& stream, const Launch& launch) override {
    check(cudaSetDevice(device_), "choosing the GPU");
    enqueue(launch, static_cast<CudaStream&>(stream).get(), false);
  }

  std::vector<double> time(const std::vector<Launch>& launches, int count, int repeats) override {
    check(cudaSetDevice(device_), "choosing the GPU");
    const cudaStream_t stream = stream_.get();
    Scratch& scratch = scratch_[stream];
    reserve(scratch, launches.size(), stream);
    // Once outside of the capture: what a launch sets up for itself is there afterwards.
    for (const Launch& launch : launches) enqueue(launch, stream, false);
    stream_.synchronize();
    const Graph graph = capture_in_turn(launches, count, stream);
    CudaEvent begin(EventUse::timed), end(EventUse::timed);
    std::vector<double> out;
    for (int repeat = -1; repeat < repeats; repeat++) {
      stream_.record(begin);
      check(cudaGraphLaunch(graph.get(), stream), "launching");
      stream_.record(end);
      end.synchronize();
      if (repeat >= 0) out.push_back(end.milliseconds_since(begin) / count * 1e3);
    }
    return out;
  }

  double read_bandwidth() override {
    check(cudaSetDevice(device_), "choosing the GPU");
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    const size_t bytes = std::min(size_t{4} << 30, free / 2) / 4096 * 4096;
    if (bytes == 0) {
      throw Error(code::kOutOfMemory, "the GPU has no memory left to measure its bandwidth with", "free GPU memory");
    }
    const auto memory = backend_->allocate(bytes + 256, "measuring the bandwidth");
    auto* sink = reinterpret_cast<unsigned*>(memory->data() + bytes);
    stream_.fill(memory->data(), 0, bytes + 256);
    CudaEvent begin(EventUse::timed), end(EventUse::timed);
    double best = 0;
    for (int pass = 0; pass < 5; pass++) {
      stream_.record(begin);
      check(read_memory(memory->data(), bytes, sink, stream_.get()), "measuring the bandwidth");
      stream_.record(end);
      end.synchronize();
      best = std::max(best, static_cast<double>(bytes) / end.milliseconds_since(begin) * 1e3);
    }
    return best;
  }

 private:
  static constexpr size_t kCells = 4096;

  // Working memory of the launches of one stream.
  struct Scratch {
    std::unique_ptr<Memory> partials, counters, gathered, sampler, list, positions;
    // Kernels find weights through a table of units: here one word for each address that was handed over.
    std::unique_ptr<Memory> table;
    std::map<const std::byte*, int> cells;
    size_t most_cells() const { return table == nullptr ? 0 : table->size() / sizeof(std::byte*); }
  };

  // So many addresses find their words without any of them serving another: a graph must not write addresses that it
  // reads ahead when it is launched again.
  void reserve(Scratch& scratch, size_t addresses, cudaStream_t stream) {
    if (scratch.cells.size() + addresses <= scratch.most_cells()) return;
    scratch.cells.clear();
    if (addresses <= scratch.most_cells()) return;
    check(cudaStreamSynchronize(stream), "waiting for a stream");
    scratch.table =
        backend_->allocate(std::max(kCells, addresses) * sizeof(std::byte*), "the lab's table of addresses");
  }

  Graph capture_in_turn(const std::vector<Launch>& launches, int count, cudaStream_t stream) {
    constexpr int kTries = 20;
    for (int attempt = 0; attempt < kTries; attempt++) {
      Graph graph = capture(stream, "capturing launches", [&] {
        for (int i = 0; i < count; i++) enqueue(launches[i % launches.size()], stream, true);
      });
      if (graph != nullptr) return graph;
    }
    throw Error(code::kDeviceUnavailable,
                "launches cannot be captured: somebody else in this process waits for the whole GPU again and again",
                "measure in a process of its own");
  }

  // At least so many bytes; zeros when new.
  std::byte* grown(std::unique_ptr<Memory>& memory, size_t bytes, cudaStream_t stream) {
    if (memory == nullptr || memory->size() < bytes) {
      check(cudaStreamSynchronize(stream), "waiting for a stream");
      memory = backend_->allocate(std::max<size_t>(bytes, 256), "working memory of the lab");
      check(cudaMemsetAsync(memory->data(), 0, memory->size(), stream), "clearing working memory");
    }
    return memory->data();
  }

  // Addresses are written in the stream's order, so a word can serve another one whenever there is none left; only what
  // was there before this launch may be read ahead.
  Weights weights(Scratch& scratch, const std::byte* address, bool early, cudaStream_t stream) {
    if (const auto found = scratch.cells.find(address); found != scratch.cells.end()) {
      return {reinterpret_cast<const std::byte* const*>(scratch.table->data()), found->second, early};
    }
    reserve(scratch, 1, stream);
    auto* table = reinterpret_cast<const std::byte**>(scratch.table->data());
    const int cell = static_cast<int>(scratch.cells.size());
    check(set_unit(table, cell, address, stream), "setting an address");
    scratch.cells.emplace(address, cell);
    return {table, cell, false};
  }

  // Of rows none of which is padding.
  const int32_t* positions(Scratch& scratch, int rows, cudaStream_t stream) {
    return reinterpret_cast<const int32_t*>(grown(scratch.positions, rows * sizeof(int32_t), stream));
  }
  // Room for the list that a launch for few rows makes beside their routes.
  ExpertList list_of(Scratch& scratch, int places, cudaStream_t stream) {
    const auto count = static_cast<size_t>(places);
    std::byte* at = grown(scratch.list, count * (2 * sizeof(int4) + sizeof(int32_t)) + 3 * sizeof(int32_t), stream);
    ExpertList list;
    list.few = reinterpret_cast<int4*>(at);
    list.many = list.few + count;
    list.places = reinterpret_cast<int32_t*>(list.many + count);
    list.counts = list.places + count;
    return list;
  }

  // Of experts that more rows chose than are few.
  static int tile_rows_of(const MatrixLayout& matrix) {
    const DeviceFacts* device = nullptr;
    check(device_facts(&device), "asking about the GPU");
    ExpertsLayout experts;
    experts.gate_up.segments.push_back({matrix, 0});
    return many_rows(*device, experts);
  }
  // The kernel that takes the place of ours; null: none.
  static const UserKernel* theirs(const Launch& launch) {
    if (launch.kernel == nullptr) return nullptr;
    const auto& kernel = static_cast<const UserKernel&>(*launch.kernel);
    if (&kernel.operation() == launch.problem.operation) return &kernel;
    throw Error(code::kInvalidArgument,
                "a kernel of " + kernel.operation().name + " was launched as " + launch.problem.operation->name,
                "load it for this operation");
  }

  const LogitRequest* requests(const Problem& problem) {
    std::string key;
    for (const auto& [name, value] : problem.dimensions) key += name + format("=%.17g ", value);
    std::unique_ptr<Memory>& memory = requests_[key];
    if (memory == nullptr) {
      std::vector<LogitRequest> host;
      for (int row = 0; row < problem["rows"]; row++) host.push_back(sample_request(problem, row));
      auto own = backend_->allocate(host.size() * sizeof(LogitRequest), "requests of samples");
      stream_.copy(own->data(), reinterpret_cast<const std::byte*>(host.data()), own->size());
      stream_.synchronize();
      memory = std::move(own);
    }
    return reinterpret_cast<const LogitRequest*>(memory->data());
  }

  // `chained`: dependent launches, whose weights may be read ahead, as in a model's pass.
  void enqueue(const Launch& launch, cudaStream_t stream, bool chained) {
    const Problem& p = launch.problem;
    const int rows = p["rows"];
    const auto floats = [&](int i) { return reinterpret_cast<float*>(launch.arguments[i]); };
    const auto halves = [&](int i) { return reinterpret_cast<__half*>(launch.arguments[i]); };
    const auto integers = [&](int i) { return reinterpret_cast<int32_t*>(launch.arguments[i]); };
    const char* name = p.operation->name.c_str();
    Scratch& scratch = scratch_[stream];
    switch (p.operation->kind) {
      case Kind::gemv:
      case Kind::gemm: {
        LinearArguments a;
        a.weights = weights(scratch, launch.arguments[0], chained, stream);
        a.matrix = p.matrix;
        a.x = halves(1);
        a.x_stride = static_cast<int>(round_up(p["k"], 8));
        a.rows = rows;
        a.epilogue = static_cast<LinearEpilogue>(p["epilogue"]);
        if (a.epilogue == LinearEpilogue::silu_mul) {
          a.act = halves(2);
          a.act_stride = a.intermediate = p["n"] / 2;
        } else {
          a.y = floats(2);
          a.y_stride = p["n"];
        }
        if (const UserKernel* kernel = theirs(launch)) {
          check(kernel->launch(a, stream), name);
        } else if (p.operation->kind == Kind::gemv) {
          check(linear_decode(a, stream, chained), name);
        } else {
          const size_t bytes = linear_gathered_bytes(p.matrix, rows);
          if (bytes > 0) a.gathered = reinterpret_cast<__half*>(grown(scratch.gathered, bytes, stream));
          check(linear_prefill(a, stream, chained), name);
        }
        break;
      }
      case Kind::rms_norm:
        check(rms_norm(floats(1), p["width"], weights(scratch, launch.arguments[0], chained, stream), 0,
                       static_cast<float>(p.number("epsilon")), rows, p["width"], halves(2),
                       static_cast<int>(round_up(p["width"], 8)), stream, chained),
              name);
        break;
      case Kind::norm_heads:
        check(norm_heads(floats(1), (p["heads"] + 2 * p["kvHeads"]) * p["headDim"], rows, p["heads"], p["kvHeads"],
                         p["headDim"], weights(scratch, launch.arguments[0], chained, stream), 0,
                         p["headDim"] * sizeof(float), static_cast<float>(p.number("epsilon")), stream, chained),
              name);
        break;
      case Kind::add_bias:
        check(add_bias(floats(1), p["n"], rows, p["n"], weights(scratch, launch.arguments[0], chained, stream), 0,
                       stream, chained),
              name);
        break;
      case Kind::silu_mul:
        check(glu(floats(0), 2 * p["intermediate"], p["interleaved"] != 0, rows, p["intermediate"], Activation::silu,
                  halves(1), nullptr, p["intermediate"], stream, chained),
              name);
        break;
      case Kind::embed:
        check(cuda::embed(launch.arguments[0], static_cast<WeightType>(p["tableType"]), integers(1), rows, p["hidden"],
                          floats(2), p["hidden"], stream, chained),
              name);
        break;
      case Kind::attention_decode:
      case Kind::attention_prefill: {
        AttentionArguments a;
        a.rows = rows;
        a.heads = p["heads"];
        a.kv_heads = p["kvHeads"];
        a.head_dim = p["headDim"];
        a.qkv = floats(0);
        a.rope = floats(1);
        a.positions = integers(2);
        a.sequences = integers(3);
        a.block_tables = integers(4);
        a.block_table_stride = static_cast<int>(p.arguments[4].shape[1]);
        a.kv = halves(5);
        a.kv_type = kv_type_of(p);
        a.kv_block_elements = static_cast<int64_t>(a.kv_heads * kv_part_bytes(a.kv_type, a.head_dim));
        a.out = halves(6);
        a.out_stride = static_cast<int>(p.arguments[6].shape[1]);
        a.window = p["window"];
        a.max_context = p["context"];
        if (p.operation->kind == Kind::attention_decode) {
          a.partials = reinterpret_cast<float*>(grown(scratch.partials, attention_partials_bytes(a), stream));
          a.counters =
              reinterpret_cast<unsigned*>(grown(scratch.counters, attention_counters(a) * sizeof(unsigned), stream));
          check(attention_decode(a, stream, chained), name);
        } else {
          check(attention_prefill(a, stream, chained), name);
        }
        break;
      }
      case Kind::route: {
        RouteArguments a;
        a.logits = floats(1);
        a.rows = rows;
        a.op = route_of(p);
        a.weights = weights(scratch, launch.arguments[0], chained, stream);
        a.bias_offset = 0;
        a.routes = floats(2);
        a.positions = positions(scratch, rows, stream);
        if (const UserKernel* kernel = theirs(launch)) {
          check(kernel->launch(a, stream), name);
        } else {
          check(cuda::route(a, list_of(scratch, rows * a.op.top_k, stream), stream, chained), name);
        }
        break;
      }
      case Kind::experts: {
        ExpertArguments a;
        a.weights = weights(scratch, launch.arguments[0], chained, stream);
        a.stride = p.expert_stride;
        a.matrix = p.matrix;
        a.experts = p["experts"];
        a.rows = rows;
        a.top_k = p["topK"];
        a.list = list_of(scratch, rows * a.top_k, stream);
        a.list.many_rows = tile_rows_of(p.matrix);
        a.x = halves(1);
        a.x_stride = static_cast<int>(round_up(p["k"], 8));
        a.x_of_places = p["places"] != 0;
        if (p["epilogue"] == 2) {
          a.epilogue = ExpertEpilogue::silu;
          a.act = halves(3);
          a.act_stride = a.features = p["n"] / 2;
        } else {
          a.y = floats(3);
          a.y_stride = p["n"];
        }
        check(list_experts(floats(2), rows, a.top_k, a.experts, positions(scratch, rows, stream), a.list, nullptr,
                           stream, chained),
              name);
        const UserKernel* kernel = theirs(launch);
        check(kernel != nullptr ? kernel->launch(a, stream) : experts_linear(a, stream, chained), name);
        break;
      }
      case Kind::combine: {
        CombineArguments a;
        a.y = floats(0);
        a.routes = floats(1);
        a.rows = rows;
        a.top_k = p["topK"];
        a.width = a.out_stride = p["width"];
        a.positions = positions(scratch, rows, stream);
        a.out = floats(2);
        const UserKernel* kernel = theirs(launch);
        check(kernel != nullptr ? kernel->launch(a, stream) : combine_experts(a, stream, chained), name);
        break;
      }
      case Kind::sample: {
        SampleArguments a;
        a.logits = floats(0);
        a.vocab = p["vocab"];
        a.requests = requests(p);
        a.count = rows;
        a.tokens = integers(1);
        a.logprobs = floats(2);
        a.scratch = grown(scratch.sampler, sample_scratch_bytes(rows, a.vocab), stream);
        check(sample(a, stream, chained), name);
        break;
      }
    }
  }

  int device_;
  std::unique_ptr<Backend> backend_;
  std::map<std::string, std::unique_ptr<Memory>> requests_;
  std::map<cudaStream_t, Scratch> scratch_;
  CudaStream stream_;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<lab::Device> create_cuda_lab(int device) {
  return std::make_unique<cuda::CudaLab>(device);
}

}  // namespace millrace

// The lab on the CPU twin. Arguments are converted to what the twin computes with before the kernel and back after it.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>

#include "backend/cpu/attention.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/kv_append.h"
#include "backend/cpu/linear.h"
#include "backend/cpu/route.h"
#include "backend/cpu/stream.h"
#include "backend/cpu/vector_ops.h"
#include "backend/sample_row.h"
#include "core/cpu_info.h"
#include "core/error.h"
#include "core/half.h"
#include "core/memory.h"
#include "lab/lab.h"

namespace millrace::lab {

namespace {

using Clock = std::chrono::steady_clock;

uint16_t saturated(float value) {
  return float_to_half(std::isnan(value) ? value : std::clamp(value, -65504.0f, 65504.0f));
}

// What launches of one device share: a pool takes one loop at a time.
class Computer {
 public:
  explicit Computer(int threads) : pool_(threads) {}

  // Runs it; seconds of the kernel alone.
  double run(const Launch& launch) {
    std::lock_guard lock(mutex_);
    switch (launch.problem.operation->kind) {
      case Kind::gemv:
      case Kind::gemm:
        return run_linear(launch);
      case Kind::rms_norm:
        return run_rms_norm(launch);
      case Kind::norm_heads:
        return run_norm_heads(launch);
      case Kind::add_bias:
        return run_add_bias(launch);
      case Kind::silu_mul:
        return run_silu_mul(launch);
      case Kind::embed:
        return run_embed(launch);
      case Kind::attention_decode:
      case Kind::attention_prefill:
        return run_attention(launch);
      case Kind::route:
        return run_route(launch);
      case Kind::experts:
        return run_experts(launch);
      case Kind::combine:
        return run_combine(launch);
      case Kind::sample:
        return run_sample(launch);
    }
    return 0;
  }
  ThreadPool& pool() { return pool_; }

 private:
  template <typename Body>
  static double timed(Body&& body) {
    const Clock::time_point begin = Clock::now();
    body();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }
  template <typename T>
  static T* at(const Launch& launch, int argument) {
    return reinterpret_cast<T*>(launch.arguments[argument]);
  }
  float* scratch(std::vector<float>& buffer, size_t count) {
    if (buffer.size() < count) buffer.resize(count);
    return buffer.data();
  }

  // A row of a linear's x, or of experts'.
  static void take_row(const Launch& launch, int row, float* to) {
    const int k = launch.problem["k"];
    vector_ops().from_half(at<uint16_t>(launch, 1) + static_cast<size_t>(row) * round_up(k, 8), k, to);
  }
  // All but slab, rows, x and y.
  static LinearCall call_of(const Problem& p, LinearLayout& layout) {
    layout.n = p["n"];
    layout.k = p["k"];
    layout.segments.push_back({p.matrix, 0});
    LinearCall call;
    call.layout = &layout;
    call.x_stride = layout.k;
    call.epilogue = static_cast<Epilogue>(p["epilogue"]);
    call.interleaved = true;
    call.intermediate = layout.n / 2;
    call.y_stride = call.epilogue == Epilogue::silu_mul ? layout.n / 2 : layout.n;
    return call;
  }

  double run_linear(const Launch& launch) {
    const Problem& p = launch.problem;
    const int rows = p["rows"], k = p["k"];
    float* x = scratch(x_, static_cast<size_t>(rows) * k);
    for (int r = 0; r < rows; r++) take_row(launch, r, x + static_cast<size_t>(r) * k);
    LinearLayout layout;
    LinearCall call = call_of(p, layout);
    call.slab = launch.arguments[0];
    call.x = x;
    call.rows = rows;
    const bool silu = call.epilogue == Epilogue::silu_mul;
    call.y = silu ? scratch(y_, static_cast<size_t>(rows) * call.y_stride) : at<float>(launch, 2);
    std::atomic<uint64_t> read{0};
    const double seconds = timed([&] { linear(call, pool_, linear_scratch_, read); });
    if (silu) {
      for (size_t i = 0; i < static_cast<size_t>(rows) * call.y_stride; i++)
        at<uint16_t>(launch, 2)[i] = saturated(y_[i]);
    }
    return seconds;
  }

  double run_rms_norm(const Launch& launch) {
    const Problem& p = launch.problem;
    const int rows = p["rows"], width = p["width"];
    const auto stride = round_up(width, 8);
    float* y = scratch(y_, static_cast<size_t>(rows) * width);
    const double seconds = timed([&] {
      pool_.parallel_for(rows, [&](int64_t r, int) {
        vector_ops().rms_norm(at<float>(launch, 1) + r * width, at<float>(launch, 0), width, p.number("epsilon"),
                              y + r * width);
      });
    });
    for (int r = 0; r < rows; r++) {
      uint16_t* out = at<uint16_t>(launch, 2) + r * stride;
      for (int i = 0; i < width; i++) out[i] = saturated(y[static_cast<size_t>(r) * width + i]);
    }
    return seconds;
  }

  double run_norm_heads(const Launch& launch) {
    const Problem& p = launch.problem;
    const int heads = p["heads"], kv_heads = p["kvHeads"], head_dim = p["headDim"];
    return timed([&] {
      pool_.parallel_for(p["rows"], [&](int64_t r, int) {
        float* row = at<float>(launch, 1) + r * (heads + 2 * kv_heads) * head_dim;
        for (int h = 0; h < heads + kv_heads; h++) {
          float* head = row + static_cast<size_t>(h) * head_dim;
          const float* weight = at<float>(launch, 0) + (h < heads ? 0 : head_dim);
          vector_ops().rms_norm(head, weight, head_dim, p.number("epsilon"), head);
        }
      });
    });
  }

  double run_add_bias(const Launch& launch) {
    const int64_t n = launch.problem["n"];
    return timed([&] {
      pool_.parallel_for(launch.problem["rows"], [&](int64_t r, int) {
        for (int64_t i = 0; i < n; i++) at<float>(launch, 1)[r * n + i] += at<float>(launch, 0)[i];
      });
    });
  }

  // The twin has it within its linears alone; here it stands by itself, for the GPU's to be compared with.
  double run_silu_mul(const Launch& launch) {
    const Problem& p = launch.problem;
    const int64_t intermediate = p["intermediate"];
    const bool interleaved = p["interleaved"] != 0;
    return timed([&] {
      pool_.parallel_for(p["rows"], [&](int64_t r, int) {
        const float* row = at<float>(launch, 0) + r * 2 * intermediate;
        for (int64_t i = 0; i < intermediate; i++) {
          const double gate = row[interleaved ? i / 8 * 16 + i % 8 : i];
          const double up = row[interleaved ? i / 8 * 16 + i % 8 + 8 : intermediate + i];
          at<uint16_t>(launch, 1)[r * intermediate + i] =
              saturated(static_cast<float>(gate / (1 + std::exp(-gate)) * up));
        }
      });
    });
  }

  double run_embed(const Launch& launch) {
    const Problem& p = launch.problem;
    const int vocab = p["vocab"], hidden = p["hidden"];
    const auto type = static_cast<WeightType>(p["tableType"]);
    return timed([&] {
      pool_.parallel_for(p["rows"], [&](int64_t r, int) {
        float* out = at<float>(launch, 2) + r * hidden;
        const int32_t token = at<int32_t>(launch, 1)[r];
        if (token < 0 || token >= vocab) {
          std::fill(out, out + hidden, 0.0f);
          return;
        }
        const std::byte* row = launch.arguments[0] + static_cast<size_t>(token) * hidden * element_bytes(type);
        if (type == WeightType::f32) {
          std::memcpy(out, row, hidden * sizeof(float));
        } else if (type == WeightType::f16) {
          vector_ops().from_half(reinterpret_cast<const uint16_t*>(row), hidden, out);
        } else {
          vector_ops().from_bfloat16(reinterpret_cast<const uint16_t*>(row), hidden, out);
        }
      });
    });
  }

  double run_attention(const Launch& launch) {
    const Problem& p = launch.problem;
    const int rows = p["rows"], heads = p["heads"], kv_heads = p["kvHeads"], head_dim = p["headDim"];
    const int64_t width = static_cast<int64_t>(heads + 2 * kv_heads) * head_dim;
    const auto& tables = p.arguments[4].shape;
    const int64_t blocks = p.arguments[5].shape[0];
    const auto* positions = at<int32_t>(launch, 2);
    const auto* sequences = at<int32_t>(launch, 3);
    const auto* block_tables = at<int32_t>(launch, 4);
    for (int r = 0; r < rows; r++) {  // what points out of its arguments is not computed
      if (positions[r] < 0 || positions[r] >= p["context"] || sequences[r] < 0 || sequences[r] >= tables[0]) return 0;
      for (int64_t b = 0; b <= positions[r] / kKvBlockTokens; b++) {
        const int32_t block = block_tables[sequences[r] * tables[1] + b];
        if (block < 0 || block >= blocks) return 0;
      }
    }
    float* q = scratch(x_, static_cast<size_t>(rows) * width);
    std::memcpy(q, launch.arguments[0], static_cast<size_t>(rows) * width * sizeof(float));
    float* y = scratch(y_, static_cast<size_t>(rows) * heads * head_dim);
    const KvType type = kv_type_of(p);
    const size_t block_bytes = 2 * kv_heads * kv_part_bytes(type, head_dim);
    const double seconds = timed([&] {
      pool_.parallel_for(rows, [&](int64_t r, int) {
        float* row = q + r * width;
        float* k = row + static_cast<size_t>(heads) * head_dim;
        const float* v = k + static_cast<size_t>(kv_heads) * head_dim;
        const int position = positions[r];
        vector_ops().rope(row, heads + kv_heads, head_dim,
                          at<float>(launch, 1) + static_cast<size_t>(position) * head_dim);
        const int32_t block = block_tables[sequences[r] * tables[1] + position / kKvBlockTokens];
        append_kv(k, v, {type, kv_heads, head_dim}, position, launch.arguments[5] + block * block_bytes);
      });
      AttentionCall call;
      call.rows = rows;
      call.heads = heads;
      call.kv_heads = kv_heads;
      call.head_dim = head_dim;
      call.window = p["window"];
      call.q = q;
      call.q_stride = width;
      call.out = y;
      call.out_stride = static_cast<int64_t>(heads) * head_dim;
      call.positions = std::span(positions, rows);
      call.sequences = std::span(sequences, rows);
      call.block_tables = std::span(block_tables, tables[0] * tables[1]);
      call.block_table_stride = static_cast<int>(tables[1]);
      call.type = type;
      call.kv = launch.arguments[5];
      call.block_bytes = block_bytes;
      attention(call, pool_, attention_scratch_);
    });
    const size_t stride = p.arguments[6].shape[1];
    for (int r = 0; r < rows; r++) {
      for (int i = 0; i < heads * head_dim; i++) {
        at<uint16_t>(launch, 6)[r * stride + i] = saturated(y[static_cast<size_t>(r) * heads * head_dim + i]);
      }
    }
    return seconds;
  }

  double run_route(const Launch& launch) {
    const RouteOp op = route_of(launch.problem);
    return timed([&] {
      pool_.parallel_for(launch.problem["rows"], [&](int64_t r, int) {
        thread_local RouteScratch scratch;
        route_row(op, at<float>(launch, 1) + r * op.experts, at<float>(launch, 0), nullptr, scratch,
                  at<float>(launch, 2) + r * 2 * op.top_k);
      });
    });
  }

  double run_experts(const Launch& launch) {
    const Problem& p = launch.problem;
    const int experts = p["experts"], top_k = p["topK"], places = p["rows"] * top_k, k = p["k"];
    const auto* routes = at<float>(launch, 2);
    std::vector<std::vector<int>> chosen(experts);  // places of each
    for (int place = 0; place < places; place++) {
      const float expert = routes[static_cast<size_t>(place / top_k) * 2 * top_k + place % top_k];
      if (!(expert >= 0 && expert < static_cast<float>(experts))) return 0;  // what is no expert is not computed
      chosen[static_cast<size_t>(expert)].push_back(place);
    }
    LinearLayout layout;
    LinearCall call = call_of(p, layout);
    const auto width = static_cast<size_t>(call.y_stride);
    float* x = scratch(x_, static_cast<size_t>(places) * k);
    float* y = scratch(y_, static_cast<size_t>(places) * width);
    std::atomic<uint64_t> read{0};
    double seconds = 0;
    for (int e = 0; e < experts; e++) {
      call.rows = 0;
      for (const int place : chosen[e]) {
        take_row(launch, p["places"] != 0 ? place : place / top_k, x + static_cast<size_t>(call.rows++) * k);
      }
      if (call.rows == 0) continue;
      call.slab = launch.arguments[0] + static_cast<size_t>(e) * p.expert_stride;
      call.x = x;
      call.y = y;
      seconds += timed([&] { linear(call, pool_, linear_scratch_, read); });
      for (size_t i = 0; i < chosen[e].size(); i++) {
        const float* from = y + i * width;
        const size_t to = static_cast<size_t>(chosen[e][i]) * width;
        if (call.epilogue == Epilogue::silu_mul) {
          for (size_t f = 0; f < width; f++) at<uint16_t>(launch, 3)[to + f] = saturated(from[f]);
        } else {
          std::memcpy(at<float>(launch, 3) + to, from, width * sizeof(float));
        }
      }
    }
    return seconds;
  }

  double run_combine(const Launch& launch) {
    const int64_t top_k = launch.problem["topK"], width = launch.problem["width"];
    return timed([&] {
      pool_.parallel_for(launch.problem["rows"], [&](int64_t r, int) {
        combine_row(at<float>(launch, 0) + r * top_k * width, at<float>(launch, 1) + r * 2 * top_k + top_k,
                    static_cast<int>(top_k), static_cast<size_t>(width), at<float>(launch, 2) + r * width);
      });
    });
  }

  double run_sample(const Launch& launch) {
    const Problem& p = launch.problem;
    const size_t vocab = p["vocab"];
    row_scratch_.resize(pool_.threads());
    return timed([&] {
      pool_.parallel_for(p["rows"], [&](int64_t r, int thread) {
        const std::span<const float> logits(at<float>(launch, 0) + r * vocab, vocab);
        const RowAnswer answer =
            answer_row(sample_request(p, static_cast<int>(r)), logits, {}, {}, {}, row_scratch_[thread]);
        at<int32_t>(launch, 1)[r] = answer.token;
        at<float>(launch, 2)[r] = answer.logprob;
      });
    });
  }

  std::mutex mutex_;
  ThreadPool pool_;
  LinearScratch linear_scratch_;
  AttentionScratch attention_scratch_;
  std::vector<RowScratch> row_scratch_;
  std::vector<float> x_, y_;
};

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(int threads)
      : threads_(threads), backend_(create_cpu_backend(threads)), computer_(std::make_shared<Computer>(threads)) {}

  Backend& backend() override { return *backend_; }
  std::shared_ptr<Kernel> load_kernel(const KernelImage& image) override {
    throw Error(code::kInvalidArgument, "a kernel of one's own runs on a GPU; this is the CPU (" + image.source + ")",
                "open the lab, or load the model, on 'cuda'");
  }
  void launch(Stream& stream, const Launch& launch) override {
    static_cast<CpuStream&>(stream).enqueue([computer = computer_, launch] { computer->run(launch); });
  }
  std::vector<double> time(const std::vector<Launch>& launches, int count, int repeats) override {
    std::vector<double> out;
    for (int repeat = -1; repeat < repeats; repeat++) {
      double seconds = 0;
      for (int i = 0; i < count; i++) seconds += computer_->run(launches[i % launches.size()]);
      if (repeat >= 0) out.push_back(seconds / count * 1e6);
    }
    return out;
  }
  double read_bandwidth() override { return measure_dram_bandwidth(threads_, dram_buffer_bytes(cpu_info())); }

 private:
  int threads_;
  std::unique_ptr<Backend> backend_;
  std::shared_ptr<Computer> computer_;
};

}  // namespace

std::unique_ptr<Device> create_cpu_device(int threads) {
  return std::make_unique<CpuDevice>(threads);
}

}  // namespace millrace::lab

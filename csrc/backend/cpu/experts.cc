// Mixtures of experts on the CPU twin. Each expert that any row chose reads its weights once for all of them; the rows'
// results are added in the order of their own choices, so that a row's bits do not depend on its neighbours. Experts of
// integers and tables have the arithmetic that GPUs' decode has (expert_answer.h); x is float16 to all.
#include <algorithm>
#include <cstring>
#include <thread>

#include "backend/cpu/executor.h"
#include "backend/cpu/route.h"

namespace millrace {

namespace {

// Results that are kept until they are added: of more rows than this many floats hold, some at a time.
constexpr size_t kMostFloats = size_t{1} << 23;

}  // namespace

void CpuExecutor::run_op(const RouteOp& op, const Scope& scope) {
  const float* logits = rows_of(scope, op.in);
  const float* bias = vector(scope, op.select_bias);
  float* routes = rows_of(scope, op.out);
  const auto mixture = static_cast<size_t>(mixtures_.of_unit[static_cast<size_t>(scope.unit)]);
  const DrawnRoutes* drawn = config_.drawn.get();
  compute_->pool.parallel_for((scope.rows + 15) / 16, [&](int64_t index, int) {
    thread_local RouteScratch scratch;
    const int begin = static_cast<int>(index) * 16;
    for (int r = begin; r < std::min(scope.rows, begin + 16); r++) {
      const int row = scope.begin + r;
      float* chosen = routes + static_cast<size_t>(r) * width(op.out);
      const auto of_row = [&](size_t number) { return number * mixtures_.routed() + mixture * mixtures_.chosen; };
      const uint16_t* choice = nullptr;
      if (drawn != nullptr) {
        const int64_t entry = step_.positions[row] + int64_t{DrawnRoutes::kStep} * step_.sequences[row];
        choice = drawn->experts.data() + of_row(static_cast<size_t>(entry % drawn->entries));
      }
      route_row(op, logits + static_cast<size_t>(r) * width(op.in), bias, choice, scratch, chosen);
      if (step_.logs_routes) {
        uint16_t* log = output_->routes.data() + of_row(static_cast<size_t>(row));
        for (int i = 0; i < op.top_k; i++) log[i] = static_cast<uint16_t>(chosen[i]);
      }
    }
  });
}

void CpuExecutor::run_op(const ExpertsOp& op, const Scope& scope) {
  const size_t of_row = static_cast<size_t>(width(op.routes) / 2) * static_cast<size_t>(width(op.out));
  const int most = static_cast<int>(std::clamp<size_t>(kMostFloats / of_row, 1, static_cast<size_t>(scope.rows)));
  for (int begin = 0; begin < scope.rows; begin += most) {
    Scope some = scope;
    some.begin = scope.begin + begin;
    some.rows = std::min(most, scope.rows - begin);
    run_experts(op, some);
  }
}

void CpuExecutor::run_experts(const ExpertsOp& op, const Scope& scope) {
  const float* routes = rows_of(scope, op.routes);
  const int top_k = width(op.routes) / 2;
  const size_t hidden = static_cast<size_t>(width(op.out));
  ExpertsScratch& scratch = experts_scratch_;
  // Places (row, choice) by expert, rows ascending.
  scratch.begins.assign(static_cast<size_t>(op.experts) + 1, 0);
  const auto choice = [&](int row, int rank) {
    return static_cast<size_t>(routes[static_cast<size_t>(row) * width(op.routes) + rank]);
  };
  for (int r = 0; r < scope.rows; r++) {
    for (int i = 0; i < top_k; i++) scratch.begins[choice(r, i) + 1]++;
  }
  for (size_t e = 0; e < static_cast<size_t>(op.experts); e++) scratch.begins[e + 1] += scratch.begins[e];
  scratch.places.resize(static_cast<size_t>(scope.rows) * top_k);
  std::vector<int> next(scratch.begins.begin(), scratch.begins.end() - 1);
  for (int r = 0; r < scope.rows; r++) {
    for (int i = 0; i < top_k; i++) scratch.places[next[choice(r, i)]++] = r * top_k + i;
  }
  scratch.results.resize(std::max(scratch.results.size(), scratch.places.size() * hidden));
  const size_t in = static_cast<size_t>(width(op.in));
  scratch.x.resize(std::max(scratch.x.size(), static_cast<size_t>(scope.rows) * in));
  const float* from = rows_of(scope, op.in);
  compute_->pool.parallel_for(scope.rows, [&](int64_t row, int) {
    for (size_t i = row * in; i < (row + 1) * in; i++) scratch.x[i] = round_to_half(from[i]);
  });
  Apart* apart = apart_.empty() || !apart_[scope.unit].now ? nullptr : &apart_[scope.unit];
  for (size_t e = 0; apart != nullptr && e < static_cast<size_t>(op.experts); e++) {
    const int count = scratch.begins[e + 1] - scratch.begins[e];
    uint16_t& logged = output_->expert_rows[apart->first + e];
    logged = static_cast<uint16_t>(std::min(logged + count, 0xffff));
  }
  scratch.sent.assign(static_cast<size_t>(op.experts), false);
  const bool sent = apart != nullptr && send_experts(op, scope, *apart);
  for (int e = 0; e < op.experts; e++) {
    const int begin = scratch.begins[e], count = scratch.begins[e + 1] - begin;
    if (count == 0 || scratch.sent[e]) continue;
    if (apart != nullptr) fill_frame(*apart, e);
    run_expert(op, scope, e, std::span(scratch.places).subspan(begin, count));
  }

  if (sent) receive_experts();

  float* out = rows_of(scope, op.out);
  compute_->pool.parallel_for(scope.rows, [&](int64_t row, int) {
    combine_row(scratch.results.data() + static_cast<size_t>(row) * top_k * hidden,
                routes + static_cast<size_t>(row) * width(op.routes) + top_k, top_k, hidden,
                out + static_cast<size_t>(row) * hidden);
  });
}

// As moe/answers.cu does it on a GPU.
bool CpuExecutor::send_experts(const ExpertsOp& op, const Scope& scope, const Apart& apart) {
  const ExpertMail* mail = config_.mail.get();
  if (mail == nullptr || !mail->serves(scope.unit, scope.rows)) return false;
  ExpertsScratch& scratch = experts_scratch_;
  size_t missed = 0;
  for (int e = 0; e < op.experts; e++) missed += scratch.begins[e + 1] > scratch.begins[e] && apart.in_ram[e] ? 1 : 0;
  const int most = mail->split[static_cast<size_t>(scope.unit)][missed];
  int experts = 0, places = 0;
  for (int e = 0; e < op.experts && experts < most; e++) {
    const int begin = scratch.begins[e], count = scratch.begins[e + 1] - begin;
    if (count == 0 || count > kMailedRows || !apart.in_ram[e]) continue;
    mail->entries[experts++] = {e, places, count, 0};
    for (int i = 0; i < count; i++) mail->places[places++] = scratch.places[static_cast<size_t>(begin + i)];
    scratch.sent[static_cast<size_t>(e)] = true;
  }
  if (experts == 0) return false;
  *mail->task = {scope.unit, experts, scope.rows, width(op.routes) / 2};
  std::memcpy(mail->x, scratch.x.data(), static_cast<size_t>(scope.rows) * width(op.in) * sizeof(float));
  ticket_ = mail->state->sent.load(std::memory_order_relaxed) + 1;
  mail->state->sent.store(ticket_, std::memory_order_release);
  return true;
}

void CpuExecutor::fill_frame(Apart& apart, int expert) {
  if (!apart.in_ram[expert] || frames_.empty()) return;
  std::byte* frame = frames_.front();
  frames_.pop_front();
  std::memcpy(frame, apart.addresses[expert], apart.layout->stride);
  apart.addresses[expert] = frame;
  apart.in_ram[expert] = false;
  output_->filled.push_back(static_cast<int32_t>(apart.first) + expert);
}

void CpuExecutor::receive_experts() {
  const ExpertMail& mail = *config_.mail;
  const ExpertMailState& state = *mail.state;
  for (bool waits = answer_waits_++ != mail.skip_wait; waits;) {
    waits =
        state.answered.load(std::memory_order_acquire) < ticket_ && state.given_up.load(std::memory_order_acquire) == 0;
    if (waits) std::this_thread::yield();
  }
  const auto width = static_cast<size_t>(mail.width);
  for (int i = 0; i < mail.task->experts; i++) {
    const ExpertMailEntry& entry = mail.entries[i];
    for (int r = 0; r < entry.count; r++) {
      const auto place = static_cast<size_t>(mail.places[entry.first + r]);
      std::memcpy(experts_scratch_.results.data() + place * width, mail.y + place * width, width * sizeof(float));
    }
  }
}

// `places`: rows and ranks that chose the expert, as run_experts() counts them; its results go there.
void CpuExecutor::run_expert(const ExpertsOp& op, const Scope& scope, int expert, std::span<const int> places) {
  const int top_k = width(op.routes) / 2;
  const size_t in = static_cast<size_t>(width(op.in)), hidden = static_cast<size_t>(width(op.out));
  const Apart* apart = apart_.empty() || !apart_[scope.unit].now ? nullptr : &apart_[scope.unit];
  ExpertsScratch& scratch = experts_scratch_;
  scratch.x_rows.clear();
  scratch.y_rows.clear();
  for (const int place : places) {
    scratch.x_rows.push_back(scratch.x.data() + static_cast<size_t>(place / top_k) * in);
    scratch.y_rows.push_back(scratch.results.data() + static_cast<size_t>(place) * hidden);
  }
  ExpertCall call;
  call.gate_up = apart ? &apart->layout->gate_up : &scope.layout->linears[op.gate_up(expert)];
  call.down = apart ? &apart->layout->down : &scope.layout->linears[op.down(expert)];
  call.expert = apart ? apart->addresses[expert] : scope.slab;
  call.activation = op.activation;
  call.alpha = op.alpha;
  call.limit = op.limit;
  call.rows = static_cast<int>(places.size());
  call.x = scratch.x_rows.data();
  call.y = scratch.y_rows.data();
  if (!has_expert_arithmetic(*call.gate_up, *call.down)) return run_float_expert(call);

  ExpertAnswer& answer = scratch.answer;
  ThreadPool& pool = compute_->pool;
  answer.begin(call);
  pool.parallel_for(call.rows, [&](int64_t row, int) { answer.quantize(static_cast<int>(row)); });
  const auto in_pieces = [&](int blocks, auto&& run) {
    const int pieces = std::min(blocks, 4 * pool.threads());
    pool.parallel_for(pieces, [&](int64_t piece, int) {
      run(static_cast<int>(piece * blocks / pieces), static_cast<int>((piece + 1) * blocks / pieces));
    });
  };
  in_pieces(answer.gate_up_blocks(), [&](int begin, int end) { answer.gate_up(begin, end); });
  pool.parallel_for(call.rows, [&](int64_t row, int) { answer.activate(static_cast<int>(row)); });
  in_pieces(answer.down_blocks(), [&](int begin, int end) { answer.down(begin, end); });
  weight_bytes_.fetch_add(answer.weight_bytes(), std::memory_order_relaxed);
}

// Of floats, in either linear.
void CpuExecutor::run_float_expert(const ExpertCall& call) {
  ExpertsScratch& scratch = experts_scratch_;
  const auto grow = [](std::vector<float>& buffer, size_t floats) {
    buffer.resize(std::max(buffer.size(), floats));
    return buffer.data();
  };
  const size_t rows = static_cast<size_t>(call.rows), in = static_cast<size_t>(call.gate_up->k);
  const size_t features = static_cast<size_t>(call.down->k), hidden = static_cast<size_t>(call.down->n);
  const auto multiply = [&](const LinearLayout& layout, const float* x, float* y) {
    LinearCall linear_call;
    linear_call.layout = &layout;
    linear_call.slab = call.expert;
    linear_call.x = x;
    linear_call.x_stride = layout.k;
    linear_call.rows = call.rows;
    linear_call.y = y;
    linear_call.y_stride = layout.n;
    linear(linear_call, compute_->pool, linear_scratch_, weight_bytes_);
  };
  float* x = grow(scratch.gathered, rows * in);
  for (size_t i = 0; i < rows; i++) std::memcpy(x + i * in, call.x[i], in * sizeof(float));
  const size_t n = static_cast<size_t>(call.gate_up->n);
  float* gate_up = grow(gate_up_, rows * n);
  multiply(*call.gate_up, x, gate_up);
  float* activated = grow(scratch.activated, rows * features);
  compute_->pool.parallel_for(call.rows, [&](int64_t row, int) {
    activate_expert(gate_up + row * n, call.gate_up->interleaved, static_cast<int>(features), call.activation,
                    call.alpha, call.limit, activated + row * features);
  });
  float* y = grow(scratch.y, rows * hidden);
  multiply(*call.down, activated, y);
  for (size_t i = 0; i < rows; i++) std::memcpy(call.y[i], y + i * hidden, hidden * sizeof(float));
}

}  // namespace millrace

#include "engine/model.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

#include "core/error.h"

namespace millrace {

namespace {

double milliseconds(Clock::duration d) {
  return std::chrono::duration<double, std::milli>(d).count();
}

}  // namespace

Model::Model(uint64_t id, std::unique_ptr<Backend> backend, std::shared_ptr<const HostModel> host, ModelConfig config,
             std::unique_ptr<Backend> cpu)
    : id_(id),
      backend_(std::move(backend)),
      host_(std::move(host)),
      config_(std::move(config)),
      compute_(backend_->create_stream()),
      pass_done_(
          backend_->create_event(cpu ? EventUse::sleeps : EventUse::order)) {  // the CPU's threads need every processor
  if (config_.homes.size() != host_->units().size() || config_.context_length < 1 || config_.max_rows < 1 ||
      config_.max_logit_rows < 1 || config_.kv_blocks < KvPool::blocks_for(config_.context_length)) {
    throw Error(code::kInvalidArgument, "a model needs one home a unit, rows, and KV blocks for one full context",
                "pass the plan unchanged, or one that keeps these bounds");
  }
  kv_ = std::make_unique<KvPool>(*backend_, *compute_, host_->spec(), config_.kv_blocks);
  scheduler_ =
      std::make_unique<Scheduler>(SchedulerConfig{config_.max_rows, config_.max_logit_rows, config_.prefix_reuse,
                                                  config_.deterministic, &counters_.queued},
                                  *kv_);

  ExecutorConfig executor;
  executor.spec = host_->spec();
  executor.units = host_->units();
  executor.embedding = {host_->embedding(), host_->embedding_type()};
  executor.kv = kv_->data();
  executor.kv_blocks = config_.kv_blocks;
  executor.max_rows = config_.max_rows;
  executor.max_logit_rows = config_.max_logit_rows;
  executor.max_context = config_.context_length;
  executor.kernels = config_.kernels;
  executor_ = backend_->create_executor(executor);

  if (!cpu) std::replace(config_.homes.begin(), config_.homes.end(), Home::cpu, Home::resident);
  FeederConfig feeder;
  for (const UnitLayout& unit : host_->units()) feeder.unit_bytes.push_back(unit.bytes);
  feeder.homes = config_.homes;
  feeder.stage_threads = config_.stage_threads;
  if (std::find(config_.homes.begin(), config_.homes.end(), Home::shared) != config_.homes.end()) {
    arena_ = &Arena::of(backend_->name());
  }
  feeder.arena = arena_;
  feeder.ring_bytes = config_.ring_bytes;
  feeder.poison = config_.poison;
  feeder.hooks = config_.hooks;
  feeder_ = std::make_unique<Feeder>(*backend_, *host_, std::move(feeder));
  if (cpu) create_cpu_side(std::move(cpu));
  feeder_->prefetch();

  memory_ = {host_->bytes(), kv_->bytes(), executor_->workspace_bytes()};
  publish_counters();
}

void Model::create_cpu_side(std::unique_ptr<Backend> backend) {
  const std::vector<UnitLayout>& units = host_->units();
  for (size_t unit = 0; unit < units.size(); unit++) {
    if (config_.homes[unit] != Home::cpu || units[unit].kind == UnitKind::feed_forward) continue;
    throw Error(code::kInvalidArgument, "only feed-forwards can be at home on the CPU beside another device",
                "give attention and head another home: their inputs rest on the device");
  }
  auto side = std::make_unique<CpuSide>();
  side->backend = std::move(backend);
  side->stream = side->backend->create_stream();
  const int rows = std::min(config_.max_rows, config_.max_logit_rows);
  ExecutorConfig executor;
  executor.spec = host_->spec();
  executor.units = units;
  executor.embedding = {host_->embedding(), host_->embedding_type()};
  executor.max_rows = rows;
  executor.max_context = 1;
  side->executor = side->backend->create_executor(executor);
  for (size_t unit = 0; unit < units.size(); unit++) {
    const int u = static_cast<int>(unit);
    if (config_.homes[unit] == Home::cpu) side->executor->set_unit(*side->stream, u, host_->slab(u), true);
  }
  const size_t row_bytes =
      std::bit_ceil(static_cast<size_t>(rows)) * static_cast<size_t>(host_->spec().hidden) * sizeof(float);
  constexpr size_t kApart = 256;  // the two states: each is polled by another device
  side->memory = backend_->allocate_host(2 * (kApart + row_bytes), "rows on their way to the CPU and back");
  std::byte* at = side->memory->data();
  std::memset(at, 0, side->memory->size());
  side->there = {at + 2 * kApart, new (at) HopState};
  side->back = {at + 2 * kApart + row_bytes, new (at + kApart) HopState};
  cpu_ = std::move(side);
}

// Whoever waits for rows of the pass waits no longer; then both sides start level.
void Model::give_up_hops() {
  if (!cpu_) return;
  for (const Hop* hop : {&cpu_->there, &cpu_->back}) hop->state->given_up.store(1, std::memory_order_release);
  try {
    compute_->synchronize();
  } catch (const Error&) {
    // A device that is lost runs nothing any more.
  }
  cpu_->stream->synchronize();
  for (const Hop* hop : {&cpu_->there, &cpu_->back}) {
    hop->state->sent.store(cpu_->hops, std::memory_order_relaxed);
    hop->state->given_up.store(0, std::memory_order_release);
  }
}

Model::~Model() {
  release();
}

void Model::abandon_pass() {
  executor_->abandon(*compute_);
  give_up_hops();
  try {
    compute_->synchronize();
  } catch (const Error&) {
    // A device that is lost runs nothing any more.
  }
  feeder_->restart();
  publish_counters();
}

std::vector<Home> Model::set_homes(std::vector<Home> homes, size_t ring_bytes) {
  compute_->synchronize();
  const bool streams = std::find(homes.begin(), homes.end(), Home::streamed) != homes.end();
  if (streams && !backend_->reads_host_memory()) host_->pin({backend_->pinner(), {}});  // it may have been all resident
  feeder_->set_homes(std::move(homes), ring_bytes);
  feeder_->prefetch();
  publish_counters();
  return feeder_->homes();
}

void Model::set_arena_limit(size_t bytes) {
  compute_->synchronize();
  arena_->set_limit(bytes);
  publish_counters();
}

size_t Model::shared_unit_bytes() const {
  size_t bytes = 0;
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (config_.homes[unit] == Home::shared) bytes += host_->units()[unit].bytes;
  }
  return bytes;
}

void Model::release() {
  if (!backend_) return;
  executor_->abandon(*compute_);
  give_up_hops();
  try {
    compute_->synchronize();
  } catch (const Error&) {
    // A device that is lost runs nothing any more: its memory can go.
  }
  trace_.reset();
  feeder_.reset();
  cpu_.reset();
  executor_.reset();
  scheduler_.reset();
  kv_.reset();
  pass_done_.reset();
  compute_.reset();
  backend_.reset();
  host_.reset();
}

std::string Model::unit_name(int unit) const {
  const UnitLayout& layout = host_->units()[unit];
  if (layout.kind == UnitKind::head) return "head";
  return (layout.kind == UnitKind::attention ? "attention " : "feed-forward ") + std::to_string(layout.layer);
}

void Model::trace(const std::string& path) {
  compute_->synchronize();
  if (cpu_) cpu_->stream->synchronize();
  std::unique_ptr<Trace> next = path.empty() ? nullptr : std::make_unique<Trace>(path);
  if (next) {
    next->attach(Trace::compute, *backend_, *compute_);
    if (cpu_) next->attach(Trace::cpu, *cpu_->backend, *cpu_->stream);
  }
  std::vector<std::string> names;
  for (size_t unit = 0; unit < host_->units().size(); unit++) names.push_back(unit_name(static_cast<int>(unit)));
  feeder_->set_trace(next.get(), std::move(names));
  trace_ = std::move(next);
}

void Model::run_pass(Step step) {
  Stream& compute = *compute_;
  const auto begin_span = [&](const char* prefix, int unit) {
    if (trace_) trace_->begin(Trace::compute, prefix + unit_name(unit));
  };
  const auto end_span = [&] {
    if (trace_) trace_->end(Trace::compute);
  };
  if (cpu_) step.hops_before = cpu_->hops;
  const uint64_t brought = feeder_->counters().shared_bytes;
  feeder_->begin(step.rows > step.decode_rows ? Route::prefill : Route::decode);
  if (feeder_->counters().shared_bytes > brought) counters_.switches.fetch_add(1, std::memory_order_relaxed);
  executor_->begin(compute, step, output_);
  executor_->embed(compute);
  const std::vector<UnitLayout>& units = host_->units();
  for (int unit = 0; unit < static_cast<int>(units.size()); unit++) {
    const UnitKind kind = units[unit].kind;
    const Home home = feeder_->homes()[unit];
    if (kind == UnitKind::head && step.logits.empty() && !feeder_->streams(unit)) continue;
    const bool hops = home == Home::cpu && step.decode_rows > 0;
    if (hops) {
      // The CPU's part is enqueued first: whatever then holds up the host, it will come.
      const uint64_t ticket = ++cpu_->hops;
      executor_->send(compute, cpu_->there, step.decode_rows, ticket);
      cpu_->executor->receive(*cpu_->stream, cpu_->there, step.decode_rows, ticket);
      if (trace_) trace_->begin(Trace::cpu, unit_name(unit));
      cpu_->executor->feed_forward(*cpu_->stream, unit, RowKind::all);
      if (trace_) trace_->end(Trace::cpu);
      cpu_->executor->send(*cpu_->stream, cpu_->back, step.decode_rows, ticket);
    }
    if (home != Home::cpu || feeder_->streams(unit)) {
      if (feeder_->streams(unit)) begin_span("wait for ", unit);
      const std::byte* slab = feeder_->acquire(compute, unit);
      if (feeder_->streams(unit)) end_span();
      begin_span("", unit);
      executor_->set_unit(compute, unit, slab, feeder_->permanent(unit));
      switch (kind) {
        case UnitKind::attention:
          executor_->attention(compute, unit);
          break;
        case UnitKind::feed_forward:
          executor_->feed_forward(compute, unit, home == Home::cpu ? RowKind::prefill : RowKind::all);
          break;
        case UnitKind::head:
          if (!step.logits.empty()) executor_->head(compute, unit);
          break;
      }
      end_span();
      feeder_->release(compute, unit);
    }
    if (hops) {
      begin_span("the CPU has ", unit);
      executor_->receive(compute, cpu_->back, step.decode_rows, cpu_->hops);
      end_span();
    }
  }
  if (trace_ && !step.logits.empty()) trace_->begin(Trace::compute, "sample");
  if (!step.logits.empty()) executor_->sample(compute);
  executor_->end(compute);
  if (!step.logits.empty()) end_span();
  compute.record(*pass_done_);
}

bool Model::step() {
  expire();
  const Clock::time_point began = Clock::now();
  if (!scheduler_->build(batch_)) return false;
  const uint64_t switches = counters_.switches.load(std::memory_order_relaxed);
  run_pass(batch_.step);
  pass_done_->synchronize();
  executor_->collect();
  const Clock::time_point ended = Clock::now();
  const auto add = [](std::atomic<double>& counter, double value) {
    counter.store(counter.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
  };
  add(counters_.step_ms, milliseconds(ended - began));
  if (counters_.switches.load(std::memory_order_relaxed) > switches) {
    add(counters_.switch_ms, milliseconds(ended - began));
  }
  if (trace_) {
    trace_->host_span(format("%d rows", batch_.step.rows), began, ended);
    trace_->collect();
  }
  counters_.steps.fetch_add(1, std::memory_order_relaxed);
  counters_.decode_rows.fetch_add(batch_.step.decode_rows, std::memory_order_relaxed);
  counters_.prefill_rows.fetch_add(batch_.step.rows - batch_.step.decode_rows, std::memory_order_relaxed);
  scheduler_->computed(batch_);
  take_results(batch_);
  publish_counters();
  if (const std::shared_ptr<EventSink> observer = observer_.lock()) {
    observer->post_step({id_, batch_.step.rows, batch_.step.decode_rows, static_cast<int>(batch_.parts.size()),
                         scheduler_->waiting(), kv_->used(), milliseconds(Clock::now() - began)});
  }
  return true;
}

void Model::publish_counters() {
  const auto store = [](std::atomic<uint64_t>& counter, uint64_t value) {
    counter.store(value, std::memory_order_relaxed);
  };
  const FeederCounters& feeder = feeder_->counters();
  store(counters_.copied_bytes, feeder.copied_bytes);
  store(counters_.prefetched_bytes, feeder.prefetched_bytes);
  store(counters_.dropped_bytes, feeder.dropped_bytes);
  store(counters_.staged_bytes, feeder.staged_bytes);
  store(counters_.streamed_units, feeder.acquired_units);
  store(counters_.pinned_bytes, host_->pinned_bytes());
  store(counters_.ring_bytes, feeder_->ring_bytes());
  store(counters_.resident_bytes, feeder_->resident_bytes());
  store(counters_.shared_bytes, feeder_->shared_bytes());
  store(counters_.arena_copied_bytes, feeder.shared_bytes);
  store(counters_.hops, cpu_ ? cpu_->hops : 0);
  store(counters_.weight_bytes_read,
        executor_->counters().weight_bytes_read + (cpu_ ? cpu_->executor->counters().weight_bytes_read : 0));
  store(counters_.running, scheduler_->running());
  store(counters_.waiting, scheduler_->waiting());
  store(counters_.kv_blocks_used, kv_->used());
  store(counters_.saved_kv_bytes, kv_->saved_bytes());
  store(counters_.prompt_tokens, scheduler_->counters().prompt_tokens);
  store(counters_.reused_tokens, scheduler_->counters().reused_tokens);
  store(counters_.preemptions, scheduler_->counters().preemptions);
}

void Model::take_results(const StepBatch& batch) {
  const size_t vocab = host_->spec().vocab;
  const float* kept = output_.logits.data();
  size_t top = 0;  // into the output's top log-probabilities
  for (const StepBatch::Part& part : batch.parts) {
    Sequence& sequence = *part.sequence;
    if (part.logits == 0) continue;
    const size_t own_top = top;
    for (int i = 0; i < part.logits; i++) top += batch.logits[part.first_logit + i].top_logprobs;

    if (sequence.options.kind == RequestKind::score) {
      for (int i = 0; i < part.logits; i++) {
        const LogitRequest& request = batch.logits[part.first_logit + i];
        if (request.want_logprob) sequence.score_logprobs.push_back(output_.logprobs[part.first_logit + i]);
        if (request.keep_logits) {
          sequence.score_logits.insert(sequence.score_logits.end(), kept, kept + vocab);
          kept += vocab;
        }
      }
      if (sequence.computed == sequence.prompt_length()) {
        TokenEvent event;
        event.logprobs = std::move(sequence.score_logprobs);
        event.logits = std::move(sequence.score_logits);
        end(sequence.id, Finish::length, std::move(event));
      }
      continue;
    }

    const int32_t token = output_.tokens[part.first_logit];
    if (!sequence.has_first_token) {
      sequence.has_first_token = true;
      sequence.first_token = Clock::now();
    }
    TokenEvent event;
    if (token < 0) {
      event.error_code = code::kInternal;
      event.error_message = "the model's logits are not numbers (NaN), or logitBias forbids every token";
      event.error_remedy = "check the checkpoint: damaged or overflowing weights do this; or leave out logitBias";
      end(sequence.id, Finish::error, std::move(event));
      continue;
    }
    const std::vector<int32_t>& stops = sequence.options.stop_tokens;
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
      end(sequence.id, Finish::stop);
      continue;
    }
    append_token(sequence, token);
    event.tokens.push_back(token);
    if (sequence.options.logprobs) event.logprobs.push_back(output_.logprobs[part.first_logit]);
    if (top > own_top) {
      event.top_tokens.assign(output_.top_tokens.begin() + own_top, output_.top_tokens.begin() + top);
      event.top_logprobs.assign(output_.top_logprobs.begin() + own_top, output_.top_logprobs.begin() + top);
    }
    if (sequence.generated() >= sequence.options.max_tokens) {
      end(sequence.id, Finish::length, std::move(event));
      continue;
    }
    event.model = id_;
    event.request = sequence.id;
    sequence.sink->post(std::move(event));
  }
}

void Model::enter_queue() {
  const uint64_t waiting = counters_.queued.fetch_add(1, std::memory_order_relaxed);
  if (config_.max_queue == 0 || waiting < static_cast<uint64_t>(config_.max_queue)) return;
  counters_.queued.fetch_sub(1, std::memory_order_relaxed);
  Error error(code::kQueueFull, format("%llu requests wait already", static_cast<unsigned long long>(waiting)),
              "try again after retryAfterMs, or load with a larger maxQueue");
  // The queue moves one place whenever one of those that run ends.
  const double running = static_cast<double>(std::max<uint64_t>(1, counters_.running.load(std::memory_order_relaxed)));
  error.retry_after_ms = std::max(1.0, counters_.service_ms.load(std::memory_order_relaxed) / running);
  throw error;
}

void Model::enqueue(std::unique_ptr<Sequence> sequence) {
  scheduler_->add(std::move(sequence));
  publish_counters();
}

void Model::expire() {
  const Clock::time_point now = Clock::now();
  const auto over = [now](const Sequence& sequence, double limit_ms) {
    return limit_ms > 0 && milliseconds(now - sequence.submitted) >= limit_ms;
  };
  for (const uint64_t id : scheduler_->ids([&](const Sequence& sequence, bool waiting) {
         return waiting && over(sequence, sequence.options.queue_timeout_ms);
       })) {
    TokenEvent last;
    last.error_code = code::kQueueTimeout;
    last.error_message = "the request waited longer than its queueTimeoutMs";
    last.error_remedy = "try again later, with a longer queueTimeoutMs, or with a higher priority";
    end(id, Finish::error, std::move(last));
  }
  for (const uint64_t id :
       scheduler_->ids([&](const Sequence& sequence, bool) { return over(sequence, sequence.options.deadline_ms); })) {
    TokenEvent last;
    last.error_code = code::kDeadlineExceeded;
    last.error_message = "the request was not done by its deadlineMs";
    last.error_remedy = "ask for fewer tokens, or give it more time";
    end(id, Finish::error, std::move(last));
  }
}

void Model::end(uint64_t request, Finish finish, TokenEvent last) {
  const std::unique_ptr<Sequence> sequence = scheduler_->remove(request);
  if (!sequence) return;
  const Clock::time_point now = Clock::now();
  last.model = id_;
  last.request = request;
  last.finish = finish;
  last.total_ms = milliseconds(now - sequence->submitted);
  // A request that ends while it waits has queued all its life.
  last.queue_ms = sequence->admitted == Clock::time_point{} ? last.total_ms
                                                            : milliseconds(sequence->admitted - sequence->submitted);
  if (sequence->admitted != Clock::time_point{} && finish != Finish::abort) {
    const double took = milliseconds(now - sequence->admitted);
    const double before = counters_.service_ms.load(std::memory_order_relaxed);
    counters_.service_ms.store(before == 0 ? took : 0.8 * before + 0.2 * took, std::memory_order_relaxed);
  }
  if (sequence->has_first_token) last.first_token_ms = milliseconds(sequence->first_token - sequence->submitted);
  sequence->sink->post(std::move(last));
}

}  // namespace millrace

#include "engine/model.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <new>

#include "backend/cpu_answers.h"
#include "core/error.h"
#include "core/reclaimer.h"
#include "model/experts_layout.h"

namespace millrace {

namespace {

double milliseconds(Clock::duration d) {
  return std::chrono::duration<double, std::milli>(d).count();
}

std::vector<std::unique_ptr<Backend>> only(std::unique_ptr<Backend> backend) {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(std::move(backend));
  return backends;
}

}  // namespace

Model::Model(uint64_t id, std::unique_ptr<Backend> backend, std::shared_ptr<const HostModel> host, ModelConfig config,
             std::unique_ptr<Backend> cpu)
    : Model(id, only(std::move(backend)), std::move(host), std::move(config), std::move(cpu)) {}

Model::Model(uint64_t id, std::vector<std::unique_ptr<Backend>> backends, std::shared_ptr<const HostModel> host,
             ModelConfig config, std::unique_ptr<Backend> cpu)
    : id_(id), host_(std::move(host)), config_(std::move(config)), devices_(backends.size()) {
  if (!cpu) std::replace(config_.homes.begin(), config_.homes.end(), Home::cpu, Home::resident);
  check_config();
  create_sides(std::move(backends));
  create_inboxes();
  create_experts();
  const bool sleeps = cpu != nullptr;  // its threads need every processor
  if (cpu) create_cpu_side(std::move(cpu));
  create_passes(sleeps);
  // Shared units pass through the ring only where the arena has no room: the first pass will tell.
  for (const Side& side : sides_) {
    if (arena_ == nullptr) side.feeder->prefetch();
  }
  share_with_draft();

  memory_.host_bytes = host_->bytes();
  memory_.kv_swap_bytes = kv_->swap_bytes();
  if (config_.draft_model) {
    memory_.draft_host_bytes = config_.draft_model->host_bytes();
    memory_.draft_device_bytes = config_.draft_model->device_bytes();
  }
  kv_total_ = kv_->total();
  for (const DeviceCounters& device : devices_) {
    memory_.kv_bytes += device.kv_bytes;
    memory_.workspace_bytes += device.workspace_bytes;
  }
  publish_counters();
}

// Both take their turns together, on the worker whose device the arena is of.
void Model::share_with_draft() {
  Arena* const arena = config_.draft_model ? config_.draft_model->arena() : nullptr;
  if (arena == nullptr) return;
  if (sides_.size() > 1 || arena != &Arena::of(sides_.front().backend->name())) {
    throw Error(code::kInvalidArgument, "a draft model shares the arena of the device that its large model is on",
                "load both on one device, or give the draft model another placement");
  }
  arena_ = arena;
}

// Whoever reads keys and values is on the device that appends them.
bool Model::keys_are_at_hand() const {
  std::map<std::pair<int, int>, int> device;  // of a class's layer
  for (size_t unit = 0; unit < program().units.size(); unit++) {
    for (const Op& op : program().units[unit].ops) {
      const auto* attend = std::get_if<AttendOp>(&op);
      if (attend == nullptr) continue;
      const int own = device_of(static_cast<int>(unit));
      if (device.emplace(std::pair{attend->kv_class, attend->kv_layer}, own).first->second != own) return false;
    }
  }
  return true;
}

bool Model::enough_blocks() const {
  for (size_t c = 0; c < program().kv.size(); c++) {
    const int least = KvPool::least_blocks(program().kv[c], config_.context_length, config_.max_rows);
    if (config_.kv_blocks[c] < least) return false;
  }
  return true;
}

void Model::check_config() const {
  const size_t units = host_->units().size();
  if (config_.homes.size() != units || config_.ring_bytes.size() != devices_.size() ||
      (!config_.window_bytes.empty() && config_.window_bytes.size() != devices_.size()) || config_.context_length < 1 ||
      config_.max_rows < 1 || config_.max_logit_rows < 1 || config_.kv_blocks.size() != program().kv.size() ||
      !enough_blocks()) {
    throw Error(code::kInvalidArgument,
                "a model needs one home a unit, one ring a device, rows, and KV blocks for one full context",
                "pass the plan unchanged, or one that keeps these bounds");
  }
  if (host_->in_file(static_cast<int>(units) - 1)) {
    throw Error(code::kInvalidArgument, "the head of a model cannot stay in the file",
                "load with a larger ramBudget: embeddings read its norm in memory");
  }
  if (config_.devices.empty() && devices_.size() == 1) return;
  std::vector<bool> used(devices_.size(), false);
  bool known = config_.devices.size() == units;
  for (const int device : config_.devices) {
    known = known && device >= 0 && device < static_cast<int>(devices_.size());
    if (known) used[device] = true;
  }
  if (!known || std::find(used.begin(), used.end(), false) != used.end()) {
    throw Error(code::kInvalidArgument, "a model on several devices needs one of them a unit, and a unit for each",
                "name no more devices than the model has layers");
  }
  if (devices_.size() > 1 && !keys_are_at_hand()) {
    throw Error(code::kInvalidArgument, "layers that share keys and values cannot be spread over several devices",
                "name one device");
  }
  for (size_t unit = 0; unit < units; unit++) {
    if (config_.homes[unit] != Home::demand) continue;
    const ExpertsOp* experts = experts_of(program().units[unit]);
    const auto layout = experts ? experts_layout(*experts, host_->units()[unit]) : std::nullopt;
    const bool ends =
        layout && layout->first + static_cast<size_t>(experts->experts) * layout->stride >= host_->units()[unit].bytes;
    if (ends && devices_.size() == 1) continue;
    throw Error(code::kInvalidArgument,
                unit_name(static_cast<int>(unit)) + ": on demand are mixtures of equal experts, on one device",
                "load it with experts: 'resident'");
  }
  if (std::find(config_.homes.begin(), config_.homes.end(), Home::shared) != config_.homes.end() &&
      devices_.size() > 1) {
    throw Error(code::kInvalidArgument, "units that models share cannot be spread over several devices",
                "name one device, or give the units another home");
  }
}

ExecutorConfig Model::executor_config() const {
  ExecutorConfig config;
  config.program = program();
  config.program.kv = kept_as(program().kv, config_.kv_type);
  config.units = host_->units();
  for (const TableLayout& table : host_->tables()) {
    config.tables.push_back({host_->embedding() + table.offset, table.type});
  }
  return config;
}

std::vector<Home> Model::homes_of(const std::vector<Home>& homes, size_t device) const {
  std::vector<Home> own = homes;
  for (size_t unit = 0; unit < own.size(); unit++) {
    if (device_of(static_cast<int>(unit)) != static_cast<int>(device)) own[unit] = Home::elsewhere;
  }
  return own;
}

void Model::create_sides(std::vector<std::unique_ptr<Backend>> backends) {
  const std::vector<UnitLayout>& units = host_->units();
  std::vector<KvPool::Device> kv;
  for (std::unique_ptr<Backend>& backend : backends) {
    Side side;
    side.backend = std::move(backend);
    side.compute = side.backend->create_stream();
    kv.push_back({side.backend.get(), side.compute.get(), std::vector<std::vector<int>>(program().kv.size())});
    sides_.push_back(std::move(side));
  }
  for (size_t unit = 0; unit < units.size(); unit++) {
    add_kept(program().units[unit].ops, kv[device_of(static_cast<int>(unit))].layers);
  }
  kv_ = std::make_unique<KvPool>(kv, kept_as(program().kv, config_.kv_type), config_.kv_blocks, config_.kv_swap_bytes,
                                 config_.kv_hooks);
  kv_->keep_free_states(config_.draft_states);
  scheduler_ = std::make_unique<Scheduler>(
      SchedulerConfig{config_.max_rows, config_.max_logit_rows, config_.prefix_reuse, config_.deterministic,
                      &counters_.queued, config_.logit_table_entries, PassCosts(config_.pass_costs), config_.draft,
                      config_.draft_model.get()},
      *kv_);

  create_mail();
  const int head = head_side();
  for (size_t i = 0; i < sides_.size(); i++) {
    Side& side = sides_[i];
    const int device = static_cast<int>(i);
    ExecutorConfig executor = executor_config();
    for (int c = 0; c < kv_->classes(); c++) executor.kv.push_back(kv_->of(c).memory(device));
    executor.max_rows = config_.max_rows;
    executor.max_logit_rows = device == head ? config_.max_logit_rows : 1;
    executor.max_context = config_.context_length;
    executor.kernels = config_.kernels;
    executor.drawn = config_.drawn_routes;
    executor.mail = mail_;
    for (size_t unit = 0; unit < units.size(); unit++) {
      executor.experts_apart.push_back(config_.homes[unit] == Home::demand);
    }
    side.executor = side.backend->create_executor(executor);

    FeederConfig feeder;
    for (size_t unit = 0; unit < units.size(); unit++) {
      const ExpertsOp* experts = experts_of(program().units[unit]);
      const bool apart = config_.homes[unit] == Home::demand;
      feeder.unit_bytes.push_back(units[unit].bytes);
      feeder.own_bytes.push_back(apart ? experts_layout(*experts, units[unit])->first : units[unit].bytes);
    }
    feeder.homes = homes_of(config_.homes, i);
    feeder.stage_threads = config_.stage_threads;
    if (std::find(feeder.homes.begin(), feeder.homes.end(), Home::shared) != feeder.homes.end()) {
      arena_ = &Arena::of(side.backend->name());
    }
    feeder.arena = arena_;
    if (config_.draft_model) feeder.arena_beside = config_.draft_model->shared_unit_bytes();
    feeder.ring_bytes = config_.ring_bytes[i];
    feeder.window_bytes = config_.window_bytes.empty() ? 0 : config_.window_bytes[i];
    feeder.window_hooks = config_.window_hooks;
    feeder.poison = config_.poison;
    feeder.hooks = config_.hooks;
    side.feeder = std::make_unique<Feeder>(*side.backend, *host_, std::move(feeder));
    devices_[i].name = side.backend->name();
    devices_[i].kv_bytes = kv_->bytes(device);
    devices_[i].workspace_bytes = side.executor->workspace_bytes();
  }
}

// Of every side that rows come to: in its own memory, if all the others reach that.
void Model::create_inboxes() {
  if (sides_.size() == 1) return;
  for (size_t i = 0; i < sides_.size(); i++) {
    Side& side = sides_[i];
    side.sent = side.backend->create_event();
    const bool direct = config_.direct_hops && std::all_of(sides_.begin(), sides_.end(), [&](const Side& other) {
                          return &other == &side || other.backend->reaches(*side.backend);
                        });
    const size_t bytes = side.executor->carried_bytes();
    const char* what = "rows on their way between devices";
    side.inbox = direct ? side.backend->allocate(bytes, what) : side.backend->allocate_host(bytes, what);
    devices_[i].direct_hops = direct;
    if (direct) devices_[i].workspace_bytes += bytes;
  }
}

// Between the device and the threads that answer experts: of passes of so many rows at most, in which few rows choose
// one expert.
void Model::create_mail() {
  constexpr int kMostRows = 64;
  if (config_.expert_threads < 1) return;
  auto mail = std::make_shared<ExpertMail>();
  mail->split.resize(config_.homes.size());
  mail->most_rows = std::min(kMostRows, static_cast<int>(std::bit_ceil(static_cast<unsigned>(config_.max_rows))));
  mail->skip_wait = config_.skip_answer_wait;
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (config_.homes[unit] != Home::demand) continue;
    const ExpertsOp& op = *experts_of(program().units[unit]);
    const ExpertsLayout layout = *experts_layout(op, host_->units()[unit]);
    if (!cpu_answers(layout)) {
      throw Error(code::kInvalidArgument,
                  unit_name(static_cast<int>(unit)) + ": the CPU answers experts of integer weights alone",
                  "load it without expertCpu");
    }
    mail->split[unit] = split_of_misses(op.experts, layout.stride, config_.answer_rates);
    mail->most_places = std::max(mail->most_places, mail->most_rows * program().values[op.routes] / 2);
    mail->width = program().values[op.out];
  }
  if (mail->most_places == 0) return;
  const auto places = static_cast<size_t>(mail->most_places);
  const size_t row = round_up(static_cast<size_t>(mail->width), 64) * sizeof(float);
  const size_t lists = round_up(places * (sizeof(ExpertMailEntry) + sizeof(int32_t)), 256);
  const size_t x_bytes = static_cast<size_t>(mail->most_rows) * row;
  constexpr size_t kHead = 512;  // the state, and the task behind it
  mail_memory_ = sides_.front().backend->allocate_host(kHead + lists + x_bytes + places * row,
                                                       "experts on their way to the CPU and back");
  std::byte* at = mail_memory_->data();
  std::memset(at, 0, mail_memory_->size());
  mail->state = new (at) ExpertMailState;
  mail->task = new (at + kHead / 2) ExpertMailTask;
  mail->entries = reinterpret_cast<ExpertMailEntry*>(at + kHead);
  mail->places = reinterpret_cast<int32_t*>(mail->entries + places);
  mail->x = reinterpret_cast<float*>(at + kHead + lists);
  mail->y = reinterpret_cast<float*>(at + kHead + lists + x_bytes);
  mail_ = std::move(mail);
}

void Model::create_experts() {
  std::vector<ExpertUnit> units;
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (config_.homes[unit] != Home::demand) continue;
    const ExpertsOp& op = *experts_of(program().units[unit]);
    const ExpertsLayout layout = *experts_layout(op, host_->units()[unit]);
    units.push_back({static_cast<int>(unit), op.experts, layout.first, layout.stride});
  }
  if (units.empty()) return;
  Backend& backend = *sides_.front().backend;
  if (!backend.reads_host_memory()) {  // kernels read it where it lies
    host_->pin({backend.pinner(), {}});
    host_->wait_until_pinned();
    for (const ExpertUnit& unit : units) {
      if (host_->pinned(unit.unit)) continue;
      throw Error(code::kOutOfMemory,
                  format("experts on demand need all of the model's %zu MiB of RAM pinned, the system allows %zu",
                         host_->bytes() >> 20, host_->pinned_bytes() >> 20),
                  "raise the limit of locked memory (ulimit -l), or load it with experts: 'resident'");
    }
  }
  if (mail_) {
    std::vector<AnsweredUnit> answered;
    for (const ExpertUnit& unit : units) {
      const ExpertsOp* op = experts_of(program().units[static_cast<size_t>(unit.unit)]);
      answered.push_back({unit.unit, op, *experts_layout(*op, host_->units()[static_cast<size_t>(unit.unit)]),
                          host_->slab(unit.unit) + unit.first});
    }
    answers_ = create_expert_answers(mail_, std::move(answered), config_.expert_threads, config_.answer_hooks);
  }
  experts_ = std::make_unique<ExpertStore>(backend, *host_, std::move(units), config_.expert_cache_bytes,
                                           config_.expert_hooks);
}

void Model::create_cpu_side(std::unique_ptr<Backend> backend) {
  const std::vector<UnitLayout>& units = host_->units();
  for (size_t unit = 0; unit < units.size(); unit++) {
    if (config_.homes[unit] != Home::cpu || program().stands_alone(static_cast<int>(unit))) continue;
    throw Error(code::kInvalidArgument, "only feed-forwards can be at home on the CPU beside another device",
                "give attention and head another home: their inputs rest on the device");
  }
  auto side = std::make_unique<CpuSide>();
  side->backend = std::move(backend);
  side->stream = side->backend->create_stream();
  const int rows = std::min(config_.max_rows, config_.max_logit_rows);
  ExecutorConfig executor = executor_config();
  executor.max_rows = rows;
  executor.max_context = 1;
  side->executor = side->backend->create_executor(executor);
  for (size_t unit = 0; unit < units.size(); unit++) {
    const int u = static_cast<int>(unit);
    if (config_.homes[unit] == Home::cpu) side->executor->set_unit(*side->stream, u, host_->slab(u), true);
  }
  const size_t row_bytes =
      std::bit_ceil(static_cast<size_t>(rows)) * static_cast<size_t>(program().hidden()) * sizeof(float);
  constexpr size_t kApart = 256;  // the two states: each is polled by another device
  side->memory =
      sides_.front().backend->allocate_host(2 * (kApart + row_bytes), "rows on their way to the CPU and back");
  std::byte* at = side->memory->data();
  std::memset(at, 0, side->memory->size());
  side->there = {at + 2 * kApart, new (at) HopState};
  side->back = {at + 2 * kApart + row_bytes, new (at + kApart) HopState};
  cpu_ = std::move(side);
}

void Model::create_passes(bool sleeps) {
  for (Pass& pass : passes_) {
    for (const Side& side : sides_) {
      pass.done.push_back(side.backend->create_event(sleeps ? EventUse::sleeps : EventUse::order));
    }
    if (cpu_) pass.done.push_back(cpu_->backend->create_event());
  }
}

// Whoever waits for rows of the pass waits no longer; then the CPU and the devices start level.
bool Model::give_up() {
  const auto hops = [&] {
    return cpu_ ? std::vector<const Hop*>{&cpu_->there, &cpu_->back} : std::vector<const Hop*>{};
  };
  for (const Hop* hop : hops()) hop->state->given_up.store(1, std::memory_order_release);
  if (answers_) answers_->give_up();
  const bool whole = come_to_rest();
  for (const Hop* hop : hops()) {
    hop->state->sent.store(cpu_->hops, std::memory_order_relaxed);
    hop->state->given_up.store(0, std::memory_order_release);
  }
  if (answers_) answers_->restart();
  return whole;
}

bool Model::come_to_rest() {
  const auto rest = [](Stream& stream) {
    try {
      stream.synchronize();
    } catch (const Error&) {
      // A device that is lost runs nothing any more; of what failed otherwise the step has told.
    }
  };
  for (const Side& side : sides_) rest(*side.compute);
  if (cpu_) rest(*cpu_->stream);
  return kv_->rest();
}

Model::~Model() {
  release();
}

void Model::abandon_passes() {
  for (const Side& side : sides_) side.executor->abandon(*side.compute);
  scheduler_->give_up_masks();
  if (trace_) trace_->abandon();
  scheduler_->abandon(give_up());
  for (const Side& side : sides_) side.feeder->restart();
  if (experts_) experts_->restart();
  under_way_ = 0;
  publish_counters();
}

std::vector<Home> Model::set_homes(const std::vector<Home>& homes, const std::vector<size_t>& ring_bytes) {
  if (homes.size() != config_.homes.size() || ring_bytes.size() != sides_.size()) {
    throw Error(code::kInvalidArgument, "a model needs one home a unit and one ring a device",
                "pass the plan unchanged, or one that keeps these bounds");
  }
  for (const Side& side : sides_) side.compute->synchronize();
  for (size_t i = 0; i < sides_.size(); i++) sides_[i].feeder->check_homes(homes_of(homes, i), ring_bytes[i]);
  const bool streams = std::find(homes.begin(), homes.end(), Home::streamed) != homes.end();
  Backend& first = *sides_.front().backend;
  if (streams && !first.reads_host_memory()) host_->pin({first.pinner(), {}});  // it may have been all resident
  std::vector<Home> found = homes;
  for (size_t i = 0; i < sides_.size(); i++) {
    Feeder& feeder = *sides_[i].feeder;
    feeder.set_homes(homes_of(homes, i), ring_bytes[i]);
    try {
      feeder.prefetch();
    } catch (const Error& error) {  // the homes have changed; the next pass copies for itself
      if (std::string_view(error.code()) != code::kOutOfMemory) throw;
    }
    for (size_t unit = 0; unit < found.size(); unit++) {
      if (feeder.homes()[unit] != Home::elsewhere) found[unit] = feeder.homes()[unit];
    }
  }
  publish_counters();
  return found;
}

void Model::set_arena_limit(size_t bytes) {
  for (const Side& side : sides_) side.compute->synchronize();
  arena_->set_limit(bytes);
  publish_counters();
}

size_t Model::set_expert_cache(size_t bytes) {
  if (!experts_) return 0;
  for (const Side& side : sides_) side.compute->synchronize();
  experts_->set_cache(bytes);
  publish_counters();
  return experts_->bytes();
}

size_t Model::shared_unit_bytes() const {
  size_t bytes = 0;
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (config_.homes[unit] == Home::shared) bytes += host_->units()[unit].bytes;
  }
  return bytes + (config_.draft_model ? config_.draft_model->shared_unit_bytes() : 0);
}

bool Model::away() {
  return sides_.front().feeder->missing_bytes() > 0;
}

bool Model::draft_model_away() {
  return config_.draft_model && config_.draft_model->missing_bytes() > 0 && scheduler_->would_ask_model();
}

void Model::leave() {
  for (const Side& side : sides_) side.feeder->leave_arena();
  if (config_.draft_model) config_.draft_model->leave_arena();
}

void Model::release() {
  if (!host_) return;
  for (const Side& side : sides_) side.executor->abandon(*side.compute);
  scheduler_->give_up_masks();
  give_up();
  trace_.reset();
  answers_.reset();
  experts_.reset();
  for (Side& side : sides_) side.feeder.reset();
  cpu_.reset();
  for (Side& side : sides_) side.executor.reset();
  scheduler_.reset();
  config_.draft_model.reset();
  kv_.reset();
  passes_ = {};
  mail_memory_.reset();
  for (Side& side : sides_) side.compute.reset();
  sides_.clear();
  host_.reset();
}

std::string Model::unit_name(int unit) const {
  return program().units[unit].name;
}

void Model::trace(const std::string& path) {
  for (const Side& side : sides_) side.compute->synchronize();
  if (cpu_) cpu_->stream->synchronize();
  const int devices = static_cast<int>(sides_.size());
  std::unique_ptr<Trace> next = path.empty() ? nullptr : std::make_unique<Trace>(path, devices);
  if (next) {
    for (int i = 0; i < devices; i++) {
      next->attach(Trace::of(Trace::compute, i), *sides_[i].backend, *sides_[i].compute);
    }
    if (cpu_) next->attach(Trace::cpu, *cpu_->backend, *cpu_->stream);
  }
  std::vector<std::string> names;
  for (size_t unit = 0; unit < host_->units().size(); unit++) names.push_back(unit_name(static_cast<int>(unit)));
  const auto set = [&](Trace* trace) {
    for (int i = 0; i < devices; i++) sides_[i].feeder->set_trace(trace, Trace::of(Trace::copies, i), names);
    if (experts_) experts_->set_trace(trace);
  };
  try {
    set(next.get());
  } catch (...) {  // no feeder may keep what is about to go
    set(nullptr);
    trace_.reset();
    throw;
  }
  const std::unique_ptr<Trace> ended = std::exchange(trace_, std::move(next));
  if (ended) ended->finish();
}

void Model::trace_routes(const std::string& path) {
  for (const Side& side : sides_) side.compute->synchronize();
  const Mixtures mixtures = mixtures_of(program());
  if (!path.empty() && (mixtures.count == 0 || sides_.size() > 1)) {
    throw Error(code::kInvalidArgument, "routes are those of mixtures on one device",
                mixtures.count == 0 ? "ask it of a model with experts" : "load the model on one device");
  }
  std::unique_ptr<RouteLog> next = path.empty() ? nullptr : std::make_unique<RouteLog>(path, mixtures);
  const std::unique_ptr<RouteLog> ended = std::exchange(route_log_, std::move(next));
  if (ended) ended->finish();
}

void Model::cross(const Side& from, const Side& to) {
  from.executor->hand_over(*from.compute, to.inbox->data());
  from.compute->record(*from.sent);
  if (hop_waits_++ != config_.skip_hop_wait) to.compute->wait(*from.sent);
  to.executor->take_over(*to.compute, to.inbox->data());
}

// What the side that embeds does next comes behind a pass under way: the tokens chosen there are in host memory, and
// rows between sides have been read. On one device the stream's order sees to that.
void Model::follow(const Pass& before) {
  const int first = device_of(0), head = head_side();
  for (int i = 0; i < static_cast<int>(sides_.size()); i++) {
    if (i == first || (i == head && hop_waits_++ == config_.skip_hop_wait)) continue;
    sides_[first].compute->wait(*before.done[i]);
  }
}

void Model::run_pass(Pass& pass) {
  const std::vector<UnitLayout>& units = host_->units();
  const int head = head_side();
  Step& step = pass.batch.step;
  int at = device_of(0);  // where the rows are
  const auto begin_span = [&](const char* prefix, int unit) {
    if (trace_) trace_->begin(Trace::of(Trace::compute, at), prefix + unit_name(unit));
  };
  const auto end_span = [&] {
    if (trace_) trace_->end(Trace::of(Trace::compute, at));
  };
  const int first = at;
  const bool fed = !step.token_from.empty();
  const int32_t* chosen = fed && first != head ? sides_[head].executor->choices() : nullptr;
  if (under_way_ == 2) follow(&pass == &passes_[0] ? passes_[1] : passes_[0]);
  if (cpu_) step.hops_before = cpu_->hops;
  step.logs_routes = route_log_ != nullptr;
  // With as many sequences again, the next pass will take the same way.
  const bool crowd = cpu_ && step.decode_rows > config_.cpu_rows;
  const Route next = crowd ? Route::prefill : Route::decode;
  const Route route = step.rows > step.decode_rows ? Route::prefill : next;
  for (int i = 0; i < static_cast<int>(sides_.size()); i++) {
    Side& side = sides_[i];
    const uint64_t brought = side.feeder->counters().shared_bytes;
    side.feeder->begin(route, next);
    if (side.feeder->counters().shared_bytes > brought) {
      counters_.switches.fetch_add(1, std::memory_order_relaxed);
      pass.switches = true;
    }
    Step own = step;
    if (i != head) own.logits = {}, own.adjustments = {}, own.table_updates = {}, own.masks = {}, own.hidden_rows = {};
    if (experts_) experts_->begin(*side.executor, *side.compute);
    own.chosen = i == first ? chosen : nullptr;
    if (i != first) own.token_from = {};
    side.executor->begin(*side.compute, own, pass.output);
  }
  sides_[at].executor->embed(*sides_[at].compute);
  for (int unit = 0; unit < static_cast<int>(units.size()); unit++) {
    const int device = device_of(unit);
    Side& side = sides_[device];
    Stream& compute = *side.compute;
    const Home home = side.feeder->homes()[unit];
    const bool is_head = program().units[unit].head;
    const bool unused = is_head && step.logits.empty();
    if (device != at && !(unused && step.hidden_rows.empty())) {
      const Side& before = sides_[at];
      at = device;
      begin_span("rows for ", unit);
      cross(before, side);
      end_span();
    }
    if (is_head && !step.hidden_rows.empty()) side.executor->keep_hidden(compute);
    if (unused) {
      if (side.feeder->streams(unit)) {  // its copy is under way: it goes unused
        side.feeder->acquire(compute, unit);
        side.feeder->release(compute, unit);
      }
      continue;
    }
    const bool hops = home == Home::cpu && step.decode_rows > 0 && !crowd;
    if (hops) {
      // The CPU's part is enqueued first: whatever then holds up the host, it will come.
      const uint64_t ticket = ++cpu_->hops;
      side.executor->send(compute, cpu_->there, step.decode_rows, ticket);
      cpu_->executor->receive(*cpu_->stream, cpu_->there, step.decode_rows, ticket);
      if (trace_) trace_->begin(Trace::cpu, unit_name(unit));
      cpu_->executor->run(*cpu_->stream, unit, RowKind::all);
      if (trace_) trace_->end(Trace::cpu);
      cpu_->executor->send(*cpu_->stream, cpu_->back, step.decode_rows, ticket);
    }
    if (home != Home::cpu || side.feeder->streams(unit)) {
      const bool streams = side.feeder->streams(unit);
      if (streams) begin_span("wait for ", unit);
      const std::byte* slab = side.feeder->acquire(compute, unit);
      if (streams) end_span();
      begin_span("", unit);
      side.executor->set_unit(compute, unit, slab, side.feeder->permanent(unit));
      side.executor->run(compute, unit, hops ? RowKind::prefill : RowKind::all);
      end_span();
      side.feeder->release(compute, unit);
    }
    if (hops) {
      begin_span("the CPU has ", unit);
      side.executor->receive(compute, cpu_->back, step.decode_rows, cpu_->hops);
      end_span();
    }
  }
  if (!step.logits.empty()) {
    Stream& compute = *sides_[head].compute;
    if (trace_) trace_->begin(Trace::of(Trace::compute, head), "sample");
    sides_[head].executor->sample(compute);
  }
  for (const Side& side : sides_) {
    side.executor->end(*side.compute);
  }
  scheduler_->copy_states(pass.batch);
  if (!step.logits.empty() && trace_) trace_->end(Trace::of(Trace::compute, head));
  for (size_t i = 0; i < sides_.size(); i++) sides_[i].compute->record(*pass.done[i]);
  if (cpu_) cpu_->stream->record(*pass.done.back());
}

// Of units that stay where they are: a pass whose rows turn out useless has cost no copies.
bool Model::may_launch_ahead() const {
  const bool wished = config_.steps_ahead == StepsAhead::always ||
                      (config_.steps_ahead == StepsAhead::on_gpus && !sides_.front().backend->reads_host_memory());
  if (!wished || under_way_ != 1 || cpu_ || trace_) return false;
  const auto rests = [](const Side& side) {
    return !side.feeder->reads_file() && std::ranges::all_of(side.feeder->homes(), [](Home home) {
      return home == Home::resident || home == Home::demand || home == Home::elsewhere;
    });
  };
  return std::ranges::all_of(sides_, rests) &&
         sides_[head_side()].executor->may_follow(passes_[1 - next_pass_].batch.step);
}

bool Model::launch(bool ahead) {
  if (ahead && !may_launch_ahead()) return false;
  Pass& pass = passes_[next_pass_];
  pass.began = Clock::now();
  pass.switches = false;
  const auto drafted_ms = [&] { return config_.draft_model ? config_.draft_model->milliseconds() : 0; };
  const double before = drafted_ms();
  if (!(ahead ? scheduler_->build_ahead(pass.batch) : scheduler_->build(pass.batch))) return false;
  pass.drafting_ms = drafted_ms() - before;
  next_pass_ = 1 - next_pass_;
  under_way_++;
  if (answers_) answers_->begin_pass();
  run_pass(pass);
  if (ahead) counters_.steps_ahead.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void Model::finish() {
  Pass& pass = passes_[under_way_ == 2 ? next_pass_ : 1 - next_pass_];
  const Step& step = pass.batch.step;
  const Clock::time_point waits = Clock::now();
  for (const auto& done : pass.done)
    done->synchronize();  // the CPU has sent its last rows, or failed and gives them up
  const Clock::time_point ran = Clock::now();
  if (answers_) {
    answers_->check();
    answers_->end_pass();
  }
  sides_[head_side()].executor->collect(pass.output);
  if (experts_) experts_->used(pass.output.expert_rows, pass.output.filled);
  if (route_log_ && step.logs_routes) {
    route_log_->add(step.positions.subspan(0, static_cast<size_t>(step.rows)), pass.output.routes);
  }
  const Clock::time_point ended = Clock::now();
  const auto add = [](std::atomic<double>& counter, double value) {
    counter.store(counter.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
  };
  add(counters_.wait_ms, milliseconds(ran - waits));
  const Clock::time_point began = std::max(pass.began, read_);  // the device had other work before
  add(counters_.step_ms, milliseconds(ended - began));
  if (config_.watch_costs && step.rows == step.decode_rows && !pass.switches) {
    // The draft model's passes have costs of their own.
    scheduler_->took(step.decode_rows, (milliseconds(ended - began) - pass.drafting_ms) / 1e3);
  }
  if (pass.switches) add(counters_.switch_ms, milliseconds(ended - pass.began));
  read_ = ended;
  if (trace_) {
    trace_->host_span(format("%d rows", step.rows), pass.began, ended);
    trace_->collect();
  }
  counters_.steps.fetch_add(1, std::memory_order_relaxed);
  counters_.decode_rows.fetch_add(step.decode_rows, std::memory_order_relaxed);
  counters_.prefill_rows.fetch_add(step.rows - step.decode_rows, std::memory_order_relaxed);
  under_way_--;
  scheduler_->read(pass.batch, pass.output.tokens);
  take_results(pass);
  pass.output.hidden = {};  // of all rows of a large step: tens of megabytes
  publish_counters();
  if (const std::shared_ptr<EventSink> observer = observer_.lock()) {
    observer->post_step({id_, step.rows, step.decode_rows, static_cast<int>(pass.batch.parts.size()), waiting(),
                         kv_->used(), milliseconds(Clock::now() - began)});
  }
}

bool Model::step() {
  expire();
  if (under_way_ == 0 && !launch(false)) return false;
  launch(true);
  finish();
  return true;
}

void Model::catch_up() {
  while (under_way_ > 0) finish();
}

void Model::publish_counters() {
  const auto store = [](std::atomic<uint64_t>& counter, uint64_t value) {
    counter.store(value, std::memory_order_relaxed);
  };
  FeederCounters all;
  size_t ring = 0, resident = 0, shared = 0;
  uint64_t read = cpu_ ? cpu_->executor->counters().weight_bytes_read : 0;
  for (size_t i = 0; i < sides_.size(); i++) {
    const Feeder& feeder = *sides_[i].feeder;
    all += feeder.counters();
    ring += feeder.ring_bytes();
    resident += feeder.resident_bytes();
    shared += feeder.shared_bytes();
    read += sides_[i].executor->counters().weight_bytes_read;
    store(devices_[i].copied_bytes, feeder.counters().copied_bytes);
    store(devices_[i].ring_bytes, feeder.ring_bytes());
    store(devices_[i].resident_bytes, feeder.resident_bytes());
  }
  store(counters_.copied_bytes, all.copied_bytes);
  store(counters_.prefetched_bytes, all.prefetched_bytes);
  store(counters_.dropped_bytes, all.dropped_bytes);
  store(counters_.staged_bytes, all.staged_bytes);
  store(counters_.file_bytes, all.file_bytes);
  store(counters_.streamed_units, all.acquired_units);
  store(counters_.pinned_bytes, host_->pinned_bytes());
  store(counters_.ring_bytes, ring);
  store(counters_.resident_bytes, resident);
  store(counters_.shared_bytes, shared);
  store(counters_.arena_copied_bytes, all.shared_bytes);
  store(counters_.hops, cpu_ ? cpu_->hops : 0);
  store(counters_.weight_bytes_read, read);
  store(counters_.running, scheduler_->running());
  store(counters_.preempted, scheduler_->preempted());
  store(counters_.kv_blocks_used, kv_->used());
  store(counters_.saved_kv_bytes, kv_->saved_bytes());
  store(counters_.tier_kv_bytes, kv_->tier_bytes());
  store(counters_.prompt_tokens, scheduler_->counters().prompt_tokens);
  store(counters_.reused_tokens, scheduler_->counters().reused_tokens);
  store(counters_.returned_tokens, scheduler_->counters().returned_tokens);
  store(counters_.preemptions, scheduler_->counters().preemptions);
  store(counters_.drafted_tokens, scheduler_->counters().drafted_tokens);
  store(counters_.accepted_tokens, scheduler_->counters().accepted_tokens);
  if (config_.draft_model) {
    store(counters_.draft_passes, config_.draft_model->passes());
    counters_.draft_ms.store(config_.draft_model->milliseconds(), std::memory_order_relaxed);
  }
  if (experts_) {
    store(counters_.expert_hits, experts_->counters().hits);
    const uint64_t answered = answers_ ? answers_->answered_experts() : 0;  // of a pass behind, maybe
    store(counters_.expert_cpu, answered);
    store(counters_.expert_mapped, experts_->counters().mapped - std::min(answered, experts_->counters().mapped));
    store(counters_.promoted_bytes, experts_->counters().promoted_bytes);
    store(counters_.expert_frames, experts_->counters().frames);
    store(counters_.used_frames, experts_->counters().used_frames);
  }
  store(counters_.recomputations, scheduler_->counters().recomputations);
}

void Model::take_results(Pass& pass) {
  const StepBatch& batch = pass.batch;
  StepOutput& output = pass.output;
  const size_t vocab = program().vocab;
  const float* kept = output.logits.data();
  size_t top = 0;  // into the output's top log-probabilities
  for (const StepBatch::Part& part : batch.parts) {
    const size_t own_top = top;
    const float* logits = kept;
    for (int i = 0; i < part.logits; i++) {
      const LogitRequest& request = batch.logits[part.first_logit + i];
      top += request.top_logprobs;
      if (request.keep_logits) kept += vocab;
    }
    if (part.sequence == nullptr) continue;
    Sequence& sequence = *part.sequence;
    if (sequence.options.kind == RequestKind::embed) take_hidden(part, output);
    if (part.logits == 0) continue;
    if (sequence.options.kind == RequestKind::score) {
      for (int i = 0; i < part.logits; i++) {
        const LogitRequest& request = batch.logits[part.first_logit + i];
        if (request.want_logprob) sequence.score_logprobs.push_back(output.logprobs[part.first_logit + i]);
      }
      sequence.score_logits.insert(sequence.score_logits.end(), logits, kept);
      if (sequence.confirmed == sequence.prompt_length()) {
        TokenEvent event;
        event.logprobs = std::move(sequence.score_logprobs);
        event.logits = std::move(sequence.score_logits);
        end(sequence.id, Finish::length, std::move(event));
      }
      continue;
    }
    take_tokens(part, output, own_top);
  }
}

// The token that its own row has chosen, and those that accepted drafts have led to. `top`: its first log-probability
// of StepOutput::top_logprobs.
void Model::take_tokens(const StepBatch::Part& part, const StepOutput& output, size_t top) {
  Sequence& sequence = *part.sequence;
  if (!sequence.has_first_token) {
    sequence.has_first_token = true;
    sequence.first_token = Clock::now();
  }
  Constrained* constrained = sequence.constrained.get();
  const std::vector<int32_t>& stops = sequence.options.stop_tokens;
  TokenEvent event;
  for (int i = 0; i <= part.accepted; i++) {
    const int32_t token = output.tokens[part.first_logit + i];
    if (token < 0) return end_without_token(sequence, i, token, std::move(event));
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
      return end(sequence.id, Finish::stop, std::move(event));
    }
    bool ended = false;
    try {
      if (constrained != nullptr && !constrained->take(token)) {
        throw Error(code::kInternal, "a token came that the constraint forbids", "please report this");
      }
      ended = constrained != nullptr && constrained->ended();
    } catch (...) {
      return fail(sequence.id, current_error(), std::move(event));
    }
    append_token(sequence, token, part.counted);
    event.tokens.push_back(token);
    if (sequence.options.logprobs) event.logprobs.push_back(output.logprobs[part.first_logit + i]);
    for (int j = 0; j < sequence.options.top_logprobs; j++, top++) {
      event.top_tokens.push_back(output.top_tokens[top]);
      event.top_logprobs.push_back(output.top_logprobs[top]);
    }
    if (ended || sequence.generated() >= sequence.options.max_tokens) {
      return end(sequence.id, ended ? Finish::stop : Finish::length, std::move(event));
    }
  }
  if (constrained != nullptr) constrained->make_later_mask();
  scheduler_->foresee(sequence);
  event.model = id_;
  event.request = sequence.id;
  sequence.sink->post(std::move(event));
}

void Model::take_hidden(const StepBatch::Part& part, StepOutput& output) {
  Sequence& sequence = *part.sequence;
  const auto hidden = static_cast<size_t>(program().hidden());
  const int head = static_cast<int>(host_->units().size()) - 1;
  for (int i = 0; i < part.hidden; i++) {
    const std::span<float> row(output.hidden.data() + (part.first_hidden + i) * hidden, hidden);
    final_norm(program().units[head].ops, host_->units()[head], host_->slab(head), row);
    sequence.pooled.add(row);
  }
  if (sequence.confirmed < sequence.prompt_length()) return;
  TokenEvent event;
  event.embedding = sequence.pooled.unit_length();
  if (event.embedding.empty()) {
    fail(sequence.id, Error(code::kCheckpointInvalid, "the model's hidden states are not numbers (NaN or infinite)",
                            "fetch the checkpoint again: damaged or overflowing weights do this"));
    return;
  }
  end(sequence.id, Finish::length, std::move(event));
}

void Model::fail(uint64_t request, const Error& error, TokenEvent last) {
  last.error_code = error.code();
  last.error_message = error.what();
  last.error_remedy = error.remedy();
  end(request, Finish::error, std::move(last));
}

// In the place of its next token, `ahead` behind the pass's first, came kAllForbidden or -1.
void Model::end_without_token(Sequence& sequence, int ahead, int32_t token, TokenEvent last) {
  const auto failed = [&](const Error& error) { fail(sequence.id, error, std::move(last)); };
  if (token != kAllForbidden) {
    failed(Error(code::kCheckpointInvalid, "the model's logits are not numbers (NaN or infinite)",
                 "fetch the checkpoint again: damaged or overflowing weights do this"));
  } else if (!sequence.constrained) {
    failed(Error(code::kInvalidArgument, "logitBias forbids every token: there is none left to choose",
                 "allow a token at least: leave one out, give it a finite bias, or lower minTokens"));
  } else if (const Constrained& constrained = *sequence.constrained; constrained.mask(ahead).error()) {
    failed(*constrained.mask(ahead).error());
  } else if (constrained.accepts()) {
    // What could follow no token spells, and there is none that ends an answer.
    end(sequence.id, Finish::stop, std::move(last));
  } else {
    failed(Error(code::kConstraintInvalid,
                 "no token is left to choose under the constraint, with what logitBias and the vocabulary allow",
                 "allow more tokens, or another answer"));
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

void Model::leave_queue() {
  counters_.queued.fetch_sub(1, std::memory_order_relaxed);
}

int Model::waiting() const {
  const auto count = [](const std::atomic<uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  return static_cast<int>(count(counters_.queued) + count(counters_.preempted));
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
  const std::vector<uint64_t> late = scheduler_->ids([&](const Sequence& sequence, bool waiting) {
    return waiting && over(sequence, sequence.options.queue_timeout_ms);
  });
  for (const uint64_t id : late) {
    TokenEvent last;
    last.error_code = code::kQueueTimeout;
    last.error_message = "the request waited longer than its queueTimeoutMs";
    last.error_remedy = "try again later, with a longer queueTimeoutMs, or with a higher priority";
    end(id, Finish::error, std::move(last));
  }
  const std::vector<uint64_t> overdue =
      scheduler_->ids([&](const Sequence& sequence, bool) { return over(sequence, sequence.options.deadline_ms); });
  for (const uint64_t id : overdue) {
    TokenEvent last;
    last.error_code = code::kDeadlineExceeded;
    last.error_message = "the request was not done by its deadlineMs";
    last.error_remedy = "ask for fewer tokens, or give it more time";
    end(id, Finish::error, std::move(last));
  }
  // There may be no step after it that would.
  if (!late.empty() || !overdue.empty()) publish_counters();
}

void Model::end(uint64_t request, Finish finish, TokenEvent last) {
  const std::unique_ptr<Sequence> sequence = scheduler_->remove(request);
  if (!sequence) return;
  const Clock::time_point now = Clock::now();
  last.model = id_;
  last.request = request;
  last.finish = finish;
  last.drafted_tokens = sequence->drafted_tokens;
  last.accepted_tokens = sequence->accepted_tokens;
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
  // Of a score that ends early: logits of up to a gigabyte.
  if (!sequence->score_logits.empty()) Reclaimer::process().destroy(std::move(sequence->score_logits));
}

}  // namespace millrace

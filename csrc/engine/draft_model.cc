#include "engine/draft_model.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"

namespace millrace {

namespace {

using Clock = std::chrono::steady_clock;

// Tokens behind the cache that are computed as decoding does, by passes that a GPU has as graphs.
constexpr int kMostDecoded = 8;

}  // namespace

DraftModel::DraftModel(std::unique_ptr<Backend> backend, std::shared_ptr<const HostModel> host, DraftModelConfig config)
    : host_(std::move(host)),
      config_(std::move(config)),
      backend_(std::move(backend)),
      stream_(backend_->create_stream()),
      costs_(config_.pass_costs) {
  Program program = host_->program();
  program.kv = kept_as(program.kv, config_.kv_type);
  const auto fits = [](Home home) { return home == Home::resident || home == Home::streamed || home == Home::shared; };
  if (config_.homes.size() != host_->units().size() || !std::ranges::all_of(config_.homes, fits)) {
    throw Error(code::kInvalidArgument, "a draft model's units are resident, streamed or shared",
                "pass its plan unchanged");
  }
  if (program.has_state()) {  // what is guessed wrong could not be taken back
    throw Error(code::kInvalidArgument, "a model whose layers keep a state cannot draft for another",
                "name a draft model of attention alone");
  }
  std::vector<std::vector<int>> layers(program.kv.size());
  for (const ProgramUnit& unit : program.units) add_kept(unit.ops, layers);
  const KvPool::Device device{backend_.get(), stream_.get(), layers};
  const std::vector<int> blocks(program.kv.size(), config_.kv_blocks);
  kv_ = std::make_unique<KvPool>(std::span(&device, 1), program.kv, blocks, 0);

  ExecutorConfig executor;
  executor.program = program;
  executor.units = host_->units();
  for (const TableLayout& table : host_->tables()) {
    executor.tables.push_back({host_->embedding() + table.offset, table.type});
  }
  for (int c = 0; c < kv_->classes(); c++) executor.kv.push_back(kv_->of(c).memory(0));
  executor.max_rows = config_.max_rows;
  executor.max_logit_rows = config_.max_sequences;
  executor.max_context = config_.context_length;
  executor_ = backend_->create_executor(executor);

  FeederConfig feeder;
  for (const UnitLayout& unit : host_->units()) feeder.unit_bytes.push_back(unit.bytes);
  feeder.homes = config_.homes;
  feeder.ring_bytes = config_.ring_bytes;
  feeder.stage_threads = config_.stage_threads;
  if (shared_unit_bytes() > 0) arena_ = &Arena::of(backend_->name());
  feeder.arena = arena_;
  feeder.arena_beside = config_.arena_beside;
  feeder_ = std::make_unique<Feeder>(*backend_, *host_, std::move(feeder));
  if (arena_ == nullptr) feeder_->prefetch();  // of shared units the first pass tells which pass through the ring
  for (Pass& pass : passes_) pass.done = backend_->create_event();
}

DraftModel::~DraftModel() {
  abandon();
}

size_t DraftModel::shared_unit_bytes() const {
  size_t bytes = 0;
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (config_.homes[unit] == Home::shared) bytes += host_->units()[unit].bytes;
  }
  return bytes;
}

size_t DraftModel::device_bytes() const {
  return feeder_->resident_bytes() + feeder_->ring_bytes() + kv_->bytes(0) + executor_->workspace_bytes();
}

void DraftModel::forget(DraftState& state) {
  kv_->release(state.blocks);
  state = {};
}

void DraftModel::abandon() {
  executor_->abandon(*stream_);
  try {
    stream_->synchronize();
  } catch (const Error&) {
    // A device that is lost runs nothing any more; of what failed otherwise draft() has told.
  }
  feeder_->restart();
  for (Pass& pass : passes_) pass.under_way = false;
  epoch_++;
}

void DraftModel::keep_common(const DraftRequest& request) {
  DraftState& state = *request.state;
  if (state.epoch != epoch_) state.tokens.clear(), state.settled = 0, state.epoch = epoch_;
  // The last one is always a row: its choice is wanted.
  const size_t most = std::min(state.tokens.size(), request.tokens.size() - 1);
  size_t common = std::min(state.settled, most);
  while (common < most && state.tokens[common] == request.tokens[common]) common++;
  state.tokens.resize(common);
  state.settled = request.tokens.size();
}

bool DraftModel::make_room(DraftState& state, int positions) {
  state.blocks.resize(kv_->classes());
  for (int c = 0; c < kv_->classes(); c++) {
    const int missing = KvPool::blocks_for(positions) - static_cast<int>(state.blocks[c].size());
    if (missing > 0 && !kv_->of(c).allocate(missing, state.blocks[c])) return false;
  }
  return true;
}

std::vector<DraftModel::Entry> DraftModel::begin(std::span<DraftRequest> requests) {
  std::vector<Entry> entries;
  int rows_left = config_.max_rows, choosing = 0;
  for (DraftRequest& request : requests) {
    request.drafts.clear();
    const int known = static_cast<int>(request.tokens.size());
    if (known > config_.context_length || rows_left == 0) continue;
    keep_common(request);
    const int computed = static_cast<int>(request.state->tokens.size());
    const auto unknown = [&](int32_t token) { return token >= host_->program().vocab; };
    if (std::ranges::any_of(request.tokens.subspan(computed), unknown)) continue;
    while (!request.adjustments.empty() && unknown(request.adjustments.back().token)) {
      request.adjustments = request.adjustments.first(request.adjustments.size() - 1);
    }
    const int rows = std::min(known - computed, rows_left);
    const bool whole = rows == known - computed && choosing < config_.max_sequences;
    // The last draft is never a row.
    const int count = whole ? std::min(request.count, config_.context_length - known + 1) : 0;
    if (!make_room(*request.state, count > 0 ? known + count - 1 : computed + rows)) continue;
    rows_left -= rows;
    choosing += count > 0 ? 1 : 0;
    entries.push_back({&request, computed, rows, count});
  }
  // Decode rows come first, and are no more than choose at most.
  int decoded = 0;
  std::stable_partition(entries.begin(), entries.end(), [&](const Entry& entry) {
    if (entry.rows > kMostDecoded || decoded + entry.rows > config_.max_sequences) return false;
    decoded += entry.rows;
    return true;
  });
  return entries;
}

void DraftModel::build(Pass& pass, std::vector<Entry>& entries, int index, bool fed) {
  pass.tokens.clear(), pass.token_from.clear(), pass.positions.clear(), pass.sequences.clear();
  pass.logits.clear(), pass.adjustments.clear(), pass.choosing.clear();
  size_t stride = 0;
  int sequences = 0, decode_rows = 0;
  bool decoding = true;
  std::vector<const BlockLists*> lists;
  for (Entry& entry : entries) {
    if (index > 0 && (entry.ended || entry.count <= index)) continue;
    const DraftRequest& request = *entry.request;
    if (index == 0 && entry.rows > kMostDecoded) decoding = false;
    if (decoding && decode_rows + entry.rows > config_.max_sequences) decoding = false;
    if (decoding) decode_rows += entry.rows;
    const int known = static_cast<int>(request.tokens.size());
    for (int i = 0; i < entry.rows; i++) {
      const int position = entry.position + i;
      const bool drafted = position >= known;
      pass.tokens.push_back(!drafted ? request.tokens[position] : fed ? 0 : request.drafts[position - known]);
      pass.token_from.push_back(drafted && fed ? entry.logit : -1);
      pass.positions.push_back(position);
      pass.sequences.push_back(sequences);
    }
    if (index > 0) entry.fed++;
    entry.position += entry.rows;
    entry.rows = 1;
    if (entry.count > 0) {
      LogitRequest choice = request.choice;
      choice.row = static_cast<int32_t>(pass.tokens.size()) - 1;
      choice.counter += static_cast<uint64_t>(index);
      choice.adjustments_begin = static_cast<int32_t>(pass.adjustments.size());
      choice.adjustments = static_cast<int32_t>(request.adjustments.size());
      pass.adjustments.insert(pass.adjustments.end(), request.adjustments.begin(), request.adjustments.end());
      entry.logit = static_cast<int>(pass.logits.size());
      pass.logits.push_back(choice);
      pass.choosing.push_back(&entry);
    }
    lists.push_back(&request.state->blocks);
    for (const auto& blocks : request.state->blocks) stride = std::max(stride, blocks.size());
    sequences++;
  }
  pass.block_tables.assign(static_cast<size_t>(kv_->classes()) * sequences * stride, 0);
  auto table = pass.block_tables.begin();
  for (int c = 0; c < kv_->classes(); c++) {
    for (const BlockLists* blocks : lists) {
      std::copy((*blocks)[c].begin(), (*blocks)[c].end(), table);
      table += static_cast<ptrdiff_t>(stride);
    }
  }
  Step& step = pass.step;
  step = {};
  step.rows = static_cast<int>(pass.tokens.size());
  step.decode_rows = decode_rows;
  step.tokens = pass.tokens;
  if (fed) step.token_from = pass.token_from;
  step.positions = pass.positions;
  step.sequences = pass.sequences;
  step.block_tables = pass.block_tables;
  step.block_table_stride = static_cast<int>(stride);
  step.logits = pass.logits;
  step.adjustments = pass.adjustments;
}

void DraftModel::launch(Pass& pass) {
  const Program& program = host_->program();
  feeder_->begin(Route::decode);
  executor_->begin(*stream_, pass.step, pass.output);
  executor_->embed(*stream_);
  for (int unit = 0; unit < static_cast<int>(host_->units().size()); unit++) {
    const bool unused = program.units[unit].head && pass.logits.empty();
    if (unused && !feeder_->streams(unit)) continue;
    const std::byte* slab = feeder_->acquire(*stream_, unit);
    if (!unused) {
      executor_->set_unit(*stream_, unit, slab, feeder_->permanent(unit));
      executor_->run(*stream_, unit);
    }
    feeder_->release(*stream_, unit);
  }
  if (!pass.logits.empty()) executor_->sample(*stream_);
  executor_->end(*stream_);
  stream_->record(*pass.done);
  pass.under_way = true;
  passes_run_++;
}

void DraftModel::finish(Pass& pass) {
  if (!pass.under_way) return;
  pass.under_way = false;
  pass.done->synchronize();
  executor_->collect(pass.output);
  if (pass.index == 0) first_ended_ = Clock::now();
  for (size_t i = 0; i < pass.choosing.size(); i++) {
    Entry& entry = *pass.choosing[i];
    const int32_t token = pass.output.tokens[i];
    // Logits that are no numbers, nothing that may be chosen, padding: the large model will say what there is to say.
    if (token < 0 || (config_.vocab > 0 && token >= config_.vocab)) entry.ended = true;
    if (!entry.ended) entry.request->drafts.push_back(token);
  }
}

void DraftModel::draft(std::span<DraftRequest> requests) {
  const Clock::time_point began = Clock::now();
  std::vector<Entry> entries = begin(requests);
  if (entries.empty()) return;
  int most = 1;
  for (const Entry& entry : entries) most = std::max(most, entry.count);
  try {
    for (int i = 0; i < most; i++) {
      Pass& pass = passes_[i % 2];
      Pass& before = passes_[(i + 1) % 2];
      const bool fed = i > 0 && executor_->may_follow(before.step);
      finish(pass);  // the one before that
      if (!fed) finish(before);
      build(pass, entries, i, fed);
      pass.index = i;
      launch(pass);
    }
    finish(passes_[most % 2]);
    finish(passes_[(most + 1) % 2]);
  } catch (...) {
    abandon();
    throw;
  }
  for (const Entry& entry : entries) {
    DraftState& state = *entry.request->state;
    const std::span<const int32_t> tokens = entry.request->tokens;
    const auto end = std::min<size_t>(static_cast<size_t>(entry.position), tokens.size());
    state.tokens.assign(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(end));
    const size_t fed = std::min<size_t>(entry.fed, entry.request->drafts.size());
    state.tokens.insert(state.tokens.end(), entry.request->drafts.begin(),
                        entry.request->drafts.begin() + static_cast<ptrdiff_t>(fed));
  }
  const auto seconds_since = [ended = Clock::now()](Clock::time_point from) {
    return std::chrono::duration<double>(ended - from).count();
  };
  milliseconds_ += 1e3 * seconds_since(began);
  // The first pass has rows of its own: what was not in the cache yet. Behind it each sequence has one.
  const bool alike = std::ranges::all_of(entries, [&](const Entry& entry) { return entry.count == most; });
  if (config_.watch_costs && alike && most > 1) {
    costs_.see(static_cast<int>(entries.size()), seconds_since(first_ended_) / (most - 1));
  }
}

}  // namespace millrace

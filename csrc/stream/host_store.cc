#include "stream/host_store.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>

#include "core/error.h"
#include "core/thread_pool.h"
#include "stream/packed_file.h"

namespace millrace {

namespace {

// Slabs start on pages of their own, so that one can be pinned without its neighbours.
constexpr size_t kUnitAlignment = 4096;

std::atomic<size_t> bytes_of_all{0};

size_t place(const std::vector<UnitLayout>& units, const std::vector<bool>& in_file, std::vector<size_t>& offsets) {
  size_t bytes = 0;
  for (size_t unit = 0; unit < units.size(); unit++) {
    offsets.push_back(bytes);
    if (in_file.empty() || !in_file[unit]) bytes += round_up(units[unit].bytes, kUnitAlignment);
  }
  return bytes;
}

}  // namespace

HostModel::HostModel(const SlabPlan& plan, std::vector<bool> in_file)
    : program_(plan.source.program),
      units_(plan.units),
      in_file_(std::move(in_file)),
      slabs_(place(units_, in_file_, offsets_), "the model's slabs"),
      embedding_(plan.embedding_bytes, "the embedding table"),
      tables_(plan.tables) {
  bytes_of_all.fetch_add(bytes(), std::memory_order_relaxed);
}

HostModel::~HostModel() {
  pinning_.reset();
  embedding_pinning_.reset();
  bytes_of_all.fetch_sub(bytes(), std::memory_order_relaxed);
}

size_t HostModel::largest_in_file() const {
  size_t largest = 0;
  for (size_t unit = 0; unit < units_.size(); unit++) {
    if (in_file(static_cast<int>(unit))) largest = std::max(largest, units_[unit].bytes);
  }
  return largest;
}

bool HostModel::pinned(int unit) const {
  const Pinning* pinning = pinning_seen_.load(std::memory_order_acquire);
  return pinning != nullptr && pinning->pinned(unit);
}

void HostModel::pin(const HostPinners& pinners) const {
  std::lock_guard lock(pinning_mutex_);
  if (pinners.embedding && !embedding_pinning_ && embedding_.size() > 0) {
    embedding_pinning_ =
        std::make_unique<Pinning>(pinners.embedding, std::vector{std::span(embedding_.data(), embedding_.size())});
  }
  if (!pinners.slabs || pinning_) return;
  std::vector<std::span<std::byte>> parts;
  for (size_t unit = 0; unit < units_.size(); unit++) {
    const size_t bytes = in_file(static_cast<int>(unit)) ? 0 : round_up(units_[unit].bytes, kUnitAlignment);
    parts.emplace_back(slabs_.data() + offsets_[unit], bytes);
  }
  pinning_ = std::make_unique<Pinning>(pinners.slabs, std::move(parts));
  pinning_seen_.store(pinning_.get(), std::memory_order_release);
}

size_t HostModel::pinned_bytes() const {
  const Pinning* pinning = pinning_seen_.load(std::memory_order_acquire);
  return pinning == nullptr ? 0 : pinning->bytes();
}

bool HostModel::pinning_refused() const {
  const Pinning* pinning = pinning_seen_.load(std::memory_order_acquire);
  return pinning != nullptr && pinning->refused();
}

void HostModel::wait_until_pinned() const {
  std::lock_guard lock(pinning_mutex_);
  if (pinning_) pinning_->wait();
}

size_t HostModel::all_bytes() {
  return bytes_of_all.load(std::memory_order_relaxed);
}

namespace {

// How long a load that waits for another's turn may not hear that it was cancelled.
constexpr std::chrono::milliseconds kCancelPoll(20);

void throw_if_cancelled(const RepackOptions& options) {
  if (options.cancelled == nullptr || !options.cancelled->load(std::memory_order_relaxed)) return;
  throw Error(code::kAborted, "loading was cancelled", "call load again if that was not meant");
}

std::shared_ptr<HostModel> read_model(const std::string& identity, const std::vector<std::string>& paths,
                                      const ModelSource& source, int threads, const RepackOptions& options,
                                      const HostPinners& pinners, const std::string& packed, PackedOutcome& outcome,
                                      const std::vector<bool>& in_file) {
  const Checkpoint checkpoint(paths);
  const SlabPlan plan = plan_slabs(checkpoint, source);
  auto model = std::make_shared<HostModel>(plan, in_file);
  model->pin(pinners);
  ThreadPool pool(threads);
  if (!packed.empty()) {
    model->set_stamp({identity, hash_checkpoint(paths)});
    outcome = read_packed(packed, *model, pool, options);
    if (outcome.state == PackedState::read) return model;
  }
  if (model->leaves_units()) {
    repack_to_file(packed, checkpoint, plan, *model, pool, options);
    return model;
  }
  std::vector<std::byte*> slabs;
  for (size_t unit = 0; unit < plan.units.size(); unit++) slabs.push_back(model->mutable_slab(static_cast<int>(unit)));
  model->set_report(repack(checkpoint, plan, slabs, model->mutable_embedding(), pool, options));
  return model;
}

}  // namespace

HostStore& HostStore::instance() {
  static HostStore* store = new HostStore;
  return *store;
}

std::shared_ptr<const HostModel> HostStore::load(const std::string& identity, const std::vector<std::string>& paths,
                                                 const ModelSource& source, int threads, const RepackOptions& options,
                                                 const HostPinners& pinners, const std::string& packed,
                                                 PackedOutcome* outcome, const std::vector<bool>& in_file) {
  PackedOutcome unheard;
  if (outcome == nullptr) outcome = &unheard;
  // What is in memory differs.
  std::string key = identity;
  for (size_t unit = 0; unit < in_file.size(); unit++) {
    if (in_file[unit]) key += "\nfile " + std::to_string(unit);
  }
  std::shared_ptr<Entry> entry;
  {
    std::unique_lock lock(mutex_);
    // An entry that nobody holds and nobody loads is of no use any more.
    std::erase_if(entries_, [&](const auto& item) {
      return item.first != key && item.second.use_count() == 1 && item.second->model.expired();
    });
    std::shared_ptr<Entry>& slot = entries_[key];
    if (!slot) slot = std::make_shared<Entry>();
    entry = slot;
    for (;;) {
      if (std::shared_ptr<const HostModel> model = entry->model.lock()) return model;
      if (!entry->loading) break;
      throw_if_cancelled(options);
      changed_.wait_for(lock, kCancelPoll);
    }
    entry->loading = true;
  }
  std::shared_ptr<HostModel> model;
  try {
    model = read_model(identity, paths, source, threads, options, pinners, packed, *outcome, in_file);
  } catch (...) {
    end_turn(*entry, nullptr);
    throw;
  }
  end_turn(*entry, model);
  return model;
}

bool HostStore::holds(const std::string& identity) {
  std::lock_guard lock(mutex_);
  const auto entry = entries_.find(identity);
  return entry != entries_.end() && (entry->second->loading || !entry->second->model.expired());
}

void HostStore::end_turn(Entry& entry, const std::shared_ptr<const HostModel>& model) {
  {
    std::lock_guard lock(mutex_);
    entry.loading = false;
    entry.model = model;
  }
  changed_.notify_all();
}

}  // namespace millrace

#pragma once
// System RAM's side of the cache: every loaded checkpoint once a process, however many environments and devices use
// it. A model's slabs and embedding are freed with their last user.
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/repack.h"
#include "core/memory.h"
#include "model/slab_layout.h"
#include "stream/pinning.h"
#include "stream/slab_source.h"

namespace millrace {

struct PackedOutcome;

// What a model's bytes were made from, for a file that keeps them (packed_file.h).
struct CheckpointStamp {
  std::string identity;  // of the files and of how they were read; empty: not known
  uint64_t content = 0;  // hash_checkpoint()
};

// Who pins what in the background while it is filled; either may be empty.
struct HostPinners {
  Pinner slabs;      // of models that a device streams
  Pinner embedding;  // of all models that a device gathers the table's rows of
};

class HostModel : public SlabSource {
 public:
  // Reserves the memory that the plan asks for; repack fills it. `in_file` [units], or empty: units that stay in a
  // packed file, whose slabs are not in memory.
  explicit HostModel(const SlabPlan& plan, std::vector<bool> in_file = {});
  ~HostModel();
  HostModel(const HostModel&) = delete;
  HostModel& operator=(const HostModel&) = delete;

  const Program& program() const { return program_; }
  const std::vector<UnitLayout>& units() const { return units_; }
  const std::byte* slab(int unit) const override { return slabs_.data() + offsets_[unit]; }
  bool pinned(int unit) const override;
  bool in_file(int unit) const override { return !in_file_.empty() && in_file_[static_cast<size_t>(unit)]; }
  std::shared_ptr<const PackedUnits> file() const override { return file_; }
  bool leaves_units() const { return largest_in_file() > 0; }
  size_t largest_in_file() const;                                                      // bytes
  void set_file(std::shared_ptr<const PackedUnits> file) { file_ = std::move(file); }  // before others see the model
  // Begins to pin in the background what there is a pinner for, unless that has begun already. Any thread.
  void pin(const HostPinners& pinners) const;
  // Of the slabs, as all that follows.
  size_t pinned_bytes() const;
  // The system allowed no more locked memory than pinned_bytes().
  bool pinning_refused() const;
  // Until all are pinned that will be, if pin() was called.
  void wait_until_pinned() const;
  std::byte* mutable_slab(int unit) { return slabs_.data() + offsets_[unit]; }
  std::byte* mutable_embedding() { return embedding_.data(); }
  const std::byte* embedding() const { return embedding_.data(); }
  const std::vector<TableLayout>& tables() const { return tables_; }
  const RepackReport& report() const { return report_; }
  void set_report(const RepackReport& report) { report_ = report; }
  size_t embedding_bytes() const { return embedding_.size(); }
  const CheckpointStamp& stamp() const { return stamp_; }
  void set_stamp(CheckpointStamp stamp) { stamp_ = std::move(stamp); }  // before others see the model
  size_t bytes() const { return slabs_.size() + embedding_.size(); }
  // Of all models that there are in this process. Any thread.
  static size_t all_bytes();

 private:
  Program program_;
  std::vector<UnitLayout> units_;
  std::vector<bool> in_file_;
  std::shared_ptr<const PackedUnits> file_;
  std::vector<size_t> offsets_;
  HostMemory slabs_;
  HostMemory embedding_;
  std::vector<TableLayout> tables_;
  RepackReport report_;
  CheckpointStamp stamp_;
  mutable std::mutex pinning_mutex_;
  mutable std::unique_ptr<Pinning> embedding_pinning_;         // under the mutex
  mutable std::unique_ptr<Pinning> pinning_;                   // under the mutex
  mutable std::atomic<const Pinning*> pinning_seen_{nullptr};  // the same, once it is there
};

class HostStore {
 public:
  // Never destroyed: loads may be under way on other threads when the process exits.
  static HostStore& instance();

  // The model of this identity, repacked from its files unless some environment holds it already. Loads of one
  // identity take turns; a load that fails or is cancelled, be it while it waits, leaves nothing behind. A `packed`
  // file (packed_file.h; empty: none) is read instead of the checkpoint's weights if it holds them; `outcome` says what
  // became of it. With units that stay there (`in_file`, as HostModel has it) the file is a must: it is written first
  // where it is not there. Throws WRITE_FAILED where it cannot be.
  std::shared_ptr<const HostModel> load(const std::string& identity, const std::vector<std::string>& paths,
                                        const ModelSource& source, int threads, const RepackOptions& options,
                                        const HostPinners& pinners = {}, const std::string& packed = {},
                                        PackedOutcome* outcome = nullptr, const std::vector<bool>& in_file = {});
  // A load of this identity would find the model, or wait for one that makes it. Any thread.
  bool holds(const std::string& identity);

 private:
  struct Entry {
    bool loading = false;
    std::weak_ptr<const HostModel> model;
  };
  void end_turn(Entry& entry, const std::shared_ptr<const HostModel>& model);

  std::mutex mutex_;  // of the entries and what is in them
  std::condition_variable changed_;
  std::unordered_map<std::string, std::shared_ptr<Entry>> entries_;
};

}  // namespace millrace

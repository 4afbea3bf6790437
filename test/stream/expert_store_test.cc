// Experts on demand: whatever the sizes, the frames, what passes choose and the delays, every pass finds each expert's
// bytes at the address that it was given; and each wait is needed for that.
#include "stream/expert_store.h"

#include <atomic>
#include <chrono>
#include <climits>
#include <cstring>
#include <deque>
#include <set>
#include <thread>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/stream.h"
#include "check.h"
#include "core/memory.h"

using namespace millrace;

namespace {

class Slabs : public SlabSource {
 public:
  Slabs(int units, size_t bytes, std::mt19937_64& random) {
    for (int unit = 0; unit < units; unit++) {
      std::vector<std::byte>& slab = slabs_.emplace_back(bytes);
      for (std::byte& b : slab) b = static_cast<std::byte>(random() % 251 + 1);
    }
  }
  const std::byte* slab(int unit) const override { return slabs_[unit].data(); }
  bool pinned(int) const override { return true; }

 private:
  std::vector<std::vector<std::byte>> slabs_;
};

// Of an executor, the table of experts: changed and read in the stream's order.
class Table final : public Executor {
 public:
  explicit Table(const std::vector<ExpertUnit>& units) {
    for (const ExpertUnit& unit : units) {
      rows_.resize(std::max<size_t>(rows_.size(), unit.unit + 1));
      rows_[unit.unit].resize(unit.experts);
    }
  }
  void set_experts(Stream& stream, std::span<const ExpertAddress> experts) override {
    std::set<std::pair<int, int>> named;  // a device writes the entries of a set in no order
    for (const ExpertAddress& one : experts) CHECK(named.insert({one.unit, one.expert}).second);
    static_cast<CpuStream&>(stream).enqueue([this, all = std::vector(experts.begin(), experts.end())] {
      for (const ExpertAddress& one : all) rows_[one.unit][one.expert] = {one.address, one.in_ram};
    });
  }
  void offer_frames(Stream& stream, std::span<std::byte* const> frames, bool anew) override {
    static_cast<CpuStream&>(stream).enqueue([this, anew, all = std::vector(frames.begin(), frames.end())] {
      if (anew) frames_.clear();
      frames_.insert(frames_.end(), all.begin(), all.end());
    });
  }
  // As a pass does: what is read, and whether it was copied into a frame.
  std::pair<const std::byte*, bool> read(int unit, int expert, size_t bytes) {
    Entry& entry = rows_[unit][expert];
    if (!entry.in_ram || frames_.empty()) return {entry.address, false};
    std::byte* frame = frames_.front();
    frames_.pop_front();
    std::memcpy(frame, entry.address, bytes);
    entry = {frame, false};
    return {frame, true};
  }

  void set_unit(Stream&, int, const std::byte*, bool) override {}
  void begin(Stream&, const Step&, StepOutput&) override {}
  void embed(Stream&) override {}
  void run(Stream&, int, RowKind) override {}
  void send(Stream&, const Hop&, int, uint64_t) override {}
  void receive(Stream&, const Hop&, int, uint64_t) override {}
  void hand_over(Stream&, std::byte*) override {}
  void take_over(Stream&, const std::byte*) override {}
  size_t carried_bytes() const override { return 0; }
  void keep_hidden(Stream&) override {}
  const int32_t* choices() const override { return nullptr; }
  void sample(Stream&) override {}
  void end(Stream&) override {}
  ExecutorCounters counters() const override { return {}; }
  size_t workspace_bytes() const override { return 0; }

 private:
  struct Entry {
    const std::byte* address = nullptr;
    bool in_ram = false;
  };
  std::vector<std::vector<Entry>> rows_;
  std::deque<std::byte*> frames_;
};

struct Setup {
  int experts = 6, frames = 3, passes = 40, ahead = 2;
  int chosen = 2;  // of each unit
  // How passes choose: some experts more often than others, all as often, or nine times of ten one of the last 12.
  enum Choice { skewed, even, again } choice = skewed;
  size_t stride = 512;
  ExpertHooks hooks;
  CpuStreamHooks compute_hooks;
};

struct Outcome {
  bool exact = true;
  ExpertCounters counters;
};

// Passes read, some time after they began, the experts that they chose.
Outcome run(const Setup& setup, std::mt19937_64& random) {
  constexpr int kUnits = 3;
  constexpr size_t kFirst = 64;
  const Slabs slabs(kUnits, kFirst + setup.experts * setup.stride, random);
  std::vector<ExpertUnit> units;
  for (int unit = 0; unit < kUnits; unit++) units.push_back({unit, setup.experts, kFirst, setup.stride});
  const auto backend = create_cpu_backend(1);
  const auto compute_backend = create_cpu_backend(1, setup.compute_hooks);
  const auto compute = compute_backend->create_stream();
  Table table(units);
  Outcome outcome;
  std::atomic<bool> exact{true};
  {
    ExpertStore store(*backend, slabs, units, setup.frames * round_up(setup.stride, 256), setup.hooks);
    struct Pass {
      std::vector<uint16_t> rows;
      std::shared_ptr<std::vector<int32_t>> filled = std::make_shared<std::vector<int32_t>>();
    };
    std::deque<Pass> under_way;
    std::vector<std::unique_ptr<Event>> done;
    size_t read = 0;
    std::deque<int> lasts[kUnits];
    for (int pass = 0; pass < setup.passes; pass++) {
      store.begin(table, *compute);
      Pass& now = under_way.emplace_back();
      std::vector<uint16_t>& rows = now.rows;
      rows.resize(static_cast<size_t>(kUnits * setup.experts));
      for (int unit = 0; unit < kUnits; unit++) {
        for (int choice = 0; choice < setup.chosen; choice++) {
          const int first = static_cast<int>(random() % setup.experts),
                    second = static_cast<int>(random() % setup.experts);
          std::deque<int>& last = lasts[unit];
          const bool repeats = setup.choice == Setup::again && !last.empty() && random() % 10 != 0;
          const int expert = repeats                         ? last[random() % last.size()]
                             : setup.choice == Setup::skewed ? std::min(first, second)
                                                             : first;
          std::erase(last, expert);
          last.push_back(expert);
          if (last.size() > 12) last.pop_front();
          rows[static_cast<size_t>(unit * setup.experts + expert)]++;
          static_cast<CpuStream&>(*compute).enqueue(
              [&, unit, expert, stride = setup.stride, number = unit * setup.experts + expert, filled = now.filled] {
                const auto [bytes, fills] = table.read(unit, expert, stride);
                if (fills) filled->push_back(number);
                const std::byte* real = slabs.slab(unit) + kFirst + expert * stride;
                if (std::memcmp(bytes, real, stride) != 0) exact = false;
              });
        }
      }
      compute->record(*done.emplace_back(compute_backend->create_event()));
      while (static_cast<int>(under_way.size()) >= setup.ahead) {
        done[read++]->synchronize();
        store.used(under_way.front().rows, *under_way.front().filled);
        under_way.pop_front();
      }
    }
    compute->synchronize();
    outcome.counters = store.counters();
  }
  outcome.exact = exact;
  return outcome;
}

std::function<void()> pause(int microseconds) {
  return [microseconds] { std::this_thread::sleep_for(std::chrono::microseconds(microseconds)); };
}

}  // namespace

TEST(every_pass_finds_its_experts_whatever_the_frames_and_delays) {
  auto random = check::random();
  for (int round = 0; round < 60; round++) {
    Setup setup;
    setup.experts = 1 + static_cast<int>(random() % 9);
    setup.frames = static_cast<int>(random() % 12);
    setup.ahead = 1 + static_cast<int>(random() % 2);
    setup.stride = 256 * (1 + random() % 4);
    if (round % 2 == 1) setup.compute_hooks.before_copy = pause(static_cast<int>(random() % 300));
    const Outcome outcome = run(setup, random);
    CHECK(outcome.exact);
    CHECK_EQ(outcome.counters.hits + outcome.counters.mapped > 0, true);
    CHECK(outcome.counters.used_frames <= outcome.counters.frames);
    if (setup.frames == 0) CHECK_EQ(outcome.counters.hits, uint64_t{0});
  }
}

TEST(what_passes_choose_again_is_found_in_frames) {
  auto random = check::random();
  Setup setup;
  setup.frames = INT_MAX / 1024;  // all of them
  setup.passes = 200;
  setup.ahead = 1;
  const Outcome outcome = run(setup, random);
  CHECK(outcome.exact);
  CHECK_EQ(outcome.counters.frames, uint64_t{18});
  CHECK(outcome.counters.hits > 4 * outcome.counters.mapped);
  CHECK_EQ(outcome.counters.promoted_bytes, outcome.counters.used_frames * setup.stride);
}

TEST(what_passes_do_not_choose_again_is_kept_seldom) {
  auto random = check::random();
  Setup setup;
  setup.experts = 48, setup.chosen = 8, setup.frames = 48;  // a third of all
  setup.passes = 600;
  setup.ahead = 1;
  const auto share_copied = [&](Setup::Choice choice) {
    setup.choice = choice;
    const Outcome outcome = run(setup, random);
    CHECK(outcome.exact);
    return static_cast<double>(outcome.counters.promoted_bytes) /
           static_cast<double>(outcome.counters.mapped * setup.stride);
  };
  // Of the sixteen that an even pass misses two or a few more; of what comes again most.
  CHECK(share_copied(Setup::even) < 0.3);
  CHECK(share_copied(Setup::again) > 0.6);
}

TEST(an_evicted_expert_is_read_in_its_frame_no_more) {
  auto random = check::random();
  int wrong = 0;
  for (int left_out = 0; left_out < 40 && wrong == 0; left_out++) {
    Setup setup;
    setup.hooks.skip_evict = left_out;
    wrong += run(setup, random).exact ? 0 : 1;
  }
  CHECK(wrong > 0);
}

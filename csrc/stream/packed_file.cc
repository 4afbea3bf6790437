#include "stream/packed_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <mutex>
#include <utility>

#include "core/error.h"
#include "stream/packed_layout.h"
#include "stream/packed_units.h"
#include "stream/packed_writer.h"

namespace millrace {

using namespace packed;

namespace {

PackedOutcome read_parts(const File& file, const FileLayout& layout, const std::vector<uint64_t>& hashes,
                         HostModel& model, ThreadPool& pool, const RepackOptions& options) {
  const std::vector<Piece> pieces = cut(layout, [&](size_t part) {
    if (part == 0) return model.mutable_embedding();
    const int unit = static_cast<int>(part) - 1;
    return model.in_file(unit) ? nullptr : model.mutable_slab(unit);
  });
  uint64_t total = 0;
  for (const Piece& piece : pieces) total += piece.bytes;
  std::atomic<uint64_t> done{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::string failure;                  // under the mutex
  std::exception_ptr callback_failure;  // of the caller's own thread
  const auto cancelled = [&] {
    return options.cancelled != nullptr && options.cancelled->load(std::memory_order_relaxed);
  };
  const auto fail = [&](std::string reason) {
    std::lock_guard lock(mutex);
    if (!stop.exchange(true)) failure = std::move(reason);
  };
  pool.parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t index, int thread) {
    if (stop.load(std::memory_order_relaxed)) return;
    if (cancelled()) return;
    const Piece& piece = pieces[index];
    PieceHash hash;
    for (size_t begin = 0; begin < piece.bytes; begin += kShare) {
      const size_t count = std::min(kShare, piece.bytes - begin);
      if (!file.read(piece.data + begin, count, piece.offset + begin)) return fail(read_failure());
      hash.add(piece.data + begin, count);
    }
    if (hash.value() != hashes[piece.index]) {
      return fail(format("its bytes from %llu on are damaged", static_cast<unsigned long long>(piece.offset)));
    }
    const uint64_t so_far = done.fetch_add(piece.bytes, std::memory_order_relaxed) + piece.bytes;
    if (thread != 0 || !options.progress) return;  // the caller's own thread: a callback need not be thread-safe
    try {
      options.progress(so_far, total);
    } catch (...) {
      callback_failure = std::current_exception();
      stop.store(true, std::memory_order_relaxed);
    }
  });
  if (callback_failure) std::rethrow_exception(callback_failure);
  if (cancelled()) throw Error(code::kAborted, "loading was cancelled", "call load again if that was not meant");
  if (stop.load()) return {PackedState::damaged, failure};
  if (options.progress) options.progress(total, total);
  return {PackedState::read, {}};
}

RepackReport report_of(const FileHead& head) {
  const auto read = [](const FileHead::Made& made) -> QuantisationError {
    return {made.made != 0, made.weights, made.results};
  };
  return {read(head.head), read(head.layers)};
}

// What is left in the file is read there from now on, by whoever needs it.
void leave_units(File& file, const std::string& path, const FileLayout& layout, std::vector<uint64_t> hashes,
                 HostModel& model) {
  if (!model.leaves_units()) return;
  model.set_file(std::make_shared<PackedUnits>(file.release(), path, layout, std::move(hashes)));
}

}  // namespace

uint64_t packed_file_bytes(const std::vector<UnitLayout>& units, size_t embedding_bytes) {
  return lay_out(units, embedding_bytes).head.file_bytes;
}

const char* name_of(PackedState state) {
  switch (state) {
    case PackedState::absent:
      return "absent";
    case PackedState::stale:
      return "stale";
    case PackedState::damaged:
      return "damaged";
    case PackedState::read:
      return "read";
    case PackedState::unused:
      break;
  }
  return "unused";
}

PackedOutcome read_packed(const std::string& path, HostModel& model, ThreadPool& pool, const RepackOptions& options) {
  File file(open_retrying(path, O_RDONLY | O_NOFOLLOW));
  if (!file.is_open()) {
    if (errno == ENOENT) return {PackedState::absent, {}};
    return {PackedState::stale, what_failed("it cannot be opened")};
  }
  if (!is_own(file.fd())) return {PackedState::stale, "it is another user's, or others may write to it"};
  FileLayout layout = lay_out(model);
  std::vector<uint64_t> hashes;
  PackedOutcome outcome = read_header(file, layout, hashes);
  if (outcome.state == PackedState::read) outcome = read_parts(file, layout, hashes, model, pool, options);
  if (outcome.state == PackedState::damaged) ::unlink(path.c_str());
  if (outcome.state != PackedState::read) return outcome;
  model.set_report(report_of(layout.head));
  // Which files go first when room is needed is decided by when they were used last.
  ::futimens(file.fd(), nullptr);
  leave_units(file, path, layout, std::move(hashes), model);
  return outcome;
}

Error packed_write_failure(const std::string& path, const std::string& why) {
  return {code::kWriteFailed,
          "the packed file in which weights beyond ramBudget stay, " + path + ", was not written: " + why,
          "name another folder with cache or MILLRACE_CACHE, or load with a larger ramBudget"};
}

void leave_units_in_file(const std::string& path, HostModel& model) {
  File file(open_retrying(path, O_RDONLY | O_NOFOLLOW));
  FileLayout layout = lay_out(model);
  std::vector<uint64_t> hashes;
  if (!file.is_open() || read_header(file, layout, hashes).state != PackedState::read) {
    throw packed_write_failure(path, "it was changed while it was written");
  }
  leave_units(file, path, layout, std::move(hashes), model);
}

void repack_to_file(const std::string& path, const Checkpoint& checkpoint, const SlabPlan& plan, HostModel& model,
                    ThreadPool& pool, const RepackOptions& options) {
  hear_of_file_limits();
  const HostMemory passing(model.largest_in_file(), "a unit on its way to the file");
  PackedWriter writer(path, lay_out(model));
  const auto require = [&](bool written) {
    if (!written) throw packed_write_failure(path, writer.why());
  };
  require(writer.why().empty());
  const auto place = [&](int unit) {
    if (unit < 0) return model.mutable_embedding();
    return model.in_file(unit) ? passing.data() : model.mutable_slab(unit);
  };
  const auto done = [&](int unit) { require(writer.put(static_cast<size_t>(unit + 1), place(unit))); };
  const RepackReport report = repack(checkpoint, plan, place, done, pool, options);
  require(writer.finish(report));
  model.set_report(report);
  leave_units_in_file(path, model);
}

}  // namespace millrace

#include "stream/packed_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>

#include "core/error.h"
#include "core/memory.h"
#include "model/layout_fields.h"

namespace millrace {

namespace {

static_assert(std::endian::native == std::endian::little);

constexpr size_t kPage = 4096;
constexpr char kMagic[8] = {'m', 'i', 'l', 'l', 'r', 'a', 'c', 'e'};
constexpr uint32_t kFormatVersion = 3;
// Read and hashed in turns: a share stays in the L2 cache between the two.
constexpr size_t kShare = size_t{256} << 10;
constexpr int kSamples = 16;  // of a checkpoint's file, beside its header
constexpr uint64_t kGgufHeaderBytes = uint64_t{32} << 20;
constexpr size_t kSampleBytes = 4096;
constexpr const char* kBeside = ".part";
// Left free on the disk for others.
constexpr uint64_t kSpare = uint64_t{256} << 20;

struct FileHead {
  char magic[8];
  uint32_t format_version;
  uint32_t layout_version;
  uint64_t header_bytes;
  uint64_t file_bytes;
  uint64_t identity;  // hash of the stamp's text
  uint64_t content;
  uint64_t layout;
  uint64_t parts;
  // RepackReport.
  struct Made {
    uint64_t made;
    double weights, results;
  } head, layers;
};

struct PartEntry {
  uint64_t offset;
  uint64_t bytes;
};

// What a file of a model looks like, but for the hashes of its pieces.
struct FileLayout {
  FileHead head{};
  std::vector<PartEntry> parts;  // the embedding, then the units
  size_t pieces = 0;
};

size_t pieces_of(uint64_t bytes) {
  return static_cast<size_t>((bytes + kPackedPiece - 1) / kPackedPiece);
}

FileLayout lay_out(const std::vector<UnitLayout>& units, size_t embedding_bytes) {
  FileLayout out;
  out.parts.push_back({0, embedding_bytes});
  for (const UnitLayout& unit : units) out.parts.push_back({0, unit.bytes});
  for (const PartEntry& part : out.parts) out.pieces += pieces_of(part.bytes);
  uint64_t at =
      round_up(sizeof(FileHead) + out.parts.size() * sizeof(PartEntry) + (out.pieces + 1) * sizeof(uint64_t), kPage);
  std::memcpy(out.head.magic, kMagic, sizeof(kMagic));
  out.head.format_version = kFormatVersion;
  out.head.layout_version = kSlabLayoutVersion;
  out.head.header_bytes = at;
  out.head.parts = out.parts.size();
  for (PartEntry& part : out.parts) {
    part.offset = at;
    at += round_up(part.bytes, kPage);
  }
  out.head.file_bytes = at;
  return out;
}

uint64_t hash_layout(const HostModel& model) {
  const std::vector<uint64_t> fields = flatten(model.units(), model.tables());
  return hash_bytes(fields.data(), fields.size() * sizeof(uint64_t));
}

FileLayout lay_out(const HostModel& model) {
  FileLayout out = lay_out(model.units(), model.embedding_bytes());
  out.head.identity = hash_bytes(model.stamp().identity.data(), model.stamp().identity.size());
  out.head.content = model.stamp().content;
  out.head.layout = hash_layout(model);
  const auto written = [](const QuantisationError& error) -> FileHead::Made {
    return {error.made, error.weights, error.results};
  };
  out.head.head = written(model.report().head);
  out.head.layers = written(model.report().layers);
  return out;
}

// The file's header with these hashes.
std::vector<std::byte> encode(const FileLayout& layout, const std::vector<uint64_t>& hashes) {
  std::vector<std::byte> out(layout.head.header_bytes);
  std::byte* at = out.data();
  const auto put = [&](const void* from, size_t bytes) {
    std::memcpy(at, from, bytes);
    at += bytes;
  };
  put(&layout.head, sizeof(FileHead));
  put(layout.parts.data(), layout.parts.size() * sizeof(PartEntry));
  put(hashes.data(), hashes.size() * sizeof(uint64_t));
  const uint64_t own = hash_bytes(out.data(), static_cast<size_t>(at - out.data()));
  put(&own, sizeof(own));
  return out;
}

struct Piece {
  uint64_t offset;  // in the file
  std::byte* data;
  size_t bytes;
};

// The pieces of all parts in the file's order.
template <typename PartData>
std::vector<Piece> cut(const FileLayout& layout, PartData&& data_of) {
  std::vector<Piece> pieces;
  for (size_t part = 0; part < layout.parts.size(); part++) {
    const PartEntry& entry = layout.parts[part];
    std::byte* data = data_of(part);
    for (uint64_t begin = 0; begin < entry.bytes; begin += kPackedPiece) {
      pieces.push_back({entry.offset + begin, data + begin, std::min<size_t>(kPackedPiece, entry.bytes - begin)});
    }
  }
  return pieces;
}

class File {
 public:
  explicit File(int fd) : fd_(fd) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  bool is_open() const { return fd_ >= 0; }
  int fd() const { return fd_; }

  // False at the file's end and at errors, which errno tells apart: 0 is the end.
  bool read(void* to, size_t bytes, uint64_t offset) const {
    auto* at = static_cast<std::byte*>(to);
    while (bytes > 0) {
      const ssize_t n = ::pread(fd_, at, bytes, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        if (n == 0) errno = 0;
        return false;
      }
      at += n;
      offset += static_cast<uint64_t>(n);
      bytes -= static_cast<size_t>(n);
    }
    return true;
  }

  bool write(const void* from, size_t bytes, uint64_t offset) const {
    auto* at = static_cast<const std::byte*>(from);
    while (bytes > 0) {
      const ssize_t n = ::pwrite(fd_, at, bytes, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        if (n == 0) errno = ENOSPC;
        return false;
      }
      at += n;
      offset += static_cast<uint64_t>(n);
      bytes -= static_cast<size_t>(n);
    }
    return true;
  }

 private:
  int fd_;
};

int open_retrying(const std::string& path, int flags, mode_t mode = 0) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK, mode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

// A file of this user's that nobody else may write: what others could have put into a shared folder is neither read nor
// written to. The hashes tell damage, not malice.
bool is_own(int fd) {
  struct stat info;
  return ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == ::geteuid() &&
         (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

// The open file is the one that has the name.
bool has_name(int fd, const std::string& path) {
  struct stat mine, there;
  return ::fstat(fd, &mine) == 0 && ::lstat(path.c_str(), &there) == 0 && mine.st_ino == there.st_ino &&
         mine.st_dev == there.st_dev;
}

std::string what_failed(const char* what) {
  const int why = errno;
  return why == 0 ? std::string(what) : format("%s: %s", what, std::strerror(why));
}

std::string read_failure() {
  return errno == 0 ? "the file is shorter than its header says" : what_failed("it cannot be read");
}

// The header, if the file at hand is what the layout describes.
PackedOutcome read_header(const File& file, FileLayout& layout, std::vector<uint64_t>& hashes) {
  FileHead head;
  if (!file.read(&head, sizeof(head), 0)) return {PackedState::damaged, read_failure()};
  if (std::memcmp(head.magic, kMagic, sizeof(kMagic)) != 0) return {PackedState::damaged, "it is no packed file"};
  if (head.format_version != kFormatVersion || head.layout_version != layout.head.layout_version) {
    return {PackedState::stale, "it was written by another version"};
  }
  // Sizes are the layout's, not the file's, so nothing that is read here decides how much is read.
  if (head.identity != layout.head.identity || head.content != layout.head.content ||
      head.layout != layout.head.layout) {
    return {PackedState::stale, "the checkpoint's files have changed since"};
  }
  layout.head.head = head.head;
  layout.head.layers = head.layers;
  std::vector<std::byte> found(layout.head.header_bytes);
  if (!file.read(found.data(), found.size(), 0)) return {PackedState::damaged, read_failure()};
  hashes.resize(layout.pieces);
  std::memcpy(hashes.data(), found.data() + sizeof(FileHead) + layout.parts.size() * sizeof(PartEntry),
              hashes.size() * sizeof(uint64_t));
  if (encode(layout, hashes) != found) return {PackedState::damaged, "its header is damaged"};
  struct stat info;
  if (::fstat(file.fd(), &info) != 0) return {PackedState::damaged, what_failed("its size cannot be read")};
  if (static_cast<uint64_t>(info.st_size) != layout.head.file_bytes) {
    return {PackedState::damaged,
            format("expected %llu bytes, found %llu", static_cast<unsigned long long>(layout.head.file_bytes),
                   static_cast<unsigned long long>(info.st_size))};
  }
  return {PackedState::read, {}};
}

PackedOutcome read_parts(const File& file, const FileLayout& layout, const std::vector<uint64_t>& hashes,
                         HostModel& model, ThreadPool& pool, const RepackOptions& options) {
  const std::vector<Piece> pieces = cut(layout, [&](size_t part) {
    return part == 0 ? model.mutable_embedding() : model.mutable_slab(static_cast<int>(part) - 1);
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
    if (hash.value() != hashes[index]) {
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

// Locks the file that is written beside `path`: one a name, so that what a process left that ended too early is
// overwritten by the next. Empty if another process is at it.
int lock_beside(const std::string& beside, std::string& why) {
  for (int attempt = 0; attempt < 4; attempt++) {
    const int fd = open_retrying(beside, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    if (fd < 0) {
      why = what_failed("it cannot be created");
      return -1;
    }
    if (!is_own(fd)) {
      ::close(fd);
      why = "a file of that name is another user's, or others may write to it";
      return -1;
    }
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      why = errno == EWOULDBLOCK ? "another load is writing it" : what_failed("it cannot be locked");
      ::close(fd);
      return -1;
    }
    // Whoever had the lock may have renamed or removed the file meanwhile.
    if (has_name(fd, beside)) return fd;
    ::close(fd);
  }
  why = "another load is writing it";
  return -1;
}

// Everything else goes first, on processors and disks.
void lower_priority() {
  const auto thread = static_cast<id_t>(::syscall(SYS_gettid));
  ::setpriority(PRIO_PROCESS, thread, 19);
  constexpr int kWhoProcess = 1, kClassIdle = 3, kClassShift = 13;
  ::syscall(SYS_ioprio_set, kWhoProcess, 0, kClassIdle << kClassShift);
  // A limit on the size of files is told by write(), not by ending the process.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGXFSZ);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

std::string write_parts(const File& file, const FileLayout& layout, const HostModel& model,
                        const std::atomic<bool>* cancelled) {
  struct statvfs disk;
  if (::fstatvfs(file.fd(), &disk) == 0 &&
      static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize < layout.head.file_bytes + kSpare) {
    return "the disk has too little free space";
  }
  if (::ftruncate(file.fd(), 0) != 0) return what_failed("it cannot be emptied");
  const std::vector<Piece> pieces = cut(layout, [&](size_t part) {
    return const_cast<std::byte*>(part == 0 ? model.embedding() : model.slab(static_cast<int>(part) - 1));
  });
  std::vector<uint64_t> hashes;
  for (const Piece& piece : pieces) {
    if (cancelled != nullptr && cancelled->load(std::memory_order_relaxed)) return "it was cancelled";
    PieceHash hash;
    for (size_t begin = 0; begin < piece.bytes; begin += kShare) {
      const size_t count = std::min(kShare, piece.bytes - begin);
      hash.add(piece.data + begin, count);
      if (!file.write(piece.data + begin, count, piece.offset + begin)) return what_failed("it cannot be written");
    }
    hashes.push_back(hash.value());
    // Begins to write back at once: the sync at the end finds little to do, and others' memory is not full of it.
    ::sync_file_range(file.fd(), static_cast<off64_t>(piece.offset), static_cast<off64_t>(piece.bytes),
                      SYNC_FILE_RANGE_WRITE);
  }
  const std::vector<std::byte> header = encode(layout, hashes);
  if (!file.write(header.data(), header.size(), 0) ||
      ::ftruncate(file.fd(), static_cast<off_t>(layout.head.file_bytes)) != 0) {
    return what_failed("it cannot be written");
  }
  if (::fsync(file.fd()) != 0) return what_failed("it cannot be brought to the disk");
  return {};
}

}  // namespace

// ---- Hashing: eight independent chains of (rotate, exclusive or, multiply by an odd number). Each step is invertible
// in its input for a given state and in its state for a given input, so that one changed word always changes the
// result.

namespace {

constexpr uint64_t kOdd[8] = {0x9e3779b97f4a7c15ull, 0xbf58476d1ce4e5b9ull, 0x94d049bb133111ebull,
                              0xd6e8feb86659fd93ull, 0xa0761d6478bd642full, 0xe7037ed1a0b428dbull,
                              0x8ebc6af09c88c6e3ull, 0x589965cc75374cc3ull};

}  // namespace

PieceHash::PieceHash(uint64_t seed) {
  for (int i = 0; i < 8; i++) lanes_[i] = kOdd[7 - i] ^ seed;
}

void PieceHash::add(const void* data, size_t bytes) {
  const auto* at = static_cast<const std::byte*>(data);
  bytes_ += bytes;
  uint64_t lanes[8];
  std::memcpy(lanes, lanes_, sizeof(lanes));
  for (; bytes >= 64; bytes -= 64, at += 64) {
    for (int i = 0; i < 8; i++) {
      uint64_t word;
      std::memcpy(&word, at + 8 * i, 8);
      lanes[i] = (std::rotl(lanes[i], 29) ^ word) * kOdd[i];
    }
  }
  if (bytes > 0) {
    std::byte rest[64] = {};
    std::memcpy(rest, at, bytes);
    for (int i = 0; i < 8; i++) {
      uint64_t word;
      std::memcpy(&word, rest + 8 * i, 8);
      lanes[i] = (std::rotl(lanes[i], 29) ^ word) * kOdd[i];
    }
  }
  std::memcpy(lanes_, lanes, sizeof(lanes));
}

uint64_t PieceHash::value() const {
  uint64_t h = bytes_;
  for (int i = 0; i < 8; i++) {
    h = (std::rotl(h, 29) ^ lanes_[i]) * kOdd[i];
    h ^= h >> 32;
  }
  return h;
}

uint64_t hash_bytes(const void* data, size_t bytes, uint64_t seed) {
  PieceHash hash(seed);
  hash.add(data, bytes);
  return hash.value();
}

uint64_t hash_checkpoint(const std::vector<std::string>& paths) {
  uint64_t hash = 0;
  std::vector<std::byte> buffer;
  for (const std::string& path : paths) {
    const File file(open_retrying(path, O_RDONLY));
    struct stat info;
    if (!file.is_open() || ::fstat(file.fd(), &info) != 0) {
      throw Error(code::kCheckpointNotFound, path + ": " + std::strerror(errno), "pass the path of a model folder");
    }
    const auto size = static_cast<uint64_t>(info.st_size);
    const auto add = [&](uint64_t offset, uint64_t bytes) {
      buffer.resize(bytes);
      if (!file.read(buffer.data(), bytes, offset)) {
        throw Error(code::kCheckpointNotFound, path + ": " + read_failure(), "pass the path of a model folder");
      }
      hash = hash_bytes(buffer.data(), bytes, hash);
    };
    uint64_t header = 0;
    if (size >= 8 && file.read(&header, 8, 0)) {
      // GGUF does not say how long its header is; that of the largest vocabularies is about 20 MB.
      const bool gguf = std::memcmp(&header, "GGUF", 4) == 0;
      add(0, std::min(size, gguf ? kGgufHeaderBytes : 8 + std::min<uint64_t>(header, 100'000'000)));
    }
    for (int i = 0; i < kSamples; i++) {  // the last one ends with the file
      const uint64_t bytes = std::min<uint64_t>(size, kSampleBytes);
      add((size - bytes) / (kSamples - 1) * static_cast<uint64_t>(i), bytes);
    }
  }
  return hash;
}

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
  const File file(open_retrying(path, O_RDONLY | O_NOFOLLOW));
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
  if (outcome.state == PackedState::read) {
    const auto read = [](const FileHead::Made& made) -> QuantisationError {
      return {made.made != 0, made.weights, made.results};
    };
    model.set_report({read(layout.head.head), read(layout.head.layers)});
  }
  // Which files go first when room is needed is decided by when they were used last.
  if (outcome.state == PackedState::read) ::futimens(file.fd(), nullptr);
  return outcome;
}

std::string write_packed(const std::string& path, const HostModel& model, const std::atomic<bool>* cancelled) {
  if (model.stamp().identity.empty()) return "the model was loaded without it";
  lower_priority();
  const std::string beside = path + kBeside;
  std::string why;
  const File file(lock_beside(beside, why));
  if (!file.is_open()) return why;
  why = write_parts(file, lay_out(model), model, cancelled);
  // Somebody who cleared the cache meanwhile, and another load after him, may have put their own file there.
  const bool mine = has_name(file.fd(), beside);
  if (why.empty() && !mine) why = "it was removed while it was written";
  if (why.empty() && ::rename(beside.c_str(), path.c_str()) != 0) why = what_failed("it cannot be renamed");
  if (!why.empty()) {
    if (mine) ::unlink(beside.c_str());
    return why;
  }
  const File folder(open_retrying(std::filesystem::path(path).parent_path().string(), O_RDONLY | O_DIRECTORY));
  if (folder.is_open()) ::fsync(folder.fd());  // the rename too; without it the next load repacks once more
  return {};
}

}  // namespace millrace

#include "stream/packed_writer.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/error.h"

namespace millrace {

using namespace packed;

namespace {

constexpr const char* kBeside = ".part";
// Left free on the disk for others.
constexpr uint64_t kSpare = uint64_t{256} << 20;

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
}

}  // namespace

void hear_of_file_limits() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGXFSZ);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

PackedWriter::PackedWriter(std::string path, const FileLayout& layout)
    : path_(std::move(path)), beside_(path_ + kBeside), layout_(layout), file_(lock_beside(beside_, why_)) {
  hashes_.resize(layout_.pieces);
  if (!file_.is_open()) return;
  struct statvfs disk;
  if (::fstatvfs(file_.fd(), &disk) == 0 &&
      static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize < layout_.head.file_bytes + kSpare) {
    fail("the disk has too little free space");
  } else if (::ftruncate(file_.fd(), 0) != 0) {
    fail(what_failed("it cannot be emptied"));
  }
}

PackedWriter::~PackedWriter() {
  // Somebody who cleared the cache meanwhile, and another load after him, may have put their own file there.
  if (file_.is_open() && !finished_ && has_name(file_.fd(), beside_)) ::unlink(beside_.c_str());
}

bool PackedWriter::fail(std::string why) {
  if (why_.empty()) why_ = std::move(why);
  return false;
}

bool PackedWriter::put(size_t part, const std::byte* data, const std::atomic<bool>* cancelled) {
  if (!why_.empty()) return false;
  const PartEntry& entry = layout_.parts[part];
  size_t piece = 0;  // of all the file's
  for (size_t before = 0; before < part; before++) piece += pieces_of(layout_.parts[before].bytes);
  for (uint64_t begin = 0; begin < entry.bytes; begin += kPackedPiece) {
    if (cancelled != nullptr && cancelled->load(std::memory_order_relaxed)) return fail("it was cancelled");
    const uint64_t end = std::min<uint64_t>(entry.bytes, begin + kPackedPiece);
    PieceHash hash;
    for (uint64_t at = begin; at < end; at += kShare) {
      const size_t count = std::min<uint64_t>(kShare, end - at);
      hash.add(data + at, count);
      if (!file_.write(data + at, count, entry.offset + at)) return fail(what_failed("it cannot be written"));
    }
    hashes_[piece++] = hash.value();
    // Begins to write back at once: the sync at the end finds little to do, and others' memory is not full of it.
    ::sync_file_range(file_.fd(), static_cast<off64_t>(entry.offset + begin), static_cast<off64_t>(end - begin),
                      SYNC_FILE_RANGE_WRITE);
  }
  return true;
}

bool PackedWriter::finish(const RepackReport& report) {
  if (!why_.empty()) return false;
  put_report(layout_.head, report);
  const std::vector<std::byte> header = encode(layout_, hashes_);
  if (!file_.write(header.data(), header.size(), 0) ||
      ::ftruncate(file_.fd(), static_cast<off_t>(layout_.head.file_bytes)) != 0) {
    return fail(what_failed("it cannot be written"));
  }
  if (::fsync(file_.fd()) != 0) return fail(what_failed("it cannot be brought to the disk"));
  if (!has_name(file_.fd(), beside_)) return fail("it was removed while it was written");
  if (::rename(beside_.c_str(), path_.c_str()) != 0) return fail(what_failed("it cannot be renamed"));
  finished_ = true;
  const File folder(open_retrying(std::filesystem::path(path_).parent_path().string(), O_RDONLY | O_DIRECTORY));
  if (folder.is_open()) ::fsync(folder.fd());  // the rename too; without it the next load repacks once more
  return true;
}

std::string write_packed(const std::string& path, const HostModel& model, const std::atomic<bool>* cancelled) {
  if (model.stamp().identity.empty()) return "the model was loaded without it";
  lower_priority();
  hear_of_file_limits();
  PackedWriter writer(path, lay_out(model));
  bool going = writer.put(0, model.embedding(), cancelled);
  for (size_t unit = 0; going && unit < model.units().size(); unit++) {
    going = writer.put(unit + 1, model.slab(static_cast<int>(unit)), cancelled);
  }
  if (going) writer.finish(model.report());
  return writer.why();
}

}  // namespace millrace

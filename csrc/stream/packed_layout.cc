#include "stream/packed_layout.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "core/memory.h"
#include "model/layout_fields.h"

namespace millrace::packed {

namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[8] = {'m', 'i', 'l', 'l', 'r', 'a', 'c', 'e'};
constexpr uint32_t kFormatVersion = 3;

uint64_t hash_layout(const HostModel& model) {
  const std::vector<uint64_t> fields = flatten(model.units(), model.tables());
  return hash_bytes(fields.data(), fields.size() * sizeof(uint64_t));
}

}  // namespace

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

FileLayout lay_out(const HostModel& model) {
  FileLayout out = lay_out(model.units(), model.embedding_bytes());
  out.head.identity = hash_bytes(model.stamp().identity.data(), model.stamp().identity.size());
  out.head.content = model.stamp().content;
  out.head.layout = hash_layout(model);
  put_report(out.head, model.report());
  return out;
}

void put_report(FileHead& head, const RepackReport& report) {
  const auto written = [](const QuantisationError& error) -> FileHead::Made {
    return {error.made, error.weights, error.results};
  };
  head.head = written(report.head);
  head.layers = written(report.layers);
}

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

int open_retrying(const std::string& path, int flags, mode_t mode) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK, mode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

bool is_own(int fd) {
  struct stat info;
  return ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == ::geteuid() &&
         (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

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

}  // namespace millrace::packed

#pragma once
// What the bytes of a packed file are (packed_file.h), and how such a file is opened: what its reader, its writer and
// those who leave units in it have in common.
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "stream/host_store.h"
#include "stream/packed_file.h"

namespace millrace::packed {

inline constexpr size_t kPage = 4096;
// Read and hashed in turns: a share stays in the L2 cache between the two.
inline constexpr size_t kShare = size_t{256} << 10;

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

size_t pieces_of(uint64_t bytes);
FileLayout lay_out(const std::vector<UnitLayout>& units, size_t embedding_bytes);
// With what the header says of the model.
FileLayout lay_out(const HostModel& model);
void put_report(FileHead& head, const RepackReport& report);

// The file's header with these hashes.
std::vector<std::byte> encode(const FileLayout& layout, const std::vector<uint64_t>& hashes);

struct Piece {
  size_t index;     // of all the file's
  uint64_t offset;  // in the file
  std::byte* data;
  size_t bytes;
};

// The pieces of all parts in the file's order; none of a part whose data is null.
template <typename PartData>
std::vector<Piece> cut(const FileLayout& layout, PartData&& data_of) {
  std::vector<Piece> pieces;
  size_t index = 0;
  for (size_t part = 0; part < layout.parts.size(); part++) {
    const PartEntry& entry = layout.parts[part];
    std::byte* data = data_of(part);
    for (uint64_t begin = 0; begin < entry.bytes; begin += kPackedPiece, index++) {
      if (data == nullptr) continue;
      const size_t bytes = std::min<size_t>(kPackedPiece, entry.bytes - begin);
      pieces.push_back({index, entry.offset + begin, data + begin, bytes});
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
  int release() { return std::exchange(fd_, -1); }

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

int open_retrying(const std::string& path, int flags, mode_t mode = 0);

// A file of this user's that nobody else may write: what others could have put into a shared folder is neither read nor
// written to. The hashes tell damage, not malice.
bool is_own(int fd);
// The open file is the one that has the name.
bool has_name(int fd, const std::string& path);

// With what errno says.
std::string what_failed(const char* what);
std::string read_failure();

// The header's hashes and report, if the file at hand is what the layout describes.
PackedOutcome read_header(const File& file, FileLayout& layout, std::vector<uint64_t>& hashes);

}  // namespace millrace::packed

#pragma once
// Writes a packed file part by part, each once: beside its name first, then renamed.
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "stream/packed_layout.h"

namespace millrace {

class PackedWriter {
 public:
  // Locks the file beside `path`, whose folder exists, and empties it. What fails is told by why(), and by all that
  // follows.
  PackedWriter(std::string path, const packed::FileLayout& layout);
  // Removes what was not finished.
  ~PackedWriter();
  PackedWriter(const PackedWriter&) = delete;
  PackedWriter& operator=(const PackedWriter&) = delete;

  // All of a part's bytes. False: see why().
  bool put(size_t part, const std::byte* data, const std::atomic<bool>* cancelled = nullptr);
  // Once all parts are there: the header, with what making the weights cost. False: see why().
  bool finish(const RepackReport& report);
  // Empty: nothing has failed.
  const std::string& why() const { return why_; }

 private:
  bool fail(std::string why);

  const std::string path_, beside_;
  packed::FileLayout layout_;
  std::string why_;
  packed::File file_;
  std::vector<uint64_t> hashes_;
  bool finished_ = false;
};

// For the thread that writes: a limit on the size of files is told by write(), not by ending the process.
void hear_of_file_limits();

}  // namespace millrace

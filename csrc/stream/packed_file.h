#pragma once
// A model's slabs and embedding as one file, so that the next load of the checkpoint reads them straight to where they
// live instead of repacking. It is a cache: whatever is wrong with it, the checkpoint is repacked again.
//
//   header, whole pages   FileHead, PartEntry [units + 1], hash [pieces], hash of all that
//   embedding             on a page of its own, as every part
//   unit 0, unit 1, ...   in the order of a pass
//
// A part's bytes are hashed in pieces of kPackedPiece. Little-endian, as every machine that this project runs on.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/repack.h"
#include "core/error.h"
#include "core/thread_pool.h"
#include "stream/host_store.h"

namespace millrace {

inline constexpr size_t kPackedPiece = size_t{4} << 20;

// 64 bits of a run of bytes: any change within one 64-bit word changes it for certain. The same on every machine.
class PieceHash {
 public:
  explicit PieceHash(uint64_t seed = 0);
  // All calls but the last take a multiple of 64 bytes.
  void add(const void* data, size_t bytes);
  uint64_t value() const;

 private:
  uint64_t lanes_[8];
  uint64_t bytes_ = 0;
};
uint64_t hash_bytes(const void* data, size_t bytes, uint64_t seed = 0);

// Of the files' headers and of samples of their data: notices content that changed under the same size and time, at
// the cost of a few reads. Throws CHECKPOINT_NOT_FOUND.
uint64_t hash_checkpoint(const std::vector<std::string>& paths);

// Of a packed file of such a model.
uint64_t packed_file_bytes(const std::vector<UnitLayout>& units, size_t embedding_bytes);

enum class PackedState : uint8_t {
  unused,   // no file was named, or the model was in memory already
  absent,   // there is none
  stale,    // made from other files, or by another version
  damaged,  // torn or altered; it has been removed
  read,
};
const char* name_of(PackedState state);

struct PackedOutcome {
  PackedState state = PackedState::unused;
  std::string reason;  // of stale and damaged, a sentence
};

// Fills the model from the file at `path`, if that holds just this model's bytes: the stamp and the layout of every
// unit must agree, and each piece's hash. Of units that are to stay in the file none is read here: pieces are checked
// whenever they are (packed_units.h). Progress counts bytes of the file's parts. After any outcome but `read` the
// model's memory holds nothing of use. Throws ABORTED.
PackedOutcome read_packed(const std::string& path, HostModel& model, ThreadPool& pool, const RepackOptions& options);

// As read_packed(), of units alone that are to stay in the file, which was just written. Throws WRITE_FAILED.
void leave_units_in_file(const std::string& path, HostModel& model);
// What a load throws that needs the file for them, and cannot write it.
Error packed_write_failure(const std::string& path, const std::string& why);

// Repacks the checkpoint into the model, and all of it into the file at `path`, whose folder exists, where units that
// are not in memory then stay. Throws WRITE_FAILED, ABORTED and what repack() does.
void repack_to_file(const std::string& path, const Checkpoint& checkpoint, const SlabPlan& plan, HostModel& model,
                    ThreadPool& pool, const RepackOptions& options);

// Writes the model to `path`, whose folder exists, beside it first and then renamed, so that the file is there whole or
// not at all. Takes the lowest priority for the calling thread and keeps it. At most one process writes a file at a
// time. Returns why nothing was written, or an empty text.
std::string write_packed(const std::string& path, const HostModel& model, const std::atomic<bool>* cancelled = nullptr);

}  // namespace millrace

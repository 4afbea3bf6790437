#pragma once
// Slabs of random bytes, some of which stay in a packed file.
#include <fcntl.h>

#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/writer.h"
#include "stream/packed_units.h"
#include "stream/packed_writer.h"
#include "stream/slab_source.h"

namespace millrace {

class FileSlabs : public SlabSource {
 public:
  FileSlabs(const std::vector<size_t>& sizes, std::vector<bool> in_file, std::mt19937_64& random)
      : in_file_(std::move(in_file)) {
    std::vector<UnitLayout> layouts;
    for (const size_t size : sizes) {
      std::vector<std::byte> bytes(size);
      for (auto& b : bytes) b = static_cast<std::byte>(random() % 251 + 1);
      slabs_.push_back(std::move(bytes));
      layouts.emplace_back().bytes = size;
    }
    const packed::FileLayout layout = packed::lay_out(layouts, 0);
    PackedWriter writer(path(), layout);
    writer.put(0, nullptr);
    for (size_t unit = 0; unit < slabs_.size(); unit++) writer.put(unit + 1, slabs_[unit].data());
    if (!writer.finish({})) throw std::runtime_error(writer.why());
    std::vector<uint64_t> hashes;
    for (const auto& slab : slabs_) {
      for (size_t at = 0; at < slab.size(); at += kPackedPiece) {
        hashes.push_back(hash_bytes(slab.data() + at, std::min(kPackedPiece, slab.size() - at)));
      }
    }
    for (const packed::PartEntry& part : layout.parts) offsets_.push_back(part.offset);
    file_ = std::make_shared<PackedUnits>(::open(path().c_str(), O_RDONLY | O_CLOEXEC), path(), layout, hashes);
  }

  const std::byte* slab(int unit) const override { return in_file(unit) ? nullptr : bytes_of(unit).data(); }
  bool pinned(int) const override { return true; }
  bool in_file(int unit) const override { return in_file_[static_cast<size_t>(unit)]; }
  std::shared_ptr<const PackedUnits> file() const override { return file_; }

  const std::vector<std::byte>& bytes_of(int unit) const { return slabs_[static_cast<size_t>(unit)]; }
  int units() const { return static_cast<int>(slabs_.size()); }
  PackedUnits& units_in_file() { return *file_; }
  std::string path() const { return folder_ / "slabs.packed"; }
  // Where the unit begins in the file.
  uint64_t offset(int unit) const { return offsets_[static_cast<size_t>(unit) + 1]; }

 private:
  testing::TempFolder folder_;
  std::vector<std::vector<std::byte>> slabs_;
  std::vector<bool> in_file_;
  std::vector<uint64_t> offsets_;
  std::shared_ptr<PackedUnits> file_;
};

}  // namespace millrace

// Hashing: eight independent chains of (rotate, exclusive or, multiply by an odd number). Each step is invertible in
// its input for a given state and in its state for a given input, so that one changed word always changes the result.
#include <fcntl.h>
#include <sys/stat.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "stream/packed_layout.h"

namespace millrace {

using packed::File;
using packed::open_retrying;
using packed::read_failure;

namespace {

constexpr uint64_t kOdd[8] = {0x9e3779b97f4a7c15ull, 0xbf58476d1ce4e5b9ull, 0x94d049bb133111ebull,
                              0xd6e8feb86659fd93ull, 0xa0761d6478bd642full, 0xe7037ed1a0b428dbull,
                              0x8ebc6af09c88c6e3ull, 0x589965cc75374cc3ull};
constexpr int kSamples = 16;  // of a checkpoint's file, beside its header
constexpr uint64_t kGgufHeaderBytes = uint64_t{32} << 20;
constexpr size_t kSampleBytes = 4096;

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

}  // namespace millrace

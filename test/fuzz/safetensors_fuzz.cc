// Fuzz target of the safetensors header reader. The first byte chooses how many bytes the file claims to have beyond
// those given, so that headers of files larger than the input are reached too.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "checkpoint/safetensors.h"
#include "core/error.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t capacity);

// Mostly puts the header's length right after a change: otherwise nearly every input ends there.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t capacity, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, capacity);
  if (size < 9 || seed % 8 == 0) return size;
  const uint64_t header = seed % 8 == 1 ? data[1] : size - 9;
  for (int i = 0; i < 8; i++) data[1 + i] = static_cast<uint8_t>(header >> (8 * i));
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const uint64_t claimed = (size - 1) + (data[0] < 128 ? 0 : uint64_t{1} << (data[0] % 64));
  const std::string_view head(reinterpret_cast<const char*>(data + 1), size - 1);
  try {
    for (const millrace::Tensor& tensor : millrace::parse_safetensors(head, claimed, "fuzz.safetensors")) {
      if (tensor.offset > claimed || tensor.bytes > claimed - tensor.offset) std::abort();
    }
  } catch (const millrace::Error&) {
  }
  return 0;
}

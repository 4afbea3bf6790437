// Fuzz target of the GGUF header reader and of the packed blocks. The first byte chooses how many bytes the file claims
// to have beyond those given, so that headers of files larger than the input are reached too.
#include "checkpoint/gguf.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "checkpoint/gguf_blocks.h"
#include "core/error.h"

namespace {

void check_pair(const millrace::GgufPair& pair, std::string_view head) {
  using millrace::GgufType;
  const bool inside = pair.bytes.empty() || (pair.bytes.data() >= head.data() &&
                                             pair.bytes.data() + pair.bytes.size() <= head.data() + head.size());
  if (!inside) std::abort();
  if (pair.type != GgufType::array) return;
  if (pair.element != GgufType::string) {
    if (pair.bytes.size() != pair.count * millrace::bytes_of(pair.element)) std::abort();
    return;
  }
  // As who hands the strings on walks them.
  size_t at = 0;
  for (uint64_t i = 0; i < pair.count; i++) {
    uint64_t length;
    if (pair.bytes.size() - at < sizeof(length)) std::abort();
    __builtin_memcpy(&length, pair.bytes.data() + at, sizeof(length));
    at += sizeof(length);
    if (length > pair.bytes.size() - at) std::abort();
    at += length;
  }
  if (at != pair.bytes.size()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const uint64_t claimed = (size - 1) + (data[0] < 128 ? 0 : uint64_t{1} << (data[0] % 64));
  const std::string_view head(reinterpret_cast<const char*>(data + 1), size - 1);
  try {
    const millrace::Gguf gguf = millrace::parse_gguf(head, claimed, "fuzz.gguf");
    for (const millrace::GgufPair& pair : gguf.pairs) check_pair(pair, head);
    for (const millrace::Tensor& tensor : gguf.tensors) {
      if (tensor.offset > claimed || tensor.bytes > claimed - tensor.offset) std::abort();
      if (tensor.dtype == millrace::DType::other || !millrace::is_packed(tensor.dtype)) continue;
      if (tensor.offset > head.size() || tensor.bytes > head.size() - tensor.offset) continue;
      const millrace::DTypeTraits& traits = millrace::traits_of(tensor.dtype);
      const size_t blocks = tensor.bytes / static_cast<size_t>(traits.block_bytes);
      std::vector<float> values(blocks * static_cast<size_t>(traits.block));
      millrace::decode_blocks(tensor.dtype, reinterpret_cast<const std::byte*>(head.data()) + tensor.offset, blocks,
                              values.data());
    }
  } catch (const millrace::Error&) {
  }
  return 0;
}

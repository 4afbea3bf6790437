#pragma once
// Reader of safetensors files (https://github.com/huggingface/safetensors, "Format"): u64 little-endian header length,
// a JSON header, data. Strict: a header longer than the file or 100 MB, offsets that overlap, leave gaps, exceed the
// file or disagree with shape x dtype and duplicate keys are refused, naming file, tensor, expected and found. A dtype
// that is not known here is no fault: who reads the tensor refuses it.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace millrace {

// Parses the header in `head`, the first bytes of a file of `file_bytes` bytes (all of the header must be in `head`).
// `file_name` is for messages. Needs no file: this is what is fuzzed.
std::vector<Tensor> parse_safetensors(std::string_view head, uint64_t file_bytes, const std::string& file_name);

}  // namespace millrace

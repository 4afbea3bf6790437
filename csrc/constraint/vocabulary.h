#pragma once
// The bytes of all tokens as two tries, built once a tokenizer. One has the tokens of plain text, which most are: whole
// code points, none of them one that JSON or a line would end at. Where any plain text may come they are all allowed,
// by one bitset a length, and only the other trie is walked.
#include <cstdint>
#include <span>
#include <vector>

#include "constraint/classes.h"

namespace millrace::constraint {

class Vocabulary {
 public:
  struct Node {
    uint32_t skip = 0;    // the node behind this one's subtree
    uint32_t first = 0;   // of ids: where the subtree's tokens begin, those that end here first
    Classes below = 0;    // of the characters behind this byte, in the whole subtree
    uint16_t tokens = 0;  // that end here
    uint8_t longest = 0;  // characters that a token of the subtree has behind this byte
    uint8_t byte = 0;
    uint8_t depth = 0;  // 1: a token's first byte
  };
  struct Trie {
    std::vector<Node> nodes;  // in depth-first order, and one more behind the last
    std::vector<int32_t> ids;

    uint32_t size() const { return static_cast<uint32_t>(nodes.size()) - 1; }
    // The tokens of a node's subtree.
    std::span<const int32_t> tokens_of(const Node& node) const {
      return {ids.data() + node.first, nodes[node.skip].first - node.first};
    }
  };

  // `table` is that of lib/text/tokenizer/pieces.ts. Throws INVALID_ARGUMENT where it is none.
  explicit Vocabulary(std::span<const uint32_t> table);

  uint32_t size() const { return static_cast<uint32_t>(begins_.size() - 1); }
  // What a token stands for; a special one for bytes that no text has: see special_bytes().
  std::span<const uint8_t> bytes(int32_t token) const {
    return {bytes_.data() + begins_[token], begins_[token + 1] - begins_[token]};
  }
  const Trie& plain() const { return plain_; }
  const Trie& others() const { return others_; }
  // Sets the bits of all plain tokens of at most so many characters.
  void add_plain(int64_t characters, std::span<uint32_t> mask) const;
  size_t memory() const;

  // A special token within a constraint: 0xff, 0xfe, and its number in four pieces of 6 bits from the lowest on, with
  // the highest bit set.
  static constexpr size_t kSpecialBytes = 6;

 private:
  static constexpr int kLengths = 24;  // longer plain tokens are set one by one

  std::vector<uint32_t> begins_;
  std::vector<uint8_t> bytes_;
  Trie plain_, others_;
  std::vector<std::vector<uint32_t>> plain_bits_;           // [kLengths + 1]: tokens of at most so many characters
  std::vector<std::pair<uint32_t, int32_t>> longer_plain_;  // characters, token; ascending
};

}  // namespace millrace::constraint

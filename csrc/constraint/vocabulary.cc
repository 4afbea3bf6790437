#include "constraint/vocabulary.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace millrace::constraint {

namespace {

// As pieces.ts lays it out.
constexpr uint8_t kKnown = 1, kSpecial = 2;
constexpr size_t kHeader = 4;
constexpr size_t kLongest = 255;

// Characters of plain text; -1 of what is none.
int plain_characters(std::span<const uint8_t> bytes) {
  int characters = 0;
  for (size_t i = 0; i < bytes.size(); characters++) {
    const uint8_t lead = bytes[i];
    if (lead < 0x20 || lead == '"' || lead == '\\' || (lead >= 0x80 && lead < 0xc2) || lead > 0xf4) return -1;
    const size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (i + length > bytes.size()) return -1;
    uint32_t point = length == 1 ? lead : lead & (0x7f >> length);
    for (size_t k = 1; k < length; k++) {
      if ((bytes[i + k] & 0xc0) != 0x80) return -1;
      point = point << 6 | (bytes[i + k] & 0x3f);
    }
    const bool overlong = (length == 3 && point < 0x800) || (length == 4 && point < 0x10000);
    const bool line = point == 0x2028 || point == 0x2029;
    if (overlong || line || (point >= 0xd800 && point < 0xe000) || point > 0x10ffff) return -1;
    i += length;
  }
  return characters;
}

// `beyond`: the class of bytes from 0x80 on.
Vocabulary::Trie make_trie(const Vocabulary& vocabulary, std::vector<int32_t> tokens, Classes beyond) {
  const auto bytes = [&](int32_t token) { return vocabulary.bytes(token); };
  std::sort(tokens.begin(), tokens.end(), [&](int32_t a, int32_t b) {
    const std::span<const uint8_t> x = bytes(a), y = bytes(b);
    const int order = std::memcmp(x.data(), y.data(), std::min(x.size(), y.size()));
    return order != 0 ? order < 0 : x.size() != y.size() ? x.size() < y.size() : a < b;
  });
  Vocabulary::Trie trie;
  trie.ids = tokens;
  std::vector<uint32_t> path;  // nodes of the token before
  std::span<const uint8_t> before;
  const auto leave = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back()) {
      trie.nodes[path.back()].skip = static_cast<uint32_t>(trie.nodes.size());
    }
  };
  for (size_t i = 0; i < tokens.size(); i++) {
    const std::span<const uint8_t> now = bytes(tokens[i]);
    size_t common = 0;
    while (common < std::min(before.size(), now.size()) && before[common] == now[common]) common++;
    leave(common);
    for (size_t depth = common; depth < now.size(); depth++) {
      path.push_back(static_cast<uint32_t>(trie.nodes.size()));
      Vocabulary::Node node;
      node.first = static_cast<uint32_t>(i);
      node.byte = now[depth];
      node.depth = static_cast<uint8_t>(depth + 1);
      trie.nodes.push_back(node);
    }
    Vocabulary::Node& end = trie.nodes[path.back()];
    end.tokens++;
    before = now;
  }
  leave(0);
  // From the last on: a node's children lie behind it.
  for (size_t i = trie.nodes.size(); i-- > 0;) {
    Vocabulary::Node& node = trie.nodes[i];
    for (size_t child = i + 1; child < node.skip; child = trie.nodes[child].skip) {
      const Vocabulary::Node& below = trie.nodes[child];
      const bool begins = (below.byte & 0xc0) != 0x80;
      node.below |= below.below | (below.byte < 0x80 ? class_of_ascii(below.byte) : beyond);
      node.longest = std::max<uint8_t>(node.longest, below.longest + (begins ? 1 : 0));
    }
  }
  trie.nodes.emplace_back().first = static_cast<uint32_t>(tokens.size());
  trie.nodes.shrink_to_fit();
  return trie;
}

void set(std::span<uint32_t> mask, int32_t token) {
  if (static_cast<size_t>(token) / 32 < mask.size()) mask[token / 32] |= 1u << (token % 32);
}

}  // namespace

Vocabulary::Vocabulary(std::span<const uint32_t> table) {
  const auto refuse = [] {
    throw Error(code::kInvalidArgument, "native call: a table of tokens is damaged",
                "call through the package's own API");
  };
  if (table.size() < kHeader) refuse();
  const size_t count = table[0], slots = table[1], byte_size = table[2];
  const size_t words = kHeader + 2 * (count + 1) + slots;
  const size_t total = table.size() * sizeof(uint32_t);
  if (count > INT32_MAX || words * sizeof(uint32_t) + count + byte_size > total) refuse();
  const uint32_t* offsets = table.data() + kHeader;
  const auto* flags = reinterpret_cast<const uint8_t*>(table.data() + words);
  const uint8_t* pieces = flags + count;

  begins_.reserve(count + 1);
  begins_.push_back(0);
  bytes_.reserve(byte_size);
  std::vector<int32_t> plain, others;
  std::vector<std::pair<uint32_t, int32_t>> lengths;
  for (size_t i = 0; i < count; i++) {
    const auto token = static_cast<int32_t>(i);
    const uint32_t begin = offsets[i], end = offsets[i + 1];
    if (begin > end || end > byte_size) refuse();
    if ((flags[i] & kKnown) != 0 && (flags[i] & kSpecial) != 0) {
      const uint8_t spelt[kSpecialBytes] = {0xff,
                                            0xfe,
                                            static_cast<uint8_t>(0x80 | (i & 0x3f)),
                                            static_cast<uint8_t>(0x80 | (i >> 6 & 0x3f)),
                                            static_cast<uint8_t>(0x80 | (i >> 12 & 0x3f)),
                                            static_cast<uint8_t>(0x80 | (i >> 18 & 0x3f))};
      bytes_.insert(bytes_.end(), spelt, spelt + kSpecialBytes);
      others.push_back(token);
    } else if ((flags[i] & kKnown) != 0 && end > begin && end - begin <= kLongest &&
               std::none_of(pieces + begin, pieces + end, [](uint8_t b) { return b >= 0xf8; })) {
      bytes_.insert(bytes_.end(), pieces + begin, pieces + end);
      const int characters = plain_characters({pieces + begin, end - begin});
      if (characters < 0) {
        others.push_back(token);
      } else {
        plain.push_back(token);
        lengths.emplace_back(static_cast<uint32_t>(characters), token);
      }
    }
    begins_.push_back(static_cast<uint32_t>(bytes_.size()));
  }
  plain_bits_.assign(kLengths + 1, std::vector<uint32_t>((count + 31) / 32, 0));
  std::sort(lengths.begin(), lengths.end());
  for (const auto& [characters, token] : lengths) {
    if (characters > kLengths) longer_plain_.emplace_back(characters, token);
    for (uint32_t length = characters; length <= kLengths; length++) set(plain_bits_[length], token);
  }
  plain_ = make_trie(*this, std::move(plain), kBeyondAscii);
  others_ = make_trie(*this, std::move(others), kBroken);
}

void Vocabulary::add_plain(int64_t characters, std::span<uint32_t> mask) const {
  if (characters <= 0) return;
  const std::vector<uint32_t>& bits = plain_bits_[std::min<int64_t>(characters, kLengths)];
  for (size_t w = 0; w < std::min(bits.size(), mask.size()); w++) mask[w] |= bits[w];
  for (const auto& [length, token] : longer_plain_) {
    if (length > characters) break;
    set(mask, token);
  }
}

size_t Vocabulary::memory() const {
  size_t bytes = begins_.size() * 4 + bytes_.size();
  for (const Trie* trie : {&plain_, &others_}) bytes += trie->nodes.size() * sizeof(Node) + trie->ids.size() * 4;
  for (const auto& bits : plain_bits_) bytes += bits.size() * 4;
  return bytes;
}

}  // namespace millrace::constraint

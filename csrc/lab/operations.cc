#include "lab/operations.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/half.h"
#include "core/memory.h"
#include "core/random.h"
#include "model/rope.h"
#include "stream/synthetic.h"

namespace millrace::lab {

namespace {

constexpr double kRequired = std::numeric_limits<double>::quiet_NaN();
constexpr int kDecodeRows = 256;
constexpr double kMostRows = 16384;
constexpr double kMostWidth = 1 << 20;

Dimension rows(double most = kMostRows) {
  return {"rows", "rows of activations", 1, 1, most};
}

std::vector<Dimension> linear_dimensions(WeightType type, std::vector<Dimension> own) {
  std::vector<Dimension> out = std::move(own);
  out.push_back({"n", "output features", kRequired, 1, kMostWidth});
  out.push_back({"k", "input features", kRequired, 1, kMostWidth});
  out.push_back({"epilogue", "0: store, 1: add to y, 2: silu(gate) * up of an interleaved gate_up", 0, 0, 2});
  const Code& code = code_of(type);
  const GroupSizes sizes = groups_of(type);
  if (type == WeightType::q4) {
    out.push_back({"group", "input features that share a scale, a multiple of 16; 0: all of them", 128, 0, kMostWidth});
  } else if (code.grouped()) {
    out.push_back({"group", "input features that share a scale", static_cast<double>(sizes.most),
                   static_cast<double>(sizes.least), static_cast<double>(sizes.most)});
  }
  if (code.zeros) {
    out.push_back({"zeros", "1: an integer zero point a group and output feature; 0: it is the middle", 0, 0, 1});
  }
  if (code.scales == Scales::half) out.push_back({"scaleType", "0: float16 scales, 1: bfloat16", 0, 0, 1});
  out.push_back({"permuted", "1: input features are stored in an order of their own (act-order)", 0, 0, 1});
  return out;
}

const std::vector<Parameter>& linear_parameters() {
  static const std::vector<Parameter> parameters = {
      {"slab", Element::u8, Access::in, "[bytes]", "the matrix in the slab layout, its permutation before it"},
      {"x", Element::f16, Access::in, "[rows, k rounded up to 8]", "activations"},
      {"y", Element::f32, Access::out, "[rows, n], or float16 [rows, n / 2] of silu_mul", "the result"},
  };
  return parameters;
}

std::vector<Dimension> experts_dimensions(WeightType type) {
  return linear_dimensions(type, {rows(kDecodeRows),
                                  {"experts", "of the mixture", kRequired, 1, 1024},
                                  {"topK", "experts that answer a row", kRequired, 1, 1024},
                                  {"places", "x is 0: of rows, 1: of each row's choices", 0, 0, 1}});
}

const std::vector<Parameter>& experts_parameters() {
  static const std::vector<Parameter> parameters = {
      {"slab", Element::u8, Access::in, "[experts, bytes]", "a matrix each, with its permutation before it"},
      {"x", Element::f16, Access::in, "[rows, or rows topK with places, k rounded up to 8]", "activations"},
      {"routes", Element::f32, Access::in, "[rows, 2 topK]", "as route leaves them"},
      {"y", Element::f32, Access::out, "[rows topK, n], or float16 [rows topK, n / 2] of silu_mul", "the result"},
  };
  return parameters;
}

std::vector<Dimension> attention_dimensions(bool decode) {
  return {
      rows(decode ? kDecodeRows : kMostRows),
      {"context", "positions that the last row sees, its own counted", kRequired, 1, 1 << 20},
      {"heads", "query heads", kRequired, 1, 1024},
      {"kvHeads", "key and value heads, a divisor of heads", kRequired, 1, 1024},
      {"headDim", "width of a head, even", kRequired, 2, 1024},
      {"window", "positions that a row sees at most; 0: all", 0, 0, 1 << 20},
      {"kvType", "0: float16 keys and values, 1: of 8 bits with a scale a head and position", 0, 0, 1},
  };
}

const std::vector<Parameter>& attention_parameters() {
  static const std::vector<Parameter> parameters = {
      {"qkv", Element::f32, Access::in, "[rows, (heads + 2 kvHeads) headDim]", "before rope"},
      {"rope", Element::f32, Access::in, "[context, headDim]", "cosines of headDim / 2 angles, then their sines"},
      {"positions", Element::i32, Access::in, "[rows]", "of each row"},
      {"sequences", Element::i32, Access::in, "[rows]", "index into the block tables"},
      {"blockTables", Element::i32, Access::in, "[sequences, blocks of 16 positions]", "blocks of each sequence"},
      {"kv", Element::f16, Access::inout,
       "[blocks, 2, kvHeads, 16, headDim], or bytes [..., 16 headDim + 64] of 8 bits",
       "keys, then values; those of the rows are appended"},
      {"y", Element::f16, Access::out, "[rows, heads headDim]", "the result"},
  };
  return parameters;
}

std::vector<Operation> make_operations() {
  std::vector<Operation> out;
  for (const Kind kind : {Kind::gemv, Kind::gemm}) {
    for (int number = 0; number < kWeightTypes; number++) {
      const auto type = static_cast<WeightType>(number);
      const bool decode = kind == Kind::gemv;
      out.push_back({std::string(decode ? "gemv_" : "gemm_") + millrace::name_of(type), kind, type,
                     decode ? "y = x W^T, as rows that decode use it" : "y = x W^T, as rows of prompts use it",
                     linear_dimensions(type, {rows(decode ? kDecodeRows : kMostRows)}), linear_parameters(), true});
    }
  }
  for (int number = 0; number < kWeightTypes; number++) {
    const auto type = static_cast<WeightType>(number);
    out.push_back({std::string("experts_") + millrace::name_of(type), Kind::experts, type,
                   "y = x W_e^T of every row and each expert e that it chose, as rows that decode use it",
                   experts_dimensions(type), experts_parameters(), true});
  }
  out.push_back({"rms_norm",
                 Kind::rms_norm,
                 WeightType::f32,
                 "y = x / sqrt(mean(x^2) + epsilon) * weight",
                 {rows(),
                  {"width", "features", kRequired, 1, kMostWidth},
                  {"epsilon", "added to the mean of squares", 1e-5, 0, 1, false}},
                 {{"weight", Element::f32, Access::in, "[width]", "of the norm"},
                  {"x", Element::f32, Access::in, "[rows, width]", "the residual stream"},
                  {"y", Element::f16, Access::out, "[rows, width rounded up to 8]", "the result"}}});
  out.push_back({"norm_heads",
                 Kind::norm_heads,
                 WeightType::f32,
                 "RMSNorm of each query and each key head, in place",
                 {rows(),
                  {"heads", "query heads", kRequired, 1, 1024},
                  {"kvHeads", "key and value heads", kRequired, 1, 1024},
                  {"headDim", "width of a head", kRequired, 2, 1024},
                  {"epsilon", "added to the mean of squares", 1e-5, 0, 1, false}},
                 {{"weight", Element::f32, Access::in, "[2, headDim]", "of query heads, then of key heads"},
                  {"qkv", Element::f32, Access::inout, "[rows, (heads + 2 kvHeads) headDim]", "in place"}}});
  out.push_back({"add_bias",
                 Kind::add_bias,
                 WeightType::f32,
                 "y += bias",
                 {rows(), {"n", "features", kRequired, 1, kMostWidth}},
                 {{"bias", Element::f32, Access::in, "[n]", "added to each row"},
                  {"y", Element::f32, Access::inout, "[rows, n]", "in place"}}});
  out.push_back({"silu_mul",
                 Kind::silu_mul,
                 WeightType::f32,
                 "y = silu(gate) * up",
                 {rows(),
                  {"intermediate", "features of the result", kRequired, 1, kMostWidth},
                  {"interleaved", "1: gate and up take turns by 8 features (intermediate a multiple of 8)", 0, 0, 1}},
                 {{"x", Element::f32, Access::in, "[rows, 2 intermediate]", "gate, then up"},
                  {"y", Element::f16, Access::out, "[rows, intermediate]", "the result"}}});
  out.push_back({"embed",
                 Kind::embed,
                 WeightType::f16,
                 "y = float(table[token])",
                 {rows(),
                  {"vocab", "rows of the table", kRequired, 1, 1 << 22},
                  {"hidden", "width of a row", kRequired, 1, kMostWidth},
                  {"tableType", "1: float16, 2: bfloat16, 3: float32", 1, 1, 3}},
                 {{"table", Element::f16, Access::in, "[vocab, hidden]", "in pinned memory of the host, as in a model"},
                  {"tokens", Element::i32, Access::in, "[rows]", "negative: a row of zeros"},
                  {"y", Element::f32, Access::out, "[rows, hidden]", "the result"}}});
  out.push_back({"attention_decode", Kind::attention_decode, WeightType::f16,
                 "rope, append and attention of rows of a sequence each", attention_dimensions(true),
                 attention_parameters()});
  out.push_back({"attention_prefill", Kind::attention_prefill, WeightType::f16,
                 "rope, append and attention of the last rows of one sequence", attention_dimensions(false),
                 attention_parameters()});
  out.push_back({"route",
                 Kind::route,
                 WeightType::f32,
                 "the experts that answer a row, and their weights, by a router's logits",
                 {rows(),
                  {"experts", "of the mixture", kRequired, 1, 1024},
                  {"topK", "experts that answer a row", kRequired, 1, 1024},
                  {"groups", "of experts, a divisor of them", 1, 1, 1024},
                  {"topGroups", "groups that a row chooses from", 1, 1, 1024},
                  {"sigmoid", "scores are 0: a softmax over all experts, 1: a sigmoid each", 0, 0, 1},
                  {"renormalise", "1: weights are divided by their sum", 1, 0, 1},
                  {"scale", "weights are multiplied by it", 1, 0, 1000, false}},
                 {{"bias", Element::f32, Access::in, "[experts]", "added to scores for the choice alone"},
                  {"logits", Element::f32, Access::in, "[rows, experts]", "of the router"},
                  {"routes", Element::f32, Access::out, "[rows, 2 topK]",
                   "numbers of the chosen, the best first, then their weights"}},
                 true});
  out.push_back({"combine",
                 Kind::combine,
                 WeightType::f32,
                 "the weighted sum of what a row's experts answered, the best one's first",
                 {rows(),
                  {"topK", "experts that answer a row", kRequired, 1, 1024},
                  {"width", "features", kRequired, 1, kMostWidth}},
                 {{"answers", Element::f32, Access::in, "[rows, topK, width]", "of each row's experts"},
                  {"routes", Element::f32, Access::in, "[rows, 2 topK]", "as route leaves them"},
                  {"y", Element::f32, Access::out, "[rows, width]", "the result"}},
                 true});
  out.push_back({"sample",
                 Kind::sample,
                 WeightType::f32,
                 "a token of each row of logits",
                 {rows(64),
                  {"vocab", "logits of a row", kRequired, 1, 1 << 22},
                  {"temperature", "0: the most likely token", 1, 0, 100, false},
                  {"topK", "0: all", 0, 0, 1 << 22},
                  {"topP", "1: all", 1, 0, 1, false},
                  {"minP", "0: all", 0, 0, 1, false},
                  {"seed", "of the random numbers", 1, 0, 9007199254740991.0}},
                 {{"logits", Element::f32, Access::in, "[rows, vocab]", ""},
                  {"tokens", Element::i32, Access::out, "[rows]", "chosen"},
                  {"logprobs", Element::f32, Access::out, "[rows]", "of the chosen, before temperature and filters"}}});
  return out;
}

[[noreturn]] void refuse(const Operation& operation, const char* dimension, const std::string& expected, double found) {
  throw Error(
      code::kInvalidArgument,
      format("expected %s for %s of %s but received %g", expected.c_str(), dimension, operation.name.c_str(), found),
      "operations() lists every operation's dimensions");
}

Element element_of(WeightType type) {
  return type == WeightType::f16 ? Element::f16 : type == WeightType::bf16 ? Element::bf16 : Element::f32;
}

// Returns the bytes of a slab that has the matrix alone.
size_t make_matrix(Problem& p) {
  const Operation& op = *p.operation;
  const int n = p["n"], k = p["k"];
  MatrixCode code;
  code.type = op.weights;
  code.permuted = p["permuted"] != 0;
  const int k_stored = static_cast<int>(round_up(k, kTileK));
  const Code& traits = code.traits();
  if (traits.grouped()) code.group = p["group"] == 0 ? k_stored : p["group"];
  if (traits.zeros) code.zeros = p["zeros"] != 0;
  if (traits.scales == Scales::half) code.scale = p["scaleType"] != 0 ? ScaleType::bf16 : ScaleType::f16;
  if (traits.grouped() && code.group % kTileK != 0) refuse(op, "group", "a multiple of 16", code.group);
  if (code.type != WeightType::q4 && traits.grouped() && (code.group & (code.group - 1)) != 0) {
    refuse(op, "group", "a power of two", code.group);
  }
  SlabBuilder builder;
  p.matrix = builder.matrix(code, n, k, k_stored);
  if (p["epilogue"] == 2 && n % 16 != 0) refuse(op, "n", "a multiple of 16 with epilogue 2", n);
  p.weight_bytes = p.matrix.bytes + (code.permuted ? static_cast<size_t>(k_stored) * 4 : 0);
  return builder.bytes();
}

void shape_result(Problem& p, Argument& y, int64_t rows) {
  const bool silu = p["epilogue"] == 2;
  y.shape = {rows, silu ? p["n"] / 2 : p["n"]};
  if (silu) y.element = Element::f16;
  p.operations = 2.0 * static_cast<double>(rows) * p["n"] * p["k"];
}

void make_linear(Problem& p) {
  const int rows = p["rows"];
  p.arguments[0].shape = {static_cast<int64_t>(make_matrix(p))};
  p.arguments[1].shape = {rows, static_cast<int64_t>(round_up(p["k"], 8))};
  shape_result(p, p.arguments[2], rows);
}

void make_experts(Problem& p) {
  const Operation& op = *p.operation;
  const int64_t experts = p["experts"], top_k = p["topK"], places = p["rows"] * top_k;
  if (top_k > experts) refuse(op, "topK", "no more than there are experts", static_cast<double>(top_k));
  if (p["epilogue"] == 1) refuse(op, "epilogue", "0 or 2", 1);
  p.expert_stride = round_up(make_matrix(p), 256);
  p.weight_bytes *= static_cast<size_t>(std::min(experts, places));  // as even choices have it, nearly
  p.arguments[0].shape = {experts, static_cast<int64_t>(p.expert_stride)};
  p.arguments[1].shape = {p["places"] != 0 ? places : p["rows"], static_cast<int64_t>(round_up(p["k"], 8))};
  p.arguments[2].shape = {p["rows"], 2 * top_k};
  shape_result(p, p.arguments[3], places);
}

void make_attention(Problem& p) {
  const Operation& op = *p.operation;
  const bool decode = op.kind == Kind::attention_decode;
  const int64_t rows = p["rows"], context = p["context"], heads = p["heads"], kv_heads = p["kvHeads"];
  const int64_t head_dim = p["headDim"], window = p["window"];
  if (heads % kv_heads != 0) refuse(op, "kvHeads", "a divisor of heads", static_cast<double>(kv_heads));
  if (head_dim % 2 != 0) refuse(op, "headDim", "an even number", static_cast<double>(head_dim));
  if (!decode && context < rows) refuse(op, "context", "at least rows", static_cast<double>(context));
  const int64_t sequences = decode ? rows : 1, stride = (context + kKvBlockTokens - 1) / kKvBlockTokens;
  const int64_t width = (heads + 2 * kv_heads) * head_dim;
  p.arguments[0].shape = {rows, width};
  p.arguments[1].shape = {context, head_dim};
  p.arguments[2].shape = {rows};
  p.arguments[3].shape = {rows};
  p.arguments[4].shape = {sequences, stride};
  const KvType type = kv_type_of(p);
  const auto part_bytes = static_cast<int64_t>(kv_part_bytes(type, p["headDim"]));
  p.arguments[5].shape = {sequences * stride, 2, kv_heads, kKvBlockTokens, head_dim};
  if (type == KvType::q8) {
    p.arguments[5].element = Element::u8;
    p.arguments[5].shape = {sequences * stride, 2, kv_heads, part_bytes};
  }
  p.arguments[6].shape = {rows, static_cast<int64_t>(round_up(heads * head_dim, 8))};
  const int64_t seen = window > 0 ? std::min(window, context) : context;
  const int64_t reach = window > 0 ? std::min(context, window + rows - 1) : context;
  p.weight_bytes =
      static_cast<size_t>(sequences * (decode ? seen : reach) * 2 * kv_heads * part_bytes) / kKvBlockTokens;
  for (int64_t r = 0; r < rows; r++) {
    const int64_t position = decode ? context : context - rows + r + 1;
    p.operations += 4.0 * heads * head_dim * static_cast<double>(window > 0 ? std::min(window, position) : position);
  }
}

// Stored input features beyond k have weight zero.
void clear_padding(const MatrixLayout& m, std::byte* matrix) {
  if (m.k == m.k_stored) return;
  const int slice = m.slices() - 1, first = m.k - slice * kTileK;
  for (int block = 0; block < m.n_blocks(); block++) {
    if (m.grouped()) {
      std::byte* tile = matrix + m.tile_offset(block, slice);
      const Code& traits = m.code.traits();
      uint8_t q[kTileN * kTileK];
      decode_tile(m.code.type, tile, q);
      for (int n = 0; n < kTileN; n++) {
        // (Codes with minimums, and tables without a zero, have none: their x is not read there.)
        const int zero = traits.levels == Levels::integer
                             ? decode_group(m, matrix, block, slice * kTileK / m.code.group, n).zero
                             : 0;
        for (int k = first; k < kTileK; k++) q[n * kTileK + k] = static_cast<uint8_t>(zero);
      }
      encode_tile(m.code.type, q, tile);
    } else {
      std::byte* tile = matrix + m.tile_offset(block, slice);
      const size_t bytes = element_bytes(m.code.type);
      for (int e = 0; e < kTileN * kTileK; e++) {
        const int k = 2 * (e / 8 % 32 % 4) + 8 * (e % 8 / 4) + e % 2;
        if (k >= first) std::memset(tile + e * bytes, 0, bytes);
      }
    }
  }
}

void fill_matrix(const MatrixLayout& m, uint64_t seed, Random& random, std::byte* out) {
  if (m.code.permuted) {  // padding stays at the end, as groups that are not full have it
    std::vector<int32_t> permutation(m.k_stored, kPadding);
    for (int i = 0; i < m.k; i++) permutation[i] = i;
    for (int i = m.k - 1; i > 0; i--) std::swap(permutation[i], permutation[random.bits() % (i + 1)]);
    std::memcpy(out + m.permutation_offset, permutation.data(), permutation.size() * sizeof(int32_t));
  }
  for (int block = 0; block < m.n_blocks(); block++) {
    fill_row_block(m, out + m.offset + block * m.row_block_bytes(), seed + block);
  }
  clear_padding(m, out + m.offset);
}

}  // namespace

const char* name_of(Element element) {
  switch (element) {
    case Element::u8:
      return "u8";
    case Element::i32:
      return "i32";
    case Element::f16:
      return "f16";
    case Element::bf16:
      return "bf16";
    case Element::f32:
      return "f32";
  }
  return "?";
}

size_t bytes_of(Element element) {
  switch (element) {
    case Element::u8:
      return 1;
    case Element::f16:
    case Element::bf16:
      return 2;
    default:
      return 4;
  }
}

const std::vector<Operation>& operations() {
  static const auto* table = new std::vector<Operation>(make_operations());
  return *table;
}

const Operation& find_operation(const std::string& name) {
  for (const Operation& operation : operations()) {
    if (operation.name == name) return operation;
  }
  std::string known;
  for (const Operation& operation : operations()) known += (known.empty() ? "" : ", ") + operation.name;
  throw Error(code::kInvalidArgument, "there is no operation '" + name + "'", "known operations: " + known);
}

Problem make_problem(const std::string& name, const std::map<std::string, double>& given) {
  const Operation& op = find_operation(name);
  Problem p;
  p.operation = &op;
  for (const auto& [key, value] : given) {
    if (std::none_of(op.dimensions.begin(), op.dimensions.end(), [&](const Dimension& d) { return key == d.name; })) {
      std::string known;
      for (const Dimension& d : op.dimensions) known += (known.empty() ? "" : ", ") + std::string(d.name);
      throw Error(code::kInvalidArgument, "unknown dimension '" + key + "' of " + op.name,
                  "its dimensions are " + known);
    }
  }
  for (const Dimension& d : op.dimensions) {
    const auto found = given.find(d.name);
    const double value = found == given.end() ? d.fallback : found->second;
    const std::string range = format("%s from %.16g to %.16g", d.integer ? "an integer" : "a number", d.least, d.most);
    if (found == given.end() && std::isnan(value)) {
      throw Error(code::kInvalidArgument,
                  format("expected %s for %s of %s but received nothing", range.c_str(), d.name, op.name.c_str()),
                  "operations() lists every operation's dimensions");
    }
    if (!(value >= d.least && value <= d.most) || (d.integer && value != std::floor(value)))
      refuse(op, d.name, range, value);
    p.dimensions[d.name] = value;
  }
  for (const Parameter& parameter : op.parameters) p.arguments.push_back({&parameter, parameter.element, {}, 0});

  const int64_t rows = p["rows"];
  switch (op.kind) {
    case Kind::gemv:
    case Kind::gemm:
      make_linear(p);
      break;
    case Kind::experts:
      make_experts(p);
      break;
    case Kind::rms_norm: {
      const int64_t width = p["width"];
      p.arguments[0].shape = {width};
      p.arguments[1].shape = {rows, width};
      p.arguments[2].shape = {rows, static_cast<int64_t>(round_up(width, 8))};
      p.operations = 4.0 * rows * width;
      break;
    }
    case Kind::norm_heads: {
      const int64_t head_dim = p["headDim"];
      p.arguments[0].shape = {2, head_dim};
      p.arguments[1].shape = {rows, (p["heads"] + 2 * p["kvHeads"]) * head_dim};
      p.operations = 4.0 * rows * (p["heads"] + p["kvHeads"]) * head_dim;
      break;
    }
    case Kind::add_bias:
      p.arguments[0].shape = {p["n"]};
      p.arguments[1].shape = {rows, p["n"]};
      p.operations = static_cast<double>(rows) * p["n"];
      break;
    case Kind::silu_mul: {
      const int64_t intermediate = p["intermediate"];
      if (p["interleaved"] != 0 && intermediate % 8 != 0)
        refuse(op, "intermediate", "a multiple of 8 where interleaved", intermediate);
      p.arguments[0].shape = {rows, 2 * intermediate};
      p.arguments[1].shape = {rows, intermediate};
      p.operations = 4.0 * rows * intermediate;
      break;
    }
    case Kind::embed: {
      const auto type = static_cast<WeightType>(p["tableType"]);
      p.arguments[0].element = element_of(type);
      p.arguments[0].shape = {p["vocab"], p["hidden"]};
      p.arguments[1].shape = {rows};
      p.arguments[2].shape = {rows, p["hidden"]};
      p.weight_bytes = static_cast<size_t>(rows) * p["hidden"] * element_bytes(type);
      break;
    }
    case Kind::attention_decode:
    case Kind::attention_prefill:
      make_attention(p);
      break;
    case Kind::route: {
      const int experts = p["experts"], top_k = p["topK"], groups = p["groups"];
      if (experts % groups != 0) refuse(op, "groups", "a divisor of experts", groups);
      if (p["topGroups"] > groups) refuse(op, "topGroups", "no more than groups", p["topGroups"]);
      if (top_k > experts / groups * p["topGroups"]) refuse(op, "topK", "no more than there are to choose from", top_k);
      p.arguments[0].shape = {experts};
      p.arguments[1].shape = {rows, experts};
      p.arguments[2].shape = {rows, 2 * int64_t{top_k}};
      p.operations = 4.0 * rows * experts;
      break;
    }
    case Kind::combine: {
      const int64_t top_k = p["topK"], width = p["width"];
      p.arguments[0].shape = {rows, top_k, width};
      p.arguments[1].shape = {rows, 2 * top_k};
      p.arguments[2].shape = {rows, width};
      p.operations = 2.0 * rows * top_k * width;
      break;
    }
    case Kind::sample:
      p.arguments[0].shape = {rows, p["vocab"]};
      p.arguments[1].shape = {rows};
      p.arguments[2].shape = {rows};
      break;
  }
  for (Argument& argument : p.arguments) {
    size_t count = 1;
    for (const int64_t extent : argument.shape) count *= static_cast<size_t>(extent);
    argument.bytes = count * bytes_of(argument.element);
    const std::string what = argument.parameter->name;
    if (what == "kv" || what == "table" || what == "slab") continue;  // counted as weights
    p.bytes += argument.bytes * (argument.parameter->access == Access::inout ? 2 : 1);
  }
  p.bytes += p.weight_bytes;
  if (has_matrix(op.kind) && p["epilogue"] == 1) p.bytes += p.arguments[2].bytes;
  return p;
}

KvType kv_type_of(const Problem& problem) {
  return problem["kvType"] != 0 ? KvType::q8 : KvType::f16;
}

RouteOp route_of(const Problem& problem) {
  RouteOp op;
  op.experts = problem["experts"];
  op.top_k = problem["topK"];
  op.score = problem["sigmoid"] != 0 ? Score::sigmoid : Score::softmax;
  op.groups = problem["groups"];
  op.top_groups = problem["topGroups"];
  op.renormalise = problem["renormalise"] != 0;
  op.scale = static_cast<float>(problem.number("scale"));
  return op;
}

LogitRequest sample_request(const Problem& problem, int row) {
  LogitRequest request;
  request.row = row;
  request.want_logprob = true;
  request.temperature = static_cast<float>(problem.number("temperature"));
  request.top_k = problem["topK"];
  request.top_p = static_cast<float>(problem.number("topP"));
  request.min_p = static_cast<float>(problem.number("minP"));
  request.seed = static_cast<uint64_t>(problem.number("seed"));
  request.counter = static_cast<uint64_t>(row);
  return request;
}

void fill_argument(const Problem& p, size_t index, uint64_t seed, std::byte* out) {
  const Argument& argument = p.arguments[index];
  const std::string name = argument.parameter->name;
  const size_t count = argument.bytes / bytes_of(argument.element);
  Random random((seed << 20) + index * 0x10001);
  const auto put = [&](size_t at, float value) {
    if (argument.element == Element::f32) {
      std::memcpy(out + 4 * at, &value, 4);
    } else {
      const uint16_t bits = argument.element == Element::f16 ? float_to_half(value) : float_to_bfloat16(value);
      std::memcpy(out + 2 * at, &bits, 2);
    }
  };
  const auto integers = [&](auto&& value) {
    for (size_t i = 0; i < count; i++) {
      const auto v = static_cast<int32_t>(value(i));
      std::memcpy(out + 4 * i, &v, 4);
    }
  };
  if (name == "slab") {
    std::memset(out, 0, argument.bytes);
    const int experts = p.operation->kind == Kind::experts ? p["experts"] : 1;
    for (int e = 0; e < experts; e++) {
      std::byte* own = out + static_cast<size_t>(e) * p.expert_stride;
      fill_matrix(p.matrix, (seed << 40) + (static_cast<uint64_t>(e) << 24), random, own);
    }
  } else if (name == "routes" && p.operation->kind == Kind::experts) {
    const int experts = p["experts"], top_k = p["topK"];
    std::vector<int> numbers(experts);
    for (int e = 0; e < experts; e++) numbers[e] = e;
    for (int row = 0; row < p["rows"]; row++) {
      for (int rank = 0; rank < top_k; rank++) {
        std::swap(numbers[rank], numbers[rank + static_cast<int>(random.bits() % (experts - rank))]);
        const size_t at = static_cast<size_t>(row) * 2 * top_k + rank;
        put(at, static_cast<float>(numbers[rank]));
        put(at + top_k, 1.0f / static_cast<float>(top_k));
      }
    }
  } else if (name == "rope") {
    RopeSpec rope;
    rope.head_dim = rope.rotary = p["headDim"];
    const std::vector<float> table = rope_table(rope, 0, p["context"]);
    std::memcpy(out, table.data(), argument.bytes);
  } else if (name == "positions") {
    const bool decode = p.operation->kind == Kind::attention_decode;
    integers([&](size_t row) { return decode ? p["context"] - 1 : p["context"] - p["rows"] + static_cast<int>(row); });
  } else if (name == "sequences") {
    integers([&](size_t row) { return p.operation->kind == Kind::attention_decode ? row : 0; });
  } else if (name == "blockTables") {  // blocks in no order, as they come from a pool
    std::vector<int32_t> blocks(count);
    for (size_t i = 0; i < count; i++) blocks[i] = static_cast<int32_t>(i);
    for (size_t i = count - 1; i > 0; i--) std::swap(blocks[i], blocks[random.bits() % (i + 1)]);
    integers([&](size_t i) { return blocks[i]; });
  } else if (name == "kv" && argument.element == Element::u8) {
    const size_t part = argument.shape.back(), scales_at = kv_scales_at(p["headDim"]);
    for (size_t at = 0; at < count; at += part) {
      for (size_t i = 0; i < scales_at; i++) out[at + i] = static_cast<std::byte>(1 + random.bits() % 255);
      for (size_t i = scales_at; i < part; i += sizeof(float)) {
        const float scale = (1.5f + random.uniform()) / kQ8Levels;
        std::memcpy(out + at + i, &scale, sizeof(scale));
      }
    }
  } else if (name == "tokens") {
    integers([&](size_t) { return random.bits() % static_cast<uint64_t>(p["vocab"]); });
  } else {
    const bool weight = name == "weight";
    const float size = name == "logits" ? 12.0f : weight ? 0.2f : 1.7f;  // 1.7: variance one
    for (size_t i = 0; i < count; i++) put(i, (weight ? 1.0f : 0.0f) + size * random.uniform());
  }
}

}  // namespace millrace::lab

#pragma once
// What a model computes, as a list of operations a unit. A unit is what is placed and moved: a slab of weights and the
// operations that read it. Executors interpret the list; nothing here knows a model by name.
//
// Values are buffers of rows, one row a token of the step, so many floats wide. Value 0 is the residual stream. A value
// that is read in another unit than it was written in is carried from unit to unit, and from device to device.
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "model/kv_type.h"
#include "model/rope.h"

namespace millrace {

inline constexpr int kResidual = 0;
inline constexpr int kNone = -1;

// clamped_swiglu (gpt-oss), of experts alone: with gate and up cut to a limit, gate * sigmoid(alpha * gate) * (up + 1).
enum class Activation : uint8_t { silu, gelu, gelu_tanh, clamped_swiglu, sigmoid };

// out = RMSNorm(in), or LayerNorm with `mean`, of `groups` groups of `width` columns each, times weights [width] (none:
// 1), plus biases. With `add` that is added to `out`. Columns begin at `begin` in both.
struct NormOp {
  int in = 0, out = 0;
  int begin = 0, width = 0, groups = 1;
  int weight = kNone, bias = kNone;  // vectors of the unit
  double epsilon = 1e-5;
  bool mean = false;
  bool add = false;
};

// value = factor * value, of columns [begin, begin + width); then, of a cap, cap * tanh(value / cap).
struct ScaleOp {
  int value = 0, begin = 0, width = 0;
  float factor = 1;
  int weight = kNone;  // a vector of one: times that too
  float cap = 0;
  // Times 1 + growth * log(1 + floor(position / period)), where there is a period.
  double growth = 0;
  int period = 0;
};

// out += scale * in
struct AddOp {
  int in = 0, out = 0;
  float scale = 1;
};

// out = in W^T + bias; with `add` out += that. W is a linear of the unit.
struct LinearOp {
  int in = 0, out = 0, linear = 0;
  bool add = false;
};

// out = activation(gate) * up, gate and up being the two parts of a linear of the unit.
struct GluOp {
  int in = 0, out = 0, linear = 0;
  Activation activation = Activation::silu;
};

// out = activation(in) * by, of `in` the columns from `in_begin` on, or one number a row; of `by` those from `begin`
// on.
struct GateOp {
  int in = 0, by = 0, begin = 0, out = 0;
  Activation activation = Activation::silu;
  int in_begin = 0;
  bool scalar = false;  // column in_begin is the gate of all
};

// out = rows of an embedding table, times scale.
struct GatherOp {
  int table = 0, out = 0;
  float scale = 1;
};

// Turns query and key heads of `qkv` (all query heads, then key heads, then value heads), appends keys and values to
// the cache and attends to the positions that the row sees.
struct AttendOp {
  int qkv = 0, out = 0;
  int heads = 0, kv_heads = 0, head_dim = 0;
  int kv_class = 0, kv_layer = 0;  // of Program::kv, and of the class's layers
  int rope = 0;                    // of Program::ropes
  float scale = 0;                 // of scores; 0: 1 / sqrt(head_dim)
  float cap = 0;                   // of scores: cap * tanh(score / cap); 0: none
  // A vector of the unit [heads]: scores of a position that every row sees and that has no value.
  int sinks = kNone;
  // Keys and values are those that an operation before it has appended; `qkv` has query heads alone.
  bool reads_only = false;

  int query_width() const { return heads * head_dim; }
  int kv_width() const { return kv_heads * head_dim; }
  int qkv_width() const { return query_width() + (reads_only ? 0 : 2 * kv_width()); }
};

// Multi-head latent attention (DeepSeek-AI 2024, arXiv:2405.04434). Of a position the cache has one row for all heads,
// [rank + rotary]: the latent c that keys and values are made of, and the part of a key that turns. A head's key is
// U_k c and that part, its value U_v c, U being its rows of the linear, of `nope` and value_dim output features. So its
// query, U_k^T of its first part and the part that turns, attends to the rows of the cache themselves, and what it
// finds goes through U_v: the same order of sums however many rows a pass has. q: of each head `nope`, then `rotary`
// columns; latent: c, then the key's part, before it turns.
struct LatentOp {
  int q = 0, latent = 0, out = 0;  // out: [heads, value_dim]
  int linear = 0;                  // rank to [heads, nope + value_dim]
  int heads = 0, rank = 0, nope = 0, rotary = 0, value_dim = 0;
  int kv_class = 0, kv_layer = 0;
  int rope = 0;              // of heads of `rotary` elements
  float scale = 0;           // of scores; 0: 1 / sqrt(nope + rotary)
  bool interleaved = false;  // neighbours turn together; else halves

  int key_dim() const { return rank + rotary; }
};

// Of the floats that a layer keeps of a sequence (KvClass::state), those from `begin` on.
struct StatePlace {
  int kv_class = 0, kv_layer = 0, begin = 0;
};
inline constexpr int kStateAlignment = 4;  // floats that parts of a state begin at multiples of

// out[c] = silu(sum over t of weight[c, t] * in[c] of the row taps - 1 - t positions before), zero before the first: a
// causal convolution of each column. State: in of the last taps - 1 rows, [taps - 1, channels], the oldest first.
struct ConvOp {
  int in = 0, out = 0, begin = 0;  // columns [begin, begin + channels) of `in`
  int channels = 0, taps = 4;
  int weight = 0;  // a vector of the unit [channels, taps]
  StatePlace state;

  int state_floats() const { return (taps - 1) * channels; }
};

// The gated delta rule (Yang et al. 2024, arXiv:2412.06464). A value head h keeps a matrix S [key_dim, value_dim], zero
// before the first row. For each row, with k and q of its key head divided by their lengths, q by sqrt(key_dim) too:
//   S = exp(-rate[h] * softplus(a[h] + bias[h])) * S;  S += k (sigmoid(b[h]) * (v - S^T k))^T;  out = S^T q
// in: query heads, key heads, value heads; gates: b of all value heads, then a.
struct DeltaOp {
  int in = 0, gates = 0, out = 0;
  int key_heads = 0, value_heads = 0;
  int key_dim = 0, value_dim = 0;
  int rate = 0, bias = 0;  // vectors of the unit [value_heads]
  bool in_turn = false;    // value heads take key heads in turn; else those of a key head lie side by side
  StatePlace state;

  int key_width() const { return key_heads * key_dim; }
  int value_width() const { return value_heads * value_dim; }
  int key_head(int value_head) const {
    return in_turn ? value_head % key_heads : value_head / (value_heads / key_heads);
  }
  int state_floats() const { return value_heads * key_dim * value_dim; }
};

enum class Score : uint8_t { softmax, sigmoid };

// Chooses experts by a router's logits. out: [top_k] numbers of the chosen, the highest score first and of equal scores
// the lowest number, then [top_k] weights, their scores.
struct RouteOp {
  int in = 0, out = 0;
  int experts = 0, top_k = 0;
  Score score = Score::softmax;  // over all experts
  int select_bias = kNone;       // a vector of the unit [experts], added to scores for the choice alone
  // Of so many groups of experts those may be chosen from whose two best scores have the highest sums; or, with
  // `group_best` 1, whose best are the highest.
  int groups = 1, top_groups = 1, group_best = 2;
  bool renormalise = false;  // weights are divided by their sum,
  float scale = 1;           // and multiplied by this
};

// out = sum over the chosen experts, in the order of `routes`, of weight * down(glu(in)). Expert e has two linears of
// the unit, one after the other from linear + 2 e on: gate and up, then down. They lie together in the slab, so that an
// expert is an address.
struct ExpertsOp {
  int in = 0, routes = 0, out = 0;
  int linear = 0, experts = 0;
  Activation activation = Activation::silu;
  float alpha = 1, limit = 0;  // of clamped_swiglu

  int gate_up(int expert) const { return linear + 2 * expert; }
  int down(int expert) const { return linear + 2 * expert + 1; }
  bool has(int own_linear) const { return own_linear >= linear && own_linear < linear + 2 * experts; }
};

using Op = std::variant<NormOp, ScaleOp, AddOp, LinearOp, GluOp, GateOp, GatherOp, AttendOp, LatentOp, RouteOp,
                        ExpertsOp, ConvOp, DeltaOp>;

// Output features of several matrices side by side over one input.
struct LinearShape {
  int k = 0;
  std::vector<int> parts;  // output features of each
  bool glu = false;        // two parts, gate and up, of a GluOp or an expert: one matrix where they can be
  int n() const;
};

struct ProgramUnit {
  std::string name;  // "attention 3"
  int layer = 0;
  bool head = false;  // computes the rows that logits are wanted of, and is the last unit
  std::vector<Op> ops;
  std::vector<int> vectors;  // widths of the float32 vectors: norms' weights
  std::vector<LinearShape> linears;
};

// Layers whose keys and values have one shape and are kept for as long. Each class has blocks of its own. Or layers
// that keep a state in their place, which each row changes: a block is the state of one sequence then, whatever its
// length.
struct KvClass {
  int layers = 0;
  int window = 0;  // a row at position p sees positions greater than p - window; 0: all before it
  int kv_heads = 0, head_dim = 0;
  int state = 0;        // floats of a layer; 0: keys and values
  bool latent = false;  // of a LatentOp: rows of head_dim that are keys and values at once, kv_heads being 1
  KvType type = KvType::f16;
};

// The same with keys and values of that type, latents aside: those stay f16. How a model keeps them is chosen when it
// is loaded, and no matter of its weights, which loads of either type share.
std::vector<KvClass> kept_as(std::vector<KvClass> classes, KvType type);

inline constexpr int kMostKvClasses = 8;

struct Program {
  int vocab = 0;            // rows of the embedding tables and of the head
  int max_position = 0;     // longest context the model was made for
  std::vector<int> values;  // widths; the residual stream first
  int logits = 0;           // the value that the head writes, of rows whose logits are wanted
  std::vector<int> tables;  // widths of the embedding tables
  std::vector<Op> embed;    // before the first unit: a gather to the residual stream first
  std::vector<ProgramUnit> units;
  std::vector<KvClass> kv;
  std::vector<RopeSpec> ropes;

  int hidden() const { return values.empty() ? 0 : values[kResidual]; }
  int layers() const;  // one more than the highest
  // The residual stream, and what else is read in another unit than it was written in.
  std::vector<int> carried() const;
  // It reads and writes the residual stream alone and could be computed by another executor than its neighbours.
  bool stands_alone(int unit) const;
  // Some of its layers keep a state.
  bool has_state() const;
};

// Throws CHECKPOINT_INVALID naming unit and operation: shapes that do not match, values that are read before they are
// written, weights that no operation or more than one reads, sizes beyond all bounds.
void check_program(const Program& program);

// Values that an operation reads, and the one that it writes.
// The layer of a class that the operation appends to or keeps a state in, if it is the first of its layer that does.
struct KvPlace {
  int kv_class = 0, kv_layer = 0;
};
std::optional<KvPlace> kept_by(const Op& op);

// Layers of classes that are kept by these operations.
void add_kept(const std::vector<Op>& ops, std::vector<std::vector<int>>& layers);

struct Access {
  std::vector<int> reads;
  int writes = kNone;
  bool updates = false;  // reads what it writes
};
Access access_of(const Op& op);

}  // namespace millrace

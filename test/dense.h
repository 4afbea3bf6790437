#pragma once
// Programs of a plain decoder, attention and a gated feed-forward a layer, for tests and benches that need no other: as
// lib/checkpoint/decoder.ts makes them.
#include <string>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/repack.h"
#include "model/program.h"

namespace millrace {

struct DenseSpec {
  int vocab = 0, hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0;
  int max_position = 0;
  double rms_epsilon = 1e-5;
  RopeSpec rope;
  int sliding_window = 0;
  bool qk_norm = false;

  int query_width() const { return heads * head_dim; }
  int kv_width() const { return kv_heads * head_dim; }
  int qkv_width() const { return query_width() + 2 * kv_width(); }
  KvClass kv() const { return {layers, sliding_window, kv_heads, head_dim}; }
};

inline int unit_count(const DenseSpec& spec) {
  return 2 * spec.layers + 1;
}
inline int attention_unit(int layer) {
  return 2 * layer;
}
inline int feed_forward_unit(int layer) {
  return 2 * layer + 1;
}
inline int head_unit(const DenseSpec& spec) {
  return 2 * spec.layers;
}
inline size_t kv_block_bytes(const DenseSpec& spec) {
  return kv_block_bytes(spec.kv());
}

inline Program dense_program(const DenseSpec& spec) {
  enum Value : int { residual, logits, normed, qkv, attended, activated };
  Program p;
  p.vocab = spec.vocab;
  p.max_position = spec.max_position;
  p.values = {spec.hidden, spec.vocab, spec.hidden, spec.qkv_width(), spec.query_width(), spec.intermediate};
  p.logits = logits;
  p.tables = {spec.hidden};
  p.embed = {GatherOp{0, residual}};
  p.kv = {spec.kv()};
  p.ropes = {spec.rope};
  p.ropes[0].head_dim = p.ropes[0].rotary = spec.head_dim;
  const auto norm = [&](int in, int out, int width, int weight) {
    NormOp op;
    op.in = in, op.out = out, op.width = width, op.weight = weight, op.epsilon = spec.rms_epsilon;
    return op;
  };
  for (int layer = 0; layer < spec.layers; layer++) {
    ProgramUnit attention;
    attention.name = "attention " + std::to_string(layer);
    attention.layer = layer;
    attention.vectors = {spec.hidden};
    attention.linears = {{spec.hidden, {spec.query_width(), spec.kv_width(), spec.kv_width()}},
                         {spec.query_width(), {spec.hidden}}};
    attention.ops = {norm(residual, normed, spec.hidden, 0), LinearOp{normed, qkv, 0}};
    if (spec.qk_norm) {
      attention.vectors.insert(attention.vectors.end(), {spec.head_dim, spec.head_dim});
      NormOp queries = norm(qkv, qkv, spec.head_dim, 1), keys = norm(qkv, qkv, spec.head_dim, 2);
      queries.groups = spec.heads;
      keys.begin = spec.query_width(), keys.groups = spec.kv_heads;
      attention.ops.insert(attention.ops.end(), {queries, keys});
    }
    AttendOp attend;
    attend.qkv = qkv, attend.out = attended;
    attend.heads = spec.heads, attend.kv_heads = spec.kv_heads, attend.head_dim = spec.head_dim;
    attend.kv_layer = layer;
    attention.ops.insert(attention.ops.end(), {attend, LinearOp{attended, residual, 1, true}});
    p.units.push_back(attention);

    ProgramUnit feed_forward;
    feed_forward.name = "feed-forward " + std::to_string(layer);
    feed_forward.layer = layer;
    feed_forward.vectors = {spec.hidden};
    feed_forward.linears = {{spec.hidden, {spec.intermediate, spec.intermediate}, true},
                            {spec.intermediate, {spec.hidden}}};
    feed_forward.ops = {norm(residual, normed, spec.hidden, 0), GluOp{normed, activated, 0},
                        LinearOp{activated, residual, 1, true}};
    p.units.push_back(feed_forward);
  }
  ProgramUnit head;
  head.name = "head";
  head.layer = spec.layers - 1;
  head.head = true;
  head.vectors = {spec.hidden};
  head.linears = {{spec.hidden, {spec.vocab}}};
  head.ops = {norm(residual, normed, spec.hidden, 0), LinearOp{normed, logits, 0}};
  p.units.push_back(head);
  return p;
}

struct DenseLayer {
  std::string attention_norm, feed_forward_norm;
  LinearSource query, key, value, output, gate, up, down;
  std::string query_norm, key_norm;
};

// A checkpoint of such a model.
struct DenseSource {
  DenseSpec spec;
  std::vector<DenseLayer> layers;
  std::string embedding, final_norm;
  LinearSource head;

  operator ModelSource() const {  // NOLINT: a test passes one for the other
    ModelSource source;
    source.program = dense_program(spec);
    for (const DenseLayer& layer : layers) {
      UnitSource attention;
      attention.vectors = {{layer.attention_norm}};
      if (spec.qk_norm) attention.vectors.insert(attention.vectors.end(), {{layer.query_norm}, {layer.key_norm}});
      attention.linears = {{layer.query, layer.key, layer.value}, {layer.output}};
      source.units.push_back(attention);
      source.units.push_back({{{layer.feed_forward_norm}}, {{layer.gate, layer.up}, {layer.down}}});
    }
    source.units.push_back({{{final_norm}}, {{head}}});
    source.tables = {embedding};
    return source;
  }
};

}  // namespace millrace

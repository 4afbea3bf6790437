#include "cuda/plan/lower.h"

#include <algorithm>

namespace millrace::cuda {

namespace {

bool reads(const Op& op, int value) {
  const Access access = access_of(op);
  return std::find(access.reads.begin(), access.reads.end(), value) != access.reads.end() ||
         (access.updates && access.writes == value);
}

// The value is read after `at` before it is written anew.
bool read_after(const std::vector<Op>& ops, size_t at, int value) {
  for (size_t i = at + 1; i < ops.size(); i++) {
    if (reads(ops[i], value)) return true;
    if (access_of(ops[i]).writes == value) return false;
  }
  return false;
}

bool is_whole_rms(const NormOp& norm) {
  return norm.groups == 1 && norm.begin == 0 && !norm.mean && !norm.add && norm.weight != kNone && norm.bias == kNone &&
         norm.in != norm.out;
}

const int* input_of_linear(const Op& op) {
  if (const auto* linear = std::get_if<LinearOp>(&op)) return &linear->in;
  if (const auto* glu = std::get_if<GluOp>(&op)) return &glu->in;
  return nullptr;
}

// The value that a linear multiplies, as float16 where nobody else reads it.
const int* multiplied(const Op& op) {
  if (const auto* experts = std::get_if<ExpertsOp>(&op)) return &experts->in;
  return input_of_linear(op);
}

bool is_head_norm(const NormOp& norm) {
  return norm.in == norm.out && !norm.mean && !norm.add && norm.weight != kNone && norm.bias == kNone;
}

// Norms of all query heads and of the key heads after them.
bool are_heads(const NormOp& queries, const NormOp& keys) {
  return is_head_norm(queries) && is_head_norm(keys) && queries.in == keys.in && queries.begin == 0 &&
         keys.begin == queries.groups * queries.width && queries.width == keys.width &&
         queries.epsilon == keys.epsilon && queries.weight != keys.weight;
}

// The attention of normed heads, which nobody else reads: `at` is its place.
bool attends_alone(const std::vector<Op>& ops, size_t at, const NormOp& queries, const NormOp& keys) {
  const auto* attend = at < ops.size() ? std::get_if<AttendOp>(&ops[at]) : nullptr;
  return attend != nullptr && !attend->reads_only && attend->qkv == queries.in && attend->heads == queries.groups &&
         attend->kv_heads == keys.groups && attend->head_dim == queries.width && !read_after(ops, at, queries.in);
}

// The router whose logits the operation behind it routes, and nobody else reads: `at` is its place.
const LinearOp* router_at(const std::vector<Op>& ops, size_t at) {
  const auto* linear = at + 1 < ops.size() ? std::get_if<LinearOp>(&ops[at]) : nullptr;
  const auto* route = linear != nullptr ? std::get_if<RouteOp>(&ops[at + 1]) : nullptr;
  const bool routes = route != nullptr && !linear->add && route->in == linear->out;
  return routes && !read_after(ops, at + 1, linear->out) ? linear : nullptr;
}

}  // namespace

std::vector<Lowered> lower(const std::vector<Op>& ops) {
  std::vector<Lowered> out;
  for (size_t i = 0; i < ops.size(); i++) {
    const auto* norm = std::get_if<NormOp>(&ops[i]);
    if (norm != nullptr && i + 1 < ops.size()) {
      const int* in = input_of_linear(ops[i + 1]);
      if (is_whole_rms(*norm) && in != nullptr && *in == norm->out && !read_after(ops, i + 1, norm->out)) {
        out.push_back({ops[i + 1], *norm, {}});
        i++;
        continue;
      }
      const LinearOp* router = router_at(ops, i + 1);
      if (router != nullptr && is_whole_rms(*norm) && router->in == norm->out) {
        out.push_back({ops[i + 2], *norm, {}, *router});
        i += 2;
        continue;
      }
      const auto* keys = std::get_if<NormOp>(&ops[i + 1]);
      if (keys != nullptr && are_heads(*norm, *keys)) {
        const bool attends = attends_alone(ops, i + 2, *norm, *keys);
        out.push_back(attends ? Lowered{ops[i + 2], *norm, *keys} : Lowered{ops[i], {}, *keys});
        i += attends ? 2 : 1;
        continue;
      }
    }
    const auto* experts = std::get_if<ExpertsOp>(&ops[i]);
    const auto* add = experts != nullptr && i + 1 < ops.size() ? std::get_if<AddOp>(&ops[i + 1]) : nullptr;
    if (add != nullptr && add->in == experts->out && add->out != experts->out && !read_after(ops, i + 1, add->in)) {
      out.push_back({ops[i], {}, {}, {}, *add});
      i++;
      continue;
    }
    out.push_back({ops[i], {}, {}});
  }
  return out;
}

std::vector<bool> half_values(const Program& program) {
  std::vector<bool> half(program.values.size(), true);
  const std::vector<int> carried = program.carried();
  for (const int value : carried) half[value] = false;
  half[program.logits] = false;
  const auto visit = [&](const std::vector<Op>& ops) {
    for (const Op& op : ops) {
      const Access access = access_of(op);
      const int* linear_in = multiplied(op);
      const auto* gate = std::get_if<GateOp>(&op);  // takes what it gates of either kind
      for (const int value : access.reads) {
        const bool either = gate != nullptr && gate->by == value && gate->in != value;
        if (!either && (linear_in == nullptr || *linear_in != value)) half[value] = false;
      }
      const auto* norm = std::get_if<NormOp>(&op);
      const bool rounds = std::holds_alternative<GluOp>(op) || std::holds_alternative<AttendOp>(op) ||
                          std::holds_alternative<LatentOp>(op) || std::holds_alternative<GateOp>(op) ||
                          (norm != nullptr && norm->in != norm->out);
      if (!rounds || access.updates) half[access.writes] = false;
    }
  };
  visit(program.embed);
  for (const ProgramUnit& unit : program.units) visit(unit.ops);
  return half;
}

bool fused_glu(const GluOp& op, const LinearLayout& linear) {
  return linear.interleaved && !linear.has_bias && op.activation == Activation::silu;
}

}  // namespace millrace::cuda

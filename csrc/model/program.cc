#include "model/program.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace millrace {

namespace {

// Far beyond any published model; they keep every product of two within int64 and every width within int32.
constexpr int kMostVocab = 1 << 24;
constexpr int kMostWidth = 1 << 20;
constexpr int kMostLayers = 1 << 12;
constexpr int kMostUnits = 4 * kMostLayers;
constexpr int kMostPositions = 1 << 27;
constexpr int kMostExperts = 1 << 12;

class Checker {
 public:
  explicit Checker(const Program& program) : p_(program) {}

  void run() {
    where_ = "the model";
    within("vocab_size", p_.vocab, 1, kMostVocab);
    within("max_position_embeddings", p_.max_position, 1, kMostPositions);
    require(!p_.values.empty() && p_.values.size() <= 256, "values");
    for (size_t v = 0; v < p_.values.size(); v++) {
      within(v == kResidual ? "hidden_size" : "a width", p_.values[v], 1, is_logits(v) ? kMostVocab : kMostWidth);
    }
    within("hidden_size", p_.hidden(), 1, 1 << 17);
    require(index(p_.logits, p_.values) && p_.logits != kResidual && p_.values[p_.logits] == p_.vocab, "logits");
    require(!p_.tables.empty() && p_.tables.size() <= 4, "tables");
    for (const int width : p_.tables) within("a table", width, 1, kMostWidth);
    require(!p_.units.empty() && p_.units.size() <= kMostUnits, "units");
    require(p_.kv.size() <= kMostKvClasses && p_.ropes.size() <= 64, "classes of keys and values");
    for (const KvClass& kv : p_.kv) {
      within("layers", kv.layers, 1, kMostLayers);
      within("a state", kv.state, 0, 1 << 26);
      if (kv.state > 0) {
        require(kv.window == 0 && kv.kv_heads == 0 && kv.head_dim == 0, "a class of states");
        continue;
      }
      within("sliding_window", kv.window, 0, kMostPositions);
      within("num_key_value_heads", kv.kv_heads, 1, 1 << 12);
      within("head_dim", kv.head_dim, 2, 1 << 10);
      require(!kv.latent || kv.kv_heads == 1, "a class of latents");
    }
    for (const RopeSpec& rope : p_.ropes) rope.validate();
    require(!p_.has_state() || std::any_of(p_.kv.begin(), p_.kv.end(), [](const KvClass& kv) { return kv.state == 0; }),
            "a layer of attention beside those with states");
    appended_.resize(p_.kv.size());
    kept_.resize(p_.kv.size());
    for (size_t i = 0; i < p_.kv.size(); i++) {
      appended_[i].resize(static_cast<size_t>(p_.kv[i].layers));
      kept_[i].resize(static_cast<size_t>(p_.kv[i].layers));
    }
    written_.resize(p_.values.size());

    ProgramUnit embed;
    embed.name = "embed";
    embed.ops = p_.embed;
    run_unit(embed);
    require(written_[kResidual], "an embedding");
    const std::vector<int> carried = p_.carried();
    for (size_t u = 0; u < p_.units.size(); u++) {
      // What no other unit reads is gone.
      for (size_t v = 0; v < written_.size(); v++) {
        if (std::find(carried.begin(), carried.end(), static_cast<int>(v)) == carried.end()) written_[v] = false;
      }
      const ProgramUnit& unit = p_.units[u];
      where_ = unit.name;
      within("layers", unit.layer, 0, kMostLayers - 1);
      require(unit.head == (u + 1 == p_.units.size()), "a head, and nothing after it");
      run_unit(unit);
    }
    require(written_[p_.logits], "logits");
    for (const std::vector<bool>& layers : appended_) {
      require(std::find(layers.begin(), layers.end(), false) == layers.end(), "keys and values of every layer");
    }
  }

 private:
  template <typename List>
  static bool index(int i, const List& list) {
    return i >= 0 && static_cast<size_t>(i) < list.size();
  }
  bool is_logits(size_t v) const { return static_cast<int>(v) == p_.logits; }

  void require(bool sound, const char* what) const {
    if (sound) return;
    throw Error(code::kCheckpointInvalid, format("%s: %s do not fit the rest", where_.c_str(), what),
                "check that config.json belongs to this checkpoint; if it does, report this as a bug");
  }
  void within(const char* field, int64_t value, int64_t low, int64_t high) const {
    if (value >= low && value <= high) return;
    throw Error(code::kCheckpointInvalid,
                format("config.json: %s must be between %lld and %lld, found %lld", field, static_cast<long long>(low),
                       static_cast<long long>(high), static_cast<long long>(value)),
                "check that config.json belongs to this checkpoint");
  }

  void run_unit(const ProgramUnit& unit) {
    where_ = unit.name;
    vector_uses_.assign(unit.vectors.size(), 0);
    linear_uses_.assign(unit.linears.size(), 0);
    routed_.assign(p_.values.size(), 0);
    for (const int width : unit.vectors) within("a norm", width, 1, kMostWidth);
    for (const LinearShape& linear : unit.linears) {
      within("input features", linear.k, 1, kMostWidth);
      require(!linear.parts.empty() && linear.parts.size() <= 16 && (!linear.glu || linear.parts.size() == 2),
              "a linear's parts");
      int64_t n = 0;
      for (const int part : linear.parts) {
        within("output features", part, 1, kMostVocab);
        n += part;
      }
      within("output features", n, 1, kMostVocab);
    }
    for (const Op& op : unit.ops) {
      const Access access = access_of(op);
      for (const int value : access.reads) require(index(value, p_.values) && written_[value], "operands");
      require(index(access.writes, p_.values) && (!access.updates || written_[access.writes]), "a result");
      require(is_logits(access.writes) <= unit.head, "logits before the head");
      std::visit([&](const auto& one) { check_op(unit, one); }, op);
      written_[access.writes] = true;
      const auto* route = std::get_if<RouteOp>(&op);
      routed_[access.writes] = route == nullptr ? 0 : route->experts;
    }
    // A device has all of a layer's state.
    for (const StatePlace& place : begun_) {
      require(kept_[place.kv_class][place.kv_layer] == p_.kv[place.kv_class].state, "the state of a layer");
    }
    begun_.clear();
    for (const int uses : vector_uses_) require(uses == 1, "uses of a vector");
    for (const int uses : linear_uses_) require(uses == 1, "uses of a linear");
  }

  int width(int value) const { return p_.values[value]; }
  void use_vector(const ProgramUnit& unit, int vector, int width) {
    require(index(vector, unit.vectors) && unit.vectors[vector] == width, "a norm's weights");
    vector_uses_[vector]++;
  }
  void use_linear(const ProgramUnit& unit, int linear, int in) {
    require(index(linear, unit.linears) && unit.linears[linear].k == width(in), "a linear's input features");
    linear_uses_[linear]++;
  }
  bool columns(int value, int begin, int64_t count) const {
    return begin >= 0 && count >= 1 && begin + count <= width(value);
  }

  void check_op(const ProgramUnit& unit, const NormOp& op) {
    require(op.groups >= 1 && op.width >= 1 && columns(op.in, op.begin, int64_t{op.width} * op.groups) &&
                columns(op.out, op.begin, int64_t{op.width} * op.groups),
            "a norm's columns");
    if (op.weight != kNone) use_vector(unit, op.weight, op.width);
    if (op.bias != kNone) use_vector(unit, op.bias, op.width);
    if (!(op.epsilon > 0 && op.epsilon < 1)) {
      throw Error(code::kCheckpointInvalid, "config.json: rms_norm_eps must be positive and less than 1",
                  "check that config.json belongs to this checkpoint");
    }
  }
  void check_op(const ProgramUnit& unit, const ScaleOp& op) {
    require(columns(op.value, op.begin, op.width) && std::isfinite(op.factor) && op.cap >= 0 && std::isfinite(op.cap) &&
                op.period >= 0 && std::isfinite(op.growth),
            "a scale's columns");
    if (op.weight != kNone) use_vector(unit, op.weight, 1);
  }
  void check_op(const ProgramUnit&, const AddOp& op) {
    require(width(op.in) == width(op.out) && op.in != op.out && std::isfinite(op.scale), "sums");
  }
  void check_op(const ProgramUnit& unit, const LinearOp& op) {
    use_linear(unit, op.linear, op.in);
    require(unit.linears[op.linear].n() == width(op.out) && !unit.linears[op.linear].glu && op.in != op.out,
            "a linear's output features");
  }
  void check_op(const ProgramUnit& unit, const GluOp& op) {
    use_linear(unit, op.linear, op.in);
    const LinearShape& linear = unit.linears[op.linear];
    require(linear.glu && linear.parts[0] == linear.parts[1] && linear.parts[0] == width(op.out) && op.in != op.out,
            "gate and up");
    require(op.activation != Activation::clamped_swiglu, "an activation");
  }
  void check_op(const ProgramUnit&, const GateOp& op) {
    require(op.activation != Activation::clamped_swiglu, "an activation");
    require(columns(op.in, op.in_begin, op.scalar ? 1 : width(op.out)) && columns(op.by, op.begin, width(op.out)),
            "a gate's columns");
  }
  void check_op(const ProgramUnit&, const GatherOp& op) {
    require(index(op.table, p_.tables) && p_.tables[op.table] == width(op.out) && std::isfinite(op.scale),
            "an embedding");
  }
  void check_op(const ProgramUnit& unit, const AttendOp& op) {
    within("num_attention_heads", op.heads, 1, 1 << 12);
    within("num_key_value_heads", op.kv_heads, 1, op.heads);
    within("head_dim", op.head_dim, 2, 1 << 10);
    within("heads x head_dim", int64_t{op.heads} * op.head_dim, 1, 1 << 18);
    if (op.heads % op.kv_heads != 0) {
      throw Error(code::kCheckpointInvalid,
                  format("config.json: num_key_value_heads must divide num_attention_heads, found %d and %d", op.heads,
                         op.kv_heads),
                  "check that config.json belongs to this checkpoint");
    }
    require(!unit.head && op.qkv != op.out && width(op.qkv) == op.qkv_width() && width(op.out) == op.query_width(),
            "attention's widths");
    require(index(op.kv_class, p_.kv) && p_.kv[op.kv_class].state == 0 && !p_.kv[op.kv_class].latent &&
                p_.kv[op.kv_class].kv_heads == op.kv_heads && p_.kv[op.kv_class].head_dim == op.head_dim &&
                index(op.kv_layer, appended_[op.kv_class]),
            "keys and values");
    std::vector<bool>::reference appended = appended_[op.kv_class][op.kv_layer];
    require(appended == op.reads_only, "layers of keys and values");
    appended = true;
    require(index(op.rope, p_.ropes) && p_.ropes[op.rope].head_dim == op.head_dim, "a rotary embedding");
    require(op.scale >= 0 && std::isfinite(op.scale) && op.cap >= 0 && std::isfinite(op.cap), "an attention's scale");
    if (op.sinks != kNone) use_vector(unit, op.sinks, op.heads);
  }
  void check_op(const ProgramUnit& unit, const LatentOp& op) {
    within("num_attention_heads", op.heads, 1, 1 << 12);
    within("kv_lora_rank", op.rank, 1, 1 << 10);
    within("qk_nope_head_dim", op.nope, 1, 1 << 10);
    within("qk_rope_head_dim", op.rotary, 2, 1 << 10);
    within("v_head_dim", op.value_dim, 1, 1 << 10);
    require(!unit.head && op.q != op.out && op.latent != op.out && width(op.latent) == op.key_dim() &&
                width(op.q) == op.heads * (op.nope + op.rotary) && width(op.out) == op.heads * op.value_dim,
            "latent attention's widths");
    require(index(op.linear, unit.linears) && unit.linears[op.linear].k == op.rank && !unit.linears[op.linear].glu &&
                unit.linears[op.linear].n() == op.heads * (op.nope + op.value_dim),
            "what makes keys and values of latents");
    linear_uses_[op.linear]++;
    require(index(op.kv_class, p_.kv) && p_.kv[op.kv_class].latent && p_.kv[op.kv_class].head_dim == op.key_dim() &&
                index(op.kv_layer, appended_[op.kv_class]) && !appended_[op.kv_class][op.kv_layer],
            "latents");
    appended_[op.kv_class][op.kv_layer] = true;
    require(index(op.rope, p_.ropes) && p_.ropes[op.rope].head_dim == op.rotary, "a rotary embedding");
    require(op.scale >= 0 && std::isfinite(op.scale), "an attention's scale");
  }
  // Parts of a layer's state come in their order.
  void keep(const ProgramUnit& unit, const StatePlace& place, int64_t floats) {
    require(!unit.head && index(place.kv_class, p_.kv) && p_.kv[place.kv_class].state > 0 &&
                index(place.kv_layer, kept_[place.kv_class]),
            "a state");
    int64_t& kept = kept_[place.kv_class][place.kv_layer];
    require(place.begin == (kept + kStateAlignment - 1) / kStateAlignment * kStateAlignment, "parts of a state");
    kept = place.begin + floats;
    appended_[place.kv_class][place.kv_layer] = true;
    begun_.push_back(place);
  }
  void check_op(const ProgramUnit& unit, const ConvOp& op) {
    within("a convolution's width", op.taps, 2, 16);
    require(op.in != op.out && columns(op.in, op.begin, op.channels) && width(op.out) == op.channels,
            "a convolution's columns");
    use_vector(unit, op.weight, op.channels * op.taps);
    keep(unit, op.state, op.state_floats());
  }
  void check_op(const ProgramUnit& unit, const DeltaOp& op) {
    within("linear_num_key_heads", op.key_heads, 1, 1 << 12);
    within("linear_num_value_heads", op.value_heads, 1, 1 << 12);
    within("linear_key_head_dim", op.key_dim, 1, 1 << 10);
    within("linear_value_head_dim", op.value_dim, 1, 1 << 10);
    if (op.value_heads % op.key_heads != 0) {
      throw Error(code::kCheckpointInvalid,
                  format("config.json: linear_num_key_heads must divide linear_num_value_heads, found %d and %d",
                         op.key_heads, op.value_heads),
                  "check that config.json belongs to this checkpoint");
    }
    require(op.in != op.out && op.gates != op.out && width(op.in) == 2 * op.key_width() + op.value_width() &&
                width(op.gates) == 2 * op.value_heads && width(op.out) == op.value_width(),
            "widths of the delta rule");
    use_vector(unit, op.rate, op.value_heads);
    use_vector(unit, op.bias, op.value_heads);
    within("a state", int64_t{op.value_heads} * op.key_dim * op.value_dim, 1, 1 << 26);
    keep(unit, op.state, op.state_floats());
  }
  void check_op(const ProgramUnit& unit, const RouteOp& op) {
    within("experts", op.experts, 1, kMostExperts);
    within("num_experts_per_tok", op.top_k, 1, op.experts);
    within("n_group", op.groups, 1, op.experts);
    within("topk_group", op.top_groups, 1, op.groups);
    require((op.group_best == 1 || op.group_best == 2) && op.experts % op.groups == 0 &&
                (op.groups == 1 || op.experts >= 2 * op.groups) && op.top_k <= op.experts / op.groups * op.top_groups,
            "groups of experts");
    require(op.in != op.out && width(op.in) == op.experts && width(op.out) == 2 * op.top_k && std::isfinite(op.scale),
            "a router's logits");
    if (op.select_bias != kNone) use_vector(unit, op.select_bias, op.experts);
  }
  void check_op(const ProgramUnit& unit, const ExpertsOp& op) {
    require(op.experts >= 1 && routed_[op.routes] == op.experts, "routes");
    require(op.in != op.out && op.routes != op.out, "an expert's input");
    for (int expert = 0; expert < op.experts; expert++) {
      use_linear(unit, op.gate_up(expert), op.in);
      const LinearShape& gate_up = unit.linears[op.gate_up(expert)];
      require(
          gate_up.glu && gate_up.parts[0] == gate_up.parts[1] && gate_up.parts[0] == unit.linears[op.linear].parts[0],
          "gate and up of an expert");
      require(index(op.down(expert), unit.linears), "experts");
      const LinearShape& down = unit.linears[op.down(expert)];
      require(down.k == gate_up.parts[0] && down.n() == width(op.out) && !down.glu, "down of an expert");
      linear_uses_[op.down(expert)]++;
    }
    require(op.activation == Activation::silu || (op.activation == Activation::clamped_swiglu && op.limit > 0 &&
                                                  std::isfinite(op.limit) && std::isfinite(op.alpha)),
            "an expert's activation");
  }

  const Program& p_;
  std::string where_;
  std::vector<bool> written_;
  std::vector<std::vector<bool>> appended_;  // of each class, layers
  std::vector<std::vector<int64_t>> kept_;   // of each class, floats of the layers' states that have an operation
  std::vector<StatePlace> begun_;            // by the unit
  std::vector<int> vector_uses_, linear_uses_;
  std::vector<int> routed_;  // of each value the experts that its routes choose from; 0: it has none
};

}  // namespace

int LinearShape::n() const {
  if (!glu) return std::accumulate(parts.begin(), parts.end(), 0);
  return parts[0] + parts[1];
}

Access access_of(const Op& op) {
  struct Visitor {
    Access operator()(const NormOp& o) const { return {{o.in}, o.out, o.add}; }
    Access operator()(const ScaleOp& o) const { return {{o.value}, o.value, true}; }
    Access operator()(const AddOp& o) const { return {{o.in}, o.out, true}; }
    Access operator()(const LinearOp& o) const { return {{o.in}, o.out, o.add}; }
    Access operator()(const GluOp& o) const { return {{o.in}, o.out, false}; }
    Access operator()(const GateOp& o) const { return {{o.in, o.by}, o.out, false}; }
    Access operator()(const GatherOp& o) const { return {{}, o.out, false}; }
    Access operator()(const AttendOp& o) const { return {{o.qkv}, o.out, false}; }
    Access operator()(const LatentOp& o) const { return {{o.q, o.latent}, o.out, false}; }
    Access operator()(const RouteOp& o) const { return {{o.in}, o.out, false}; }
    Access operator()(const ExpertsOp& o) const { return {{o.in, o.routes}, o.out, false}; }
    Access operator()(const ConvOp& o) const { return {{o.in}, o.out, false}; }
    Access operator()(const DeltaOp& o) const { return {{o.in, o.gates}, o.out, false}; }
  };
  return std::visit(Visitor{}, op);
}

std::optional<KvPlace> kept_by(const Op& op) {
  if (const auto* attend = std::get_if<AttendOp>(&op)) {
    if (attend->reads_only) return std::nullopt;
    return KvPlace{attend->kv_class, attend->kv_layer};
  }
  if (const auto* latent = std::get_if<LatentOp>(&op)) return KvPlace{latent->kv_class, latent->kv_layer};
  const auto* conv = std::get_if<ConvOp>(&op);
  const auto* delta = std::get_if<DeltaOp>(&op);
  if (conv == nullptr && delta == nullptr) return std::nullopt;
  const StatePlace& state = conv != nullptr ? conv->state : delta->state;
  if (state.begin != 0) return std::nullopt;
  return KvPlace{state.kv_class, state.kv_layer};
}

void add_kept(const std::vector<Op>& ops, std::vector<std::vector<int>>& layers) {
  for (const Op& op : ops) {
    if (const auto place = kept_by(op)) layers[place->kv_class].push_back(place->kv_layer);
  }
}

std::vector<KvClass> kept_as(std::vector<KvClass> classes, KvType type) {
  for (KvClass& kv : classes) {
    if (kv.state == 0 && !kv.latent) kv.type = type;
  }
  return classes;
}

bool Program::has_state() const {
  return std::any_of(kv.begin(), kv.end(), [](const KvClass& one) { return one.state > 0; });
}

int Program::layers() const {
  int layers = 0;
  for (const ProgramUnit& unit : units) layers = std::max(layers, unit.layer + 1);
  return layers;
}

namespace {

// Values that the operations read and have not written before.
std::vector<int> read_from_outside(const std::vector<Op>& ops) {
  std::vector<int> written, outside;
  const auto has = [](const std::vector<int>& list, int value) {
    return std::find(list.begin(), list.end(), value) != list.end();
  };
  for (const Op& op : ops) {
    Access access = access_of(op);
    if (access.updates) access.reads.push_back(access.writes);
    for (const int value : access.reads) {
      if (!has(written, value) && !has(outside, value)) outside.push_back(value);
    }
    written.push_back(access.writes);
  }
  return outside;
}

}  // namespace

std::vector<int> Program::carried() const {
  std::vector<int> carried = {kResidual};
  for (const ProgramUnit& unit : units) {
    for (const int value : read_from_outside(unit.ops)) {
      if (std::find(carried.begin(), carried.end(), value) == carried.end()) carried.push_back(value);
    }
  }
  return carried;
}

bool Program::stands_alone(int unit) const {
  const ProgramUnit& own = units[unit];
  if (own.head) return false;
  const std::vector<int> all_carried = carried();
  for (const Op& op : own.ops) {
    if (std::holds_alternative<AttendOp>(op) || std::holds_alternative<GatherOp>(op) ||
        std::holds_alternative<LatentOp>(op) || std::holds_alternative<ConvOp>(op) ||
        std::holds_alternative<DeltaOp>(op)) {
      return false;
    }
    const Access access = access_of(op);
    if (access.writes != kResidual &&
        std::find(all_carried.begin(), all_carried.end(), access.writes) != all_carried.end()) {
      return false;
    }
  }
  const std::vector<int> outside = read_from_outside(own.ops);
  return std::all_of(outside.begin(), outside.end(), [](int value) { return value == kResidual; });
}

void check_program(const Program& program) {
  Checker(program).run();
}

}  // namespace millrace

// What a program may say: everything that does not fit is refused before memory is asked for.
#include "model/program.h"

#include <functional>

#include "check.h"
#include "core/error.h"
#include "dense.h"

using namespace millrace;

namespace {

Program tiny(int layers = 2) {
  DenseSpec spec;
  spec.vocab = 97, spec.hidden = 64, spec.layers = layers, spec.heads = 4, spec.kv_heads = 2, spec.head_dim = 16;
  spec.intermediate = 96, spec.max_position = 512, spec.qk_norm = true;
  return dense_program(spec);
}

template <typename Kind>
Kind& op_of(ProgramUnit& unit, int nth = 0) {
  for (Op& op : unit.ops) {
    if (auto* found = std::get_if<Kind>(&op); found != nullptr && nth-- == 0) return *found;
  }
  check::fail(__FILE__, __LINE__, "no such operation");
  std::abort();
}

}  // namespace

TEST(a_plain_decoder_is_sound) {
  check_program(tiny());
  const Program program = tiny(3);
  CHECK_EQ(program.layers(), 3);
  CHECK(program.carried() == std::vector<int>{kResidual});
  for (int unit = 0; unit < 7; unit++) CHECK_EQ(program.stands_alone(unit), unit % 2 == 1);
}

TEST(what_does_not_fit_is_refused) {
  const std::vector<std::pair<const char*, std::function<void(Program&)>>> cases = {
      {"no values", [](Program& p) { p.values.clear(); }},
      {"a width of nothing", [](Program& p) { p.values[2] = 0; }},
      {"a width beyond bounds", [](Program& p) { p.values[3] = 1 << 28; }},
      {"no units", [](Program& p) { p.units.clear(); }},
      {"no head", [](Program& p) { p.units.pop_back(); }},
      {"a unit after the head", [](Program& p) { p.units.push_back(p.units[0]); }},
      {"a head in the middle", [](Program& p) { p.units[1].head = true; }},
      {"no embedding", [](Program& p) { p.embed.clear(); }},
      {"a table that is not there", [](Program& p) { std::get<GatherOp>(p.embed[0]).table = 1; }},
      {"a layer below zero", [](Program& p) { p.units[0].layer = -1; }},
      {"logits of another width", [](Program& p) { p.values[p.logits]++; }},
      {"logits in a layer", [](Program& p) { op_of<LinearOp>(p.units[0]).out = p.logits; }},
      {"a value that is not there", [](Program& p) { op_of<NormOp>(p.units[0]).in = 99; }},
      {"a value below zero", [](Program& p) { op_of<LinearOp>(p.units[0]).in = -1; }},
      {"a value before it is written", [](Program& p) { std::swap(p.units[0].ops[0], p.units[0].ops[1]); }},
      {"a value of another unit", [](Program& p) { op_of<LinearOp>(p.units[1]).in = 4; }},
      {"columns beyond a value", [](Program& p) { op_of<NormOp>(p.units[0], 2).begin = 1 << 20; }},
      {"columns that overflow", [](Program& p) { op_of<NormOp>(p.units[0], 1).groups = INT32_MAX; }},
      {"an epsilon of nothing", [](Program& p) { op_of<NormOp>(p.units[0]).epsilon = 0; }},
      {"weights of another width", [](Program& p) { p.units[0].vectors[0]++; }},
      {"weights that are not there", [](Program& p) { op_of<NormOp>(p.units[0]).weight = 7; }},
      {"weights that nobody reads", [](Program& p) { p.units[0].vectors.push_back(64); }},
      {"weights that two read", [](Program& p) { op_of<NormOp>(p.units[0], 1).weight = 2; }},
      {"a linear of another input", [](Program& p) { p.units[0].linears[0].k++; }},
      {"a linear of another output", [](Program& p) { p.units[0].linears[0].parts[1]++; }},
      {"a linear that nobody reads",
       [](Program& p) {
         p.units[0].linears.push_back({64, {64}});
       }},
      {"a linear in place", [](Program& p) { op_of<LinearOp>(p.units[0], 1).in = kResidual; }},
      {"gate and up that differ", [](Program& p) { p.units[1].linears[0].parts[0]++; }},
      {"heads that keys do not divide", [](Program& p) { op_of<AttendOp>(p.units[0]).kv_heads = 3; }},
      {"a class that is not there", [](Program& p) { op_of<AttendOp>(p.units[0]).kv_class = 1; }},
      {"a layer's keys twice", [](Program& p) { op_of<AttendOp>(p.units[2]).kv_layer = 0; }},
      {"keys of a layer that nobody appends", [](Program& p) { p.kv[0].layers++; }},
      {"keys that are read before they are there", [](Program& p) { op_of<AttendOp>(p.units[0]).reads_only = true; }},
      {"a rope that is not there", [](Program& p) { op_of<AttendOp>(p.units[0]).rope = -1; }},
      {"a rope of other heads", [](Program& p) { p.ropes[0].head_dim = 32; }},
      {"a window below zero", [](Program& p) { p.kv[0].window = -1; }},
      {"a scale that is no number", [](Program& p) { op_of<AttendOp>(p.units[0]).scale = NAN; }},
  };
  for (const auto& [what, damage] : cases) {
    Program program = tiny();
    damage(program);
    try {
      check_program(program);
      check::fail(__FILE__, __LINE__, std::string("not refused: ") + what);
    } catch (const Error& error) {
      CHECK(std::string(error.code()) == code::kCheckpointInvalid);
    }
  }
}

namespace {

// The tiny program with a mixture of four experts, two of which answer, in the place of its first feed-forward.
Program mixture() {
  Program program = tiny();
  const auto value = [&](int width) {
    program.values.push_back(width);
    return static_cast<int>(program.values.size()) - 1;
  };
  const int scores = value(4), routes = value(4), mixed = value(64);
  ProgramUnit& unit = program.units[1];
  const int normed = op_of<NormOp>(unit).out;
  unit.ops.resize(1);
  unit.linears = {{64, {4}}};
  for (int expert = 0; expert < 4; expert++) {
    unit.linears.push_back({64, {32, 32}, true});
    unit.linears.push_back({32, {64}});
  }
  RouteOp route;
  route.in = scores, route.out = routes, route.experts = 4, route.top_k = 2;
  ExpertsOp experts;
  experts.in = normed, experts.routes = routes, experts.out = mixed, experts.linear = 1, experts.experts = 4;
  unit.ops.insert(unit.ops.end(), {LinearOp{normed, scores, 0}, route, experts, AddOp{mixed, kResidual}});
  return program;
}

}  // namespace

TEST(a_mixture_is_sound_and_stands_alone) {
  const Program program = mixture();
  check_program(program);
  CHECK(program.stands_alone(1));
}

TEST(what_does_not_fit_of_a_mixture_is_refused) {
  const std::vector<std::pair<const char*, std::function<void(ProgramUnit&)>>> cases = {
      {"a router of fewer experts", [](ProgramUnit& u) { op_of<RouteOp>(u).experts = 3; }},
      {"more chosen than there are", [](ProgramUnit& u) { op_of<RouteOp>(u).top_k = 5; }},
      {"none chosen", [](ProgramUnit& u) { op_of<RouteOp>(u).top_k = 0; }},
      {"groups that do not divide", [](ProgramUnit& u) { op_of<RouteOp>(u).groups = 3; }},
      {"groups of one", [](ProgramUnit& u) { op_of<RouteOp>(u).groups = 4; }},
      {"more groups chosen than there are", [](ProgramUnit& u) { op_of<RouteOp>(u).top_groups = 2; }},
      {"a bias that is not there", [](ProgramUnit& u) { op_of<RouteOp>(u).select_bias = 3; }},
      {"experts beyond the linears", [](ProgramUnit& u) { op_of<ExpertsOp>(u).linear = 3; }},
      {"an expert that nobody reads",
       [](ProgramUnit& u) {
         u.linears.push_back({64, {32, 32}, true});
         u.linears.push_back({32, {64}});
       }},
      {"experts of another number than routed", [](ProgramUnit& u) { op_of<ExpertsOp>(u).experts = 3; }},
      {"routes that no router wrote", [](ProgramUnit& u) { op_of<ExpertsOp>(u).routes = op_of<RouteOp>(u).in; }},
      {"routes that were changed since",
       [](ProgramUnit& u) {
         const ScaleOp scale{op_of<RouteOp>(u).out, 0, 1, 2.0f};
         u.ops.insert(u.ops.begin() + 3, scale);
       }},
      {"experts of two widths",
       [](ProgramUnit& u) {
         u.linears[3].parts = {16, 16};
       }},
      {"a down of another width", [](ProgramUnit& u) { u.linears[4].parts[0]++; }},
      {"gate and up by themselves", [](ProgramUnit& u) { u.linears[1].glu = false; }},
      {"an activation of others", [](ProgramUnit& u) { op_of<ExpertsOp>(u).activation = Activation::gelu; }},
      {"a cut at nothing", [](ProgramUnit& u) { op_of<ExpertsOp>(u).activation = Activation::clamped_swiglu; }},
  };
  for (const auto& [what, damage] : cases) {
    Program program = mixture();
    damage(program.units[1]);
    try {
      check_program(program);
      check::fail(__FILE__, __LINE__, std::string("not refused: ") + what);
    } catch (const Error& error) {
      CHECK(std::string(error.code()) == code::kCheckpointInvalid);
    }
  }
}

TEST(sinks_are_a_number_a_head) {
  Program program = tiny();
  program.units[0].vectors.push_back(4);
  op_of<AttendOp>(program.units[0]).sinks = 3;
  check_program(program);
  program.units[0].vectors[3] = 5;
  CHECK_THROWS_CODE(check_program(program), code::kCheckpointInvalid);
}

TEST(a_value_that_crosses_units_is_carried_and_its_reader_does_not_stand_alone) {
  Program program = tiny();
  program.values.push_back(64);
  const int crosses = static_cast<int>(program.values.size()) - 1;
  program.units[0].linears.push_back({64, {64}});
  program.units[0].ops.push_back(LinearOp{kResidual, crosses, 2});
  program.units[1].ops.push_back(AddOp{crosses, kResidual, 0.5f});
  check_program(program);
  CHECK((program.carried() == std::vector<int>{kResidual, crosses}));
  CHECK(!program.stands_alone(1));
  CHECK(program.stands_alone(3));
}

namespace {

// A layer that keeps a state before those of tiny().
Program with_state() {
  Program p = tiny(1);
  const auto value = [&](int width) {
    p.values.push_back(width);
    return static_cast<int>(p.values.size()) - 1;
  };
  ConvOp conv;
  DeltaOp delta;
  delta.key_heads = 2, delta.value_heads = 4, delta.key_dim = 8, delta.value_dim = 16;
  conv.channels = 2 * delta.key_width() + delta.value_width();
  const int input = value(conv.channels), gates = value(8), convolved = value(conv.channels), read = value(64);
  conv.in = input, conv.out = convolved, conv.weight = 0;
  delta.in = convolved, delta.gates = gates, delta.out = read, delta.rate = 1, delta.bias = 2;
  conv.state = {1, 0, 0};
  delta.state = {1, 0, conv.state_floats()};
  p.kv.push_back({1, 0, 0, 0, conv.state_floats() + delta.state_floats()});
  ProgramUnit unit;
  unit.name = "delta-net 0";
  unit.vectors = {4 * conv.channels, 4, 4};
  unit.linears = {{64, {conv.channels}}, {64, {8}}, {64, {64}}};
  unit.ops = {LinearOp{0, input, 0}, LinearOp{0, gates, 1}, conv, delta, LinearOp{read, 0, 2, true}};
  p.units.insert(p.units.begin(), unit);
  return p;
}

// A layer of latents before those of tiny().
Program with_latents() {
  Program p = tiny(1);
  const auto value = [&](int width) {
    p.values.push_back(width);
    return static_cast<int>(p.values.size()) - 1;
  };
  LatentOp latent;
  latent.heads = 4, latent.rank = 32, latent.nope = 16, latent.rotary = 8, latent.value_dim = 24;
  latent.q = value(4 * 24), latent.latent = value(40), latent.out = value(4 * 24);
  latent.linear = 2, latent.kv_class = 1, latent.rope = 1;
  p.kv.push_back({1, 0, 1, 40, 0, true});
  p.ropes.push_back(p.ropes[0]);
  p.ropes[1].head_dim = p.ropes[1].rotary = 8;
  ProgramUnit unit;
  unit.name = "attention of latents";
  unit.linears = {{64, {96}}, {64, {40}}, {32, {4 * 40}}, {96, {64}}};
  unit.ops = {LinearOp{0, latent.q, 0}, LinearOp{0, latent.latent, 1}, latent, LinearOp{latent.out, 0, 3, true}};
  p.units.insert(p.units.begin(), unit);
  return p;
}

}  // namespace

TEST(a_layer_of_latents_is_sound_and_keeps_one_row_for_all_heads) {
  const Program p = with_latents();
  check_program(p);
  CHECK(!p.stands_alone(0));
  CHECK_EQ(kv_block_bytes(p.kv[1]), size_t{16 * 40 * 2});
  std::vector<std::vector<int>> layers(p.kv.size());
  for (const ProgramUnit& unit : p.units) add_kept(unit.ops, layers);
  CHECK(layers == (std::vector<std::vector<int>>{{0}, {0}}));
}

TEST(what_does_not_fit_latents_is_refused) {
  const std::vector<std::pair<const char*, std::function<void(Program&)>>> cases = {
      {"keys among latents", [](Program& p) { op_of<AttendOp>(p.units[1]).kv_class = 1; }},
      {"latents among keys", [](Program& p) { op_of<LatentOp>(p.units[0]).kv_class = 0; }},
      {"a class of latents with heads", [](Program& p) { p.kv[1].kv_heads = 2; }},
      {"rows of another width", [](Program& p) { p.kv[1].head_dim = 48; }},
      {"a layer that is not there", [](Program& p) { op_of<LatentOp>(p.units[0]).kv_layer = 1; }},
      {"another rank", [](Program& p) { op_of<LatentOp>(p.units[0]).rank = 24; }},
      {"values of another width", [](Program& p) { op_of<LatentOp>(p.units[0]).value_dim = 16; }},
      {"a rope of other heads", [](Program& p) { op_of<LatentOp>(p.units[0]).rope = 0; }},
      {"a linear that is another's", [](Program& p) { op_of<LatentOp>(p.units[0]).linear = 3; }},
      {"a scale that is no number", [](Program& p) { op_of<LatentOp>(p.units[0]).scale = NAN; }},
      {"no heads", [](Program& p) { op_of<LatentOp>(p.units[0]).heads = 0; }},
  };
  for (const auto& [what, change] : cases) {
    Program p = with_latents();
    change(p);
    try {
      check_program(p);
      check::fail(__FILE__, __LINE__, std::string("was accepted: ") + what);
    } catch (const Error& error) {
      CHECK(std::string(error.code()) == code::kCheckpointInvalid);
    }
  }
}

TEST(a_layer_that_keeps_a_state_is_sound_and_stays_with_its_device) {
  const Program p = with_state();
  check_program(p);
  CHECK(p.has_state() && !tiny().has_state());
  CHECK(!p.stands_alone(0));
  std::vector<std::vector<int>> layers(p.kv.size());
  for (const ProgramUnit& unit : p.units) add_kept(unit.ops, layers);
  CHECK(layers == (std::vector<std::vector<int>>{{0}, {0}}));
}

TEST(what_does_not_fit_a_state_is_refused) {
  const std::vector<std::pair<const char*, std::function<void(Program&)>>> cases = {
      {"a state of another size", [](Program& p) { p.kv[1].state += 4; }},
      {"a state with a window", [](Program& p) { p.kv[1].window = 16; }},
      {"a state with heads", [](Program& p) { p.kv[1].kv_heads = 1; }},
      {"states alone", [](Program& p) { p.kv.erase(p.kv.begin()), p.units.erase(p.units.begin() + 1); }},
      {"keys in a state", [](Program& p) { op_of<AttendOp>(p.units[1]).kv_class = 1; }},
      {"a state among keys", [](Program& p) { op_of<ConvOp>(p.units[0]).state.kv_class = 0; }},
      {"parts that lie over each other", [](Program& p) { op_of<DeltaOp>(p.units[0]).state.begin = 0; }},
      {"a layer that is not there", [](Program& p) { op_of<DeltaOp>(p.units[0]).state.kv_layer = 1; }},
      {"half of a state", [](Program& p) { p.units[0].ops.erase(p.units[0].ops.begin() + 2); }},
      {"a convolution of one tap", [](Program& p) { op_of<ConvOp>(p.units[0]).taps = 1; }},
      {"columns beyond the input", [](Program& p) { op_of<ConvOp>(p.units[0]).begin = 1; }},
      {"value heads that do not divide", [](Program& p) { op_of<DeltaOp>(p.units[0]).key_heads = 3; }},
      {"gates of other heads", [](Program& p) { op_of<DeltaOp>(p.units[0]).gates = 0; }},
      {"a rate too few", [](Program& p) { p.units[0].vectors[1] = 3; }},
  };
  for (const auto& [what, change] : cases) {
    Program p = with_state();
    change(p);
    try {
      check_program(p);
      check::fail(__FILE__, __LINE__, std::string("was accepted: ") + what);
    } catch (const Error& error) {
      CHECK(std::string(error.code()) == code::kCheckpointInvalid);
    }
  }
}

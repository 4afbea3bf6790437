// Neighbours that one launch computes, and where values lie.
#include "cuda/plan/lower.h"

#include "check.h"
#include "dense.h"

using namespace millrace;
using namespace millrace::cuda;

namespace {

Program program(bool qk_norm = true) {
  DenseSpec spec;
  spec.vocab = 97, spec.hidden = 64, spec.layers = 1, spec.heads = 4, spec.kv_heads = 2, spec.head_dim = 16;
  spec.intermediate = 96, spec.max_position = 512, spec.qk_norm = qk_norm;
  return dense_program(spec);
}

}  // namespace

TEST(a_plain_layer_is_normed_linears_heads_and_attention) {
  const Program p = program();
  const auto attention = lower(p.units[0].ops);
  REQUIRE(attention.size() == 3);
  CHECK(std::holds_alternative<LinearOp>(attention[0].op) && attention[0].before.has_value());
  CHECK(std::holds_alternative<AttendOp>(attention[1].op));
  REQUIRE(attention[1].before.has_value() && attention[1].keys.has_value());
  CHECK_EQ(attention[1].before->groups, 4);
  CHECK_EQ(attention[1].keys->groups, 2);
  CHECK(std::holds_alternative<LinearOp>(attention[2].op) && !attention[2].before.has_value());
  const auto feed_forward = lower(p.units[1].ops);
  REQUIRE(feed_forward.size() == 2);
  CHECK(std::holds_alternative<GluOp>(feed_forward[0].op) && feed_forward[0].before.has_value());
  const auto head = lower(p.units[2].ops);
  REQUIRE(head.size() == 1);
  CHECK(head[0].before.has_value());
}

TEST(heads_that_others_read_or_that_are_others_are_normed_apart) {
  for (const auto change : std::initializer_list<void (*)(std::vector<Op>&)>{
           [](std::vector<Op>& ops) {
             ops.push_back(AddOp{std::get<AttendOp>(ops[4]).qkv, kResidual, 1});
           },
           [](std::vector<Op>& ops) { std::get<AttendOp>(ops[4]).heads = 2; },
           [](std::vector<Op>& ops) { std::get<AttendOp>(ops[4]).reads_only = true; }}) {
    std::vector<Op> ops = program().units[0].ops;
    REQUIRE(std::holds_alternative<AttendOp>(ops[4]));
    change(ops);
    const auto lowered = lower(ops);
    CHECK(std::holds_alternative<NormOp>(lowered[1].op) && lowered[1].keys.has_value());
    CHECK(std::holds_alternative<AttendOp>(lowered[2].op) && !lowered[2].before.has_value());
  }
}

TEST(a_norm_that_two_linears_read_is_a_launch_of_its_own) {
  Program p = program(false);
  std::vector<Op> both = p.units[0].ops;
  const std::vector<Op>& second = p.units[1].ops;
  both.insert(both.end(), second.begin() + 1, second.end());
  const auto lowered = lower(both);
  CHECK_EQ(lowered.size(), both.size());
  for (const Lowered& one : lowered) CHECK(!one.before.has_value());
}

TEST(norms_of_another_kind_are_launches_of_their_own) {
  for (const auto change : std::initializer_list<void (*)(NormOp&)>{
           [](NormOp& norm) { norm.mean = true; }, [](NormOp& norm) { norm.weight = kNone; },
           [](NormOp& norm) { norm.groups = 2, norm.width = 32; }}) {
    Program p = program(false);
    change(std::get<NormOp>(p.units[0].ops[0]));
    CHECK_EQ(lower(p.units[0].ops).size(), p.units[0].ops.size());
  }
  // Of all heads together, or with another epsilon.
  Program p = program();
  std::get<NormOp>(p.units[0].ops[3]).epsilon = 1e-3;
  for (const Lowered& one : lower(p.units[0].ops)) CHECK(!one.keys.has_value());
}

TEST(what_linears_alone_read_is_half_as_wide) {
  enum Value { residual, logits, normed, qkv, attended, activated };
  Program p = program();
  std::vector<bool> half = half_values(p);
  for (const int value : {normed, attended, activated}) CHECK(half[value]);
  for (const int value : {residual, logits, qkv}) CHECK(!half[value]);
  p.units[1].ops.push_back(AddOp{normed, residual, 1});
  half = half_values(p);
  CHECK(!half[normed] && half[activated]);
}

TEST(what_a_gate_lets_through_may_be_half_as_wide) {
  enum Value { residual, logits, normed, qkv, attended, activated, gate, gated };
  Program p = program();
  p.values.push_back(64), p.values.push_back(64);
  std::vector<Op>& ops = p.units[0].ops;
  auto& output = std::get<LinearOp>(ops.back());
  output.in = gated;
  ops.insert(ops.end() - 1, GateOp{gate, attended, 0, gated, Activation::sigmoid});
  std::vector<bool> half = half_values(p);
  CHECK(half[attended] && half[gated] && !half[gate]);
  std::get<GateOp>(ops[ops.size() - 2]).in = attended;  // what opens it is read as it is
  half = half_values(p);
  CHECK(!half[attended]);
}

TEST(experts_add_their_sum_themselves_where_nobody_else_reads_it) {
  enum Value { residual, normed, routes, mixed, other };
  ExpertsOp experts;
  experts.in = normed, experts.routes = routes, experts.out = mixed;
  const AddOp add{mixed, residual, 0.5f};
  const auto fused = lower({experts, add});
  REQUIRE(fused.size() == 1);
  REQUIRE(fused[0].sum.has_value());
  CHECK_EQ(fused[0].sum->out, static_cast<int>(residual));
  CHECK_EQ(fused[0].sum->scale, 0.5f);
  for (const std::vector<Op>& ops :
       {std::vector<Op>{experts, AddOp{other, mixed, 1}, add},  // with what all tokens share
        std::vector<Op>{experts, add, AddOp{mixed, other, 1}}}) {
    const auto apart = lower(ops);
    CHECK_EQ(apart.size(), ops.size());
    for (const Lowered& one : apart) CHECK(!one.sum.has_value());
  }
}

TEST(a_router_is_one_step_with_its_norm_and_its_choice) {
  enum Value { residual, normed, scores, routes, mixed };
  NormOp norm;
  norm.in = residual, norm.out = normed, norm.width = 64, norm.groups = 1, norm.weight = 0;
  LinearOp router;
  router.in = normed, router.out = scores;
  RouteOp route;
  route.in = scores, route.out = routes;
  ExpertsOp experts;
  experts.in = normed, experts.routes = routes, experts.out = mixed;
  const auto fused = lower({norm, router, route, experts});
  REQUIRE(fused.size() == 2);
  CHECK(std::holds_alternative<RouteOp>(fused[0].op));
  REQUIRE(fused[0].before.has_value() && fused[0].router.has_value());
  CHECK_EQ(fused[0].router->out, static_cast<int>(scores));
  NormOp mean = norm;
  mean.mean = true;
  for (const std::vector<Op>& ops : {std::vector<Op>{mean, router, route, experts},
                                     std::vector<Op>{norm, router, route, experts, AddOp{scores, mixed, 1}}}) {
    const auto apart = lower(ops);
    CHECK_EQ(apart.size(), ops.size());
    for (const Lowered& one : apart) CHECK(!one.router.has_value());
  }
}

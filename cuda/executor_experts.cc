// Mixtures in a pass: the choice of experts, and what the chosen compute.
#include <algorithm>

#include "cuda/check.h"
#include "cuda/elementwise.h"
#include "cuda/executor.h"
#include "cuda/moe/experts.h"
#include "cuda/moe/route.h"

namespace millrace::cuda {

// The norm, the router and the choice in one launch, if they can be.
bool CudaExecutor::route_at_once(const RouteArguments& route, const NormOp& norm, const LinearOp& router,
                                 const Scope& scope) {
  const LinearLayout& layout = config_.units[scope.unit].linears[router.linear];
  const Operand x = operand(scope, norm.in), normed = operand(scope, norm.out);
  if (scope.prefill_rows > 0 || scope.row_indices != nullptr || listed_ == kNone || layout.segments.size() != 1 ||
      x.floats == nullptr || normed.halves == nullptr || layout.k != norm.width || x.width != norm.width ||
      kernels_->find(lab::Kind::gemv, layout.segments[0].matrix.code.type) != nullptr ||
      kernels_->find(lab::Kind::route) != nullptr) {
    return false;
  }
  RouterArguments arguments;
  arguments.x = x.floats;
  arguments.x_stride = x.stride;
  arguments.norm_offset = config_.units[scope.unit].vectors[norm.weight];
  arguments.epsilon = static_cast<float>(norm.epsilon);
  arguments.matrix = layout.segments[0].matrix;
  if (layout.has_bias) arguments.bias_offset = static_cast<int64_t>(layout.bias_offset);
  arguments.normed = normed.halves;
  arguments.normed_stride = normed.stride;
  arguments.route = route;
  if (!routes_itself(arguments)) return false;
  const ExpertList list = list_of(scope.unit, !answers(scope.unit, scope.rows()));
  check(norm_and_route(arguments, list, scope.stream, true), "a router");
  counters_.weight_bytes_read += arguments.matrix.bytes;
  return true;
}

void CudaExecutor::run_op(const RouteOp& op, const Lowered& lowered, const Scope& scope) {
  RouteArguments arguments;
  arguments.logits = operand(scope, op.in).floats;
  arguments.rows = scope.rows();
  arguments.op = op;
  arguments.weights = weights(scope.unit);
  if (op.select_bias != kNone) {
    arguments.bias_offset = static_cast<int64_t>(config_.units[scope.unit].vectors[op.select_bias]);
  }
  arguments.routes = operand(scope, op.out).floats;
  arguments.positions = device_inputs_.positions + scope.begin;
  arguments.log = expert_log(scope.unit);
  const size_t number = static_cast<size_t>(numbers_.of_unit[scope.unit]) * numbers_.chosen;
  if (device_drawn_ != nullptr) {
    arguments.drawn = device_drawn_ + number;
    arguments.drawn_entries = config_.drawn->entries;
    arguments.drawn_stride = static_cast<int>(numbers_.routed());
    arguments.sequences = device_inputs_.sequences + scope.begin;
  }
  if (shape_.logs_routes) {
    arguments.chosen = device_chosen_ + static_cast<size_t>(scope.begin) * numbers_.routed() + number;
    arguments.chosen_stride = static_cast<int>(numbers_.routed());
  }
  const Mixture& mixture = mixtures_[scope.unit];
  const bool prompt = mixture.prompts && scope.prefill_rows > 0;  // has a list of its own
  listed_ = lists_itself(op, scope.rows()) && scope.rows() <= mixture.rows && !prompt ? op.out : kNone;
  // Theirs knows routes alone: neither lists nor choices that are drawn or logged.
  const UserKernel* theirs = kernels_->find(lab::Kind::route);
  if (arguments.drawn != nullptr || arguments.chosen != nullptr) theirs = nullptr;
  if (theirs != nullptr) listed_ = kNone;
  if (listed_ == kNone) arguments.log = nullptr;
  if (lowered.router) {
    if (route_at_once(arguments, *lowered.before, *lowered.router, scope)) return;
    run_op(*lowered.before, {*lowered.before, {}, {}}, scope);
    run_op(*lowered.router, {*lowered.router, {}, {}}, scope);
  }
  const ExpertList list = list_of(scope.unit, !answers(scope.unit, scope.rows()));
  check(theirs ? theirs->launch(arguments, scope.stream) : cuda::route(arguments, list, scope.stream, true),
        "a router");
}

void CudaExecutor::run_op(const ExpertsOp& op, const Lowered& lowered, const Scope& scope) {
  const Mixture& mixture = mixtures_[scope.unit];
  const Operand x = operand(scope, op.in);
  const __half* halves = x.halves;
  const int stride = padded_width(x.width);
  if (halves == nullptr) {
    check(to_halves(x.floats, x.stride, scope.rows(), x.width, converted_, stride, nullptr, scope.stream, true),
          "a conversion");
    halves = converted_;
  }
  // Kinds of rows are alike to experts, but where prompts have launches of their own.
  const int alike = mixture.prompts ? scope.decode_rows : scope.rows();
  for (int begin = 0; begin < scope.rows();) {
    const bool prompt = begin >= alike;
    Scope some = scope;
    some.begin = scope.begin + begin;
    some.decode_rows = std::min(mixture.rows, (prompt ? scope.rows() : alike) - begin);
    some.prefill_rows = 0;
    run_experts(op, halves + static_cast<size_t>(begin) * stride, stride, some, lowered.sum, prompt);
    begin += some.decode_rows;
  }
  counters_.weight_bytes_read +=
      mixture.expert_bytes * static_cast<size_t>(std::min(op.experts, scope.rows() * mixture.top_k));
}

// `prompt`: by the launches of prompts, whatever the scope calls its rows.
void CudaExecutor::run_experts(const ExpertsOp& op, const __half* x, int x_stride, const Scope& scope,
                               const std::optional<AddOp>& sum, bool prompt) {
  const Mixture& mixture = mixtures_[scope.unit];
  const LinearLayout& gate_up = mixture.layout.gate_up;
  const LinearLayout& down = mixture.layout.down;
  const int rows = scope.rows(), places = rows * mixture.top_k;
  const bool answered = !prompt && answers(scope.unit, rows);
  ExpertList list = list_of(scope.unit, !prompt && !answered);
  if (prompt) {
    list.few_rows = 0;
    list.many_rows = prompt_tile_rows(places, op.experts);
  }
  const bool listed = listed_ == op.routes;
  listed_ = kNone;
  if (!listed) {
    check(list_experts(operand(scope, op.routes).floats, rows, mixture.top_k, op.experts,
                       device_inputs_.positions + scope.begin, list, expert_log(scope.unit), scope.stream, true),
          "a list of experts");
  }
  AnswerArguments answers = answers_;
  if (answered) {
    list = list_of(scope.unit, true);
    answers.list = list;
    answers.in_ram = device_in_ram_ + mixture.first_apart;
    answers.split = device_splits_ + mixture.split;
    answers.x = x;
    answers.x_stride = x_stride;
    answers.unit = scope.unit;
    answers.rows = rows;
    answers.top_k = mixture.top_k;
    check(send_experts(answers, scope.stream, true), "sending experts to the CPU");
  }
  ExpertArguments arguments;
  arguments.weights = weights(scope.unit);
  arguments.first = mixture.layout.first;
  arguments.stride = mixture.layout.stride;
  if (mixture.apart) arguments.addresses = device_expert_table_ + mixture.first_apart;
  arguments.experts = op.experts;
  arguments.rows = rows;
  arguments.top_k = mixture.top_k;
  arguments.list = list;
  const auto run = [&](const LinearLayout& linear) {
    for (const LinearLayout::Segment& segment : linear.segments) {
      ExpertArguments own = arguments;
      own.matrix = segment.matrix;
      if (linear.has_bias) {
        own.bias_offset = static_cast<int64_t>(linear.bias_offset + segment.out_begin * sizeof(float));
      }
      if (own.y != nullptr) own.y += segment.out_begin;
      const UserKernel* theirs = prompt ? nullptr : kernels_->find(lab::Kind::experts, segment.matrix.code.type);
      check(theirs     ? theirs->launch(own, scope.stream)
            : prompt   ? experts_of_prompt(own, scope.stream, true)
            : answered ? experts_left(own, scope.stream, true)
                       : experts_linear(own, scope.stream, true),
            "experts");
      arguments.listed = true;
    }
  };
  arguments.x = x;
  arguments.x_stride = x_stride;
  if (prompt) {
    auto* gathered = reinterpret_cast<__half*>(expert_results_);  // read before there are results
    check(gather_places(x, x_stride, mixture.top_k, places, list, gathered, scope.stream, true), "a prompt's rows");
    arguments.x = gathered;
  }
  const int act_stride = padded_width(down.k);
  if (fused_expert_glu(gate_up)) {
    const bool clamped = op.activation == Activation::clamped_swiglu;
    arguments.epilogue = clamped ? ExpertEpilogue::clamped : ExpertEpilogue::silu;
    arguments.act = expert_act_;
    arguments.act_stride = act_stride;
    arguments.features = down.k;
    arguments.alpha = op.alpha;
    arguments.limit = op.limit;
    run(gate_up);
  } else {
    arguments.y = expert_gate_up_;
    arguments.y_stride = gate_up.n;
    run(gate_up);
    check(experts_glu(expert_gate_up_, gate_up.n, gate_up.interleaved, places, down.k, op, expert_act_, act_stride,
                      scope.stream, true),
          "an activation of experts");
  }
  const CombineArguments combine = sums_of(op, scope, sum);
  const UserKernel* combiner = kernels_->find(lab::Kind::combine);
  const bool itself = !prompt && combines_itself(facts_, rows, mixture.top_k) && down.segments.size() == 1 &&
                      combiner == nullptr && !answered &&
                      kernels_->find(lab::Kind::experts, down.segments[0].matrix.code.type) == nullptr;
  arguments.epilogue = ExpertEpilogue::store;
  arguments.x = expert_act_;
  arguments.x_stride = act_stride;
  arguments.x_of_places = true;
  arguments.y = expert_results_;
  arguments.y_stride = combine.width;
  if (itself) arguments.combine = &combine;
  run(down);
  if (itself) return;
  if (answered) check(receive_experts(answers, expert_results_, scope.stream, true), "the CPU's answers");
  check(combiner ? combiner->launch(combine, scope.stream) : combine_experts(combine, scope.stream, true),
        "the sum of experts");
}

bool CudaExecutor::answers(int unit, int rows) const {
  const Mixture& mixture = mixtures_[unit];
  return mixture.apart && mixture.split != kNone && config_.mail->serves(unit, rows);
}

ExpertList CudaExecutor::list_of(int unit, bool gives_frames) const {
  const Mixture& mixture = mixtures_[unit];
  ExpertList list = expert_list_;
  // A kernel of somebody else's copies nothing.
  const auto theirs = [&](const LinearLayout& linear) {
    return std::ranges::any_of(linear.segments, [&](const LinearLayout::Segment& segment) {
      return kernels_->find(lab::Kind::experts, segment.matrix.code.type) != nullptr;
    });
  };
  if (!gives_frames || !mixture.apart || theirs(mixture.layout.gate_up) || theirs(mixture.layout.down)) return list;
  list.frames.addresses = device_expert_table_ + mixture.first_apart;
  list.frames.in_ram = device_in_ram_ + mixture.first_apart;
  list.frames.offers = device_offers_;
  list.frames.log = device_frame_log_;
  list.frames.first = mixture.first_apart;
  return list;
}

// What experts of the scope's rows add up to.
CombineArguments CudaExecutor::sums_of(const ExpertsOp& op, const Scope& scope, const std::optional<AddOp>& sum) const {
  const Operand out = operand(scope, sum ? sum->out : op.out);
  CombineArguments combine;
  combine.y = expert_results_;
  combine.routes = operand(scope, op.routes).floats;
  combine.rows = scope.rows();
  combine.top_k = mixtures_[scope.unit].top_k;
  combine.width = out.width;
  combine.positions = device_inputs_.positions + scope.begin;
  combine.out = out.floats;
  combine.out_stride = out.stride;
  combine.adds = sum.has_value();
  combine.scale = sum ? sum->scale : 1;
  return combine;
}

uint16_t* CudaExecutor::expert_log(int unit) const {
  const Mixture& mixture = mixtures_[unit];
  return mixture.apart ? device_expert_rows_ + mixture.first_apart : nullptr;
}

}  // namespace millrace::cuda

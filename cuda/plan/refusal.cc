#include "cuda/plan/refusal.h"

#include <algorithm>

#include "core/error.h"
#include "cuda/plan/attention.h"
#include "cuda/plan/decode.h"
#include "cuda/plan/experts.h"
#include "cuda/plan/latent.h"
#include "cuda/plan/prefill.h"
#include "cuda/plan/states.h"
#include "model/experts_layout.h"

namespace millrace::cuda {
namespace {

std::string device_text(const DeviceFacts& device) {
  return format("this GPU (compute capability %d.%d, %d bytes of shared memory a thread block)", device.capability / 10,
                device.capability % 10, device.block_bytes);
}

bool planned(const DeviceFacts& device, const MatrixLayout& matrix) {
  for (int rows = 1; rows <= kDecodeRows; rows = rows < 8 ? rows + 1 : 2 * rows) {
    if (!plan_decode(device, matrix, rows, false)) return false;
    if (decode_norms(matrix, rows) && !plan_decode(device, matrix, rows, true)) return false;
  }
  if (prefill_by_decode(matrix.code.type)) return true;
  return plan_prefill(device, matrix, 1) && plan_prefill(device, matrix, 4096);
}

std::optional<std::string> refusal_of(const DeviceFacts& device, const std::string& name, const LatentOp& op,
                                      const LinearLayout& linear, int window) {
  const LatentShape shape{op.heads, op.rank, op.nope, op.rotary, op.value_dim};
  if (!shape.valid()) {
    return format(
        "%s: kernels for GPUs have latents of at most %d elements and %d that turn, multiples of 8, and %d "
        "of a head that do not, not of %d, %d and %d",
        name.c_str(), kMostLatentRank, kMostLatentRotary, kMostLatentNope, op.rank, op.rotary, op.nope);
  }
  const MatrixLayout& matrix = linear.segments.front().matrix;
  if (window > 0) return name + ": latent attention within a window has no kernels for GPUs";
  if (linear.has_bias || linear.segments.size() != 1) return name + ": what makes keys of latents is no plain matrix";
  if (plan_latent(device, shape, 1, 1, true) && plan_latent_queries(device, shape, matrix, 1) &&
      plan_latent_values(device, shape, matrix, 1)) {
    return std::nullopt;
  }
  return format("%s has no room for latent attention with %d elements", device_text(device).c_str(), op.rank);
}

// Experts that choose by what the operation just before them listed, and that lie alike.
std::optional<std::string> refusal_of(const DeviceFacts& device, const ProgramUnit& unit, const UnitLayout& layout) {
  const RouteOp* route = nullptr;
  int mixtures = 0;
  for (const Op& op : unit.ops) {
    if (const auto* own = std::get_if<RouteOp>(&op)) route = own;
    const auto* experts = std::get_if<ExpertsOp>(&op);
    if (experts == nullptr) continue;
    if (++mixtures > 1 || unit.head || route == nullptr || route->out != experts->routes) {
      return unit.name + ": mixtures have kernels for GPUs where a unit has one, after its router";
    }
    const auto lie = experts_layout(*experts, layout);
    if (!lie) return unit.name + " has experts of several kinds, which kernels for GPUs don't tell apart";
    if (many_rows(device, *lie) > 0) continue;
    return format("%s has no room for experts of %d x %d", device_text(device).c_str(), lie->gate_up.n, lie->gate_up.k);
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> refusal_of(const DeviceFacts& device) {
  if (device.capability >= kLeastCapability) return std::nullopt;
  return format("%s is older than what kernels are written for, %d.%d", device_text(device).c_str(),
                kLeastCapability / 10, kLeastCapability % 10);
}

std::optional<std::string> refusal_of(const DeviceFacts& device, const Program& program,
                                      std::span<const UnitLayout> units) {
  if (auto refused = refusal_of(device)) return refused;
  for (const ProgramUnit& unit : program.units) {
    for (const Op& op : unit.ops) {
      const auto* delta = std::get_if<DeltaOp>(&op);
      if (delta != nullptr && delta->key_dim > kMostKeyDim) {
        return format("%s: kernels for GPUs have keys of at most %d elements where layers keep states, not of %d",
                      unit.name.c_str(), kMostKeyDim, delta->key_dim);
      }
      const auto* attend = std::get_if<AttendOp>(&op);
      if (attend == nullptr) continue;
      const AttentionShape attention{attend->heads, attend->kv_heads, attend->head_dim,
                                     program.kv[attend->kv_class].type};
      bool attends = true;
      for (int rows = 1; rows <= kDecodeRows; rows *= 2) {
        attends = attends && plan_attention_decode(device, attention, rows, 1 << 20) &&
                  plan_attention_prefill(device, attention, 16 * rows);
      }
      if (attends) continue;
      return format("%s has no room for attention with %d heads of %d elements, %d of them keys",
                    device_text(device).c_str(), attention.heads, attention.head_dim, attention.kv_heads);
    }
  }
  for (size_t u = 0; u < units.size(); u++) {
    const ProgramUnit& unit = program.units[u];
    if (auto refused = refusal_of(device, unit, units[u])) return refused;
    for (const Op& op : unit.ops) {
      const auto* latent = std::get_if<LatentOp>(&op);
      if (latent == nullptr) continue;
      if (program.kv[latent->kv_class].type == KvType::q8) {
        return unit.name + ": latents of 8 bits have no kernels for GPUs yet";
      }
      auto refused =
          refusal_of(device, unit.name, *latent, units[u].linears[latent->linear], program.kv[latent->kv_class].window);
      if (refused) return refused;
    }
    for (int i = 0; i < static_cast<int>(units[u].linears.size()); i++) {
      const auto of_expert = [&](const Op& op) {
        const auto* experts = std::get_if<ExpertsOp>(&op);
        return experts != nullptr && experts->has(i);
      };
      if (std::any_of(unit.ops.begin(), unit.ops.end(), of_expert)) continue;
      for (const LinearLayout::Segment& segment : units[u].linears[i].segments) {
        const MatrixLayout& m = segment.matrix;
        if (planned(device, m)) continue;
        return format("%s has no room for a linear of %d x %d in %s (group %d)", device_text(device).c_str(), m.n, m.k,
                      name_of(m.code.type), m.code.group);
      }
    }
  }
  return std::nullopt;
}

}  // namespace millrace::cuda

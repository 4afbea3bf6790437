// Checks a checkpoint against the model's program and lays out its slabs. Reads headers, g_idx, weight_shape and zeros,
// nothing else.
#include "checkpoint/linear_reader.h"
#include "checkpoint/messages.h"
#include "checkpoint/repack.h"
#include "checkpoint/rows.h"
#include "core/memory.h"

namespace millrace {

namespace {

// Codes that agree, or would if both stored their zeros.
bool fusable(const LinearReader& a, const LinearReader& b) {
  MatrixCode left = a.code(), right = b.code();
  left.zeros = right.zeros = false;
  return left == right && a.k_stored() == b.k_stored() && a.permutation() == b.permutation();
}

// Output features side by side, neighbours fused where they can be.
LinearLayout lay_out_parts(SlabBuilder& builder, const LinearReaders& readers) {
  LinearLayout linear;
  linear.k = readers[0]->k();
  for (size_t i = 0; i < readers.size();) {
    MatrixCode code = readers[i]->code();
    int n = 0;
    size_t j = i;
    for (; j < readers.size() && fusable(*readers[i], *readers[j]); j++) {
      n += readers[j]->n();
      code.zeros = code.zeros || readers[j]->code().zeros;
    }
    linear.segments.push_back({builder.matrix(code, n, linear.k, readers[i]->k_stored()), linear.n});
    linear.n += n;
    i = j;
  }
  return linear;
}

LinearLayout lay_out(SlabBuilder& builder, const Checkpoint& checkpoint, const LinearShape& shape,
                     const std::vector<LinearSource>& sources, const LinearReaders& readers) {
  LinearLayout linear;
  if (shape.glu && fusable(*readers[0], *readers[1])) {
    MatrixCode code = readers[0]->code();
    code.zeros = code.zeros || readers[1]->code().zeros;
    linear.interleaved = true;
    linear.k = shape.k;
    linear.n = 2 * static_cast<int>(round_up(static_cast<size_t>(shape.parts[0]), 8));
    linear.segments.push_back({builder.matrix(code, linear.n, shape.k, readers[0]->k_stored()), 0});
  } else {
    linear = lay_out_parts(builder, readers);
  }
  for (size_t i = 0; i < sources.size(); i++) {
    if (sources[i].bias.empty()) continue;
    require_floats(checkpoint, sources[i].bias, sources[i].rows.of == 0 ? shape.parts[i] : sources[i].rows.of);
    linear.has_bias = true;
  }
  if (linear.has_bias) linear.bias_offset = builder.floats(static_cast<size_t>(linear.n));
  return linear;
}

UnitLayout plan_unit(const Checkpoint& checkpoint, const ModelSource& source, int u) {
  const ProgramUnit& unit = source.program.units[u];
  UnitLayout layout;
  SlabBuilder builder;
  for (size_t i = 0; i < unit.vectors.size(); i++) {
    require_vector(checkpoint, source.units[u].vectors[i], unit.vectors[i]);
    check_heads(source.units[u].vectors[i].heads, unit.vectors[i]);
    layout.vectors.push_back(builder.floats(static_cast<size_t>(unit.vectors[i])));
  }
  for (size_t i = 0; i < unit.linears.size(); i++) {
    const LinearReaders readers = open_parts(checkpoint, source, u, static_cast<int>(i));
    layout.linears.push_back(lay_out(builder, checkpoint, unit.linears[i], source.units[u].linears[i], readers));
  }
  layout.bytes = builder.bytes();
  return layout;
}

// One source a weight of the program.
void check_sources(const ModelSource& source) {
  const Program& program = source.program;
  bool sound = source.units.size() == program.units.size() && source.tables.size() == program.tables.size();
  for (size_t u = 0; sound && u < program.units.size(); u++) {
    const ProgramUnit& unit = program.units[u];
    const UnitSource& from = source.units[u];
    sound = from.vectors.size() == unit.vectors.size() && from.linears.size() == unit.linears.size();
    for (size_t i = 0; sound && i < unit.linears.size(); i++) {
      sound = from.linears[i].size() == unit.linears[i].parts.size();
    }
  }
  if (!sound) {
    throw Error(code::kInvalidArgument, "a model's tensors: expected one source for each weight of its program",
                "name every weight's tensors");
  }
}

}  // namespace

SlabPlan plan_slabs(const Checkpoint& checkpoint, const ModelSource& source) {
  const Program& program = source.program;
  check_program(program);
  check_sources(source);
  SlabPlan plan;
  plan.source = source;
  for (size_t t = 0; t < program.tables.size(); t++) {
    const Tensor& tensor = require_weight(checkpoint, source.tables[t], program.vocab, program.tables[t]);
    plan.add_table(embedding_type_of(tensor.dtype), program.tables[t]);
  }
  for (size_t u = 0; u < program.units.size(); u++) {
    if (u == 0 || program.units[u].layer != program.units[u - 1].layer) checkpoint.drop_all();
    plan.units.push_back(plan_unit(checkpoint, source, static_cast<int>(u)));
  }
  checkpoint.drop_all();
  return plan;
}

void SlabPlan::add_table(WeightType type, int width) {
  const size_t bytes = static_cast<size_t>(source.program.vocab) * static_cast<size_t>(width) * element_bytes(type);
  const size_t offset = round_up(embedding_bytes, kSlabAlignment);
  tables.push_back({type, width, offset, bytes});
  embedding_bytes = offset + bytes;
}

}  // namespace millrace

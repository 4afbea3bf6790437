#pragma once
// The built-in operations as an experimenter sees them: one table of names, dimensions and arguments, which the CPU
// twin and the CUDA backend both launch from, TypeScript publishes, and the bench goes through.
//
// Arguments are the same bytes on both devices: activations between operations are float16, the residual stream and
// what a linear stores are float32. (The twin computes on float32 and converts at the edges, outside of what is timed.)
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/slab_layout.h"

namespace millrace::lab {

enum class Kind : uint8_t {
  gemv,  // a linear as decode rows use it
  gemm,  // a linear as prefill rows use it
  rms_norm,
  norm_heads,
  add_bias,
  silu_mul,
  embed,
  attention_decode,
  attention_prefill,
  route,    // of a mixture: which experts answer a row
  experts,  // one linear of theirs, of the rows that chose them
  combine,  // and the sum of their answers
  sample,
};

enum class Element : uint8_t { u8, i32, f16, bf16, f32 };
enum class Access : uint8_t { in, inout, out };

struct Dimension {
  const char* name;
  const char* what;
  double fallback;  // NaN: must be given
  double least;
  double most;
  bool integer = true;
};

struct Parameter {
  const char* name;
  Element element;  // u8 where the dimensions decide
  Access access;
  const char* shape;  // in words of the dimensions
  const char* what;
};

struct Operation {
  std::string name;
  Kind kind;
  WeightType weights = WeightType::f16;  // of a linear
  const char* what;
  std::vector<Dimension> dimensions;
  std::vector<Parameter> parameters;
  bool replaceable = false;  // a kernel of one's own may take its place (millrace_kernel.h)
};

const std::vector<Operation>& operations();
// Throws INVALID_ARGUMENT.
const Operation& find_operation(const std::string& name);

struct Argument {
  const Parameter* parameter;
  Element element;
  std::vector<int64_t> shape;
  size_t bytes;
};

// An operation with its dimensions: all that a launch needs but addresses.
struct Problem {
  const Operation* operation = nullptr;
  std::map<std::string, double> dimensions;  // all of them
  std::vector<Argument> arguments;           // in the order of Operation::parameters
  MatrixLayout matrix;                       // of a linear, in its `slab`; of experts that of the first
  size_t expert_stride = 0;                  // of experts: bytes from one to the next
  size_t weight_bytes = 0;                   // of weights, table rows, keys and values: what must be read at least once
  size_t bytes = 0;                          // what must be read or written at least once, all arguments
  double operations = 0;                     // multiplications and additions

  int operator[](const char* name) const { return static_cast<int>(dimensions.at(name)); }
  double number(const char* name) const { return dimensions.at(name); }
};

// Throws INVALID_ARGUMENT naming the dimension.
Problem make_problem(const std::string& operation, const std::map<std::string, double>& dimensions);

// Fills one `in` or `inout` argument with random values that make sense there; the same on every machine.
void fill_argument(const Problem& problem, size_t argument, uint64_t seed, std::byte* out);

// Linears, and those of experts: their weights have a code.
inline bool has_matrix(Kind kind) {
  return kind == Kind::gemv || kind == Kind::gemm || kind == Kind::experts;
}

// What the `route` operation computes.
KvType kv_type_of(const Problem& problem);
RouteOp route_of(const Problem& problem);
// What the `sample` operation asks of one row.
LogitRequest sample_request(const Problem& problem, int row);

const char* name_of(Element element);
size_t bytes_of(Element element);

}  // namespace millrace::lab

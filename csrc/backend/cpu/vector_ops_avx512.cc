#if defined(__x86_64__)
#include "backend/cpu/vector_avx512.h"

#include "backend/cpu/vector_ops_body.h"

namespace millrace {

const VectorOps vector_ops_avx512 = {rms_norm, unit_length, delta_rule, weighted_rows, dot,
                                     rope,     to_half,     to_q8,      from_half,     from_bfloat16};

}  // namespace millrace
#endif

#include "backend/cpu/vector_plain.h"

#include "backend/cpu/attention_body.h"

namespace millrace {

const AttentionKernels attention_kernels_plain = {attend_span, fold_spans};

}  // namespace millrace

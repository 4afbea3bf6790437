#if defined(__x86_64__)
#include "backend/cpu/vector_avx512.h"

#include "backend/cpu/attention_body.h"

namespace millrace {

const AttentionKernels attention_kernels_avx512 = {attend_span, fold_spans};

}  // namespace millrace
#endif

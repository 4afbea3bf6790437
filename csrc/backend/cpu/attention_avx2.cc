#if defined(__x86_64__)
#include "backend/cpu/vector_avx2.h"

#include "backend/cpu/attention_body.h"

namespace millrace {

const AttentionKernels attention_kernels_avx2 = {attend_span, fold_spans};

}  // namespace millrace
#endif

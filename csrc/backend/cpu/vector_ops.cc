#include "backend/cpu/vector_ops.h"

#include <cstring>

#include "backend/cpu/linear.h"

namespace millrace {

const VectorOps& vector_ops() {
#if defined(__x86_64__)
  const char* name = selected_kernels();
  if (std::strncmp(name, "avx512", 6) == 0) return vector_ops_avx512;
  if (std::strncmp(name, "avx2", 4) == 0) return vector_ops_avx2;
#endif
  return vector_ops_plain;
}

}  // namespace millrace

// The q4 kernels with AVX512-VNNI's int16 dot product; the rest is linear_avx512.cc's.
#if defined(__x86_64__)
#include "backend/cpu/linear_q4_avx512.h"

namespace millrace {

void linear_q4_avx512vnni(const Q4RowBlock& a) {
  q4(a);
}
void linear_q4_many_avx512vnni(const Q4RowBlock& a) {
  q4_many(a);
}

}  // namespace millrace
#endif

// The kernels of integer codes with AVX512-VNNI's int16 dot product; the rest is linear_avx512.cc's.
#if defined(__x86_64__)
#include "backend/cpu/linear_code_avx512.h"
#include "backend/cpu/linear_q4_avx512.h"

namespace millrace {

void linear_q4_avx512vnni(const Q4RowBlock& a) {
  q4(a);
}
void linear_q4_many_avx512vnni(const Q4RowBlock& a) {
  q4_many(a);
}
void linear_code_avx512vnni(const CodeRowBlock& a) {
  code_avx512(a);
}

}  // namespace millrace
#endif

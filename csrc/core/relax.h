#pragma once
// What a thread does between two looks at a word that another thread is about to change.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace millrace {

inline void cpu_relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace millrace

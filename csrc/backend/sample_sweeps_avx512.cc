#if defined(__x86_64__)
#include "backend/sample_sweeps_body.h"

namespace millrace {

const SampleSweeps sample_sweeps_avx512 = {sweep_maximum, sweep_weight, sweep_random, sweep_scores, sweep_exponentials};

}  // namespace millrace
#endif

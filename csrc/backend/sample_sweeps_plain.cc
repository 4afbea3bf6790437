#include "backend/sample_sweeps_body.h"

namespace millrace {

const SampleSweeps sample_sweeps_plain = {sweep_maximum, sweep_weight, sweep_random, sweep_scores, sweep_exponentials};

}  // namespace millrace

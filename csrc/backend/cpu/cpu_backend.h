#pragma once
// The CPU twin: the same interface as a GPU, with real asynchronous streams (a thread each), SIMD kernels and host
// memory as device memory.
#include <cstddef>
#include <functional>
#include <memory>

#include "backend/backend.h"

namespace millrace {

// For tests: delays at chosen places show which waits hold a pass together; what a callback throws fails the operation.
// Callbacks run on stream threads, of several streams at a time, outside any lock; before_answer also on the pool's.
struct CpuStreamHooks {
  std::function<void()> before_copy;     // before every chunk of a copy
  std::function<void()> before_compute;  // before every operation of an executor
  std::function<void()> before_answer;   // before every row of logits is sampled from
  size_t copy_chunk = size_t{1} << 20;   // bytes a copy moves between two calls of before_copy
  const char* device = "cpu";            // its name: models on devices of one name share a worker
};

// A backend that computes with `threads` threads (at least 1), which its executors share: operations of several
// streams take turns. Streams, events, memory and executors may outlive the backend.
std::unique_ptr<Backend> create_cpu_backend(int threads, CpuStreamHooks hooks = {});

}  // namespace millrace

#pragma once
// Launches captured as one graph.
//
// Captures are of the thread's own (cudaStreamCaptureModeThreadLocal): other threads of the process may allocate, free,
// register, copy and load modules meanwhile. What no mode allows is a wait for the whole device, or the legacy stream
// beside a blocking one. Nothing in cuda/ does either; other add-ons of the process may, and then both lose: their call
// fails and the capture is invalid.
#include <cuda_runtime_api.h>

#include <functional>
#include <memory>

namespace millrace::cuda {

struct GraphDeleter {
  void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};
using Graph = std::unique_ptr<CUgraphExec_st, GraphDeleter>;

// What `enqueue` launches on `stream`, which is not launched now. Null where somebody else has made the capture
// invalid: to be launched one by one, or captured again. Throws what `enqueue` throws, and errors that name `what`.
Graph capture(cudaStream_t stream, const char* what, const std::function<void()>& enqueue);

}  // namespace millrace::cuda

#include "cuda/runtime/graph.h"

#include "cuda/check.h"

namespace millrace::cuda {

namespace {

bool invalidated(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) == cudaSuccess && status == cudaStreamCaptureStatusInvalidated;
}

// The graph so far, for nothing: the stream takes launches again.
void drop(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(stream, &graph);
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();
}

}  // namespace

Graph capture(cudaStream_t stream, const char* what, const std::function<void()>& enqueue) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), what);
  try {
    enqueue();
  } catch (...) {
    const bool by_others = invalidated(stream);
    drop(stream);
    if (by_others) return nullptr;
    throw;
  }
  if (invalidated(stream)) {
    drop(stream);
    return nullptr;
  }
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  if (ended == cudaErrorStreamCaptureInvalidated) {
    cudaGetLastError();
    return nullptr;
  }
  check(ended, what);
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, what);
  return Graph(executable);
}

}  // namespace millrace::cuda

#include "cuda/runtime/stream.h"

#include "cuda/check.h"
#include "cuda/pieces.h"
#include "cuda/ranges.h"

namespace millrace::cuda {

CudaEvent::CudaEvent(EventUse use) {
  const unsigned flags = use == EventUse::timed    ? cudaEventDefault
                         : use == EventUse::sleeps ? cudaEventDisableTiming | cudaEventBlockingSync
                                                   : cudaEventDisableTiming;
  check(cudaEventCreateWithFlags(&event_, flags), "creating an event");
}

CudaEvent::~CudaEvent() {
  cudaEventDestroy(event_);
}

bool CudaEvent::done() const {
  return cudaEventQuery(event_) != cudaErrorNotReady;
}

double CudaEvent::milliseconds_since(const Event& earlier) const {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, static_cast<const CudaEvent&>(earlier).event_, event_), "reading a time");
  return ms;
}

void CudaEvent::synchronize() {
  check(cudaEventSynchronize(event_), "waiting for a pass");
}

CudaStream::CudaStream(int device) : device_(device) {
  check(cudaSetDevice(device_), "choosing the GPU");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
  check(cudaDeviceGetAttribute(&reads_host_pointers_, cudaDevAttrCanUseHostPointerForRegisteredMem, device_),
        "asking the GPU");
}

CudaStream::~CudaStream() {
  cudaSetDevice(device_);
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

void CudaStream::use_device() const {
  int now = -1;
  if (cudaGetDevice(&now) == cudaSuccess && now == device_) return;
  check(cudaSetDevice(device_), "choosing the GPU");
}

void CudaStream::release_held() {
  use_device();
  if (held_ != nullptr) held_->flush(*this);
}

void CudaStream::copy(std::byte* destination, const std::byte* source, size_t bytes) {
  release_held();
  const Range range("copy", static_cast<int64_t>(bytes));
  check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDefault, stream_), "copying");
}

void CudaStream::copy_pieces(std::span<const CopyPiece> pieces, size_t bytes) {
  if (reads_host_pointers_ == 0 || bytes % 16 != 0) {
    Stream::copy_pieces(pieces, bytes);
    return;
  }
  release_held();
  const Range range("copy pieces", static_cast<int64_t>(pieces.size() * bytes));
  check(cuda::copy_pieces(pieces, bytes, stream_), "copying");
}

void CudaStream::fill(std::byte* destination, uint8_t value, size_t bytes) {
  release_held();
  check(cudaMemsetAsync(destination, value, bytes, stream_), "filling");
}

void CudaStream::record(Event& event) {
  release_held();
  check(cudaEventRecord(static_cast<CudaEvent&>(event).get(), stream_), "recording an event");
}

void CudaStream::wait(Event& event) {
  release_held();
  check(cudaStreamWaitEvent(stream_, static_cast<CudaEvent&>(event).get(), 0), "waiting for an event");
}

void CudaStream::synchronize() {
  release_held();
  check(cudaStreamSynchronize(stream_), "waiting for a stream");
}

}  // namespace millrace::cuda

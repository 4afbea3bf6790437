#pragma once
// Streams and events of one GPU. Every stream is non-blocking: nothing here or elsewhere in cuda/ uses the legacy
// stream or waits for a whole device, which is illegal while any thread captures a graph there.
#include <cuda_runtime_api.h>

#include "backend/backend.h"

namespace millrace::cuda {

class CudaEvent final : public Event {
 public:
  explicit CudaEvent(EventUse use);
  ~CudaEvent() override;
  bool done() const override;
  void synchronize() override;
  double milliseconds_since(const Event& earlier) const override;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

class CudaStream;

// Holds back what it was handed for a stream, until the stream is used otherwise.
class Holder {
 public:
  virtual void flush(CudaStream& stream) = 0;

 protected:
  ~Holder() = default;
};

class CudaStream final : public Stream {
 public:
  explicit CudaStream(int device);
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  void copy(std::byte* destination, const std::byte* source, size_t bytes) override;
  void copy_pieces(std::span<const CopyPiece> pieces, size_t bytes) override;
  void fill(std::byte* destination, uint8_t value, size_t bytes) override;
  void record(Event& event) override;
  void wait(Event& event) override;
  void synchronize() override;

  cudaStream_t get() const { return stream_; }
  // A thread may have several devices' streams in hand: what it does next is of this one.
  void use_device() const;
  // Whose operations are held back on this stream; null: nobody's.
  void hold(Holder* holder) { held_ = holder; }

 private:
  void release_held();

  int device_;
  int reads_host_pointers_ = 0;  // its kernels find pinned memory at the host's own addresses
  cudaStream_t stream_ = nullptr;
  Holder* held_ = nullptr;
};

}  // namespace millrace::cuda

#pragma once
// What one opened lab holds, by number: buffers, streams, events, kernels. One thread calls it.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lab/lab.h"

namespace millrace::lab {

struct LaunchRequest {
  std::string operation;
  std::map<std::string, double> dimensions;
  std::vector<std::pair<uint32_t, size_t>> arguments;  // buffer and offset, in the order of the parameters
  uint32_t kernel = 0;                                 // 0: the built-in one
};

class Session {
 public:
  explicit Session(std::unique_ptr<Device> device);
  ~Session();

  uint32_t allocate(size_t bytes, bool host);
  uint32_t create_stream();
  uint32_t create_event();
  uint32_t load_kernel(const KernelImage& image);
  Kernel::Facts facts(uint32_t kernel) const { return kernel_of(kernel)->facts(); }
  // After all that was enqueued has run.
  void release(uint32_t id);

  // Both after all that was enqueued on any stream has run.
  void write(uint32_t buffer, size_t offset, const std::vector<std::byte>& bytes);
  std::vector<std::byte> read(uint32_t buffer, size_t offset, size_t bytes);

  void copy(uint32_t stream, uint32_t to, size_t to_offset, uint32_t from, size_t from_offset, size_t bytes);
  void fill(uint32_t stream, uint32_t buffer, size_t offset, size_t bytes, uint8_t value);
  void record(uint32_t stream, uint32_t event);
  void wait(uint32_t stream, uint32_t event);
  void synchronize(uint32_t stream);
  double elapsed_ms(uint32_t begin, uint32_t end);

  void launch(uint32_t stream, const LaunchRequest& request);
  std::vector<double> time(const std::vector<LaunchRequest>& requests, int count, int repeats);
  // Random inputs, and 0xff in outputs: NaN in every float. `outputs` false: the outputs stay.
  void randomise(const LaunchRequest& request, uint64_t seed, bool outputs);
  double read_bandwidth() { return device_->read_bandwidth(); }

 private:
  std::byte* at(uint32_t buffer, size_t offset, size_t bytes) const;
  Stream& stream_of(uint32_t id) const;
  Event& event_of(uint32_t id) const;
  std::shared_ptr<Kernel> kernel_of(uint32_t id) const;
  Launch launch_of(const LaunchRequest& request) const;
  void finish();

  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> own_;  // of reads and writes
  uint32_t next_ = 1;
  std::map<uint32_t, std::unique_ptr<Memory>> buffers_;
  std::map<uint32_t, std::unique_ptr<Stream>> streams_;
  std::map<uint32_t, std::unique_ptr<Event>> events_;
  std::map<uint32_t, std::shared_ptr<Kernel>> kernels_;
};

}  // namespace millrace::lab

#pragma once
// The lab: one device's memory, streams, events, and every built-in operation, one at a time. For experiments and for
// `millrace bench kernel`; models do not come through here.
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/kernel_image.h"
#include "lab/operations.h"

namespace millrace::lab {

// A kernel of the experimenter's own, loaded on one device.
class Kernel {
 public:
  virtual ~Kernel() = default;
  struct Facts {
    int registers = 0;
    int shared_bytes = 0;  // static
    int local_bytes = 0;   // a thread: spilled registers among them
    int threads = 0;       // of the launch
  };
  virtual Facts facts() const = 0;
};

struct Launch {
  Problem problem;
  std::vector<std::byte*> arguments;  // in the order of the operation's parameters
  std::shared_ptr<Kernel> kernel;     // instead of the built-in one
};

// Calls come from one thread, which may wait for the device.
class Device {
 public:
  virtual ~Device() = default;
  virtual Backend& backend() = 0;
  // Throws INVALID_ARGUMENT where the image, the kernel or its launch does not suit.
  virtual std::shared_ptr<Kernel> load_kernel(const KernelImage& image) = 0;
  virtual void launch(Stream& stream, const Launch& launch) = 0;
  // Microseconds a launch: `repeats` times `count` launches one after the other, over `launches` in turn, after one
  // round that is not counted. On a GPU a round is one graph of dependent launches; on the CPU what converts arguments
  // is not counted.
  virtual std::vector<double> time(const std::vector<Launch>& launches, int count, int repeats) = 0;
  // Bytes a second of one pass over far more than the caches hold, the best of several.
  virtual double read_bandwidth() = 0;
};

std::unique_ptr<Device> create_cpu_device(int threads);

}  // namespace millrace::lab

#pragma once
// Work that threads do once on each device. Every file of kernels reads this, once for each kind of GPU, so it goes
// without <atomic>, which brings strings and mutexes and is a quarter of what a small file takes to compile.
#include <cstdint>

namespace millrace::cuda {

// Of so many devices whoever comes after the first pays a load; of others a lock, or the work again.
inline constexpr int kFewDevices = 64;

// Work done on each device by whoever comes first; several at once all do it, which must do no harm.
class DonePerDevice {
 public:
  // `Status` is whatever prepare() returns, its zero is success. Calls prepare() unless it has succeeded there; what it
  // wrote is seen by whoever it is not called for.
  template <class Prepare>
  auto run(int device, const Prepare& prepare) -> decltype(prepare()) {
    using Status = decltype(prepare());
    const uint64_t bit = device >= 0 && device < kFewDevices ? uint64_t{1} << device : 0;
    if ((__atomic_load_n(&done_, __ATOMIC_ACQUIRE) & bit) != 0) return Status{};
    const Status status = prepare();
    if (status == Status{}) __atomic_fetch_or(&done_, bit, __ATOMIC_RELEASE);
    return status;
  }

 private:
  uint64_t done_ = 0;  // a bit a device
};

}  // namespace millrace::cuda

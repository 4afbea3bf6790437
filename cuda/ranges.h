#pragma once
// NVTX ranges: what a profiler shows above the kernels. Without a profiler attached each costs a few nanoseconds.
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define MILLRACE_NVTX 1
#endif

#include <cstdint>

namespace millrace::cuda {

// From here to the end of the scope, on the thread that enqueues. `text` is a literal; `payload` a number beside it:
// the unit, the rows, the bytes.
class Range {
 public:
#if defined(MILLRACE_NVTX)
  Range(const char* text, int64_t payload) {
    nvtxEventAttributes_t attributes{};
    attributes.version = NVTX_VERSION;
    attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
    attributes.message.ascii = text;
    attributes.payloadType = NVTX_PAYLOAD_TYPE_INT64;
    attributes.payload.llValue = payload;
    nvtxDomainRangePushEx(domain(), &attributes);
  }
  ~Range() {
    nvtxDomainRangePop(domain());
  }

 private:
  static nvtxDomainHandle_t domain() {
    static const nvtxDomainHandle_t handle = nvtxDomainCreateA("millrace");
    return handle;
  }
#else
  Range(const char*, int64_t) {}
#endif

 public:
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
};

}  // namespace millrace::cuda

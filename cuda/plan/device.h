#pragma once
// What launches are planned by. Nothing in this folder calls CUDA or includes its headers: a plan is a function of
// these facts and of the problem, so that every GPU's plans are tested on machines without one.
//
// A row's bits may depend on what is here and on the matrix or the heads, never on the number of rows: two plans for
// one matrix differ in how rows and row blocks are cut, not in the order of sums.

namespace millrace::cuda {

struct DeviceFacts {
  int capability = 0;  // of the code that runs there, 10 * major + minor: PTX of sm_80 stays 80 on an H100
  int sms = 0;
  int sm_bytes = 0;     // of shared memory
  int block_bytes = 0;  // that a thread block may have of them, its static ones included
  bool sm90 = false;    // the kernels of the _sm90 files are in this build and run there

  bool clusters() const { return capability >= 90; }
  bool programmatic() const { return capability >= 90; }  // a launch may begin before its predecessor has ended
};

// Below this nothing compiles: tensor cores of float16 by ldmatrix came with it.
inline constexpr int kLeastCapability = 75;

// What the system keeps of an SM's shared memory for each thread block.
inline constexpr int kReservedBytes = 1024;

struct LaunchShape {
  int grid[3] = {1, 1, 1};
  int threads = 0;
  int cluster = 1;        // thread blocks along x that form one
  bool packed = false;    // several blocks of a cluster may share an SM (common.cuh)
  int dynamic_bytes = 0;  // of shared memory
  int static_bytes = 0;   // the kernel's own, at most
};

// The facts as a smaller GPU would have them: at most so many bytes a thread block, at most this capability; 0: as they
// are. Tests run the plans of other GPUs by it.
constexpr DeviceFacts limited(DeviceFacts facts, int block_bytes, int capability) {
  if (capability > 0 && capability < facts.capability) facts.capability = capability;
  if (block_bytes > 0 && block_bytes < facts.block_bytes) {
    facts.block_bytes = block_bytes;
    facts.sm_bytes = block_bytes + (facts.capability >= 80 ? kReservedBytes : 0);
  }
  facts.sm90 = facts.sm90 && facts.capability == 90;
  return facts;
}

}  // namespace millrace::cuda

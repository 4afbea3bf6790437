#pragma once
// GPUs that reach each other's memory.

namespace millrace::cuda {

// Kernels of GPU `from` reach memory of GPU `to`, from here on and for good. False where the two have no way, or none
// that brings what is written. Any thread.
bool open_peer(int from, int to);

}  // namespace millrace::cuda

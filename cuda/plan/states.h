#pragma once
// What kernels of layers that keep states (cuda/delta.h) are written for.

namespace millrace::cuda {

inline constexpr int kMostKeyDim = 256;  // elements of a key
inline constexpr int kMostTaps = 16;     // of a convolution

}  // namespace millrace::cuda

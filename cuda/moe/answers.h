#pragma once
// Experts that the CPU answers beside the GPU (backend/expert_mail.h): some of those that lie in RAM leave the list and
// go to mapped memory with the rows that chose them; their results come from there.
#include "backend/expert_mail.h"
#include "cuda/moe/experts.h"

namespace millrace::cuda {

// Of the GPU's own: what it has sent.
struct AnswerState {
  uint64_t ticket = 0;  // of the last task
  int32_t places = 0;   // of it; 0: nothing was sent for the list at hand
};

struct AnswerArguments {
  ExpertList list;
  const uint8_t* in_ram = nullptr;  // [experts] of the unit
  const uint16_t* split = nullptr;  // [experts + 1]: of so many missed, how many go
  const __half* x = nullptr;        // [rows, x_stride]
  int x_stride = 0;
  int unit = 0, rows = 0, top_k = 0, width = 0;
  AnswerState* state = nullptr;
  int32_t* places = nullptr;  // those that were sent
  // Mapped: as ExpertMail has them.
  ExpertMailState* mail_state = nullptr;
  ExpertMailTask* task = nullptr;
  ExpertMailEntry* entries = nullptr;
  int32_t* mail_places = nullptr;
  float* mail_x = nullptr;
  const float* mail_y = nullptr;
};

// Behind the list, before its experts: leaves tiles of few rows of missed experts out, as many as `split` says.
cudaError_t send_experts(const AnswerArguments& arguments, cudaStream_t stream, bool programmatic);
// As experts_linear(), of a list from which that has taken some.
cudaError_t experts_left(const ExpertArguments& arguments, cudaStream_t stream, bool programmatic);
// Behind the experts: waits for the answer, if anything was sent; results[place, :] of its places, [places, width].
cudaError_t receive_experts(const AnswerArguments& arguments, float* results, cudaStream_t stream, bool programmatic);

}  // namespace millrace::cuda

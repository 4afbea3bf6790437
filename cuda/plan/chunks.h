#pragma once
// How many chunks (plan/decode.h) a matrix's row blocks have, and how large they are.
#include "model/matrix_layout.h"

namespace millrace::cuda {

int decode_chunks(const MatrixLayout& matrix);   // of a row block
int decode_chunk_bytes(const MatrixCode& code);  // of a whole one

}  // namespace millrace::cuda

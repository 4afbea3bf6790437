#pragma once
// The options of sampling that are one number each: this list is all of them. From it come the fields of every struct
// that carries them, what the addon reads of a request and the names that it publishes. What they do is in sample.h and
// sample_arithmetic.h.
#include <cstdint>

// X(type, field, JavaScript's name, the value that changes nothing)
#define MILLRACE_SAMPLING_OPTIONS(X)                      \
  X(float, temperature, "temperature", 0.0f)              \
  X(int32_t, top_k, "topK", 0)                            \
  X(float, top_p, "topP", 1.0f)                           \
  X(float, min_p, "minP", 0.0f)                           \
  X(float, typical_p, "typicalP", 1.0f)                   \
  X(float, repetition_penalty, "repetitionPenalty", 1.0f) \
  X(float, presence_penalty, "presencePenalty", 0.0f)     \
  X(float, frequency_penalty, "frequencyPenalty", 0.0f)

// In a struct: a field for each.
#define MILLRACE_SAMPLING_FIELD(type, field, name, fallback) type field = fallback;

namespace millrace {

// Copies them all from one struct that has them to another.
template <typename From, typename To>
void copy_sampling_options(const From& from, To& to) {
#define MILLRACE_COPY_FIELD(type, field, name, fallback) to.field = from.field;
  MILLRACE_SAMPLING_OPTIONS(MILLRACE_COPY_FIELD)
#undef MILLRACE_COPY_FIELD
}

}  // namespace millrace

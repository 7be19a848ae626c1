// RMS norms of a few tokens, each of which is several small operations elsewhere.

#pragma once

#include "vectors.h"

// As a number of the dtype, in which each of torch's operations rounds.
template <class T> static inline float as(float value) {
  T number;
  narrowed(value, number);
  return widened(number);
}

// `[tokens, size]` by the root of their mean square, times `scale` `[size]`. With `rounds_first`
// what is scaled is of the dtype already (Llama), otherwise it is float32 (Gemma).
template <class T>
static void norm(int64_t tokens, int64_t size, float epsilon, bool rounds_first, const float* scale,
                 const T* given, T* result) {
  for (int64_t t = 0; t < tokens; t++, given += size, result += size) {
    Vector sums = {};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
      const Vector states = load(given + i);
      sums += states * states;
    }
    float sum = summed(sums);
    for (; i < size; i++) sum += widened(given[i]) * widened(given[i]);
    const float by = 1.0f / std::sqrt(sum / size + epsilon);
    for (i = 0; i < size; i++) {
      const float state = widened(given[i]) * by;
      narrowed((rounds_first ? as<T>(state) : state) * scale[i], result[i]);
    }
  }
}

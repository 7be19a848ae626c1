// Linear layers of a few tokens, whose time is that of reading the weights.

#pragma once

#include "vectors.h"

// Tokens that a row of weights is read for at once: as many as their sums have registers.
constexpr int TOGETHER = LANES == 16 ? 8 : 4;
constexpr int AHEAD = 1024;      // bytes that memory is asked for before they are needed
constexpr int64_t FEW = 64;      // rows of weights that one thread computes

// Of `count` tokens `[count, in]` the products with a row of weights. The order of a token's sum
// does not depend on how many tokens there are.
template <int COUNT, class T>
static inline void products_of(const T* row, const float* states, int64_t in, float* out) {
  Vector sums[COUNT][2] = {};
  int64_t j = 0;
  for (; j + 2 * LANES <= in; j += 2 * LANES) {
    const char* soon = reinterpret_cast<const char*>(row + j) + AHEAD;
    if (j * sizeof(T) % 64 == 0) __builtin_prefetch(soon);
    if (2 * LANES * sizeof(T) > 64) __builtin_prefetch(soon + 64);
    const Vector first = load(row + j), second = load(row + j + LANES);
    for (int t = 0; t < COUNT; t++) {
      sums[t][0] += first * load(states + t * in + j);
      sums[t][1] += second * load(states + t * in + j + LANES);
    }
  }
  for (int t = 0; t < COUNT; t++) {
    const Vector sum = sums[t][0] + sums[t][1];
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += sum[lane];
    for (int64_t rest = j; rest < in; rest++) total += widened(row[rest]) * states[t * in + rest];
    out[t] = total;
  }
}

// The same of the largest power of two of tokens that are there, up to COUNT; returns how many.
template <int COUNT, class T>
static inline int products_of_most(const T* row, const float* states, int64_t in, int64_t there,
                                   float* out) {
  if constexpr (COUNT > 1)
    if (there < COUNT) return products_of_most<COUNT / 2>(row, states, in, there, out);
  products_of<COUNT>(row, states, in, out);
  return COUNT;
}

// `[tokens, in]` times weights `[out, in]` turned, and the bias `[out]` if there is one: sums are
// float32, and rounded once.
template <class T>
static void linear(int64_t tokens, int64_t in, int64_t out, const T* weights, const T* bias,
                   const T* given, T* result) {
  Floats states(tokens * in);
  for (int64_t i = 0; i < tokens * in; i++) states[i] = widened(given[i]);
  // Contiguous rows for each thread, as many for each.
#pragma omp parallel for schedule(static) if (out > FEW)
  for (int64_t i = 0; i < out; i++) {
    const T* row = weights + i * in;
    const float added = bias ? widened(bias[i]) : 0.0f;
    for (int64_t t = 0; t < tokens;) {
      float sums[TOGETHER];
      const int count = products_of_most<TOGETHER>(row, &states[t * in], in, tokens - t, sums);
      for (int u = 0; u < count; u++) narrowed(sums[u] + added, result[(t + u) * out + i]);
      t += count;
    }
  }
}

// Linear layers of a few tokens in bfloat16, whose time is that of reading the weights.

#pragma once

#include "vectors.h"

constexpr int TOGETHER = 4;      // tokens that a row of weights is read for at once
constexpr int AHEAD = 1024;      // bytes that memory is asked for before they are needed
constexpr int64_t PIECE = 64;    // rows of weights that a thread takes at once

// Of `count` tokens `[count, in]` the products with a row of weights. The order of a token's sum
// does not depend on how many tokens there are.
template <int COUNT>
static inline void products_of(const BFloat16* row, const float* states, int64_t in, float* out) {
  Vector sums[COUNT][2] = {};
  int64_t j = 0;
  for (; j + 2 * LANES <= in; j += 2 * LANES) {
    if (j * 2 % 64 == 0) __builtin_prefetch(reinterpret_cast<const char*>(row + j) + AHEAD);
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

// `[tokens, in]` times weights `[out, in]` turned, and the bias `[out]` if there is one: sums are
// float32, and rounded once.
static void linear(int64_t tokens, int64_t in, int64_t out, const BFloat16* weights,
                   const BFloat16* bias, const BFloat16* given, BFloat16* result) {
  Floats states(tokens * in);
  for (int64_t i = 0; i < tokens * in; i++) states[i] = widened(given[i]);
#pragma omp parallel for schedule(static) if (out > PIECE)
  for (int64_t begin = 0; begin < out; begin += PIECE)
    for (int64_t i = begin; i < std::min(out, begin + PIECE); i++) {
      const BFloat16* row = weights + i * in;
      const float added = bias ? widened(bias[i]) : 0.0f;
      for (int64_t t = 0; t < tokens; t += TOGETHER) {
        float sums[TOGETHER];
        const float* from = &states[t * in];
        const int64_t count = std::min<int64_t>(TOGETHER, tokens - t);
        if (count == TOGETHER) products_of<TOGETHER>(row, from, in, sums);
        else for (int64_t u = 0; u < count; u++) products_of<1>(row, from + u * in, in, sums + u);
        for (int64_t u = 0; u < count; u++) narrowed(sums[u] + added, result[(t + u) * out + i]);
      }
    }
}

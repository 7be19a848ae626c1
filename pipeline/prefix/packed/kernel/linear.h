// Linear layers of a few tokens, whose time is that of reading the weights.

#pragma once

#include "vectors.h"

// Tokens that a row of weights is read for at once: as many as their sums have registers.
constexpr int TOGETHER = LANES == 16 ? 8 : 4;
constexpr int AHEAD = 8192;      // bytes that memory is asked for before they are needed
constexpr int64_t FEW = 64;      // rows of weights that one thread computes
constexpr size_t NEAREST = 32 << 10;  // bytes of a processor's nearest cache, at the least
constexpr int64_t CHUNK = 32;    // rows of weights that are kept for all tokens

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
    float total = summed(sums[t][0] + sums[t][1]);
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

// `take(row, token, product)` of each token with each of `count` rows of weights. The rows stay in
// the processor's cache for all tokens, a few of which stay in the one nearest to it.
template <class T, class Take>
static inline void each_product(const T* rows, int64_t count, int64_t tokens, int64_t in,
                                const float* states, Take take) {
  const bool fit = TOGETHER * in * sizeof(float) <= NEAREST;
  for (int64_t t = 0, done = 0; t < tokens; t += done)
    for (int64_t i = 0; i < count; i++) {
      float sums[TOGETHER];
      const T* row = rows + i * in;
      const float* from = states + t * in;
      done = fit ? products_of_most<TOGETHER>(row, from, in, tokens - t, sums)
                 : products_of_most<TOGETHER / 2>(row, from, in, tokens - t, sums);
      for (int64_t u = 0; u < done; u++) take(i, t + u, sums[u]);
    }
}

template <class T> static Floats widened(const T* states, int64_t count) {
  Floats result(count);
  for (int64_t i = 0; i < count; i++) result[i] = widened(states[i]);
  return result;
}

static inline float added_to(const float* bias, int64_t i) { return bias ? bias[i] : 0.0f; }
static inline float added_to(const BFloat16* bias, int64_t i) {
  return bias ? widened(bias[i]) : 0.0f;
}

// The weights of a layer `[out, in]`, and its bias `[out]` or null.
template <class T> struct Layer {
  const T *weights, *bias;
};

// `[tokens, in]` times the weights turned, and the bias, as `[tokens, out]`: sums are float32, and
// rounded once. The threads of a region share the rows, contiguous and as many for each.
template <class T>
static inline void share_rows(Layer<T> layer, int64_t tokens, int64_t in, int64_t out,
                              const float* states, T* result) {
#pragma omp for schedule(static) nowait
  for (int64_t first = 0; first < out; first += CHUNK)
    each_product(layer.weights + first * in, std::min(CHUNK, out - first), tokens, in, states,
                 [=](int64_t i, int64_t t, float sum) {
                   const float biased = sum + added_to(layer.bias, first + i);
                   narrowed(biased, result[t * out + first + i]);
                 });
}

// Layers of the same states; results `[tokens, outs[l]]` one after another.
template <class T>
static void linear(int64_t tokens, int64_t in, int64_t layers, const int64_t* outs,
                   const T* const* weights, const T* const* biases, const T* given, T* result) {
  const Floats states = widened(given, tokens * in);
  int64_t rows = 0;
  for (int64_t l = 0; l < layers; l++) rows += outs[l];
#pragma omp parallel if (rows > FEW)
  {
    T* to = result;
    for (int64_t l = 0; l < layers; to += tokens * outs[l++])
      share_rows<T>({weights[l], biases[l]}, tokens, in, outs[l], states.data(), to);
  }
}

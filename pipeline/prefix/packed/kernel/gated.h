// Gated MLPs (Shazeer 2020, arXiv 2002.05202) of a few tokens, as one call.

#pragma once

#include "linear.h"
#include "norm.h"
#include "weights.h"

enum Activation : int64_t { SILU, GELU_BY_TANH, GELU };

static inline Vector activated(Vector x, int64_t activation) {
  if (activation == SILU) {
    const Vector most = Vector{} + 126.0f;  // the largest power that there is
    Vector power = x * -LOG2_E;
    power = power > most ? most : power;
    return x / (1.0f + power_of_two<true>(power));
  }
  if (activation == GELU_BY_TANH) {
    const Vector inner = (x * x * x * 0.044715f + x) * 0.79788456f;
    return x * 0.5f * (1.0f + hyperbolic_tangent(inner));
  }
  for (int lane = 0; lane < LANES; lane++)
    x[lane] *= 0.5f * (1.0f + std::erf(x[lane] * 0.70710678f));
  return x;
}

// down(activation(gate(x)) * up(x)) of x `[tokens, in]`: gate and up `[middle, in]`, down
// `[out, middle]`. Each step rounds as an operation of the dtype does.
template <class T>
static void gated(int64_t tokens, int64_t in, int64_t middle, int64_t out, int64_t activation,
                  Layer<T> gate, Layer<T> up, Layer<T> down, const T* given, T* result) {
  const Floats states = widened(given, tokens * in);
  Floats weighed(tokens * middle);
#pragma omp parallel
  {
    Floats gates(tokens * LANES), ups(tokens * LANES);  // [tokens, LANES]
#pragma omp for schedule(static)
    for (int64_t first = 0; first < middle; first += LANES) {
      const int64_t count = std::min<int64_t>(LANES, middle - first);
      each_product(gate.weights + first * in, count, tokens, in, states.data(),
                   [&](int64_t i, int64_t t, float sum) {
                     gates[t * LANES + i] = as<T>(sum + added_to(gate.bias, first + i));
                   });
      each_product(up.weights + first * in, count, tokens, in, states.data(),
                   [&](int64_t i, int64_t t, float sum) {
                     ups[t * LANES + i] = as<T>(sum + added_to(up.bias, first + i));
                   });
      for (int64_t t = 0; t < tokens; t++) {
        const Vector open = activated(load(&gates[t * LANES]), activation);
        for (int64_t i = 0; i < count; i++)
          weighed[t * middle + first + i] = as<T>(as<T>(open[i]) * ups[t * LANES + i]);
      }
    }
    share_rows(down, tokens, middle, out, weighed.data(), result);
  }
}

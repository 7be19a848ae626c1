// Decoder layers of a few tokens, but for their attention: what stands before it, and after it.

#pragma once

#include "gated.h"

// A norm's scale, null for no norm; `few_tokens/layer_parts.py` lays all of this out.
struct Norm {
  const float* scale;
  float epsilon;
  int32_t rounds_first;
};

template <class T> struct DecoderLayer {
  int64_t size, heads, kv_heads, dim, middle, activation;
  Norm input, inner, query, key;  // the second is of the MLP, the others of each head
  Layer<T> q, k, v, o, gate, up, down;
};

// Heads `[tokens, heads, dim]`, normed where there is a norm, and rotated by `cos` and `sin`
// `[tokens, dim]`: halves of a head are its pairs' parts (Su et al. 2021, arXiv 2104.09864).
template <class T>
static void rotate(int64_t tokens, int64_t heads, int64_t dim, const Norm& by, const T* cos,
                   const T* sin, T* states) {
  if (by.scale)
    norm(tokens * heads, dim, by.epsilon, by.rounds_first, by.scale, states, states);
  const int64_t half = dim / 2;
  // Products stand in memory before they are summed: contracted into one instruction with the sum,
  // they would not round as the model's own do.
  Floats straight(dim), turned(dim);
  for (int64_t t = 0; t < tokens; t++, cos += dim, sin += dim)
    for (int64_t h = 0; h < heads; h++, states += dim) {
      for (int64_t d = 0; d < dim; d++) straight[d] = as<T>(widened(states[d]) * widened(cos[d]));
      for (int64_t d = 0; d < half; d++) {
        turned[d] = as<T>(-widened(states[d + half]) * widened(sin[d]));
        turned[d + half] = as<T>(widened(states[d]) * widened(sin[d + half]));
      }
      for (int64_t d = 0; d < dim; d++) narrowed(straight[d] + turned[d], states[d]);
    }
}

// Queries, keys and values `[tokens, heads, dim]` one after another.
template <class T>
static void before_attention(const DecoderLayer<T>& l, int64_t tokens, const T* given, const T* cos,
                             const T* sin, T* result) {
  std::vector<T> states(tokens * l.size);
  norm(tokens, l.size, l.input.epsilon, l.input.rounds_first, l.input.scale, given, states.data());
  const int64_t outs[] = {l.heads * l.dim, l.kv_heads * l.dim, l.kv_heads * l.dim};
  const T* const weights[] = {l.q.weights, l.k.weights, l.v.weights};
  const T* const biases[] = {l.q.bias, l.k.bias, l.v.bias};
  linear(tokens, l.size, 3, outs, weights, biases, states.data(), result);
  rotate(tokens, l.heads, l.dim, l.query, cos, sin, result);
  rotate(tokens, l.kv_heads, l.dim, l.key, cos, sin, result + tokens * outs[0]);
}

// To `sums` `[tokens, size]` of the dtype other states are added, each sum rounded.
template <class T> static void add(int64_t count, const T* others, T* sums) {
  for (int64_t i = 0; i < count; i++) narrowed(widened(sums[i]) + widened(others[i]), sums[i]);
}

// The layer's states from what it was given and what its heads have attended to
// `[tokens, heads, dim]`.
template <class T>
static void after_attention(const DecoderLayer<T>& l, int64_t tokens, const T* given,
                            const T* attended, T* result) {
  const int64_t count = tokens * l.size;
  std::vector<T> sums(count), normed(count);
  linear(tokens, l.heads * l.dim, 1, &l.size, &l.o.weights, &l.o.bias, attended, sums.data());
  add(count, given, sums.data());
  norm(tokens, l.size, l.inner.epsilon, l.inner.rounds_first, l.inner.scale, sums.data(),
       normed.data());
  gated(tokens, l.size, l.middle, l.size, l.activation, l.gate, l.up, l.down, normed.data(),
        result);
  add(count, sums.data(), result);
}

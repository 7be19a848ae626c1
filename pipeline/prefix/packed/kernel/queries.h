// The shape of a batch, and the queries of one key head as rows.

#pragma once

#include "vectors.h"

struct Shape {
  int64_t tokens, heads, kv_heads, dim, prefix, examples;
  const int64_t* starts;  // [examples + 1]
  float scale;
  int64_t group() const { return heads / kv_heads; }
};

// Rows of a block are (token, head of the group), token by token.
template <class T>
static void gather(States<T> from, const Shape& s, int64_t kv_head, int64_t row, int64_t count,
                   Floats& to) {
  const int64_t group = s.group();
  for (int64_t i = 0; i < count; i++) {
    const T* states = from.at(kv_head * group + (row + i) % group, (row + i) / group);
    for (int64_t d = 0; d < s.dim; d++) to[i * s.dim + d] = widened(states[d]);
  }
  std::fill(&to[count * s.dim], to.data() + padded(count, ROWS) * s.dim, 0.0f);
}

// Where a row stands in [tokens, heads], and in [heads, tokens].
static inline int64_t place(const Shape& s, int64_t kv_head, int64_t row) {
  const int64_t group = s.group();
  return row / group * s.heads + kv_head * group + row % group;
}
static inline int64_t turned_place(const Shape& s, int64_t kv_head, int64_t row) {
  const int64_t at = place(s, kv_head, row);
  return at % s.heads * s.tokens + at / s.heads;
}

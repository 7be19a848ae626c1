// The shape of a batch, and the queries of one key head as rows.

#pragma once

#include "vectors.h"

// What scores are made of, and what is seen beyond causality; `layout.py` lays it out.
struct Terms {
  float scale, softcap;  // 0 for no softcap
  // Of each token the first of its example that it sees, and the first key of the prefix; both null
  // where all are seen. They never fall within an example.
  const int64_t *own, *prefix;
  const float* sinks;  // [heads], or null

  bool any() const { return own || softcap != 0.0f || sinks; }
  int64_t first_own(int64_t token) const { return own ? own[token] : 0; }
  int64_t first_of_prefix(int64_t token) const { return prefix ? prefix[token] : 0; }
};

struct Shape {
  int64_t tokens, heads, kv_heads, dim, prefix, examples;
  const int64_t* starts;  // [examples + 1]
  Terms terms;
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

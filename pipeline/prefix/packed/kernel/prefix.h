// A prefix as operands of products.

#pragma once

#include "keys.h"
#include "queries.h"

template <class E> struct Prefix { std::vector<Side<E>> keys, values; };  // [kv_heads] each

template <class E>
static void pack_prefix(const Shape& s, States<float> key, States<float> value, Prefix<E>& prefix) {
  prefix.keys.resize(s.kv_heads);
  prefix.values.resize(s.kv_heads);
#pragma omp parallel for schedule(dynamic)
  for (int64_t h = 0; h < s.kv_heads; h++) {
    prefix.keys[h].fill(key, h, 0, s.prefix, s.dim);
    prefix.values[h].fill(value, h, 0, s.prefix, s.dim);
  }
}

// Kept by the calling thread until its next call, so that no call allocates it anew.
template <class E>
static const Prefix<E>& packed_prefix(const Shape& s, States<float> key, States<float> value) {
  static thread_local Prefix<E> kept;
  pack_prefix(s, key, value, kept);
  return kept;
}

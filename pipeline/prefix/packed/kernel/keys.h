// One head's keys or values as operands, summed over keys and over their dimensions.

#pragma once

#include "products.h"

constexpr int FILL = LANES > ROWS ? LANES : ROWS;

// `turned` holds KEYS keys at a time, [dim, keys] each: rows as long as a long prefix would fall on
// the same lines of the processor's cache.
template <class E> struct Side {
  int64_t width = 0;  // keys, with the zeros that fill the last vector
  const E* rows = nullptr;

  template <class T>
  void fill(States<T> states, int64_t head, int64_t first, int64_t keys, int64_t dim) {
    width = padded(keys, FILL);
    dim_ = dim;
    rows_.assign(width * dim, 0.0f);
    for (int64_t t = 0; t < keys; t++) {
      const T* from = states.at(head, first + t);
      for (int64_t d = 0; d < dim; d++) rows_[t * dim + d] = widened(from[d]);
    }
    rows = across(rows_.data(), width, dim, row_pairs_);
    turned_.resize(width * dim / PER<E>);
    const E* source = along(rows_.data(), width, dim, pairs_);
    for (int64_t block = 0; block < width; block += KEYS) {
      const int64_t count = std::min<int64_t>(KEYS, width - block), k = dim / PER<E>;
      for (int64_t t = 0; t < count; t++)
        for (int64_t d = 0; d < k; d++)
          turned_[block * k + d * count + t] = source[(block + t) * k + d];
    }
  }

  // KEYS keys (fewer in the last block) from `first` on, a multiple of KEYS.
  const E* turned(int64_t first) const { return turned_.data() + first * (dim_ / PER<E>); }
  int64_t turned_row(int64_t first) const { return std::min<int64_t>(KEYS, width - first); }

 private:
  int64_t dim_ = 0;
  Floats rows_;
  std::vector<E> row_pairs_, pairs_, turned_;
};

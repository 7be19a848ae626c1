// The gradients of `forward.h`.

#pragma once

#include "prefix.h"
#include "weights.h"

// What a block of queries and KEYS keys come to, [queries, keys]; and one of these as an operand.
template <class E> struct Scratch {
  Floats weights = Floats(BLOCK * KEYS), changes = Floats(BLOCK * KEYS);
  Floats slopes = Floats(BLOCK * KEYS);  // of the softcap
  std::vector<E> pairs;
};

// The keys that a query sees, from one up to another.
struct Range { int64_t from, to; };

// A block of queries with what the backward pass needs of them.
template <class E> struct Queries {
  int64_t count = 0, m = 0;
  Floats from_keys;  // what the keys met so far owe to the queries, to be scaled

  explicit Queries(int64_t dim)
      : from_keys(BLOCK * dim), states_(BLOCK * dim), grads_(BLOCK * dim) {}

  template <class T>
  void fill(const Shape& s, States<T> grad, States<T> query, States<T> out, const float* lse,
            int64_t h, int64_t row, int64_t rows) {
    count = rows;
    m = padded(count, ROWS);
    gather(query, s, h, row, count, states_);
    gather(grad, s, h, row, count, grads_);
    gather(out, s, h, row, count, from_keys);
    for (int64_t i = 0; i < count; i++) {
      lse_[i] = lse[turned_place(s, h, row + i)] * LOG2_E;
      Vector sums = {};
      for (int64_t d = 0; d < s.dim; d += LANES)
        sums += load(&grads_[i * s.dim + d]) * load(&from_keys[i * s.dim + d]);
      delta_[i] = summed(sums);
    }
    std::fill(from_keys.begin(), from_keys.end(), 0.0f);
    query_along_ = along(states_.data(), m, s.dim, pairs_[0]);
    query_across_ = across(states_.data(), m, s.dim, pairs_[1]);
    grad_along_ = along(grads_.data(), m, s.dim, pairs_[2]);
    grad_across_ = across(grads_.data(), m, s.dim, pairs_[3]);
  }

  // Adds what these queries owe to keys `first` to `first + width`, and those to the queries.
  // `visible(i)` is which of all the keys row i sees. A key's gradient is yet to be scaled.
  template <class Visible>
  void meet(const Shape& s, const Side<E>& keys, const Side<E>& values, int64_t first,
            int64_t width, Visible visible, Scratch<E>& scratch, float* grad_key,
            float* grad_value, bool add = true) {
    auto &[weights, changes, slopes, pairs] = scratch;
    const bool capped = s.terms.softcap != 0.0f;
    const int64_t dim = s.dim, k = dim / PER<E>;
    product<false>(m, width, k, query_along_, k, 1, keys.turned(first),
                   keys.turned_row(first), weights.data(), width);
    product<false>(m, width, k, grad_along_, k, 1, values.turned(first),
                   values.turned_row(first), changes.data(), width);
    for (int64_t i = 0; i < m; i++) {
      const Range range = i < count ? visible(i) : Range{0, 0};
      const int64_t seen = std::clamp<int64_t>(range.to - first, 0, width);
      const int64_t hidden = std::clamp<int64_t>(range.from - first, 0, seen);
      float *weight = &weights[i * width], *change = &changes[i * width];
      if (capped) cap(weight, width, s.terms, &slopes[i * width]);
      const float scale = s.terms.scale * LOG2_E, lse = i < count ? lse_[i] : 0.0f;
      if (hidden)
        powers<PER<E> == 1>(weight, seen, width, scale, lse, hidden);
      else
        powers<PER<E> == 1>(weight, seen, width, scale, lse);
      const float delta = i < count ? delta_[i] : 0.0f;
      for (int64_t j = 0; j < width; j += LANES)
        store(change + j, load(weight + j) * (load(change + j) - delta));
      for (int64_t j = 0; capped && j < width; j += LANES)
        store(change + j, load(change + j) * load(&slopes[i * width + j]));
    }
    product<true>(m, dim, width / PER<E>, along(changes.data(), m, width, pairs), width / PER<E>, 1,
                  keys.rows + first / PER<E> * dim, dim, from_keys.data(), dim);
    const E* change = across(changes.data(), m, width, pairs);
    summed_over_queries(add, width, change, query_across_, dim, grad_key + first * dim);
    const E* weight = across(weights.data(), m, width, pairs);
    summed_over_queries(add, width, weight, grad_across_, dim, grad_value + first * dim);
  }

 private:
  void summed_over_queries(bool add, int64_t width, const E* of_keys, const E* of_queries,
                           int64_t dim, float* to) {
    if (add)
      product<true>(width, dim, m / PER<E>, of_keys, 1, width, of_queries, dim, to, dim);
    else
      product<false>(width, dim, m / PER<E>, of_keys, 1, width, of_queries, dim, to, dim);
  }

  Floats states_, grads_;
  float lse_[BLOCK], delta_[BLOCK];
  const E *query_along_, *query_across_, *grad_along_, *grad_across_;
  std::vector<E> pairs_[4];
};

template <class Visible> static int64_t least_from(int64_t count, Visible visible) {
  int64_t least = visible(0).from;
  for (int64_t i = 1; i < count; i++) least = std::min(least, visible(i).from);
  return least;
}

template <class T>
static void narrow_rows(const Floats& from, int64_t rows, int64_t dim, float factor, T* to,
                        int64_t to_row) {
  for (int64_t t = 0; t < rows; t++)
    for (int64_t d = 0; d < dim; d++) narrowed(from[t * dim + d] * factor, to[t * to_row + d]);
}

template <class T>
static void backward(const Shape& s, States<T> grad, States<T> query, States<T> key,
                     States<T> value, States<float> prefix_key, States<float> prefix_value,
                     States<T> out, const float* lse, T* grad_query, T* grad_key, T* grad_value,
                     float* grad_prefix_key, float* grad_prefix_value) {
  typedef typename Operand<T>::type E;
  const int64_t group = s.group(), rows = s.tokens * group, dim = s.dim;
  const bool for_input = grad_query != nullptr;
  Floats of_prefix(for_input ? s.heads * s.tokens * dim : 0);
  const Prefix<E>& prefix = packed_prefix<E>(s, prefix_key, prefix_value);
  const int64_t width = padded(s.prefix, FILL), size = width * dim;
  static thread_local Floats kept_parts;
  if (int64_t(kept_parts.size()) < 2 * PARTS * s.kv_heads * size)
    kept_parts.resize(2 * PARTS * s.kv_heads * size);
  float *parts_key = kept_parts.data(), *parts_value = parts_key + PARTS * s.kv_heads * size;
#pragma omp parallel
  {
    Queries<E> block(dim);
    Scratch<E> scratch;
    std::vector<Queries<E>> blocks;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (s.prefix ? PARTS * s.kv_heads : 0); task++) {
      const int64_t h = task % s.kv_heads, part = task / s.kv_heads;
      // Keys outside, queries inside: a long prefix's gradient stays in the processor's cache.
      const int64_t all = (rows + BLOCK - 1) / BLOCK;
      const int64_t from = all * part / PARTS, to = all * (part + 1) / PARTS;
      blocks.resize(std::max<int64_t>(blocks.size(), to - from), Queries<E>(dim));
      for (int64_t b = from; b < to; b++)
        blocks[b - from].fill(s, grad, query, out, lse, h, b * BLOCK,
                              std::min<int64_t>(BLOCK, rows - b * BLOCK));
      // Keys that no query of a block sees are left out of it: sums then begin with zeros.
      const bool hides = s.terms.prefix != nullptr;
      if (from == to || hides) {
        std::fill_n(parts_key + task * size, size, 0.0f);
        std::fill_n(parts_value + task * size, size, 0.0f);
      }
      for (int64_t first = 0; first < width; first += KEYS)
        for (int64_t b = from; b < to; b++) {
          const int64_t keys = std::min<int64_t>(KEYS, width - first);
          const auto visible = [&](int64_t i) {
            return Range{hides ? s.terms.prefix[(b * BLOCK + i) / group] : 0, s.prefix};
          };
          const int64_t count = blocks[b - from].count;
          if (hides && first + keys <= least_from(count, visible)) continue;
          blocks[b - from].meet(s, prefix.keys[h], prefix.values[h], first, keys, visible, scratch,
                                parts_key + task * size, parts_value + task * size,
                                hides || b > from);
        }
      for (int64_t b = from; b < to && for_input; b++)
        for (int64_t i = 0; i < blocks[b - from].count; i++)
          std::copy_n(&blocks[b - from].from_keys[i * dim], dim,
                      &of_prefix[place(s, h, b * BLOCK + i) * dim]);
    }
#pragma omp for schedule(static)
    for (int64_t at = 0; at < s.kv_heads * s.prefix; at++) {
      const int64_t from = at / s.prefix * size + at % s.prefix * dim;
      for (int64_t d = 0; d < dim; d++) {
        float sum_key = 0.0f, sum_value = 0.0f;
        for (int64_t part = 0; part < PARTS; part++) {
          sum_key += parts_key[part * s.kv_heads * size + from + d];
          sum_value += parts_value[part * s.kv_heads * size + from + d];
        }
        grad_prefix_key[at * dim + d] = sum_key * s.terms.scale;
        grad_prefix_value[at * dim + d] = sum_value;
      }
    }
    Side<E> keys, values;
    Floats sum_key, sum_value;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (for_input ? s.examples * s.kv_heads : 0); task++) {
      const int64_t h = task % s.kv_heads, first = s.starts[task / s.kv_heads];
      const int64_t length = s.starts[task / s.kv_heads + 1] - first;
      keys.fill(key, h, first, length, dim);
      values.fill(value, h, first, length, dim);
      sum_key.assign(keys.width * dim, 0.0f);
      sum_value.assign(keys.width * dim, 0.0f);
      for (int64_t row = 0; row < length * group; row += BLOCK) {
        const int64_t count = std::min<int64_t>(BLOCK, length * group - row);
        block.fill(s, grad, query, out, lse, h, first * group + row, count);
        const int64_t seen = padded((row + count - 1) / group + 1, FILL);
        const int64_t begin = s.terms.first_own(first + row / group) / KEYS * KEYS;
        const auto visible = [&](int64_t i) {
          const int64_t token = (row + i) / group;
          return Range{s.terms.first_own(first + token), token + 1};
        };
        for (int64_t from = begin; from < seen; from += KEYS)
          block.meet(s, keys, values, from, std::min<int64_t>(KEYS, seen - from), visible, scratch,
                     sum_key.data(), sum_value.data());
        for (int64_t i = 0; i < count; i++) {
          const int64_t at = place(s, h, first * group + row + i) * dim;
          for (int64_t d = 0; d < dim; d++)
            narrowed((block.from_keys[i * dim + d] + of_prefix[at + d]) * s.terms.scale,
                     grad_query[at + d]);
        }
      }
      const int64_t to = (first * s.kv_heads + h) * dim;
      narrow_rows(sum_key, length, dim, s.terms.scale, grad_key + to, s.kv_heads * dim);
      narrow_rows(sum_value, length, dim, 1.0f, grad_value + to, s.kv_heads * dim);
    }
  }
}

// From scores to the weights of a softmax, and the values that they weigh.

#pragma once

#include "keys.h"
#include "queries.h"

// Of scores `from` to `count`.
static inline float highest(const float* scores, int64_t count, float so_far, int64_t from = 0) {
  Vector tops = Vector{} + so_far;
  int64_t j = from;
  for (; j + LANES <= count; j += LANES) {
    const Vector these = load(scores + j);
    tops = these > tops ? these : tops;
  }
  for (; j < count; j++) so_far = std::max(so_far, scores[j]);
  for (int l = 0; l < LANES; l++) so_far = std::max(so_far, tops[l]);
  return so_far;
}

// Scores to weights 2^(scale score - shift), zero before `from` and beyond `count`; returns their
// sum.
template <bool PRECISE>
static inline float powers(float* scores, int64_t count, int64_t width, float scale, float shift,
                           int64_t from = 0) {
  Vector sums = {};
  int64_t j = 0;
  for (; j + LANES <= from; j += LANES) store(scores + j, Vector{});
  if (j < from) {
    Vector weights = power_of_two<PRECISE>(load(scores + j) * scale - shift);
    for (int64_t l = 0; l < LANES; l++)
      if (j + l < from || j + l >= count) weights[l] = 0.0f;
    store(scores + j, weights);
    sums += weights;
    j += LANES;
  }
  for (; j + LANES <= count; j += LANES) {
    const Vector weights = power_of_two<PRECISE>(load(scores + j) * scale - shift);
    store(scores + j, weights);
    sums += weights;
  }
  if (j < count) {
    Vector weights = power_of_two<PRECISE>(load(scores + j) * scale - shift);
    for (int64_t l = count - j; l < LANES; l++) weights[l] = 0.0f;
    store(scores + j, weights);
    sums += weights;
    j += LANES;
  }
  for (; j < width; j += LANES) store(scores + j, Vector{});
  return summed(sums);
}

// Scores to softcap tanh(scale score / softcap) / scale; `count` is rounded up to whole vectors.
// `slopes`, where it is not null, gets the derivative.
static void cap(float* scores, int64_t count, const Terms& terms, float* slopes = nullptr) {
  for (int64_t j = 0; j < count; j += LANES) {
    const Vector tangent = hyperbolic_tangent(load(scores + j) * (terms.scale / terms.softcap));
    store(scores + j, tangent * (terms.softcap / terms.scale));
    if (slopes) store(slopes + j, 1.0f - tangent * tangent);
  }
}

constexpr float LOG2_E = 1.44269504f;

// The score of a row's sink, as a power of two.
static inline float sink_of(const Shape& s, int64_t kv_head, int64_t row) {
  return s.terms.sinks[place(s, kv_head, row) % s.heads] * LOG2_E;
}

// The scores of `m` queries for the first `width` of some keys, then their weights; KEYS at a time,
// [m, keys] each. Whole KEYS before `begin`, which none of the queries sees, are left out. Without
// TERMS all are seen, and scores are as they are: what is there for those costs nothing then.
template <class E, bool TERMS> struct Weights {
  int64_t m = 0, begin = 0, width = 0;

  void score(const E* queries, int64_t rows, const Side<E>& keys, int64_t from, int64_t seen,
             const Shape& s) {
    const int64_t dim = s.dim;
    m = rows;
    begin = TERMS ? from / KEYS * KEYS : 0;
    width = seen;
    values_.resize(m * width);
    for (int64_t first = begin; first < width; first += KEYS)
      product<false>(m, block(first), dim / PER<E>, queries, dim / PER<E>, 1, keys.turned(first),
                     keys.turned_row(first), &values_[first * m], block(first));
    for (int64_t first = begin; TERMS && s.terms.softcap != 0.0f && first < width; first += KEYS)
      cap(&values_[first * m], m * block(first), s.terms);
  }
  float top(int64_t row, int64_t from, int64_t count, float so_far) const {
    for (int64_t first = begin; first < width; first += KEYS)
      so_far = highest(&values_[first * m + row * block(first)], within(count, first), so_far,
                       TERMS ? within(from, first) : 0);
    return so_far;
  }
  float exponentiate(int64_t row, int64_t from, int64_t count, float scale, float shift) {
    float sum = 0.0f;
    for (int64_t first = begin; first < width; first += KEYS)
      sum += powers<PER<E> == 1>(&values_[first * m + row * block(first)], within(count, first),
                                 block(first), scale, shift, TERMS ? within(from, first) : 0);
    return sum;
  }
  void add_weighted(const Side<E>& values, int64_t dim, float* to) {
    for (int64_t first = begin; first < width; first += KEYS) {
      const E* left = along(&values_[first * m], m, block(first), pairs_);
      product<true>(m, dim, block(first) / PER<E>, left, block(first) / PER<E>, 1,
                    values.rows + first / PER<E> * dim, dim, to, dim);
    }
  }

 private:
  int64_t within(int64_t key, int64_t first) const {
    return std::clamp<int64_t>(key - first, 0, block(first));
  }
  int64_t block(int64_t first) const { return std::min<int64_t>(KEYS, width - first); }
  Floats values_;
  std::vector<E> pairs_;
};

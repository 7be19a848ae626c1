// From scores to the weights of a softmax, and the values that they weigh.

#pragma once

#include "keys.h"

static float summed(Vector v) {
  float sum = 0.0f;
  for (int l = 0; l < LANES; l++) sum += v[l];
  return sum;
}

static float highest(const float* scores, int64_t count, float so_far) {
  Vector tops = Vector{} + so_far;
  int64_t j = 0;
  for (; j + LANES <= count; j += LANES) {
    const Vector these = load(scores + j);
    tops = these > tops ? these : tops;
  }
  for (; j < count; j++) so_far = std::max(so_far, scores[j]);
  for (int l = 0; l < LANES; l++) so_far = std::max(so_far, tops[l]);
  return so_far;
}

// Scores to weights 2^(scale score - shift), zero beyond `count`; returns their sum.
template <bool PRECISE>
static float powers(float* scores, int64_t count, int64_t width, float scale, float shift) {
  Vector sums = {};
  int64_t j = 0;
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

constexpr float LOG2_E = 1.44269504f;

// The scores of `m` queries for the first `width` of some keys, then their weights; KEYS at a time,
// [m, keys] each.
template <class E> struct Weights {
  int64_t m = 0, width = 0;

  void score(const E* queries, int64_t rows, const Side<E>& keys, int64_t seen, int64_t dim) {
    m = rows;
    width = seen;
    values_.resize(m * width);
    for (int64_t first = 0; first < width; first += KEYS)
      product<false>(m, block(first), dim / PER<E>, queries, dim / PER<E>, 1, keys.turned(first),
                     keys.turned_row(first), &values_[first * m], block(first));
  }
  float top(int64_t row, int64_t count, float so_far) const {
    for (int64_t first = 0; first < width; first += KEYS)
      so_far = highest(&values_[first * m + row * block(first)],
                       std::clamp<int64_t>(count - first, 0, block(first)), so_far);
    return so_far;
  }
  float exponentiate(int64_t row, int64_t count, float scale, float shift) {
    float sum = 0.0f;
    for (int64_t first = 0; first < width; first += KEYS)
      sum += powers<PER<E> == 1>(&values_[first * m + row * block(first)],
                                 std::clamp<int64_t>(count - first, 0, block(first)),
                                 block(first), scale, shift);
    return sum;
  }
  void add_weighted(const Side<E>& values, int64_t dim, float* to) {
    for (int64_t first = 0; first < width; first += KEYS) {
      const E* left = along(&values_[first * m], m, block(first), pairs_);
      product<true>(m, dim, block(first) / PER<E>, left, block(first) / PER<E>, 1,
                    values.rows + first / PER<E> * dim, dim, to, dim);
    }
  }

 private:
  int64_t block(int64_t first) const { return std::min<int64_t>(KEYS, width - first); }
  Floats values_;
  std::vector<E> pairs_;
};

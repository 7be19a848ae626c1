// One new token of each row, attending to its cached tokens and to the prefix; terms are by rows.

#pragma once

#include "prefix.h"
#include "weights.h"

// Rows' caches, each where it is and as long as it is: keys turned [kv_heads, dim, rooms[i]], values
// [kv_heads, rooms[i], dim]. Row i has `counts[i]` tokens, its new one included. Rooms are multiples
// of LANES.
template <class T> struct Cached {
  T* const *keys, * const *values;
  const int64_t *rooms, *counts;

  void append(const Shape& s, States<T> key, States<T> value, int64_t h, int64_t row) const {
    const int64_t room = rooms[row], at = counts[row] - 1;
    const T *new_key = key.at(h, row), *new_value = value.at(h, row);
    T *to_keys = keys[row] + h * s.dim * room + at, *to_values = values[row] + (h * room + at) * s.dim;
    for (int64_t d = 0; d < s.dim; d++) {
      to_keys[d * room] = new_key[d];
      to_values[d] = new_value[d];
    }
  }
};

template <class T, bool TERMS>
static void decode(const Shape& s, States<T> query, States<T> key, States<T> value,
                   const Prefix<typename Operand<T>::type>& prefix, const Cached<T>& cached,
                   T* out) {
  typedef typename Operand<T>::type E;
  const int64_t group = s.group(), dim = s.dim;
  const float scale = s.terms.scale * LOG2_E;
  const int64_t rows = s.tokens * group;
  const int64_t together = std::min(rows, std::max<int64_t>(1, BLOCK / group) * group);
  const int64_t longest = padded(*std::max_element(cached.counts, cached.counts + s.tokens), LANES);
#pragma omp parallel
  {
    const int64_t most = padded(together, ROWS);
    Floats queries(most * dim), outputs(most * dim), near(together * longest);
    std::vector<E> query_pairs;
    Weights<E, TERMS> far;
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t h = 0; h < s.kv_heads; h++)
      for (int64_t row = 0; row < rows; row += together) {
        const int64_t count = std::min(together, rows - row), m = padded(count, ROWS);
        for (int64_t example = row / group; example < (row + count) / group; example++)
          cached.append(s, key, value, h, example);
        gather(query, s, h, row, count, queries);
        const E* q = along(queries.data(), m, dim, query_pairs);
        // Rows are of any lengths: one may see all of the prefix.
        far.score(q, m, prefix.keys[h], 0, prefix.keys[h].width, s);
        std::vector<float> sums(count);
        for (int64_t i = 0; i < count; i++) {
          const int64_t example = (row + i) / group, tokens = cached.counts[example];
          const int64_t room = cached.rooms[example];
          const T* keys = cached.keys[example] + h * dim * room;
          const int64_t own = TERMS ? s.terms.first_own(example) : 0;
          const int64_t shown = TERMS ? s.terms.first_of_prefix(example) : 0;
          const int64_t begin = own / LANES * LANES;
          float* here = &near[i * longest];
          for (int64_t j = begin; j < tokens; j += LANES) {
            Vector scores = {};
            for (int64_t d = 0; d < dim; d++)
              scores += queries[i * dim + d] * load(keys + d * room + j);
            store(here + j, scores);
          }
          if (TERMS && s.terms.softcap != 0.0f) cap(here + begin, tokens - begin, s.terms);
          float top = scale * highest(here, tokens, far.top(i, shown, s.prefix, -INFINITY), own);
          if (TERMS && s.terms.sinks) top = std::max(top, sink_of(s, h, row + i));
          sums[i] = powers<PER<E> == 1>(here, tokens, tokens, scale, top, own);
          sums[i] += far.exponentiate(i, shown, s.prefix, scale, top);
          if (TERMS && s.terms.sinks) sums[i] += std::exp2(sink_of(s, h, row + i) - top);
        }
        std::fill(outputs.begin(), outputs.end(), 0.0f);
        far.add_weighted(prefix.values[h], dim, outputs.data());
        for (int64_t i = 0; i < count; i++) {
          const int64_t example = (row + i) / group, tokens = cached.counts[example];
          const T* values = cached.values[example] + h * cached.rooms[example] * dim;
          T* to = out + place(s, h, row + i) * dim;
          for (int64_t d = 0; d < dim; d += LANES) {
            Vector sum = load(&outputs[i * dim + d]);
            for (int64_t t = TERMS ? s.terms.first_own(example) : 0; t < tokens; t++)
              sum += near[i * longest + t] * load(values + t * dim + d);
            for (int l = 0; l < LANES; l++) narrowed(sum[l] / sums[i], to[d + l]);
          }
        }
      }
  }
}

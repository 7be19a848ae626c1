// Attention of packed examples, causally, and to the prefix.

#pragma once

#include "prefix.h"
#include "weights.h"

template <class T, bool TERMS>
static void forward(const Shape& s, States<T> query, States<T> key, States<T> value,
                    States<float> prefix_key, States<float> prefix_value, T* out, float* lse) {
  typedef typename Operand<T>::type E;
  const int64_t group = s.group(), dim = s.dim;
  const float scale = s.terms.scale * LOG2_E;
  const Prefix<E>& prefix = packed_prefix<E>(s, prefix_key, prefix_value);
#pragma omp parallel
  {
    Side<E> keys, values;
    Floats queries(BLOCK * dim), outputs(BLOCK * dim);
    std::vector<E> query_pairs;
    Weights<E, TERMS> near, far;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < s.examples * s.kv_heads; task++) {
      const int64_t h = task % s.kv_heads, first = s.starts[task / s.kv_heads];
      const int64_t length = s.starts[task / s.kv_heads + 1] - first;
      keys.fill(key, h, first, length, dim);
      values.fill(value, h, first, length, dim);
      for (int64_t row = 0; row < length * group; row += BLOCK) {
        const int64_t count = std::min<int64_t>(BLOCK, length * group - row);
        const int64_t m = padded(count, ROWS);
        gather(query, s, h, first * group + row, count, queries);
        const E* q = along(queries.data(), m, dim, query_pairs);
        const int64_t token = first + row / group;
        far.score(q, m, prefix.keys[h], s.terms.first_of_prefix(token), prefix.keys[h].width, s);
        near.score(q, m, keys, s.terms.first_own(token),
                   padded((row + count - 1) / group + 1, FILL), s);
        float sums[BLOCK];
        for (int64_t i = 0; i < count; i++) {
          const int64_t visible = (row + i) / group + 1;
          const int64_t own = TERMS ? s.terms.first_own(first + visible - 1) : 0;
          const int64_t shown = TERMS ? s.terms.first_of_prefix(first + visible - 1) : 0;
          float top = scale * near.top(i, own, visible, far.top(i, shown, s.prefix, -INFINITY));
          if (TERMS && s.terms.sinks) top = std::max(top, sink_of(s, h, row + i));
          sums[i] = near.exponentiate(i, own, visible, scale, top);
          sums[i] += far.exponentiate(i, shown, s.prefix, scale, top);
          if (TERMS && s.terms.sinks) sums[i] += std::exp2(sink_of(s, h, row + i) - top);
          lse[turned_place(s, h, first * group + row + i)] = top / LOG2_E + std::log(sums[i]);
        }
        std::fill(outputs.begin(), outputs.end(), 0.0f);
        far.add_weighted(prefix.values[h], dim, outputs.data());
        near.add_weighted(values, dim, outputs.data());
        for (int64_t i = 0; i < count; i++) {
          T* to = out + place(s, h, first * group + row + i) * dim;
          const float share = 1.0f / sums[i];
          for (int64_t d = 0; d < dim; d++) narrowed(outputs[i * dim + d] * share, to[d]);
        }
      }
    }
  }
}

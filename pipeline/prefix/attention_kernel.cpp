// Causal attention of packed examples to themselves and to a shared prefix, on the CPU.
//
// torch's CPU kernel takes one example at a time and is made for long rows: at the lengths of real
// examples (tens of tokens) it spends most of its time outside arithmetic. Here one call serves all
// examples, the query heads of a group are rows of one product, causality halves the work, and the
// prefix is shared. Arithmetic is float32 whatever the states' type.
//
// The prefix is float32 in any case, and so is its gradient: it is trained.
//
// Every sum is made in an order that depends on the shapes alone, never on the number of threads.
//
// States are [heads, tokens, dim] with strides for heads and tokens and a contiguous last axis; the
// outputs are contiguous [tokens, heads, dim]. `dim` is a multiple of LANES. Plain C++ with GCC's
// and Clang's vector extension: no instruction set is named.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int ROWS = 8;       // of a register tile
constexpr int BLOCK = 48;     // queries at once, of one example: causality skips whole blocks
constexpr int KEYS = 128;     // keys at once, backward
constexpr int PARTS = 4;      // partial sums of the prefix's gradient

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef std::vector<float> Floats;

typedef uint16_t Halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

struct BFloat16 { uint16_t bits; };

static inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
static inline Vector load(const BFloat16* from) {
  const Halves halves = *reinterpret_cast<const Halves*>(from);
  Integers bits = __builtin_convertvector(halves, Integers) << 16;
  return reinterpret_cast<Vector&>(bits);
}
static inline void store(float* to, Vector v) { *reinterpret_cast<Vector*>(to) = v; }
static inline int64_t padded(int64_t n, int to) { return (n + to - 1) / to * to; }

// ---- bfloat16 and float32 states ------------------------------------------------------------

static inline float widened(BFloat16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
static inline float widened(float x) { return x; }

static inline void narrowed(float value, BFloat16& to) {  // to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  to.bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
static inline void narrowed(float value, float& to) { to = value; }

template <class T> struct States {
  const T* data;
  int64_t head, token;
  const T* at(int64_t h, int64_t t) const { return data + h * head + t * token; }
};

// ---- 2^x of a vector: Taylor's polynomial around the nearest whole number -----------------------

// Relative error 2e-7, or 4e-5 where the result is rounded to bfloat16 anyway.
template <bool PRECISE> static inline Vector power_of_two(Vector x) {
  const Vector lowest = Vector{} - 126.0f;
  x = x > lowest ? x : lowest;
  const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  Vector shifted = x + shift;
  const Vector r = x - (shifted - shift);
  Vector y = Vector{} + 9.6181291e-3f;
  if (PRECISE) y = (r * 1.5403530e-4f + 1.3333558e-3f) * r + y;
  y = y * r + 5.5504109e-2f;
  y = y * r + 2.4022651e-1f;
  y = y * r + 6.9314718e-1f;
  y = y * r + 1.0f;
  Integers power = reinterpret_cast<Integers&>(shifted) << 23;
  Integers result = reinterpret_cast<Integers&>(y) + power;
  return reinterpret_cast<Vector&>(result);
}

// ---- Operands of products ------------------------------------------------------------------------

// A product takes float32, or pairs of bfloat16 that one instruction multiplies and adds up: the
// bits of two neighbours along the axis that is summed over.
struct Pair { uint32_t bits; };

static inline Vector multiplied(Vector sum, float left, const float* right) {
  return sum + left * load(right);
}

// [rows, columns] as an operand summed over its columns (`along`: [rows, columns / 2] pairs) or over
// its rows (`across`: [rows / 2, columns] pairs). Both counts are multiples of LANES or of ROWS.
static const float* along(const float* from, int64_t, int64_t, std::vector<float>&) {
  return from;
}
static const float* across(const float* from, int64_t, int64_t, std::vector<float>&) {
  return from;
}

template <class T> struct Operand { typedef float type; };

#if defined(__AVX512BF16__)
template <> struct Operand<BFloat16> { typedef Pair type; };

static inline Vector multiplied(Vector sum, Pair left, const Pair* right) {
  return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_loadu_si512(right),
                                  (__m512bh)_mm512_set1_epi32(int(left.bits)));
}

static inline __m256i rounded(const float* from) {
  return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from));
}

static const Pair* along(const float* from, int64_t rows, int64_t columns,
                         std::vector<Pair>& to) {
  to.resize(rows * columns / 2);
  for (int64_t i = 0; i < rows * columns; i += LANES)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(&to[i / 2]), rounded(&from[i]));
  return to.data();
}

static const Pair* across(const float* from, int64_t rows, int64_t columns,
                          std::vector<Pair>& to) {
  to.resize(rows * columns / 2);
  for (int64_t i = 0; i < rows / 2; i++) {
    const float *upper = &from[2 * i * columns], *lower = upper + columns;
    for (int64_t j = 0; j < columns; j += LANES) {
      const __m512i low = _mm512_cvtepu16_epi32(rounded(upper + j));
      const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded(lower + j)), 16);
      _mm512_storeu_si512(&to[i * columns + j], _mm512_or_si512(low, high));
    }
  }
  return to.data();
}
#endif

template <class E> constexpr int64_t PER = 2;  // states in one operand
template <> constexpr int64_t PER<float> = 1;

// ---- C [m, n] (+)= A [m, k] B [k, n]; m a multiple of ROWS, n of LANES, k counts operands ------

template <bool ADD, int WIDTH, class E>
static inline void tile(int64_t k, const E* a, int64_t a_row, int64_t a_column, const E* b,
                        int64_t b_row, float* c, int64_t c_row) {
  Vector sums[ROWS][WIDTH];  // unrolled, so that all of it stays in registers
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 16
    for (int j = 0; j < WIDTH; j++)
      sums[i][j] = ADD ? load(c + i * c_row + j * LANES) : Vector{};
  for (int64_t l = 0; l < k; l++)
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) {
      const E left = a[i * a_row + l * a_column];
#pragma GCC unroll 16
      for (int j = 0; j < WIDTH; j++)
        sums[i][j] = multiplied(sums[i][j], left, b + l * b_row + j * LANES);
    }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 16
    for (int j = 0; j < WIDTH; j++) store(c + i * c_row + j * LANES, sums[i][j]);
}

template <bool ADD, class E>
static void product(int64_t m, int64_t n, int64_t k, const E* a, int64_t a_row, int64_t a_column,
                    const E* b, int64_t b_row, float* c, int64_t c_row) {
  for (int64_t j = 0; j < n;) {
    const bool wide = n - j >= 2 * LANES;
    for (int64_t i = 0; i < m; i += ROWS) {
      if (wide)
        tile<ADD, 2>(k, a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j, c_row);
      else
        tile<ADD, 1>(k, a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j, c_row);
    }
    j += wide ? 2 * LANES : LANES;
  }
}

// ---- One head's keys or values as operands, summed over keys and over their dimensions -----------

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

// ---- Forward -----------------------------------------------------------------------------------

template <class T>
static void forward(const Shape& s, States<T> query, States<T> key, States<T> value,
                    States<float> prefix_key, States<float> prefix_value, T* out, float* lse) {
  typedef typename Operand<T>::type E;
  const int64_t group = s.group(), dim = s.dim;
  const float scale = s.scale * LOG2_E;
  static thread_local std::vector<Side<E>> kept_keys, kept_values;
  auto &prefix_keys = kept_keys, &prefix_values = kept_values;  // this thread's, shared below
  prefix_keys.resize(s.kv_heads);
  prefix_values.resize(s.kv_heads);
#pragma omp parallel
  {
#pragma omp for schedule(dynamic)
    for (int64_t h = 0; h < s.kv_heads; h++) {
      prefix_keys[h].fill(prefix_key, h, 0, s.prefix, dim);
      prefix_values[h].fill(prefix_value, h, 0, s.prefix, dim);
    }
    Side<E> keys, values;
    Floats queries(BLOCK * dim), outputs(BLOCK * dim);
    std::vector<E> query_pairs;
    Weights<E> near, far;
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
        far.score(q, m, prefix_keys[h], prefix_keys[h].width, dim);
        near.score(q, m, keys, padded((row + count - 1) / group + 1, FILL), dim);
        float sums[BLOCK];
        for (int64_t i = 0; i < count; i++) {
          const int64_t visible = (row + i) / group + 1;
          const float top = scale * near.top(i, visible, far.top(i, s.prefix, -INFINITY));
          sums[i] = near.exponentiate(i, visible, scale, top);
          sums[i] += far.exponentiate(i, s.prefix, scale, top);
          lse[turned_place(s, h, first * group + row + i)] = top / LOG2_E + std::log(sums[i]);
        }
        std::fill(outputs.begin(), outputs.end(), 0.0f);
        far.add_weighted(prefix_values[h], dim, outputs.data());
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

// ---- Backward ----------------------------------------------------------------------------------

// What a block of queries and KEYS keys come to, [queries, keys]; and one of these as an operand.
template <class E> struct Scratch {
  Floats weights = Floats(BLOCK * KEYS), changes = Floats(BLOCK * KEYS);
  std::vector<E> pairs;
};

// A block of queries with what the backward pass needs of them.
template <class E> struct Queries {
  int64_t count = 0, m = 0;
  Floats from_keys;  // what the keys met so far owe to the queries, to be scaled

  explicit Queries(int64_t dim) : from_keys(BLOCK * dim), states_(BLOCK * dim), grads_(BLOCK * dim) {}

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
    query_along = along(states_.data(), m, s.dim, pairs_[0]);
    query_across = across(states_.data(), m, s.dim, pairs_[1]);
    grad_along = along(grads_.data(), m, s.dim, pairs_[2]);
    grad_across = across(grads_.data(), m, s.dim, pairs_[3]);
  }

  // Adds what these queries owe to keys `first` to `first + width`, and those to the queries.
  // `visible(i)` is how many of all the keys row i sees. A key's gradient is yet to be scaled.
  template <class Visible>
  void meet(const Shape& s, const Side<E>& keys, const Side<E>& values, int64_t first,
            int64_t width, Visible visible, Scratch<E>& scratch, float* grad_key,
            float* grad_value, bool add = true) {
    auto &[weights, changes, pairs] = scratch;
    const int64_t dim = s.dim, k = dim / PER<E>;
    product<false>(m, width, k, query_along, k, 1, keys.turned(first),
                   keys.turned_row(first), weights.data(), width);
    product<false>(m, width, k, grad_along, k, 1, values.turned(first),
                   values.turned_row(first), changes.data(), width);
    for (int64_t i = 0; i < m; i++) {
      const int64_t seen = i < count ? std::clamp<int64_t>(visible(i) - first, 0, width) : 0;
      float *weight = &weights[i * width], *change = &changes[i * width];
      powers<PER<E> == 1>(weight, seen, width, s.scale * LOG2_E, i < count ? lse_[i] : 0.0f);
      const float delta = i < count ? delta_[i] : 0.0f;
      for (int64_t j = 0; j < width; j += LANES)
        store(change + j, load(weight + j) * (load(change + j) - delta));
    }
    product<true>(m, dim, width / PER<E>, along(changes.data(), m, width, pairs), width / PER<E>, 1,
                  keys.rows + first / PER<E> * dim, dim, from_keys.data(), dim);
    const E* change = across(changes.data(), m, width, pairs);
    summed_over_queries(add, width, change, query_across, dim, grad_key + first * dim);
    const E* weight = across(weights.data(), m, width, pairs);
    summed_over_queries(add, width, weight, grad_across, dim, grad_value + first * dim);
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
  const E *query_along, *query_across, *grad_along, *grad_across;
  std::vector<E> pairs_[4];
};

template <class T>
static void narrow_rows(const Floats& from, int64_t rows, int64_t dim, float factor, T* to,
                        int64_t to_row) {
  for (int64_t t = 0; t < rows; t++)
    for (int64_t d = 0; d < dim; d++) narrowed(from[t * dim + d] * factor, to[t * to_row + d]);
}

template <class T>
static void backward(const Shape& s, States<T> grad, States<T> query, States<T> key,
                     States<T> value, States<float> prefix_key, States<float> prefix_value, States<T> out,
                     const float* lse, T* grad_query, T* grad_key, T* grad_value,
                     float* grad_prefix_key, float* grad_prefix_value) {
  typedef typename Operand<T>::type E;
  const int64_t group = s.group(), rows = s.tokens * group, dim = s.dim;
  const bool for_input = grad_query != nullptr;
  Floats of_prefix(for_input ? s.heads * s.tokens * dim : 0);
  static thread_local std::vector<Side<E>> kept_keys, kept_values;
  auto &prefix_keys = kept_keys, &prefix_values = kept_values;  // this thread's, shared below
  prefix_keys.resize(s.kv_heads);
  prefix_values.resize(s.kv_heads);
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
    for (int64_t h = 0; h < s.kv_heads; h++) {
      prefix_keys[h].fill(prefix_key, h, 0, s.prefix, dim);
      prefix_values[h].fill(prefix_value, h, 0, s.prefix, dim);
    }
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
      for (int64_t first = 0; first < width; first += KEYS)
        for (int64_t b = from; b < to; b++)
          blocks[b - from].meet(s, prefix_keys[h], prefix_values[h], first,
                                std::min<int64_t>(KEYS, width - first),
                                [&](int64_t) { return s.prefix; }, scratch,
                                parts_key + task * size, parts_value + task * size, b > from);
      if (from == to) {
        std::fill_n(parts_key + task * size, size, 0.0f);
        std::fill_n(parts_value + task * size, size, 0.0f);
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
        grad_prefix_key[at * dim + d] = sum_key * s.scale;
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
        for (int64_t from = 0; from < seen; from += KEYS)
          block.meet(s, keys, values, from, std::min<int64_t>(KEYS, seen - from),
                     [&](int64_t i) { return (row + i) / group + 1; }, scratch,
                     sum_key.data(), sum_value.data());
        for (int64_t i = 0; i < count; i++) {
          const int64_t at = place(s, h, first * group + row + i) * dim;
          for (int64_t d = 0; d < dim; d++)
            narrowed((block.from_keys[i * dim + d] + of_prefix[at + d]) * s.scale,
                     grad_query[at + d]);
        }
      }
      const int64_t to = (first * s.kv_heads + h) * dim;
      narrow_rows(sum_key, length, dim, s.scale, grad_key + to, s.kv_heads * dim);
      narrow_rows(sum_value, length, dim, 1.0f, grad_value + to, s.kv_heads * dim);
    }
  }
}

// ---- One new token of each row, attending to its cached tokens ----------------------------------

// Rows' caches: keys turned [slots, kv_heads, dim, room], values [slots, kv_heads, room, dim]; row i
// has `counts[i]` tokens in slot `slots[i]`, its new one included. `room` is a multiple of LANES.
template <class T> struct Cached {
  const T *keys, *values;
  int64_t room;
  const int64_t *slots, *counts;
};

template <class T>
static void decode(const Shape& s, States<T> query, States<float> prefix_key, States<float> prefix_value,
                   const Cached<T>& cached, T* out) {
  typedef typename Operand<T>::type E;
  const int64_t group = s.group(), dim = s.dim, room = cached.room;
  const float scale = s.scale * LOG2_E;
  const int64_t rows = s.tokens * group, together = std::max<int64_t>(1, BLOCK / group) * group;
  static thread_local std::vector<Side<E>> kept_keys, kept_values;
  auto &prefix_keys = kept_keys, &prefix_values = kept_values;  // this thread's, shared below
  prefix_keys.resize(s.kv_heads);
  prefix_values.resize(s.kv_heads);
#pragma omp parallel
  {
#pragma omp for schedule(dynamic)
    for (int64_t h = 0; h < s.kv_heads; h++) {
      prefix_keys[h].fill(prefix_key, h, 0, s.prefix, dim);
      prefix_values[h].fill(prefix_value, h, 0, s.prefix, dim);
    }
    const int64_t most = padded(together, ROWS);
    Floats queries(most * dim), outputs(most * dim), near(most * room);
    std::vector<E> query_pairs;
    Weights<E> far;
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t h = 0; h < s.kv_heads; h++)
      for (int64_t row = 0; row < rows; row += together) {
        const int64_t count = std::min(together, rows - row), m = padded(count, ROWS);
        gather(query, s, h, row, count, queries);
        const E* q = along(queries.data(), m, dim, query_pairs);
        far.score(q, m, prefix_keys[h], prefix_keys[h].width, dim);
        std::vector<float> sums(count);
        for (int64_t i = 0; i < count; i++) {
          const int64_t example = (row + i) / group, tokens = cached.counts[example];
          const T* keys = cached.keys + (cached.slots[example] * s.kv_heads + h) * dim * room;
          float* here = &near[i * room];
          for (int64_t j = 0; j < tokens; j += LANES) {
            Vector scores = {};
            for (int64_t d = 0; d < dim; d++)
              scores += queries[i * dim + d] * load(keys + d * room + j);
            store(here + j, scores);
          }
          const float top = scale * highest(here, tokens, far.top(i, s.prefix, -INFINITY));
          sums[i] = powers<PER<E> == 1>(here, tokens, tokens, scale, top);
          sums[i] += far.exponentiate(i, s.prefix, scale, top);
        }
        std::fill(outputs.begin(), outputs.end(), 0.0f);
        far.add_weighted(prefix_values[h], dim, outputs.data());
        for (int64_t i = 0; i < count; i++) {
          const int64_t example = (row + i) / group, tokens = cached.counts[example];
          const T* values = cached.values + (cached.slots[example] * s.kv_heads + h) * dim * room;
          T* to = out + place(s, h, row + i) * dim;
          for (int64_t d = 0; d < dim; d += LANES) {
            Vector sum = load(&outputs[i * dim + d]);
            for (int64_t t = 0; t < tokens; t++)
              sum += near[i * room + t] * load(values + t * dim + d);
            for (int l = 0; l < LANES; l++) narrowed(sum[l] / sums[i], to[d + l]);
          }
        }
      }
  }
}

// ---- Entry points ------------------------------------------------------------------------------

// `sizes`: tokens, heads, kv_heads, dim, prefix, examples. `strides`: of heads and tokens for each
// of the states, in the order of the arguments.
static Shape shape(const int64_t* sizes, const int64_t* starts, float scale) {
  return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], starts, scale};
}

template <class T> static States<T> states(void* const* data, const int64_t* strides, int index) {
  return {static_cast<const T*>(data[index]), strides[2 * index], strides[2 * index + 1]};
}

template <class T>
static void run_forward(const int64_t* sizes, const int64_t* starts, float scale,
                        void* const* data, const int64_t* strides, void* out, float* lse) {
  forward<T>(shape(sizes, starts, scale), states<T>(data, strides, 0), states<T>(data, strides, 1),
             states<T>(data, strides, 2), states<float>(data, strides, 3),
             states<float>(data, strides, 4),
             static_cast<T*>(out), lse);
}

template <class T>
static void run_backward(const int64_t* sizes, const int64_t* starts, float scale,
                         void* const* data, const int64_t* strides, const float* lse,
                         void* const* grads, float* const* prefix_grads) {
  backward<T>(shape(sizes, starts, scale), states<T>(data, strides, 5),
              states<T>(data, strides, 0), states<T>(data, strides, 1), states<T>(data, strides, 2),
              states<float>(data, strides, 3), states<float>(data, strides, 4),
              states<T>(data, strides, 6),
              lse, static_cast<T*>(grads[0]), static_cast<T*>(grads[1]), static_cast<T*>(grads[2]),
              prefix_grads[0], prefix_grads[1]);
}

// `sizes` with `room` in place of examples; `data`: the query, the prefix, the caches.
template <class T>
static void run_decode(const int64_t* sizes, const int64_t* slots, const int64_t* counts,
                       float scale, void* const* data, const int64_t* strides, void* out) {
  const Cached<T> cached = {static_cast<const T*>(data[3]), static_cast<const T*>(data[4]),
                            sizes[5], slots, counts};
  decode<T>(shape(sizes, nullptr, scale), states<T>(data, strides, 0),
            states<float>(data, strides, 1), states<float>(data, strides, 2), cached, static_cast<T*>(out));
}

extern "C" {
int lanes() { return LANES; }
void forward_float32(const int64_t* a, const int64_t* b, float c, void* const* d, const int64_t* e,
                     void* f, float* g) { run_forward<float>(a, b, c, d, e, f, g); }
void forward_bfloat16(const int64_t* a, const int64_t* b, float c, void* const* d, const int64_t* e,
                      void* f, float* g) { run_forward<BFloat16>(a, b, c, d, e, f, g); }
void backward_float32(const int64_t* a, const int64_t* b, float c, void* const* d, const int64_t* e,
                      const float* f, void* const* g, float* const* h) {
  run_backward<float>(a, b, c, d, e, f, g, h);
}
void backward_bfloat16(const int64_t* a, const int64_t* b, float c, void* const* d,
                       const int64_t* e, const float* f, void* const* g, float* const* h) {
  run_backward<BFloat16>(a, b, c, d, e, f, g, h);
}
void decode_float32(const int64_t* a, const int64_t* b, const int64_t* c, float d, void* const* e,
                    const int64_t* f, void* g) { run_decode<float>(a, b, c, d, e, f, g); }
void decode_bfloat16(const int64_t* a, const int64_t* b, const int64_t* c, float d,
                     void* const* e, const int64_t* f, void* g) {
  run_decode<BFloat16>(a, b, c, d, e, f, g);
}
}

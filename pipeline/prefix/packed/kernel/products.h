// Small matrix products of float32, or of pairs of bfloat16 where the processor has them.

#pragma once

#include "vectors.h"

// ---- Operands of products -----------------------------------------------------------------

// A product takes float32, or pairs of bfloat16 that one instruction multiplies and adds up: the
// bits of two neighbours along the axis that is summed over.
struct Pair { uint32_t bits; };

static inline Vector multiplied(Vector sum, float left, const float* right) {
  return sum + left * load(right);
}

// [rows, columns] as an operand summed over its columns (`along`: [rows, columns / 2] pairs) or
// over its rows (`across`: [rows / 2, columns] pairs). Both counts are multiples of LANES or ROWS.
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

// Vectors of float32, the states they are loaded from, and powers of two.

#pragma once

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
constexpr int KEYS = 128;     // keys at once
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
static inline float summed(Vector v) {
  float sum = 0.0f;
  for (int l = 0; l < LANES; l++) sum += v[l];
  return sum;
}
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
  const uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to.bits = uint16_t(value == value ? nearest : 0x7fc0);  // rounding could carry a NaN's bits over
}
static inline void narrowed(float value, float& to) { to = value; }

template <class T> struct States {
  const T* data;
  int64_t head, token;
  const T* at(int64_t h, int64_t t) const { return data + h * head + t * token; }
};

// ---- 2^x of a vector: Taylor's polynomial around the nearest whole number -----------------------

// Relative error 2e-7, or 4e-5 where the result is rounded to bfloat16 anyway. Of a NaN it is NaN.
template <bool PRECISE> static inline Vector power_of_two(Vector x) {
  const Vector lowest = Vector{} - 126.0f, given = x;
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
  return given == given ? reinterpret_cast<Vector&>(result) : given;
}

// To 2e-7: around 0 by Lambert's continued fraction, beyond by the exponential.
static inline Vector hyperbolic_tangent(Vector x) {
  const Vector most = Vector{} + 10.0f;  // where it is 1; a NaN stays what it is
  x = x > most ? most : x;
  const Vector square = x * x, power = power_of_two<true>(x * 2.88539008f);
  const Vector near = x * ((square + 105.0f) * square + 945.0f) /
                      ((square * 15.0f + 420.0f) * square + 945.0f);
  return square < Vector{} + 0.36f ? near : 1.0f - 2.0f / (power + 1.0f);
}

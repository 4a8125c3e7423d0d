// Short vectors of floats by the compilers' vector extension, and loads from narrower types.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../sampling.h"
#include "problem.h"

namespace hipie {
namespace {

template <typename T, int N>
struct VectorType {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <typename T, int N>
using Vector = typename VectorType<T, N>::type;

// The longest vectors that the instruction set has.
template <typename T>
constexpr int lanes = HIPIE_VECTOR_BYTES / sizeof(T);

template <int N>
HIPIE_INLINE Vector<float, N> load(const float* from) {
  Vector<float, N> vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <int N>
HIPIE_INLINE Vector<double, N> load(const double* from) {
  Vector<double, N> vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <int N>
HIPIE_INLINE Vector<float, N> load(const c10::BFloat16* from) {
  Vector<uint16_t, N> halves;
  std::memcpy(&halves, from, sizeof(halves));
  const Vector<uint32_t, N> bits = __builtin_convertvector(halves, Vector<uint32_t, N>) << 16;
  Vector<float, N> vector;
  std::memcpy(&vector, &bits, sizeof(vector));
  return vector;
}

template <int N>
HIPIE_INLINE void store(float* to, Vector<float, N> vector) {
  std::memcpy(to, &vector, sizeof(vector));
}

template <int N>
HIPIE_INLINE void store(double* to, Vector<double, N> vector) {
  std::memcpy(to, &vector, sizeof(vector));
}

// One number in the type that is stored: rounded to the nearest, ties to even; a NaN stays one.
template <typename C>
HIPIE_INLINE C narrow(C number) {
  return number;
}
template <typename C>
HIPIE_INLINE std::enable_if_t<std::is_same_v<C, c10::BFloat16>, C> narrow(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  const uint32_t rounded = (bits + (((bits >> 16) & 1u) + 0x7fffu)) >> 16;
  const uint32_t chosen = (bits & 0x7fffffffu) <= 0x7f800000u ? rounded : 0x7fc0u;
  return c10::BFloat16(static_cast<uint16_t>(chosen), c10::BFloat16::from_bits());
}

template <int N>
HIPIE_INLINE void store(c10::BFloat16* to, Vector<float, N> vector) {
  float numbers[N];
  std::memcpy(numbers, &vector, sizeof(numbers));
  for (int lane = 0; lane < N; ++lane) to[lane] = narrow<c10::BFloat16>(numbers[lane]);
}

// K vectors of N channels at once. Two vectors of bfloat16 are read as one of N pairs, which costs a
// shift and a mask: the first then holds the even channels and the second the odd ones. What is
// loaded so must be stored by store_all, which knows.
template <int N, int K, typename V>
HIPIE_INLINE void load_all(const V* from, Vector<Sum<V>, N> (&to)[K]) {
#pragma GCC unroll 4
  for (int k = 0; k < K; ++k) {
    if constexpr (std::is_same_v<V, c10::BFloat16> && K % 2 == 0) {
      if (k % 2 == 1) continue;
      Vector<uint32_t, N> pairs;
      std::memcpy(&pairs, from + k * N, sizeof(pairs));
      const Vector<uint32_t, N> even = pairs << 16, odd = pairs & 0xffff0000u;
      std::memcpy(&to[k], &even, sizeof(even));
      std::memcpy(&to[k + 1], &odd, sizeof(odd));
    } else {
      to[k] = load<N>(from + k * N);
    }
  }
}

template <int N, int K, typename V>
HIPIE_INLINE void store_all(V* to, const Vector<Sum<V>, N> (&vectors)[K]) {
#pragma GCC unroll 4
  for (int k = 0; k < K; ++k) {
    if constexpr (std::is_same_v<V, c10::BFloat16> && K % 2 == 0) {
      float numbers[N];
      std::memcpy(numbers, &vectors[k], sizeof(numbers));
      V* pairs = to + (k - k % 2) * N + k % 2;
      for (int lane = 0; lane < N; ++lane) pairs[2 * lane] = narrow<V>(numbers[lane]);
    } else {
      store<N>(to + k * N, vectors[k]);
    }
  }
}

// Adds the upper half of a vector to the lower until at most four lanes are left.
template <int N, typename T>
HIPIE_INLINE auto fold_to_four(Vector<T, N> vector) {
  if constexpr (N <= 4) {
    return vector;
  } else {
    Vector<T, N / 2> low, high;
    std::memcpy(&low, &vector, sizeof(low));
    std::memcpy(&high, reinterpret_cast<const char*>(&vector) + sizeof(low), sizeof(high));
    return fold_to_four<N / 2, T>(low + high);
  }
}

}  // namespace
}  // namespace hipie

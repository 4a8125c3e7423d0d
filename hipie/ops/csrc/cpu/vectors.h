// Short vectors of floats by the compilers' vector extension, and loads from narrower types.
#pragma once

#include <cstdint>
#include <cstring>

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

// Rounds to the nearest, ties to even; a NaN stays one.
template <int N>
HIPIE_INLINE void store(c10::BFloat16* to, Vector<float, N> vector) {
  Vector<uint32_t, N> bits;
  std::memcpy(&bits, &vector, sizeof(bits));
  const Vector<uint32_t, N> rounded = (bits + (((bits >> 16) & 1u) + 0x7fffu)) >> 16;
  const Vector<uint32_t, N> is_number =
      reinterpret_cast<Vector<uint32_t, N>>((bits & 0x7fffffffu) <= 0x7f800000u);
  const Vector<uint32_t, N> chosen = (rounded & is_number) | (~is_number & 0x7fc0u);
  const Vector<uint16_t, N> halves = __builtin_convertvector(chosen, Vector<uint16_t, N>);
  std::memcpy(to, &halves, sizeof(halves));
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

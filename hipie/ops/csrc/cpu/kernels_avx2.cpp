// The kernels for AVX2 with FMA.
#if defined(__x86_64__)

#include "problem.h"
#include "../sampling.h"

#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define HIPIE_VECTOR_BYTES 32
#include "backward.h"
#include "forward.h"

namespace hipie {

template <typename V, typename C>
Kernels<V, C> avx2_kernels() {
  return {forward<V, C>, backward<V, C>};
}
template Kernels<float, float> avx2_kernels();
template Kernels<double, double> avx2_kernels();
template Kernels<c10::BFloat16, c10::BFloat16> avx2_kernels();
template Kernels<c10::BFloat16, float> avx2_kernels();

}  // namespace hipie
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // x86-64

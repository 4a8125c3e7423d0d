// The kernels for AVX-512.
#if defined(__x86_64__)

#include "problem.h"
#include "../sampling.h"

#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,prefer-vector-width=512")
#endif
#define HIPIE_VECTOR_BYTES 64
#include "backward.h"
#include "forward.h"

namespace hipie {

template <typename V, typename C>
Kernels<V, C> avx512_kernels() {
  return {forward<V, C>, backward<V, C>};
}
template Kernels<float, float> avx512_kernels();
template Kernels<double, double> avx512_kernels();
template Kernels<c10::BFloat16, c10::BFloat16> avx512_kernels();
template Kernels<c10::BFloat16, float> avx512_kernels();

}  // namespace hipie
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // x86-64

// The kernels for what every processor of the architecture has (SSE2, NEON).
#include "problem.h"
#include "../sampling.h"

#include <cstring>

#define HIPIE_VECTOR_BYTES 16
#include "backward.h"
#include "forward.h"

namespace hipie {

template <typename V, typename C>
Kernels<V, C> baseline_kernels() {
  return {forward<V, C>, backward<V, C>};
}
template Kernels<float, float> baseline_kernels();
template Kernels<double, double> baseline_kernels();
template Kernels<c10::BFloat16, c10::BFloat16> baseline_kernels();
template Kernels<c10::BFloat16, float> baseline_kernels();

}  // namespace hipie

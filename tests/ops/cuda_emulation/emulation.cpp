// The CUDA kernels, compiled for the CPU: called by test_cuda_emulation.py.
#include "cuda/problem.h"

// After torch's headers, which would expect CUDA's.
#if defined(HOPPER)
#define __CUDA_ARCH__ 900
#endif
#include "cuda/backward.cu"
#include "cuda/forward.cu"

namespace {

template <typename V, typename C>
hipie::DeviceProblem<V, C> problem(const int64_t* sizes, void* const* pointers) {
  return {
      sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6],
      static_cast<const int64_t*>(pointers[0]), static_cast<const int64_t*>(pointers[1]),
      static_cast<const V*>(pointers[2]), static_cast<const C*>(pointers[3]),
      static_cast<const C*>(pointers[4])};
}

template <typename V, typename C>
void run(const int64_t* sizes, void* const* pointers, bool backward) {
  using T = hipie::DeviceSum<V>;
  const auto arguments = problem<V, C>(sizes, pointers);
  if (!backward) {
    hipie::launch_forward(arguments, static_cast<V*>(pointers[5]), nullptr);
    return;
  }
  const hipie::DeviceGradients<V, C> gradients{
      static_cast<const V*>(pointers[5]), static_cast<T*>(pointers[6]),
      static_cast<C*>(pointers[7]), static_cast<C*>(pointers[8])};
  hipie::launch_backward(arguments, gradients, nullptr);
}

}  // namespace

// types: 0 float, 1 double, 2 half, 3 half with float locations, 4 and 5 the same of bfloat16.
extern "C" void run_kernel(
    int types, const int64_t* sizes, void* const* pointers, int backward) {
  switch (types) {
    case 0: return run<float, float>(sizes, pointers, backward);
    case 1: return run<double, double>(sizes, pointers, backward);
    case 2: return run<c10::Half, c10::Half>(sizes, pointers, backward);
    case 3: return run<c10::Half, float>(sizes, pointers, backward);
    case 4: return run<c10::BFloat16, c10::BFloat16>(sizes, pointers, backward);
    case 5: return run<c10::BFloat16, float>(sizes, pointers, backward);
  }
}

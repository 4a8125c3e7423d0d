// Arguments of a CUDA kernel: plain pointers and sizes, no tensors.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace hipie {

// Accumulator type of values of type V.
template <typename V>
struct DeviceSumType {
  using type = float;
};
template <>
struct DeviceSumType<double> {
  using type = double;
};
template <typename V>
using DeviceSum = typename DeviceSumType<V>::type;

template <typename V, typename C>
struct DeviceProblem {
  int64_t batch, tokens, heads, width, queries, levels, points;
  const int64_t* shapes;  // [levels, 2] rows and columns
  const int64_t* starts;  // [levels]
  const V* value;         // [batch, tokens, heads, width]
  const C* locations;     // [batch, queries, heads, levels, points, 2]
  const C* weights;       // [batch, queries, heads, levels, points]
};

template <typename V, typename C>
struct DeviceGradients {
  const V* output;       // [batch, queries, heads, width]
  DeviceSum<V>* value;   // like DeviceProblem::value, zero at first, added to
  C* locations;
  C* weights;
};

template <typename V, typename C>
void launch_forward(const DeviceProblem<V, C>& problem, V* output, cudaStream_t stream);

template <typename V, typename C>
void launch_backward(
    const DeviceProblem<V, C>& problem, const DeviceGradients<V, C>& gradients,
    cudaStream_t stream);

}  // namespace hipie

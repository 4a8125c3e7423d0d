// Multi-scale deformable attention on CUDA: from tensors to kernels.

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "../arguments.h"
#include "../built_for.h"
#include "problem.h"

namespace hipie {
namespace {

using at::Tensor;

// Values that are on the host already are checked without waiting for the device.
void check_tables_on_host(const Tensor& shapes, const Tensor& starts, int64_t tokens) {
  TORCH_CHECK_VALUE(tokens <= INT32_MAX, "value has ", tokens, " tokens, more than 2^31 - 1");
  if (!shapes.is_cpu() || !starts.is_cpu()) return;
  const Tensor sizes = shapes.to(at::kLong).contiguous(), first = starts.to(at::kLong).contiguous();
  int64_t area = 0;
  for (int64_t level = 0; level < sizes.size(0); ++level) {
    const int64_t rows = sizes.const_data_ptr<int64_t>()[2 * level];
    const int64_t columns = sizes.const_data_ptr<int64_t>()[2 * level + 1];
    const int64_t start = first.const_data_ptr<int64_t>()[level];
    TORCH_CHECK_VALUE(
        rows >= 0 && columns >= 0 && rows <= tokens && columns <= tokens && start >= 0 &&
            start + rows * columns <= tokens,
        "spatial_shapes and level_start_index: level ", level, " of ", rows, " x ", columns,
        " tokens from token ", start, " does not lie within value's ", tokens, " tokens");
    area += rows * columns;
  }
  TORCH_CHECK_VALUE(
      area == tokens, "the areas of spatial_shapes add up to ", area, ", and value has ", tokens,
      " tokens");
}

// Contiguous inputs, kept alive while a kernel is given pointers into them.
struct Inputs {
  Inputs(
      const Tensor& value_, const Tensor& shapes_, const Tensor& starts_, const Tensor& locations_,
      const Tensor& weights_)
      : value(value_.contiguous()),
        shapes(shapes_.to(value_.device(), at::kLong, /*non_blocking=*/true).contiguous()),
        starts(starts_.to(value_.device(), at::kLong, /*non_blocking=*/true).contiguous()),
        locations(locations_.contiguous()),
        weights(weights_.contiguous()) {
    const int64_t places = value.size(0) * locations.size(1) * value.size(2);
    TORCH_CHECK_VALUE(
        places <= INT32_MAX, "images * queries * heads is ", places, ", more than 2^31 - 1");
  }

  template <typename V, typename C>
  DeviceProblem<V, C> problem() const {
    return {
        value.size(0), value.size(1), value.size(2), value.size(3), locations.size(1),
        locations.size(3), locations.size(4), shapes.const_data_ptr<int64_t>(),
        starts.const_data_ptr<int64_t>(), value.const_data_ptr<V>(),
        locations.const_data_ptr<C>(), weights.const_data_ptr<C>()};
  }

  const Tensor value, shapes, starts, locations, weights;
};

// Calls `body` with objects of the C++ types of value and of locations.
template <typename Body>
void with_types(const Tensor& value, const Tensor& locations, const Body& body) {
  const bool exact = locations.scalar_type() == at::kFloat;
  switch (value.scalar_type()) {
    case at::kDouble:
      return body(double(), double());
    case at::kFloat:
      return body(float(), float());
    case at::kHalf:
      return exact ? body(c10::Half(), float()) : body(c10::Half(), c10::Half());
    default:
      return exact ? body(c10::BFloat16(), float()) : body(c10::BFloat16(), c10::BFloat16());
  }
}

Tensor ms_deform_attn(
    const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
    const Tensor& sampling_locations, const Tensor& attention_weights) {
  check_arguments(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  check_tables_on_host(spatial_shapes, level_start_index, value.size(1));
  const c10::cuda::CUDAGuard guard(value.device());
  const Inputs inputs(
      value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const std::vector<int64_t> shape{
      value.size(0), sampling_locations.size(1), value.size(2) * value.size(3)};
  if (value.numel() == 0 || attention_weights.numel() == 0) {
    return at::zeros(shape, value.options());
  }
  Tensor output = at::empty(shape, value.options());
  with_types(value, sampling_locations, [&](auto v, auto c) {
    using V = decltype(v);
    launch_forward(
        inputs.problem<V, decltype(c)>(), output.mutable_data_ptr<V>(),
        c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(
    const Tensor& grad_output, const Tensor& value, const Tensor& spatial_shapes,
    const Tensor& level_start_index, const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  check_arguments(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  check_output_gradient(grad_output, value, sampling_locations);
  check_tables_on_host(spatial_shapes, level_start_index, value.size(1));
  at::globalContext().alertNotDeterministic("hipie::ms_deform_attn_backward on CUDA");
  const c10::cuda::CUDAGuard guard(value.device());
  const Inputs inputs(
      value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  if (value.numel() == 0 || attention_weights.numel() == 0) {
    return {
        at::zeros_like(inputs.value), at::zeros_like(inputs.locations),
        at::zeros_like(inputs.weights)};
  }
  const Tensor gradient = grad_output.contiguous();
  const auto sums = value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  Tensor by_value = at::zeros(value.sizes(), value.options().dtype(sums));
  Tensor by_locations = at::empty_like(inputs.locations),
         by_weights = at::empty_like(inputs.weights);
  with_types(value, sampling_locations, [&](auto v, auto c) {
    using V = decltype(v);
    using C = decltype(c);
    launch_backward(
        inputs.problem<V, C>(),
        DeviceGradients<V, C>{
            gradient.const_data_ptr<V>(), by_value.mutable_data_ptr<DeviceSum<V>>(),
            by_locations.mutable_data_ptr<C>(), by_weights.mutable_data_ptr<C>()},
        c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {by_value.to(value.scalar_type()), by_locations, by_weights};
}

}  // namespace
}  // namespace hipie

TORCH_LIBRARY_IMPL(hipie, CUDA, library) {
  library.impl("ms_deform_attn", hipie::ms_deform_attn);
  library.impl("ms_deform_attn_backward", hipie::ms_deform_attn_backward);
}

// Checks of the arguments, common to all kernels.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

namespace hipie {

// Ranks, shapes, dtypes and devices; everything that does not depend on the values.
inline void check_arguments(
    const at::Tensor& value, const at::Tensor& spatial_shapes, const at::Tensor& level_start_index,
    const at::Tensor& sampling_locations, const at::Tensor& attention_weights) {
  TORCH_CHECK_VALUE(
      value.dim() == 4, "value must be [B, S, M, D], and has shape ", value.sizes());
  TORCH_CHECK_VALUE(
      spatial_shapes.dim() == 2 && spatial_shapes.size(1) == 2,
      "spatial_shapes must be [L, 2], and has shape ", spatial_shapes.sizes());
  TORCH_CHECK_VALUE(
      level_start_index.dim() == 1 && level_start_index.size(0) == spatial_shapes.size(0),
      "level_start_index must be [L] with the L of spatial_shapes ", spatial_shapes.sizes(),
      ", and has shape ", level_start_index.sizes());
  TORCH_CHECK_VALUE(
      sampling_locations.dim() == 6 && sampling_locations.size(5) == 2,
      "sampling_locations must be [B, Q, M, L, P, 2], and has shape ", sampling_locations.sizes());
  TORCH_CHECK_VALUE(
      sampling_locations.size(0) == value.size(0) && sampling_locations.size(2) == value.size(2),
      "sampling_locations ", sampling_locations.sizes(), " and value ", value.sizes(),
      " differ in images (dimension 0 of both) or heads (dimension 2 of both)");
  TORCH_CHECK_VALUE(
      sampling_locations.size(3) == spatial_shapes.size(0), "sampling_locations ",
      sampling_locations.sizes(), " has ", sampling_locations.size(3),
      " levels in dimension 3, and spatial_shapes ", spatial_shapes.sizes(), " has ",
      spatial_shapes.size(0));
  TORCH_CHECK_VALUE(
      attention_weights.sizes() == sampling_locations.sizes().slice(0, 5),
      "attention_weights ", attention_weights.sizes(),
      " must have the shape of sampling_locations ", sampling_locations.sizes(),
      " without its last dimension");
  const bool reduced = value.scalar_type() == at::kHalf || value.scalar_type() == at::kBFloat16;
  TORCH_CHECK_VALUE(
      reduced || value.scalar_type() == at::kFloat || value.scalar_type() == at::kDouble,
      "value must be float32, float64, bfloat16 or float16, and is ", value.scalar_type());
  TORCH_CHECK_VALUE(
      sampling_locations.scalar_type() == value.scalar_type() ||
          (reduced && sampling_locations.scalar_type() == at::kFloat),
      "sampling_locations must have the dtype of value, ", value.scalar_type(),
      reduced ? ", or float32" : "", ", and is ", sampling_locations.scalar_type());
  TORCH_CHECK_VALUE(
      attention_weights.scalar_type() == sampling_locations.scalar_type(),
      "attention_weights must have the dtype of sampling_locations, ",
      sampling_locations.scalar_type(), ", and is ", attention_weights.scalar_type());
  TORCH_CHECK_VALUE(
      sampling_locations.device() == value.device() && attention_weights.device() == value.device(),
      "value, sampling_locations and attention_weights must be on one device, and are on ",
      value.device(), ", ", sampling_locations.device(), " and ", attention_weights.device());
  for (const auto& table : {spatial_shapes, level_start_index}) {
    TORCH_CHECK_VALUE(
        table.scalar_type() == at::kLong || table.scalar_type() == at::kInt,
        "spatial_shapes and level_start_index must be int64 or int32, and one is ",
        table.scalar_type());
  }
}

inline void check_output_gradient(
    const at::Tensor& gradient, const at::Tensor& value, const at::Tensor& sampling_locations) {
  TORCH_CHECK_VALUE(
      gradient.dim() == 3 && gradient.size(0) == value.size(0) &&
          gradient.size(1) == sampling_locations.size(1) &&
          gradient.size(2) == value.size(2) * value.size(3),
      "grad_output ", gradient.sizes(), " must be [B, Q, M * D] for value ", value.sizes(),
      " and sampling_locations ", sampling_locations.sizes());
  TORCH_CHECK_VALUE(
      gradient.scalar_type() == value.scalar_type() && gradient.device() == value.device(),
      "grad_output must have the dtype and device of value, ", value.scalar_type(), " on ",
      value.device(), ", and is ", gradient.scalar_type(), " on ", gradient.device());
}

}  // namespace hipie

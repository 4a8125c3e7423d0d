// The arithmetic of one bilinear sample and of its gradient, shared by the CPU and CUDA kernels.
//
// A location in 0..1 along an axis of `size` pixels is at pixel coordinate location * size - 0.5.
// It falls between two pixels, `low` and `low + 1`; what lies outside the map counts as zero. So
// that kernels need no branch a corner, the index of a pixel outside is moved to the nearest pixel
// inside and its weight is zero.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define HIPIE_INLINE __host__ __device__ __forceinline__
#else
#define HIPIE_INLINE inline __attribute__((always_inline))
#endif

namespace hipie {
namespace {

// The two pixels around a location along one axis.
template <typename T>
struct Axis {
  int32_t low, high;          // indices of the pixels, inside the map
  T weight_low, weight_high;  // bilinear weights, zero where the pixel is outside
  T slope_low, slope_high;    // derivatives of the weights by the location
};

// Whether a location is near enough for any of its pixels to be inside. False for NaN.
template <typename T>
HIPIE_INLINE bool touches(T location, int32_t size) {
  const T pixel = location * static_cast<T>(size) - T(0.5);
  return (pixel > T(-1)) & (pixel < static_cast<T>(size)) & (size > 0);
}

// Any location is allowed; where it does not touch the map, the indices and weights are harmless.
template <typename T>
HIPIE_INLINE Axis<T> along_axis(T location, int32_t size) {
  const T extent = static_cast<T>(size);
  const T exact = location * extent - T(0.5);
  // From -1 to extent, which makes -1 of NaN: no conversion below can overflow.
  const T not_below = exact > T(-1) ? exact : T(-1);
  const T pixel = not_below < extent ? not_below : extent;
  // As pixel + 1 is not negative, truncation rounds it down.
  const int32_t low = static_cast<int32_t>(pixel + T(1)) - 1;
  const int32_t high = low + 1, last = size - 1;
  const T fraction = pixel - static_cast<T>(low);
  const T low_inside = static_cast<T>((low >= 0) & (low <= last));
  const T high_inside = static_cast<T>(high <= last);
  Axis<T> axis;
  const int32_t low_not_above = low < last ? low : last;
  axis.low = low_not_above > 0 ? low_not_above : 0;
  axis.high = high < last ? high : last;
  axis.weight_low = low_inside * (T(1) - fraction);
  axis.weight_high = high_inside * fraction;
  axis.slope_low = low_inside * -extent;
  axis.slope_high = high_inside * extent;
  return axis;
}

// Gradients of one sample: of its attention weight and of its location.
template <typename T>
struct SampleGradient {
  T attention, x, y;
};

// The arguments named product_* are inner products, over the channels of a head, of the gradient of
// the output with the value at the top left, top right, bottom left and bottom right pixel.
template <typename T>
HIPIE_INLINE SampleGradient<T> sample_gradient(
    const Axis<T>& x, const Axis<T>& y, T attention,
    T product_tl, T product_tr, T product_bl, T product_br) {
  const T top = x.weight_low * product_tl + x.weight_high * product_tr;
  const T bottom = x.weight_low * product_bl + x.weight_high * product_br;
  const T top_slope = x.slope_low * product_tl + x.slope_high * product_tr;
  const T bottom_slope = x.slope_low * product_bl + x.slope_high * product_br;
  SampleGradient<T> gradient;
  gradient.attention = y.weight_low * top + y.weight_high * bottom;
  gradient.x = attention * (y.weight_low * top_slope + y.weight_high * bottom_slope);
  gradient.y = attention * (y.slope_low * top + y.slope_high * bottom);
  return gradient;
}

}  // namespace
}  // namespace hipie

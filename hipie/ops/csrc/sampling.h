// The arithmetic of one bilinear sample and of its gradient, shared by the CPU and CUDA kernels.
//
// A location in 0..1 along an axis of `size` pixels lies at pixel coordinate location * size - 0.5.
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

// Whether a location is near enough for any of its pixels to lie inside. False for NaN.
template <typename T>
HIPIE_INLINE bool touches(T location, T size) {
  const T pixel = location * size - T(0.5);
  return (pixel > T(-1)) & (pixel < size);
}

// Requires touches(location, size); anything else must be replaced by a location inside first.
template <typename T>
HIPIE_INLINE Axis<T> along_axis(T location, int32_t size) {
  const T extent = static_cast<T>(size);
  const T pixel = location * extent - T(0.5);
  // pixel > -1, so that truncation of pixel + 1 rounds down.
  const int32_t low = static_cast<int32_t>(pixel + T(1)) - 1;
  const T fraction = pixel - static_cast<T>(low);
  const bool low_inside = (low >= 0) & (low < size);
  const bool high_inside = low + 1 < size;
  Axis<T> axis;
  axis.low = low < 0 ? 0 : (low < size ? low : size - 1);
  axis.high = low + 1 < size ? low + 1 : size - 1;
  axis.weight_low = low_inside ? T(1) - fraction : T(0);
  axis.weight_high = high_inside ? fraction : T(0);
  axis.slope_low = low_inside ? -extent : T(0);
  axis.slope_high = high_inside ? extent : T(0);
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

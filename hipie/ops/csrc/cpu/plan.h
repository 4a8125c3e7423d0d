// Sampling plan of one head of one query: computed once, used for every channel.
#pragma once

#include <cstdint>

#include "../sampling.h"
#include "problem.h"
#include "vectors.h"

namespace hipie {
namespace {

// Arrays over the samples of a head. Corners are top left, top right, bottom left, bottom right.
template <typename T>
struct Plan {
  template <typename V>
  HIPIE_INLINE Plan(const SampleMaps& all_maps, const Scratch<V>& scratch)
      : maps(all_maps), count(all_maps.count), inside(scratch.integers) {
    for (int corner = 0; corner < 4; ++corner) {
      token[corner] = scratch.integers + (corner + 1) * count;
      weight[corner] = scratch.samples + corner * count;
    }
    for (int part = 0; part < 4; ++part) {
      across[part] = scratch.samples + (4 + part) * count;
      down[part] = scratch.samples + (8 + part) * count;
    }
    products = scratch.samples + 12 * count;
  }

  const SampleMaps maps;
  const int64_t count;
  int32_t* inside;    // 0 where a sample is outside its map: then no pixel of it may be read
  int32_t* token[4];
  T* weight[4];       // bilinear times attention
  // For the backward pass only:
  T* across[4];       // Axis::weight_low, weight_high, slope_low, slope_high along x
  T* down[4];         // the same along y
  T* products;        // [count, 4 corners, 4 lanes]: gradient times value, four partial sums
};

// With `axes` also the arrays that the backward pass needs.
template <bool axes, typename T, typename C>
HIPIE_INLINE void fill(const Plan<T>& plan, const C* locations, const C* weights) {
  const int32_t* __restrict__ rows = plan.maps.rows;
  const int32_t* __restrict__ columns = plan.maps.columns;
  const int32_t* __restrict__ start = plan.maps.start;
  int32_t* __restrict__ inside = plan.inside;
  int32_t* __restrict__ token_tl = plan.token[0];
  int32_t* __restrict__ token_tr = plan.token[1];
  int32_t* __restrict__ token_bl = plan.token[2];
  int32_t* __restrict__ token_br = plan.token[3];
  T* __restrict__ weight_tl = plan.weight[0];
  T* __restrict__ weight_tr = plan.weight[1];
  T* __restrict__ weight_bl = plan.weight[2];
  T* __restrict__ weight_br = plan.weight[3];
  T* __restrict__ across = plan.across[0];
  T* __restrict__ down = plan.down[0];
  const int64_t count = plan.count;
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const T x = static_cast<T>(locations[2 * i]);
    const T y = static_cast<T>(locations[2 * i + 1]);
    const T attention = static_cast<T>(weights[i]);
    const Axis<T> horizontal = along_axis(x, columns[i]);
    const Axis<T> vertical = along_axis(y, rows[i]);
    const int32_t top = start[i] + vertical.low * columns[i];
    const int32_t bottom = start[i] + vertical.high * columns[i];
    inside[i] = touches(x, columns[i]) & touches(y, rows[i]);
    token_tl[i] = top + horizontal.low;
    token_tr[i] = top + horizontal.high;
    token_bl[i] = bottom + horizontal.low;
    token_br[i] = bottom + horizontal.high;
    const T upper = attention * vertical.weight_low;
    const T lower = attention * vertical.weight_high;
    weight_tl[i] = upper * horizontal.weight_low;
    weight_tr[i] = upper * horizontal.weight_high;
    weight_bl[i] = lower * horizontal.weight_low;
    weight_br[i] = lower * horizontal.weight_high;
    if constexpr (axes) {
      across[i] = horizontal.weight_low;
      across[count + i] = horizontal.weight_high;
      across[2 * count + i] = horizontal.slope_low;
      across[3 * count + i] = horizontal.slope_high;
      down[i] = vertical.weight_low;
      down[count + i] = vertical.weight_high;
      down[2 * count + i] = vertical.slope_low;
      down[3 * count + i] = vertical.slope_high;
    }
  }
}

// Prefetches the samples of a later query: those of one head are too far apart in memory for the
// hardware prefetcher. `place` counts (image, query, head).
template <typename V, typename C>
HIPIE_INLINE void prefetch(const Problem<V, C>& problem, int64_t place) {
  if (place >= problem.batch * problem.queries * problem.heads) return;
  const int64_t count = problem.maps.count;
  const char* locations = reinterpret_cast<const char*>(problem.locations + 2 * count * place);
  const char* weights = reinterpret_cast<const char*>(problem.weights + count * place);
  const int64_t bytes = count * static_cast<int64_t>(sizeof(C));
  for (int64_t byte = 0; byte < 2 * bytes; byte += 64) __builtin_prefetch(locations + byte);
  for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(weights + byte);
}

// From the products of all corners to the gradients of locations and weights. The products of a
// sample outside its map must be zero.
template <typename T, typename C>
HIPIE_INLINE void finish(
    const Plan<T>& plan, const C* weights, C* gradient_locations, C* gradient_weights) {
  const T* __restrict__ products = plan.products;
  const T* __restrict__ across = plan.across[0];
  const T* __restrict__ down = plan.down[0];
  const int64_t count = plan.count;
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const T* p = products + 16 * i;
    const Axis<T> x{0, 0, across[i], across[count + i], across[2 * count + i], across[3 * count + i]};
    const Axis<T> y{0, 0, down[i], down[count + i], down[2 * count + i], down[3 * count + i]};
    const SampleGradient<T> gradient = sample_gradient(
        x, y, static_cast<T>(weights[i]), (p[0] + p[1]) + (p[2] + p[3]),
        (p[4] + p[5]) + (p[6] + p[7]), (p[8] + p[9]) + (p[10] + p[11]),
        (p[12] + p[13]) + (p[14] + p[15]));
    gradient_weights[i] = narrow<C>(gradient.attention);
    gradient_locations[2 * i] = narrow<C>(gradient.x);
    gradient_locations[2 * i + 1] = narrow<C>(gradient.y);
  }
}

}  // namespace
}  // namespace hipie

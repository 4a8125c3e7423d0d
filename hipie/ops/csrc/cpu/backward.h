// The backward kernel, compiled once for every instruction set.
//
// One thread owns one head of one image: no two threads write the same number, and the order of
// the additions depends on nothing, so that results are the same to the bit for any thread count.
#pragma once

#include "plan.h"
#include "problem.h"
#include "vectors.h"

namespace hipie {
namespace {

// K vectors of N channels: adds to the gradient of the map, and to (or, `first`, sets) the products
// of the output's gradient with the value at every corner.
template <int N, int K, typename V, typename T>
HIPIE_INLINE void scatter(
    const V* value, int64_t stride, const Plan<T>& plan, const V* gradient, T* map, int64_t width,
    bool first) {
  constexpr int kept = N < 4 ? N : 4;
  Vector<T, N> g[K];
  load_all<N, K, V>(gradient, g);
  for (int64_t i = 0; i < plan.count; ++i) {
    if (!plan.inside[i]) {
      for (int part = 0; part < 16; ++part) plan.products[16 * i + part] = T(0);
      continue;
    }
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {
      const int64_t token = plan.token[corner][i];
      const V* pixel = value + token * stride;
      T* target = map + token * width;
      const T weight = plan.weight[corner][i];
      Vector<T, N> channels[K];
      load_all<N, K, V>(pixel, channels);
      Vector<T, N> product = g[0] * channels[0];
      store<N>(target, load<N>(target) + weight * g[0]);
#pragma GCC unroll 4
      for (int k = 1; k < K; ++k) {
        product += g[k] * channels[k];
        store<N>(target + k * N, load<N>(target + k * N) + weight * g[k]);
      }
      T* total = plan.products + 16 * i + 4 * corner;
      Vector<T, kept> four = fold_to_four<N, T>(product);
      if (!first) four += load<kept>(total);
      store<kept>(total, four);
    }
  }
}

template <int N, typename V, typename T>
HIPIE_INLINE void scatter_channels(
    const V* value, int64_t stride, const Plan<T>& plan, const V* gradient, T* map, int64_t from,
    int64_t width) {
  if constexpr (N == lanes<T>) {
    for (; from + 4 * N <= width; from += 4 * N) {
      scatter<N, 4>(value + from, stride, plan, gradient + from, map + from, width, from == 0 && N >= 4);
    }
    if (from + 2 * N <= width) {
      scatter<N, 2>(value + from, stride, plan, gradient + from, map + from, width, from == 0 && N >= 4);
      from += 2 * N;
    }
  }
  if (from + N <= width) {
    // Fewer than four lanes leave the others as they are: they must have been set before.
    scatter<N, 1>(
        value + from, stride, plan, gradient + from, map + from, width, from == 0 && N >= 4);
    from += N;
  }
  if constexpr (N > 1) {
    if (from < width) scatter_channels<N / 2>(value, stride, plan, gradient, map, from, width);
  }
}

// Writes the finished gradient of one head's map to its place among the other heads.
template <int N, int K, typename V, typename T>
HIPIE_INLINE void write(const T* map, int64_t tokens, int64_t width, int64_t stride, V* to) {
  for (int64_t token = 0; token < tokens; ++token) {
    Vector<T, N> channels[K];
    for (int k = 0; k < K; ++k) channels[k] = load<N>(map + token * width + k * N);
    store_all<N, K, V>(to + token * stride, channels);
  }
}

template <int N, typename V, typename T>
HIPIE_INLINE void write_channels(
    const T* map, int64_t tokens, int64_t from, int64_t width, int64_t stride, V* to) {
  if constexpr (N == lanes<T>) {
    for (; from + 4 * N <= width; from += 4 * N) {
      write<N, 4>(map + from, tokens, width, stride, to + from);
    }
    if (from + 2 * N <= width) {
      write<N, 2>(map + from, tokens, width, stride, to + from);
      from += 2 * N;
    }
  }
  if (from + N <= width) {
    write<N, 1>(map + from, tokens, width, stride, to + from);
    from += N;
  }
  if constexpr (N > 1) {
    if (from < width) write_channels<N / 2>(map, tokens, from, width, stride, to);
  }
}

template <typename V, typename C>
void backward(
    const Problem<V, C>& problem, const Gradients<V, C>& gradients, const Scratch<V>& scratch,
    int64_t begin, int64_t end) {
  using T = Sum<V>;
  const Plan<T> plan(problem.maps, scratch);
  const int64_t width = problem.width, stride = problem.heads * width;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / problem.heads, head = item % problem.heads;
    const int64_t corner = image * problem.tokens * stride + head * width;
    const auto values = head_values(problem, scratch, image, head);
    for (int64_t i = 0; i < problem.tokens * width; ++i) scratch.map[i] = T(0);
    for (int64_t query = 0; query < problem.queries; ++query) {
      const int64_t place = (image * problem.queries + query) * problem.heads + head;
      prefetch(problem, place + 4 * problem.heads);
      const C* weights = problem.weights + plan.count * place;
      fill<true>(plan, problem.locations + 2 * plan.count * place, weights);
      if (width < 4 || lanes<T> < 4) {
        for (int64_t i = 0; i < 16 * plan.count; ++i) plan.products[i] = T(0);
      }
      scatter_channels<lanes<T>>(
          values.first, values.stride, plan, gradients.output + place * width, scratch.map, 0,
          width);
      finish(
          plan, weights, gradients.locations + 2 * plan.count * place,
          gradients.weights + plan.count * place);
    }
    write_channels<lanes<T>>(
        scratch.map, problem.tokens, 0, width, stride, gradients.value + corner);
  }
}

}  // namespace
}  // namespace hipie

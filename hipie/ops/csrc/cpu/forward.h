// The forward kernel, compiled once for every instruction set.
#pragma once

#include "plan.h"
#include "problem.h"
#include "vectors.h"

namespace hipie {
namespace {

// Sums K vectors of N channels over all samples of a plan. Several independent sums hide the
// latency of the multiply-adds.
template <int N, int K, typename V, typename T>
HIPIE_INLINE void gather(const V* value, int64_t stride, const Plan<T>& plan, V* output) {
  constexpr int sums = K <= 2 ? 4 : 2;
  Vector<T, N> sum[sums][K] = {};
  for (int64_t i = 0; i < plan.count; ++i) {
    if (!plan.inside[i]) continue;
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {
      const V* pixel = value + plan.token[corner][i] * stride;
      const T weight = plan.weight[corner][i];
      Vector<T, N> channels[K];
      load_all<N, K, V>(pixel, channels);
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) sum[corner % sums][k] += weight * channels[k];
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < K; ++k) {
    sum[0][k] += sum[1][k];
    if constexpr (sums == 4) sum[0][k] += sum[2][k] + sum[3][k];
  }
  store_all<N, K, V>(output, sum[0]);
}

// Channels `from` to `width`, in ever shorter vectors.
template <int N, typename V, typename T>
HIPIE_INLINE void gather_channels(
    const V* value, int64_t stride, const Plan<T>& plan, int64_t from, int64_t width, V* output) {
  if constexpr (N == lanes<T>) {
    for (; from + 4 * N <= width; from += 4 * N) {
      gather<N, 4>(value + from, stride, plan, output + from);
    }
    if (from + 2 * N <= width) {
      gather<N, 2>(value + from, stride, plan, output + from);
      from += 2 * N;
    }
  }
  if (from + N <= width) {
    gather<N, 1>(value + from, stride, plan, output + from);
    from += N;
  }
  if constexpr (N > 1) {
    if (from < width) gather_channels<N / 2>(value, stride, plan, from, width, output);
  }
}

template <typename V, typename C>
void forward(
    const Problem<V, C>& problem, const Scratch<V>& scratch, int64_t begin, int64_t end) {
  using T = Sum<V>;
  const Plan<T> plan(problem.maps, scratch);
  for (int64_t item = begin; item < end;) {
    const int64_t head = item / problem.queries % problem.heads;
    const int64_t image = item / problem.queries / problem.heads;
    int64_t query = item % problem.queries;
    const int64_t after = query + end - item;
    const int64_t last = after < problem.queries ? after : problem.queries;
    item += last - query;
    const auto values = head_values(problem, scratch, image, head);
    for (; query < last; ++query) {
      const int64_t place = (image * problem.queries + query) * problem.heads + head;
      prefetch(problem, place + 4 * problem.heads);
      fill<false>(
          plan, problem.locations + 2 * plan.count * place, problem.weights + plan.count * place);
      gather_channels<lanes<T>>(
          values.first, values.stride, plan, 0, problem.width,
          problem.output + place * problem.width);
    }
  }
}

}  // namespace
}  // namespace hipie

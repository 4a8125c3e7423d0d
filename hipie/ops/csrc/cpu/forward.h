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
    const Problem<V, C>& problem, const Scratch<Sum<V>>& scratch, int64_t begin, int64_t end) {
  using T = Sum<V>;
  const Plan<T> plan(problem.maps, scratch);
  const int64_t stride = problem.heads * problem.width;
  int64_t query = begin % problem.queries;
  int64_t head = begin / problem.queries % problem.heads;
  int64_t picture = begin / problem.queries / problem.heads;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t place = (picture * problem.queries + query) * problem.heads + head;
    const V* value = problem.value + picture * problem.tokens * stride + head * problem.width;
    fill<false>(
        plan, problem.locations + 2 * plan.count * place, problem.weights + plan.count * place);
    gather_channels<lanes<T>>(
        value, stride, plan, 0, problem.width, problem.output + place * problem.width);
    if (++query == problem.queries) {
      query = 0;
      if (++head == problem.heads) {
        head = 0;
        ++picture;
      }
    }
  }
}

}  // namespace
}  // namespace hipie

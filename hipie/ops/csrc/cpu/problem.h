// Arguments of a CPU kernel: plain pointers and sizes, no tensors, nothing to allocate.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace hipie {

// Accumulator type of values of type V.
template <typename V>
struct SumType {
  using type = V;
};
template <>
struct SumType<c10::BFloat16> {
  using type = float;
};
template <typename V>
using Sum = typename SumType<V>::type;

// The map of every sample of a head: arrays of `count` = levels * points numbers, so that one loop
// over all samples needs no inner loop. `start` is the first token of the map.
struct SampleMaps {
  int64_t count;
  const int32_t *rows, *columns, *start;
};

// V: dtype of value and output, C: dtype of locations and weights. All arrays contiguous.
template <typename V, typename C>
struct Problem {
  int64_t batch, tokens, heads, width, queries;
  SampleMaps maps;
  const V* value;      // [batch, tokens, heads, width]
  const C* locations;  // [batch, queries, heads, maps.count, 2]
  const C* weights;    // [batch, queries, heads, maps.count]
  V* output;           // [batch, queries, heads, width]; unused in the backward pass
};

template <typename V, typename C>
struct Gradients {
  const V* output;  // [batch, queries, heads, width]
  V* value;         // the rest like the inputs of Problem; every element is written
  C* locations;
  C* weights;
};

// Memory for one thread. `samples` holds numbers_per_sample * count numbers, `integers` 5 * count.
// `head`, where not null, is a copy of the values of the current head, [tokens,
// width]. `map`, for the backward pass, has the same shape and is for the gradient of those values.
constexpr int numbers_per_sample = 4 + 8 + 16;
constexpr int integers_per_sample = 5;
template <typename V>
struct Scratch {
  Sum<V>* samples;
  int32_t* integers;
  const V* head;
  Sum<V>* map;
};

// The values of one head of one image: in their place, or in their copy.
template <typename V>
struct HeadValues {
  const V* first;
  int64_t stride;  // from token to token
};

template <typename V, typename C>
inline HeadValues<V> head_values(
    const Problem<V, C>& problem, const Scratch<V>& scratch, int64_t image, int64_t head) {
  const int64_t stride = problem.heads * problem.width;
  if (scratch.head != nullptr) return {scratch.head, problem.width};
  return {problem.value + image * problem.tokens * stride + head * problem.width, stride};
}

// One instruction set's kernels. Forward items are (image, head, query), backward items
// (image, head); the last runs fastest.
template <typename V, typename C>
struct Kernels {
  using Forward = void (*)(
      const Problem<V, C>&, const Scratch<V>&, int64_t begin, int64_t end);
  using Backward = void (*)(
      const Problem<V, C>&, const Gradients<V, C>&, const Scratch<V>&,
      int64_t begin, int64_t end);
  Forward forward;
  Backward backward;
};

template <typename V, typename C>
Kernels<V, C> baseline_kernels();
template <typename V, typename C>
Kernels<V, C> avx2_kernels();
template <typename V, typename C>
Kernels<V, C> avx512_kernels();

}  // namespace hipie

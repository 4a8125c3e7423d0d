// What a CPU kernel is given: plain pointers and sizes, no tensors, nothing to allocate.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace hipie {

// The type that sums over values of type V are kept in.
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
  V* value;         // the rest like the inputs of Problem; written whole
  C* locations;
  C* weights;
};

// Memory for one thread. `samples` holds numbers_per_sample * count numbers, `integers` 5 * count.
// `head`, where not null, has room for the values of one head, [tokens, width]: next to each other
// they use all of a cache, while among the other heads they fall on a few of its sets.
// `map`, the gradient of those values, is for the backward pass only.
constexpr int numbers_per_sample = 4 + 8 + 16;
constexpr int integers_per_sample = 5;
template <typename V>
struct Scratch {
  Sum<V>* samples;
  int32_t* integers;
  V* head;
  Sum<V>* map;
};

// Copying a head pays when its values are read several times.
inline bool worth_copying(int64_t queries, int64_t tokens) {
  return 4 * queries >= tokens;
}

// One instruction set's kernels. Forward items are (picture, head, query), backward items
// (picture, head); the last runs fastest.
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

// The values of one head of one picture, in their place or copied next to each other.
#pragma once

#include <cstring>

#include "problem.h"

namespace hipie {
namespace {

template <typename V>
struct HeadValues {
  const V* first;
  int64_t stride;  // from token to token
};

// `queries` is how many queries are going to read them.
template <typename V, typename C>
HeadValues<V> head_values(
    const Problem<V, C>& problem, const Scratch<V>& scratch, int64_t picture, int64_t head,
    int64_t queries) {
  const int64_t width = problem.width, stride = problem.heads * width;
  const V* value = problem.value + picture * problem.tokens * stride + head * width;
  if (scratch.head == nullptr || !worth_copying(queries, problem.tokens)) return {value, stride};
  for (int64_t token = 0; token < problem.tokens; ++token) {
    std::memcpy(
        static_cast<void*>(scratch.head + token * width), value + token * stride,
        width * sizeof(V));
  }
  return {scratch.head, width};
}

}  // namespace
}  // namespace hipie

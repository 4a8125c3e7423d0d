// Multi-scale deformable attention on the CPU: from tensors to kernels.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "../arguments.h"
#include "../built_for.h"
#include "instruction_set.h"
#include "problem.h"

namespace hipie {
namespace {

using at::Tensor;

// The level tables, repeated for every point of a level, and checked against the value's length.
class LevelTables {
 public:
  LevelTables(const Tensor& shapes, const Tensor& starts, int64_t points, int64_t tokens) {
    const Tensor sizes = shapes.to(at::kCPU, at::kLong).contiguous();
    const Tensor first = starts.to(at::kCPU, at::kLong).contiguous();
    const int64_t levels = sizes.size(0);
    int64_t area = 0;
    for (int64_t level = 0; level < levels; ++level) {
      const int64_t rows = sizes.const_data_ptr<int64_t>()[2 * level];
      const int64_t columns = sizes.const_data_ptr<int64_t>()[2 * level + 1];
      const int64_t start = first.const_data_ptr<int64_t>()[level];
      TORCH_CHECK_VALUE(
          rows >= 0 && columns >= 0 && rows <= tokens && columns <= tokens && start >= 0 &&
              start + rows * columns <= tokens,
          "spatial_shapes and level_start_index: level ", level, " of ", rows, " x ", columns,
          " tokens from token ", start, " does not lie within value's ", tokens, " tokens");
      area += rows * columns;
      for (int64_t point = 0; point < points; ++point) {
        rows_.push_back(static_cast<int32_t>(rows));
        columns_.push_back(static_cast<int32_t>(columns));
        starts_.push_back(static_cast<int32_t>(start));
      }
    }
    TORCH_CHECK_VALUE(
        area == tokens, "the areas of spatial_shapes add up to ", area, ", and value has ", tokens,
        " tokens");
    TORCH_CHECK_VALUE(tokens <= INT32_MAX, "value has ", tokens, " tokens, more than 2^31 - 1");
  }

  SampleMaps maps() const {
    return {static_cast<int64_t>(rows_.size()), rows_.data(), columns_.data(), starts_.data()};
  }

 private:
  std::vector<int32_t> rows_, columns_, starts_;
};

template <typename V>
class ScratchMemory {
 public:
  explicit ScratchMemory(int64_t count, int64_t map = 0)
      : samples_(new Sum<V>[numbers_per_sample * count]),
        integers_(new int32_t[integers_per_sample * count]),
        map_(new Sum<V>[map]) {}
  Scratch<V> scratch(const V* head) const {
    return {samples_.get(), integers_.get(), head, map_.get()};
  }

 private:
  const std::unique_ptr<Sum<V>[]> samples_;
  const std::unique_ptr<int32_t[]> integers_;
  const std::unique_ptr<Sum<V>[]> map_;
};

// Buffer for the contiguous values of one head. Among the other heads they fall on a few
// sets of a cache only; copied together they use all of it, which pays when they are read often.
template <typename V, typename C>
class HeadCopy {
 public:
  explicit HeadCopy(const Problem<V, C>& problem)
      : problem_(problem),
        bytes_(worthwhile(problem) ? new char[problem.tokens * problem.width * sizeof(V)] : nullptr) {}

  explicit operator bool() const { return bytes_ != nullptr; }
  const V* get() const { return reinterpret_cast<const V*>(bytes_.get()); }

  // Copies some tokens of head `item % heads` of image `item / heads`.
  void fill(int64_t item, int64_t begin, int64_t end) const {
    const HeadValues<V> from = head_values(
        problem_, Scratch<V>{}, item / problem_.heads, item % problem_.heads);
    const size_t size = problem_.width * sizeof(V);
    for (int64_t token = begin; token < end; ++token) {
      std::memcpy(bytes_.get() + token * size, from.first + token * from.stride, size);
    }
  }

 private:
  static bool worthwhile(const Problem<V, C>& problem) {
    const int64_t image = problem.tokens * problem.heads * problem.width * sizeof(V);
    return 4 * problem.queries >= problem.tokens && image > (1 << 20) && problem.heads > 1;
  }

  const Problem<V, C>& problem_;
  const std::unique_ptr<char[]> bytes_;
};

template <typename V, typename C>
Problem<V, C> problem_of(
    const Tensor& value, const LevelTables& tables, const Tensor& locations,
    const Tensor& weights) {
  Problem<V, C> problem;
  problem.batch = value.size(0);
  problem.tokens = value.size(1);
  problem.heads = value.size(2);
  problem.width = value.size(3);
  problem.queries = locations.size(1);
  problem.maps = tables.maps();
  problem.value = value.const_data_ptr<V>();
  problem.locations = locations.const_data_ptr<C>();
  problem.weights = weights.const_data_ptr<C>();
  problem.output = nullptr;
  return problem;
}

// About this many multiply-adds make it worth waking another thread.
constexpr int64_t work_of_a_thread = 1 << 15;

template <typename V, typename C>
void run_forward(Problem<V, C> problem, Tensor& output) {
  problem.output = output.mutable_data_ptr<V>();
  const auto run = kernels<V, C>().forward;
  const int64_t grain = work_of_a_thread / (4 * problem.maps.count * problem.width + 64) + 1;
  const int64_t heads = problem.batch * problem.heads;
  const HeadCopy<V, C> copy(problem);
  const auto part = [&](int64_t begin, int64_t end) {
    const ScratchMemory<V> memory(problem.maps.count);
    run(problem, memory.scratch(copy.get()), begin, end);
  };
  if (!copy) return at::parallel_for(0, heads * problem.queries, grain, part);
  // All threads share one head's copy, so that it stays small beside the output.
  for (int64_t item = 0; item < heads; ++item) {
    at::parallel_for(0, problem.tokens, 1024, [&](int64_t begin, int64_t end) {
      copy.fill(item, begin, end);
    });
    at::parallel_for(item * problem.queries, (item + 1) * problem.queries, grain, part);
  }
}

template <typename V, typename C>
void run_backward(const Problem<V, C>& problem, const Gradients<V, C>& gradients) {
  const auto run = kernels<V, C>().backward;
  at::parallel_for(0, problem.batch * problem.heads, 1, [&](int64_t begin, int64_t end) {
    const ScratchMemory<V> memory(problem.maps.count, problem.tokens * problem.width);
    const HeadCopy<V, C> copy(problem);
    for (int64_t item = begin; item < end; ++item) {
      if (copy) copy.fill(item, 0, problem.tokens);
      run(problem, gradients, memory.scratch(copy.get()), item, item + 1);
    }
  });
}

// Calls `body` with objects of the C++ types of value and of locations.
template <typename Body>
void with_types(const Tensor& value, const Tensor& locations, const Body& body) {
  if (value.scalar_type() == at::kDouble) return body(double(), double());
  if (value.scalar_type() == at::kFloat) return body(float(), float());
  if (locations.scalar_type() == at::kFloat) return body(c10::BFloat16(), float());
  return body(c10::BFloat16(), c10::BFloat16());
}

Tensor ms_deform_attn(
    const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
    const Tensor& sampling_locations, const Tensor& attention_weights) {
  check_arguments(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  if (value.scalar_type() == at::kHalf) {
    return ms_deform_attn(
               value.to(at::kFloat), spatial_shapes, level_start_index,
               sampling_locations.to(at::kFloat), attention_weights.to(at::kFloat))
        .to(at::kHalf);
  }
  const LevelTables tables(
      spatial_shapes, level_start_index, sampling_locations.size(4), value.size(1));
  const Tensor values = value.contiguous(), locations = sampling_locations.contiguous(),
               weights = attention_weights.contiguous();
  Tensor output = at::empty(
      {value.size(0), locations.size(1), value.size(2) * value.size(3)}, value.options());
  if (output.numel() == 0) return output;
  with_types(value, locations, [&](auto v, auto c) {
    run_forward(problem_of<decltype(v), decltype(c)>(values, tables, locations, weights), output);
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(
    const Tensor& grad_output, const Tensor& value, const Tensor& spatial_shapes,
    const Tensor& level_start_index, const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  check_arguments(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  check_output_gradient(grad_output, value, sampling_locations);
  if (value.scalar_type() == at::kHalf) {
    const auto [by_value, by_locations, by_weights] = ms_deform_attn_backward(
        grad_output.to(at::kFloat), value.to(at::kFloat), spatial_shapes, level_start_index,
        sampling_locations.to(at::kFloat), attention_weights.to(at::kFloat));
    const auto dtype = sampling_locations.scalar_type();
    return {by_value.to(at::kHalf), by_locations.to(dtype), by_weights.to(dtype)};
  }
  const LevelTables tables(
      spatial_shapes, level_start_index, sampling_locations.size(4), value.size(1));
  const Tensor gradient = grad_output.contiguous(), values = value.contiguous(),
               locations = sampling_locations.contiguous(),
               weights = attention_weights.contiguous();
  if (gradient.numel() == 0) {
    return {at::zeros_like(values), at::zeros_like(locations), at::zeros_like(weights)};
  }
  Tensor by_value = at::empty_like(values), by_locations = at::empty_like(locations),
         by_weights = at::empty_like(weights);
  with_types(value, locations, [&](auto v, auto c) {
    using V = decltype(v);
    using C = decltype(c);
    run_backward(
        problem_of<V, C>(values, tables, locations, weights),
        Gradients<V, C>{
            gradient.const_data_ptr<V>(), by_value.mutable_data_ptr<V>(),
            by_locations.mutable_data_ptr<C>(), by_weights.mutable_data_ptr<C>()});
  });
  return {by_value, by_locations, by_weights};
}

std::string cpu_instruction_set() {
  return instruction_set_name();
}

}  // namespace
}  // namespace hipie

TORCH_LIBRARY_FRAGMENT(hipie, library) {
  library.def("cpu_instruction_set() -> str", hipie::cpu_instruction_set);
}

TORCH_LIBRARY_IMPL(hipie, CPU, library) {
  library.impl("ms_deform_attn", hipie::ms_deform_attn);
  library.impl("ms_deform_attn_backward", hipie::ms_deform_attn_backward);
}

// The backward kernel: see threads.cuh for how threads divide the work.
//
// The gradients of locations and weights are sums over the channels of one place: its threads add
// them up among themselves and no atomic is needed. Only the gradient of the value, to which any
// query may contribute, is added to by atomics, always in float32 (or float64).
#include "threads.cuh"

namespace hipie {
namespace {

// A sample in as few bytes as it needs (40 in float32): the more samples fit into shared memory, the
// more blocks a multiprocessor runs. After its turn `weight` has the gradients of its attention weight
// and of its location, x and y.
template <typename T>
struct BackwardSample {
  int32_t token;          // top left
  int32_t rows, columns;  // of the level; no rows where nothing is to be read
  uint32_t inside;        // bits: left, right, top, bottom pixels inside; one column, one row only
  T weight[4];            // bilinear: left, right, top, bottom
  T attention;
};

enum Inside : uint32_t { left = 1, right = 2, top = 4, bottom = 8, one_column = 16, one_row = 32 };

template <typename V, typename C>
__device__ __forceinline__ BackwardSample<DeviceSum<V>> prepare_backward(
    const DeviceProblem<V, C>& problem, uint32_t place, int32_t sample) {
  using T = DeviceSum<V>;
  const auto prepared = prepare(problem, place, sample);
  const Axis<T>&x = prepared.x, &y = prepared.y;
  BackwardSample<T> kept;
  kept.token = token_at(prepared, y.low, x.low);
  kept.rows = prepared.rows;
  kept.columns = prepared.columns;
  kept.inside = (x.slope_low != T(0) ? left : 0) | (x.slope_high != T(0) ? right : 0) |
                (y.slope_low != T(0) ? top : 0) | (y.slope_high != T(0) ? bottom : 0) |
                (x.low == x.high ? one_column : 0) | (y.low == y.high ? one_row : 0);
  kept.weight[0] = x.weight_low;
  kept.weight[1] = x.weight_high;
  kept.weight[2] = y.weight_low;
  kept.weight[3] = y.weight_high;
  kept.attention = prepared.attention;
  return kept;
}

// The weights along an axis and their slopes, as `sample_gradient` reads them.
template <typename T>
__device__ __forceinline__ Axis<T> axis_of(T low, T high, bool has_low, bool has_high, int32_t size) {
  Axis<T> axis{};
  axis.weight_low = low;
  axis.weight_high = high;
  axis.slope_low = has_low ? -static_cast<T>(size) : T(0);
  axis.slope_high = has_high ? static_cast<T>(size) : T(0);
  return axis;
}

// Hopper and newer add four floats by one instruction.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool adds_four = true;
__device__ __forceinline__ void add_four(float* to, float a, float b, float c, float d) {
  atomicAdd(reinterpret_cast<float4*>(to), make_float4(a, b, c, d));
}
#else
constexpr bool adds_four = false;
[[maybe_unused]] __device__ __forceinline__ void add_four(float*, float, float, float, float) {}
#endif

template <typename T, int pack>
__device__ __forceinline__ void add_channels(T* to, const T (&channels)[pack]) {
  if constexpr (adds_four && sizeof(T) == 4 && pack % 4 == 0) {
#pragma unroll
    for (int k = 0; k < pack; k += 4) {
      add_four(to + k, channels[k], channels[k + 1], channels[k + 2], channels[k + 3]);
    }
  } else {
#pragma unroll
    for (int k = 0; k < pack; ++k) atomicAdd(to + k, channels[k]);
  }
}

// One thread's share of one sample: adds to the gradient of the value, and returns its part of the
// gradients of weight and location. sample_gradient is linear, so that parts may be added.
template <typename V, typename C, int pack, typename I>
__device__ __forceinline__ SampleGradient<DeviceSum<V>> contribute(
    const DeviceProblem<V, C>& problem, const BackwardSample<DeviceSum<V>>& sample, const V* value,
    const V* gradient, DeviceSum<V>* by_value, int32_t from, int32_t step) {
  using T = DeviceSum<V>;
  const I stride = static_cast<I>(problem.heads * problem.width);
  const I base = sample.token * stride;
  const I to_right = sample.inside & one_column ? 0 : stride;
  const I down = sample.inside & one_row ? 0 : sample.columns * stride;
  T product[4] = {};
  const int32_t width = static_cast<int32_t>(problem.width);
  for (int32_t channel = from; channel < width; channel += step) {
    T g[pack];
    load_channels<V, pack>(gradient + channel, g);
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      const bool is_top = corner < 2, is_left = corner % 2 == 0;
      const I offset = base + (is_left ? 0 : to_right) + (is_top ? 0 : down) + channel;
      const T weight =
          sample.attention * sample.weight[is_top ? 2 : 3] * sample.weight[is_left ? 0 : 1];
      T channels[pack], share[pack];
      load_channels<V, pack>(value + offset, channels);
#pragma unroll
      for (int k = 0; k < pack; ++k) {
        product[corner] += g[k] * channels[k];
        share[k] = weight * g[k];
      }
      if (weight != T(0)) add_channels<T, pack>(by_value + offset, share);
    }
  }
  const auto x = axis_of(
      sample.weight[0], sample.weight[1], sample.inside & left, sample.inside & right,
      sample.columns);
  const auto y = axis_of(
      sample.weight[2], sample.weight[3], sample.inside & top, sample.inside & bottom, sample.rows);
  return sample_gradient(x, y, sample.attention, product[0], product[1], product[2], product[3]);
}

template <typename V, typename C, int pack, int fixed_group>
__global__ void __launch_bounds__(block_threads) backward_kernel(
    const DeviceProblem<V, C> problem, const DeviceGradients<V, C> gradients,
    const Layout layout) {
  using T = DeviceSum<V>;
  HIPIE_SHARED_MEMORY(memory);
  auto* samples = reinterpret_cast<BackwardSample<T>*>(memory);
  const int group = fixed_group ? fixed_group : layout.group;
  const int places = block_threads / group;
  // At most 2^31 - 1 places, which ms_deform_attn.cpp checks.
  const uint32_t all = static_cast<uint32_t>(problem.batch * problem.queries * problem.heads);
  const uint32_t first = blockIdx.x * static_cast<uint32_t>(places);
  const int32_t count = static_cast<int32_t>(problem.levels * problem.points);
  const int mine = threadIdx.x / group, lane = threadIdx.x % group;
  // A thread without a place of its own repeats the last one and adds nothing, as all threads of
  // a warp must take part in the exchange below.
  const bool works = first + mine < all;
  const uint32_t place = works ? first + mine : all - 1;
  const uint32_t heads = static_cast<uint32_t>(problem.heads);
  const uint32_t of_image = static_cast<uint32_t>(problem.queries) * heads;
  const int64_t image = place / of_image, head = place % heads;
  const int64_t offset = (image * problem.tokens * problem.heads + head) * problem.width;
  const V* gradient = gradients.output + static_cast<int64_t>(place) * problem.width;
  for (int32_t begin = 0; begin < count; begin += layout.tile) {
    const int tile = min(count - begin, layout.tile);
    __syncthreads();
    for (int i = threadIdx.x; i < places * tile; i += block_threads) {
      const int at = i / tile, sample = i - at * tile;
      if (first + at < all) {
        samples[at * (layout.tile + 1) + sample] =
            prepare_backward(problem, first + at, begin + sample);
      }
    }
    __syncthreads();
    for (int i = 0; i < tile; ++i) {
      BackwardSample<T>& slot = samples[mine * (layout.tile + 1) + i];
      SampleGradient<T> sum{T(0), T(0), T(0)};
      if (works && slot.rows > 0) {
        sum = contribute<V, C, pack, Offset<fixed_group>>(
            problem, slot, problem.value + offset, gradient, gradients.value + offset, lane * pack,
            group * pack);
      }
#pragma unroll
      for (int distance = group / 2; distance > 0; distance /= 2) {
        sum.attention += __shfl_xor_sync(0xffffffffu, sum.attention, distance);
        sum.x += __shfl_xor_sync(0xffffffffu, sum.x, distance);
        sum.y += __shfl_xor_sync(0xffffffffu, sum.y, distance);
      }
      // Every thread of the group has read the sample, as its sums depend on it.
      __syncwarp();
      if (works && lane == 0) {
        slot.weight[0] = sum.attention;
        slot.weight[1] = sum.x;
        slot.weight[2] = sum.y;
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < places * tile; i += block_threads) {
      const int at = i / tile, sample = i - at * tile;
      if (first + at < all) {
        const T* done = samples[at * (layout.tile + 1) + sample].weight;
        const int64_t index = static_cast<int64_t>(first + at) * count + begin + sample;
        gradients.weights[index] = static_cast<C>(done[0]);
        gradients.locations[2 * index] = static_cast<C>(done[1]);
        gradients.locations[2 * index + 1] = static_cast<C>(done[2]);
      }
    }
  }
}

template <typename V, typename C, int pack>
void launch(
    const DeviceProblem<V, C>& problem, const DeviceGradients<V, C>& gradients,
    cudaStream_t stream) {
  const Layout layout = layout_of(
      problem.batch * problem.queries * problem.heads, problem.width,
      problem.levels * problem.points, pack, sizeof(BackwardSample<DeviceSum<V>>));
  with_group<pack>(problem, [&](auto group) {
    const auto kernel = backward_kernel<V, C, pack, decltype(group)::value>;
    HIPIE_LAUNCH(
        kernel, static_cast<unsigned>(layout.blocks), block_threads, layout.shared, stream, problem,
        gradients, layout);
  });
}

}  // namespace

template <typename V, typename C>
void launch_backward(
    const DeviceProblem<V, C>& problem, const DeviceGradients<V, C>& gradients,
    cudaStream_t stream) {
  if (wide_loads<V>(problem.width, problem.value, gradients.output) &&
      wide_loads<DeviceSum<V>>(problem.width, gradients.value, gradients.value)) {
    launch<V, C, 16 / sizeof(V)>(problem, gradients, stream);
  } else {
    launch<V, C, 1>(problem, gradients, stream);
  }
}

#define HIPIE_INSTANTIATE(V, C)   \
  template void launch_backward( \
      const DeviceProblem<V, C>&, const DeviceGradients<V, C>&, cudaStream_t);
HIPIE_INSTANTIATE(float, float)
HIPIE_INSTANTIATE(double, double)
HIPIE_INSTANTIATE(c10::Half, c10::Half)
HIPIE_INSTANTIATE(c10::Half, float)
HIPIE_INSTANTIATE(c10::BFloat16, c10::BFloat16)
HIPIE_INSTANTIATE(c10::BFloat16, float)
#undef HIPIE_INSTANTIATE

}  // namespace hipie

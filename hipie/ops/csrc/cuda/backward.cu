// The backward kernel: see threads.cuh for how threads divide the work.
//
// The gradients of locations and weights are sums over the channels of one place: its threads add
// them up among themselves and no atomic is needed. Only the gradient of the value, to which any
// query may contribute, is added to by atomics, always in float32 (or float64).
#include "threads.cuh"

namespace hipie {
namespace {

// A sample, and after its turn the gradients of its weight and location.
template <typename T>
struct BackwardSample {
  DeviceSample<T> sample;
  SampleGradient<T> gradient;
};

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
template <typename V, typename C, int pack>
__device__ __forceinline__ SampleGradient<DeviceSum<V>> contribute(
    const DeviceProblem<V, C>& problem, const DeviceSample<DeviceSum<V>>& sample, const V* value,
    const V* gradient, DeviceSum<V>* by_value, int64_t from, int64_t step) {
  using T = DeviceSum<V>;
  const int64_t stride = problem.heads * problem.width;
  T product[4] = {};
  for (int64_t channel = from; channel < problem.width; channel += step) {
    T g[pack];
    load_channels<V, pack>(gradient + channel, g);
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      const int64_t offset = token_of(sample, corner) * stride + channel;
      const T weight = weight_of(sample, corner);
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
  return sample_gradient(
      sample.x, sample.y, sample.attention, product[0], product[1], product[2], product[3]);
}

template <typename V, typename C, int pack>
__global__ void __launch_bounds__(block_threads) backward_kernel(
    const DeviceProblem<V, C> problem, const DeviceGradients<V, C> gradients,
    const Layout layout) {
  using T = DeviceSum<V>;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* samples = reinterpret_cast<BackwardSample<T>*>(memory);
  const int64_t all = problem.batch * problem.queries * problem.heads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * layout.places;
  const int64_t count = problem.levels * problem.points;
  const int mine = threadIdx.x / layout.group, lane = threadIdx.x % layout.group;
  // A thread without a place of its own repeats the last one and adds nothing, as all threads of
  // a warp must take part in the exchange below.
  const bool works = first + mine < all;
  const int64_t place = works ? first + mine : all - 1;
  const int64_t image = place / (problem.queries * problem.heads), head = place % problem.heads;
  const int64_t offset =
      (image * problem.tokens * problem.heads + head) * problem.width;
  const V* gradient = gradients.output + place * problem.width;
  for (int64_t begin = 0; begin < count; begin += layout.tile) {
    const int tile = static_cast<int>(min(count - begin, static_cast<int64_t>(layout.tile)));
    __syncthreads();
    for (int i = threadIdx.x; i < layout.places * tile; i += block_threads) {
      if (first + i / tile < all) {
        samples[i / tile * (layout.tile + 1) + i % tile].sample =
            prepare(problem, first + i / tile, begin + i % tile);
      }
    }
    __syncthreads();
    for (int i = 0; i < tile; ++i) {
      BackwardSample<T>& slot = samples[mine * (layout.tile + 1) + i];
      SampleGradient<T> sum{T(0), T(0), T(0)};
      if (works && slot.sample.rows > 0) {
        sum = contribute<V, C, pack>(
            problem, slot.sample, problem.value + offset, gradient, gradients.value + offset,
            lane * pack, layout.group * pack);
      }
      for (int distance = layout.group / 2; distance > 0; distance /= 2) {
        sum.attention += __shfl_xor_sync(0xffffffffu, sum.attention, distance);
        sum.x += __shfl_xor_sync(0xffffffffu, sum.x, distance);
        sum.y += __shfl_xor_sync(0xffffffffu, sum.y, distance);
      }
      if (works && lane == 0) slot.gradient = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < layout.places * tile; i += block_threads) {
      if (first + i / tile < all) {
        const auto& done = samples[i / tile * (layout.tile + 1) + i % tile].gradient;
        const int64_t index = (first + i / tile) * count + begin + i % tile;
        gradients.weights[index] = static_cast<C>(done.attention);
        gradients.locations[2 * index] = static_cast<C>(done.x);
        gradients.locations[2 * index + 1] = static_cast<C>(done.y);
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
  backward_kernel<V, C, pack>
      <<<static_cast<unsigned>(layout.blocks), block_threads, layout.shared, stream>>>(
          problem, gradients, layout);
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

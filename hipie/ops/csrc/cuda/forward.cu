// The forward kernel: see threads.cuh for how threads divide the work.
#include "threads.cuh"

namespace hipie {
namespace {

// A sample in the forward pass.
template <typename T>
struct alignas(16) ForwardSample {
  T weight[4];
  int32_t token[4];  // the first is -1 where nothing is to be read
};

template <typename V, typename C>
__device__ __forceinline__ ForwardSample<DeviceSum<V>> prepare_forward(
    const DeviceProblem<V, C>& problem, int64_t place, int64_t sample) {
  const auto prepared = prepare(problem, place, sample);
  ForwardSample<DeviceSum<V>> kept;
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    kept.weight[corner] = weight_of(prepared, corner);
    kept.token[corner] = static_cast<int32_t>(token_of(prepared, corner));
  }
  if (prepared.rows == 0) kept.token[0] = -1;
  return kept;
}

template <typename V, typename C, int pack>
__global__ void __launch_bounds__(block_threads) forward_kernel(
    const DeviceProblem<V, C> problem, const Layout layout, V* __restrict__ output) {
  using T = DeviceSum<V>;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* samples = reinterpret_cast<ForwardSample<T>*>(memory);
  const int64_t all = problem.batch * problem.queries * problem.heads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * layout.places;
  const int64_t count = problem.levels * problem.points;
  const int mine = threadIdx.x / layout.group, lane = threadIdx.x % layout.group;
  const int64_t place = first + mine;
  const bool works = place < all;
  const int64_t image = place / (problem.queries * problem.heads), head = place % problem.heads;
  const int64_t stride = problem.heads * problem.width;
  const V* value = problem.value + image * problem.tokens * stride + head * problem.width;
  // All threads run the same iterations of both loops, as they meet at the barriers.
  for (int64_t chunk = 0; chunk < problem.width; chunk += layout.group * pack) {
    const int64_t channel = chunk + lane * pack;
    T sum[pack] = {};
    for (int64_t begin = 0; begin < count; begin += layout.tile) {
      const int tile = static_cast<int>(min(count - begin, static_cast<int64_t>(layout.tile)));
      __syncthreads();
      for (int i = threadIdx.x; i < layout.places * tile; i += block_threads) {
        if (first + i / tile < all) {
          samples[i / tile * (layout.tile + 1) + i % tile] =
              prepare_forward(problem, first + i / tile, begin + i % tile);
        }
      }
      __syncthreads();
      if (!works || channel >= problem.width) continue;
      for (int i = 0; i < tile; ++i) {
        const ForwardSample<T> sample = samples[mine * (layout.tile + 1) + i];
        if (sample.token[0] < 0) continue;
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          T channels[pack];
          load_channels<V, pack>(value + sample.token[corner] * stride + channel, channels);
#pragma unroll
          for (int k = 0; k < pack; ++k) sum[k] += sample.weight[corner] * channels[k];
        }
      }
    }
    if (works && channel < problem.width) {
      Channels<V, pack> result;
#pragma unroll
      for (int k = 0; k < pack; ++k) result.channel[k] = static_cast<V>(sum[k]);
      *reinterpret_cast<Channels<V, pack>*>(output + place * problem.width + channel) = result;
    }
  }
}

template <typename V, typename C, int pack>
void launch(const DeviceProblem<V, C>& problem, V* output, cudaStream_t stream) {
  const Layout layout = layout_of(
      problem.batch * problem.queries * problem.heads, problem.width,
      problem.levels * problem.points, pack, sizeof(ForwardSample<DeviceSum<V>>));
  forward_kernel<V, C, pack>
      <<<static_cast<unsigned>(layout.blocks), block_threads, layout.shared, stream>>>(
          problem, layout, output);
}

}  // namespace

template <typename V, typename C>
void launch_forward(const DeviceProblem<V, C>& problem, V* output, cudaStream_t stream) {
  if (wide_loads<V>(problem.width, problem.value, output)) {
    launch<V, C, 16 / sizeof(V)>(problem, output, stream);
  } else {
    launch<V, C, 1>(problem, output, stream);
  }
}

#define HIPIE_INSTANTIATE(V, C) \
  template void launch_forward(const DeviceProblem<V, C>&, V*, cudaStream_t);
HIPIE_INSTANTIATE(float, float)
HIPIE_INSTANTIATE(double, double)
HIPIE_INSTANTIATE(c10::Half, c10::Half)
HIPIE_INSTANTIATE(c10::Half, float)
HIPIE_INSTANTIATE(c10::BFloat16, c10::BFloat16)
HIPIE_INSTANTIATE(c10::BFloat16, float)
#undef HIPIE_INSTANTIATE

}  // namespace hipie

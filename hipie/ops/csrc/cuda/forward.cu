// The forward kernel: see threads.cuh for how threads divide the work.
#include "threads.cuh"

namespace hipie {
namespace {

// A sample in the forward pass: its four pixels are top left, top right, bottom left, bottom right.
template <typename T>
struct alignas(16) ForwardSample {
  T weight[4];
  int32_t token[4];  // multiplied by `unit`; the first is -1 where nothing is to be read
};

template <typename V, typename C>
__device__ __forceinline__ ForwardSample<DeviceSum<V>> prepare_forward(
    const DeviceProblem<V, C>& problem, uint32_t place, int32_t sample, int32_t unit) {
  const auto prepared = prepare(problem, place, sample);
  ForwardSample<DeviceSum<V>> kept;
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    const bool is_top = corner < 2, is_left = corner % 2 == 0;
    const auto vertical = is_top ? prepared.y.weight_low : prepared.y.weight_high;
    const auto horizontal = is_left ? prepared.x.weight_low : prepared.x.weight_high;
    kept.weight[corner] = prepared.attention * vertical * horizontal;
    kept.token[corner] = unit * token_at(
        prepared, is_top ? prepared.y.low : prepared.y.high,
        is_left ? prepared.x.low : prepared.x.high);
  }
  if (prepared.rows == 0) kept.token[0] = -1;
  return kept;
}

template <typename V, typename C, int pack, int fixed_group>
__global__ void __launch_bounds__(block_threads) forward_kernel(
    const DeviceProblem<V, C> problem, const Layout layout, V* __restrict__ output) {
  using T = DeviceSum<V>;
  HIPIE_SHARED_MEMORY(memory);
  auto* samples = reinterpret_cast<ForwardSample<T>*>(memory);
  const int group = fixed_group ? fixed_group : layout.group;
  const int places = block_threads / group;
  // At most 2^31 - 1 places, which ms_deform_attn.cpp checks.
  const uint32_t all = static_cast<uint32_t>(problem.batch * problem.queries * problem.heads);
  const uint32_t first = blockIdx.x * static_cast<uint32_t>(places);
  const int32_t count = static_cast<int32_t>(problem.levels * problem.points);
  const int mine = threadIdx.x / group, lane = threadIdx.x % group;
  const uint32_t place = first + mine;
  const bool works = place < all;
  const uint32_t heads = static_cast<uint32_t>(problem.heads);
  const uint32_t of_image = static_cast<uint32_t>(problem.queries) * heads;
  const int64_t image = place / of_image, head = place % heads;
  const int64_t stride = problem.heads * problem.width;
  const V* value = problem.value + image * problem.tokens * stride + head * problem.width;
  // Elements between tokens as stored, and between stored tokens: their product is the stride.
  const int32_t unit = fixed_group ? static_cast<int32_t>(stride) : 1;
  const Offset<fixed_group> step = fixed_group ? 1 : stride;
  // All threads run the same iterations of both loops, as they meet at the barriers.
  const int32_t width = static_cast<int32_t>(problem.width);
  for (int32_t chunk = 0; chunk < width; chunk += group * pack) {
    const int32_t channel = chunk + lane * pack;
    T sum[pack] = {};
    for (int32_t begin = 0; begin < count; begin += layout.tile) {
      const int tile = min(count - begin, layout.tile);
      __syncthreads();
      for (int i = threadIdx.x; i < places * tile; i += block_threads) {
        const int at = i / tile, sample = i - at * tile;
        if (first + at < all) {
          samples[at * (layout.tile + 1) + sample] =
              prepare_forward(problem, first + at, begin + sample, unit);
        }
      }
      __syncthreads();
      if (!works || channel >= width) continue;
      for (int i = 0; i < tile; ++i) {
        const ForwardSample<T> sample = samples[mine * (layout.tile + 1) + i];
        if (sample.token[0] < 0) continue;
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          T channels[pack];
          load_channels<V, pack>(value + sample.token[corner] * step + channel, channels);
#pragma unroll
          for (int k = 0; k < pack; ++k) sum[k] += sample.weight[corner] * channels[k];
        }
      }
    }
    if (works && channel < width) {
      Channels<V, pack> result;
#pragma unroll
      for (int k = 0; k < pack; ++k) result.channel[k] = static_cast<V>(sum[k]);
      *reinterpret_cast<Channels<V, pack>*>(output + static_cast<int64_t>(place) * problem.width + channel) = result;
    }
  }
}

template <typename V, typename C, int pack>
void launch(const DeviceProblem<V, C>& problem, V* output, cudaStream_t stream) {
  const Layout layout = layout_of(
      problem.batch * problem.queries * problem.heads, problem.width,
      problem.levels * problem.points, pack, sizeof(ForwardSample<DeviceSum<V>>));
  with_group<pack>(problem, [&](auto group) {
    const auto kernel = forward_kernel<V, C, pack, decltype(group)::value>;
    HIPIE_LAUNCH(
        kernel, static_cast<unsigned>(layout.blocks), block_threads, layout.shared, stream, problem,
        layout, output);
  });
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

// How the threads of the CUDA kernels divide the work.
//
// A "place" is one head of one query of one image. A group of threads shares a place, every
// thread owning `pack` neighbouring channels (16 bytes, where alignment allows), so that one load
// brings them all. All threads of a block first prepare the samples of the block's places in shared
// memory, a tile of samples at a time: locations and weights are read once for all channels.
#pragma once

#include <cmath>
#include <cstdint>

#include "../sampling.h"
#include "problem.h"

namespace hipie {

constexpr int block_threads = 128;
constexpr int64_t shared_bytes = 40 * 1024;  // below the 48 KiB that every device grants by default

// How places, threads and samples are laid out in a block.
struct Layout {
  int pack;            // channels a thread
  int group;           // threads a place: a power of two, at most a warp
  int places;          // places a block
  int tile;            // samples prepared at a time
  int64_t blocks;
  int64_t shared;      // bytes
};

inline Layout layout_of(int64_t places, int64_t width, int64_t samples, int pack, size_t prepared) {
  Layout layout;
  layout.pack = pack;
  layout.group = 1;
  while (layout.group < 32 && layout.group * pack < width) layout.group *= 2;
  layout.places = block_threads / layout.group;
  const int64_t room = shared_bytes / static_cast<int64_t>(prepared) / layout.places - 1;
  layout.tile = static_cast<int>(samples < room ? samples : (room > 1 ? room : 1));
  layout.blocks = (places + layout.places - 1) / layout.places;
  // One more sample a place than is used, so that places do not share memory banks.
  layout.shared = static_cast<int64_t>(prepared) * layout.places * (layout.tile + 1);
  return layout;
}

// `pack` channels that are read at once.
template <typename V, int pack>
struct alignas(sizeof(V) * pack) Channels {
  V channel[pack];
};

template <typename V, int pack>
__device__ __forceinline__ void load_channels(const V* from, DeviceSum<V> (&to)[pack]) {
  const auto channels = *reinterpret_cast<const Channels<V, pack>*>(from);
#pragma unroll
  for (int i = 0; i < pack; ++i) to[i] = static_cast<DeviceSum<V>>(channels.channel[i]);
}

// Whether 16-byte loads are aligned: the width of a head and the pointer must both allow it.
template <typename V>
bool wide_loads(int64_t width, const void* first, const void* second) {
  constexpr int64_t pack = 16 / sizeof(V);
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  };
  return width % pack == 0 && aligned(first) && aligned(second);
}

// One sample as all channels need it. `rows` is 0 where nothing is to be read.
template <typename T>
struct DeviceSample {
  Axis<T> x, y;
  T attention;
  int32_t rows, columns, start;
};

// A level table that does not fit the value must not be followed. Reading it back to report it would
// wait for the device, so the sample is marked with a NaN, which the output then shows.
template <typename V, typename C>
__device__ __forceinline__ DeviceSample<DeviceSum<V>> prepare(
    const DeviceProblem<V, C>& problem, int64_t place, int64_t sample) {
  using T = DeviceSum<V>;
  const int64_t level = sample / problem.points;
  const int64_t rows = problem.shapes[2 * level], columns = problem.shapes[2 * level + 1];
  const int64_t start = problem.starts[level];
  const int64_t index = place * problem.levels * problem.points + sample;
  DeviceSample<T> prepared;
  T x = static_cast<T>(problem.locations[2 * index]);
  T y = static_cast<T>(problem.locations[2 * index + 1]);
  prepared.attention = static_cast<T>(problem.weights[index]);
  prepared.rows = static_cast<int32_t>(rows);
  prepared.columns = static_cast<int32_t>(columns);
  prepared.start = static_cast<int32_t>(start);
  const bool fits = rows >= 0 && columns >= 0 && start >= 0 && rows <= problem.tokens &&
                    columns <= problem.tokens && start + rows * columns <= problem.tokens;
  if (!fits) {
    prepared.rows = prepared.columns = 1;
    prepared.start = 0;
    prepared.attention = static_cast<T>(NAN);
    x = y = T(0.5);
  }
  prepared.x = along_axis(x, prepared.columns);
  prepared.y = along_axis(y, prepared.rows);
  if (!(touches(x, prepared.columns) && touches(y, prepared.rows))) prepared.rows = 0;
  return prepared;
}

// The four pixels of a sample: top left, top right, bottom left, bottom right.
template <typename T>
__device__ __forceinline__ int64_t token_of(const DeviceSample<T>& sample, int corner) {
  const int32_t row = corner < 2 ? sample.y.low : sample.y.high;
  const int32_t column = corner % 2 == 0 ? sample.x.low : sample.x.high;
  return static_cast<int64_t>(sample.start) + static_cast<int64_t>(row) * sample.columns + column;
}

template <typename T>
__device__ __forceinline__ T weight_of(const DeviceSample<T>& sample, int corner) {
  const T vertical = corner < 2 ? sample.y.weight_low : sample.y.weight_high;
  const T horizontal = corner % 2 == 0 ? sample.x.weight_low : sample.x.weight_high;
  return sample.attention * vertical * horizontal;
}

}  // namespace hipie

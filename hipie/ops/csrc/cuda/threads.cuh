// How the threads of the CUDA kernels divide the work.
//
// A "place" is one head of one query of one image. A group of threads shares a place, every
// thread owning `pack` neighbouring channels (16 bytes, where alignment allows), so that one load
// brings them all. All threads of a block first prepare the samples of the block's places in shared
// memory, a tile of samples at a time: locations and weights are read once for all channels.
//
// The usual widths of a head have kernels of their own, whose group is known to the compiler and
// whose offsets in the value of an image have 32 bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../sampling.h"
#include "problem.h"

// Compiled for the CPU, the kernels are tested without a GPU: tests/ops/cuda_emulation.h.
#ifndef HIPIE_LAUNCH
#define HIPIE_LAUNCH(kernel, blocks, threads, shared, stream, ...) \
  kernel<<<blocks, threads, shared, stream>>>(__VA_ARGS__)
#define HIPIE_SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#endif

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

// Offsets in the value of an image: in 32 bits where the group is known to the compiler.
template <int fixed_group>
using Offset = std::conditional_t<fixed_group != 0, int32_t, int64_t>;

// Calls `body` with the group as a constant, or 0 for all others. Only groups that cover a head of
// 16, 32 or 64 channels exactly are constants, and only if 32 bits are enough for the offsets.
template <int pack, typename V, typename C, typename Body>
void with_group(const DeviceProblem<V, C>& problem, const Body& body) {
  const bool is_small = problem.tokens * problem.heads * problem.width <= INT32_MAX;
  if constexpr (pack >= 4) {
    if (is_small && problem.width == 16) return body(std::integral_constant<int, 16 / pack>());
    if (is_small && problem.width == 32) return body(std::integral_constant<int, 32 / pack>());
    if (is_small && problem.width == 64) return body(std::integral_constant<int, 64 / pack>());
  }
  body(std::integral_constant<int, 0>());
}

// `pack` channels that are read at once.
template <typename V, int pack>
struct alignas(sizeof(V) * pack) Channels {
  V channel[pack];
};

// The type of an integer or vector of `bytes`, which the read-only cache can load.
template <int bytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = unsigned long long;
};
template <>
struct Word<16> {
  using type = uint4;
};

template <typename V, int pack>
__device__ __forceinline__ void load_channels(const V* from, DeviceSum<V> (&to)[pack]) {
  using Bits = typename Word<sizeof(V) * pack>::type;
  const Bits bits = __ldg(reinterpret_cast<const Bits*>(from));
  Channels<V, pack> channels;
  memcpy(&channels, &bits, sizeof(bits));
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

// One sample, before it is stored. `rows` is 0 where nothing is to be read.
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
    const DeviceProblem<V, C>& problem, uint32_t place, int32_t sample) {
  using T = DeviceSum<V>;
  const int32_t points = static_cast<int32_t>(problem.points);
  const int32_t level = sample / points;
  const int64_t rows = problem.shapes[2 * level], columns = problem.shapes[2 * level + 1];
  const int64_t start = problem.starts[level];
  const int64_t index = place * (problem.levels * points) + sample;
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

// The token of the pixel in a row and a column of the level of a sample.
template <typename T>
__device__ __forceinline__ int32_t token_at(const DeviceSample<T>& sample, int32_t y, int32_t x) {
  return sample.start + y * sample.columns + x;
}

}  // namespace hipie

// In place of CUDA's header: what the kernels use of CUDA, for the CPU.
//
// The threads of a block are fibers that run one after the other, each until it waits at a barrier. A
// barrier that some threads never reach ends the program, and so does shared memory beyond what was
// requested at the launch.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(threads)

using cudaStream_t = void*;
using std::min;

struct Index {
  unsigned x;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline Index threadIdx, blockIdx;

namespace emulation {

constexpr unsigned warp = 32;
constexpr size_t stack_bytes = 64 * 1024;

struct Fiber {
  ucontext_t context;
  bool done = false, in_block_barrier = false, in_warp_barrier = false;
  alignas(16) char exchanged[16];
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<unsigned char> shared;
  ucontext_t scheduler;
  unsigned running = 0;
};
inline Block* block = nullptr;
inline std::vector<char> stacks;  // of all threads, kept from block to block
inline std::function<void()>* body = nullptr;

inline void fail(const char* why) {
  std::fprintf(stderr, "cuda_emulation: %s\n", why);
  std::abort();
}

inline void start() {
  (*body)();
  block->fibers[block->running].done = true;
}

// Lets the other threads run.
inline void wait(bool Fiber::*barrier) {
  Fiber& fiber = block->fibers[block->running];
  fiber.*barrier = true;
  swapcontext(&fiber.context, &block->scheduler);
}

// Releases the threads in [from, to) once all that still run are at the barrier.
inline bool release(bool Fiber::*barrier, unsigned from, unsigned to) {
  unsigned waiting = 0, done = 0;
  for (unsigned i = from; i < to; ++i) {
    waiting += block->fibers[i].*barrier;
    done += block->fibers[i].done;
  }
  if (waiting == 0 || waiting + done < to - from) return false;
  if (done > 0) fail("some threads ended and others wait at a barrier");
  for (unsigned i = from; i < to; ++i) block->fibers[i].*barrier = false;
  return true;
}

inline void run_block(unsigned index, unsigned threads, size_t shared_bytes) {
  Block one;
  block = &one;
  blockIdx.x = index;
  one.fibers.resize(threads);
  const size_t guard = 64;
  one.shared.assign(shared_bytes + guard, 0xCD);
  stacks.resize(std::max(stacks.size(), threads * stack_bytes));
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = one.fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks.data() + i * stack_bytes;
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = &one.scheduler;
    makecontext(&fiber.context, start, 0);
  }
  while (true) {
    bool progress = false, left = false;
    for (unsigned i = 0; i < threads; ++i) {
      Fiber& fiber = one.fibers[i];
      left |= !fiber.done;
      if (fiber.done || fiber.in_block_barrier || fiber.in_warp_barrier) continue;
      one.running = i;
      threadIdx.x = i;
      swapcontext(&one.scheduler, &fiber.context);
      progress = true;
    }
    if (!left) break;
    for (unsigned from = 0; from < threads; from += warp) {
      progress |= release(&Fiber::in_warp_barrier, from, std::min(from + warp, threads));
    }
    progress |= release(&Fiber::in_block_barrier, 0, threads);
    if (!progress) fail("threads wait at different barriers");
  }
  for (size_t i = shared_bytes; i < one.shared.size(); ++i) {
    if (one.shared[i] != 0xCD) fail("shared memory was written beyond its end");
  }
}

template <typename... Parameters, typename... Arguments>
void launch(
    void (*kernel)(Parameters...), unsigned blocks, unsigned threads, size_t shared,
    const Arguments&... arguments) {
  std::function<void()> call = [&] { kernel(arguments...); };
  body = &call;
  for (unsigned i = 0; i < blocks; ++i) run_block(i, threads, shared);
}

}  // namespace emulation

#define HIPIE_LAUNCH(kernel, blocks, threads, shared, stream, ...) \
  emulation::launch(kernel, blocks, threads, shared, __VA_ARGS__)
#define HIPIE_SHARED_MEMORY(name) unsigned char* name = emulation::block->shared.data()

inline void __syncthreads() { emulation::wait(&emulation::Fiber::in_block_barrier); }
inline void __syncwarp() { emulation::wait(&emulation::Fiber::in_warp_barrier); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int distance) {
  auto& fibers = emulation::block->fibers;
  const unsigned self = threadIdx.x;
  std::memcpy(fibers[self].exchanged, &value, sizeof(T));
  __syncwarp();
  T other;
  std::memcpy(&other, fibers[self ^ static_cast<unsigned>(distance)].exchanged, sizeof(T));
  __syncwarp();
  return other;
}

template <typename T>
T __ldg(const T* from) {
  return *from;
}

template <typename T>
void atomicAdd(T* to, T value) {
  if constexpr (std::is_same_v<T, float4>) {
    to->x += value.x;
    to->y += value.y;
    to->z += value.z;
    to->w += value.w;
  } else {
    *to += value;
  }
}

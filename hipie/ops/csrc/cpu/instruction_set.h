// Which instruction set the CPU kernels use, decided when the library is loaded.
#pragma once

#include "problem.h"

namespace hipie {

enum class InstructionSet { baseline, avx2, avx512 };

// The widest that this processor supports, or what the environment variable HIPIE_CPU_CAPABILITY
// (baseline, avx2 or avx512) limits it to.
InstructionSet instruction_set();

const char* instruction_set_name();

template <typename V, typename C>
Kernels<V, C> kernels() {
#if defined(__x86_64__)
  switch (instruction_set()) {
    case InstructionSet::avx512:
      return avx512_kernels<V, C>();
    case InstructionSet::avx2:
      return avx2_kernels<V, C>();
    default:
      break;
  }
#endif
  return baseline_kernels<V, C>();
}

}  // namespace hipie

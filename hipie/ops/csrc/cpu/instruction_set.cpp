#include "instruction_set.h"

#include <algorithm>
#include <cstdlib>
#include <string>

namespace hipie {
namespace {

InstructionSet best_of_processor() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return wide ? InstructionSet::avx512 : InstructionSet::avx2;
  }
#endif
  return InstructionSet::baseline;
}

InstructionSet requested_instruction_set() {
  const char* name = std::getenv("HIPIE_CPU_CAPABILITY");
  if (name != nullptr && std::string(name) == "baseline") return InstructionSet::baseline;
  if (name != nullptr && std::string(name) == "avx2") return InstructionSet::avx2;
  return InstructionSet::avx512;
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet chosen = std::min(best_of_processor(), requested_instruction_set());
  return chosen;
}

const char* instruction_set_name() {
  switch (instruction_set()) {
    case InstructionSet::avx512:
      return "avx512";
    case InstructionSet::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

}  // namespace hipie

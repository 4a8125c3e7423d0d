// The torch release that a library is compiled for, as text in the library. hipie/ops/library.py
// looks for it before it loads the library, since C++ code built for another minor release of torch
// may load and then misbehave.
#pragma once

#define HIPIE_TEXT_OF(name) #name
#define HIPIE_TEXT(name) HIPIE_TEXT_OF(name)

#ifdef HIPIE_TORCH_VERSION
extern "C" __attribute__((used, visibility("default"))) const char hipie_built_for_torch[] =
    "hipie: built for torch " HIPIE_TEXT(HIPIE_TORCH_VERSION);
#endif

"""Builds the operator with gcc's address sanitizer and runs its tests on that build (Linux).

python tests/ops/address_sanitizer.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
BUILD = REPOSITORY / "build" / "asan"
FLAGS = "-fsanitize=address -fno-omit-frame-pointer"
# Those that start a process of their own, or another compiler.
LEFT_OUT = "not compiles and not instruction_set and not nothing_was_built"


def library(name: str) -> str:
    """Where gcc keeps a library of its own."""
    done = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def main() -> int:
    """Build, then run the tests once an instruction set; 0 where none reports anything."""
    flags = {"CFLAGS": FLAGS, "CXXFLAGS": FLAGS, "LDFLAGS": "-fsanitize=address", "HIPIE_CUDA": "0"}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-base", BUILD, "--build-lib", BUILD],
        cwd=REPOSITORY,
        env={**os.environ, **flags},
        check=True,
    )
    environment = {
        **os.environ,
        # Exceptions are followed only if the C++ library is there when the sanitizer starts.
        "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so.6')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python leaves much to the end of the process
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(BUILD),
    }
    tests = [REPOSITORY / "tests" / "ops" / name for name in ("test_operator.py", "test_module.py")]
    command = [sys.executable, "-P", "-m", "pytest", "-s", "-q", "-p", "no:cacheprovider"]
    command += ["--import-mode=importlib", "-k", LEFT_OUT, *map(str, tests)]
    codes = [
        subprocess.run(
            command, env={**environment, "HIPIE_CPU_CAPABILITY": capability}, check=False
        ).returncode
        for capability in ("avx512", "avx2", "baseline")
    ]
    return max(codes, key=abs)


if __name__ == "__main__":
    raise SystemExit(main())

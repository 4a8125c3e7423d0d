"""CUDA kernels compiled for the CPU, against the reference: no GPU is needed.

`cuda_emulation/cuda_runtime_api.h` takes the place of CUDA's header. What a GPU alone shows (speed,
the order in which atomics add) is tested in test_cuda.py.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hipie.ops import ms_deform_attn_reference

HERE = Path(__file__).parent / "cuda_emulation"
SOURCES = Path(__file__).parents[2] / "hipie" / "ops" / "csrc"
LEVELS = [(6, 7), (3, 4), (1, 1)]
# Types of values and locations, the number that `run_kernel` takes, and the tolerance.
TYPES = [
    (torch.float32, torch.float32, 0, 1e-5),
    (torch.float64, torch.float64, 1, 1e-12),
    (torch.float16, torch.float16, 2, 5e-2),
    (torch.float16, torch.float32, 3, 5e-3),
    (torch.bfloat16, torch.bfloat16, 4, 0.3),
    (torch.bfloat16, torch.float32, 5, 2e-2),
]


def compile_kernels(folder: Path, *options: str) -> ctypes.CDLL:
    """Compile the kernels for the CPU."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++")
    library = folder / "kernels.so"
    headers = Path(torch.__file__).parent / "include"
    command = [compiler, "-std=c++20", "-O1", "-w", "-shared", "-fPIC", *options]
    command += [f"-I{path}" for path in (HERE, SOURCES, headers)]
    command += [str(HERE / "emulation.cpp"), "-o", str(library)]
    subprocess.run(command, check=True, timeout=300)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels of all devices before Hopper."""
    return compile_kernels(tmp_path_factory.mktemp("kernels"))


def run(kernels: ctypes.CDLL, types: int, inputs: tuple[Tensor, ...], others: list[Tensor]) -> None:
    """Run a kernel on (value, shapes, starts, locations, weights) and its other arguments."""
    value, shapes, starts, locations, weights = inputs
    batch, tokens, heads, width = value.shape
    queries, levels, points = locations.shape[1], *locations.shape[3:5]
    sizes = (ctypes.c_int64 * 7)(batch, tokens, heads, width, queries, levels, points)
    tensors = [shapes, starts, value, locations, weights, *others]
    pointers = (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))
    kernels.run_kernel(types, sizes, pointers, int(len(others) > 1))


def forward(kernels: ctypes.CDLL, types: int, inputs: tuple[Tensor, ...]) -> Tensor:
    """The output of the forward kernel."""
    value, locations = inputs[0], inputs[3]
    output = value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
    run(kernels, types, inputs, [output.fill_(torch.nan)])
    return output


def backward(
    kernels: ctypes.CDLL, types: int, inputs: tuple[Tensor, ...], gradient: Tensor
) -> list[Tensor]:
    """The gradients of the value, the locations and the weights."""
    value, locations, weights = inputs[0], inputs[3], inputs[4]
    sums = torch.float64 if value.dtype == torch.float64 else torch.float32
    gradients = [torch.zeros(value.shape, dtype=sums)]
    gradients += [torch.full_like(tensor, torch.nan) for tensor in (locations, weights)]
    run(kernels, types, inputs, [gradient, *gradients])
    return gradients


def assert_equals_the_reference(
    kernels: ctypes.CDLL, types: int, inputs: tuple[Tensor, ...], tolerance: float
) -> None:
    """Compare output and gradients with those of the reference in float64."""
    exact = [t.double().requires_grad_() if t.is_floating_point() else t for t in inputs]
    expected = ms_deform_attn_reference(*exact)
    gradient = torch.randn(expected.shape).to(inputs[0].dtype)
    expected.backward(gradient.double())
    results = [forward(kernels, types, inputs), *backward(kernels, types, inputs, gradient)]
    references = [expected, *(exact[i].grad for i in (0, 3, 4))]
    for result, reference in zip(results, references, strict=True):
        assert (result.double() - reference).norm() <= tolerance * reference.norm()


def problem(make_problem, width: int, value: torch.dtype, place: torch.dtype, **sizes):
    """A problem in the given types, whose locations are those that the kernel reads."""
    inputs = make_problem(LEVELS, width=width, dtype=torch.float64, **sizes)
    types = (value, None, None, place, place)
    return tuple(
        t if dtype is None else t.to(dtype) for t, dtype in zip(inputs, types, strict=True)
    )


@pytest.mark.parametrize(("value", "place", "types", "tolerance"), TYPES)
@pytest.mark.parametrize("width", [3, 16, 32, 64, 100])
def test_equals_the_reference(kernels, make_problem, value, place, types, tolerance, width):
    inputs = problem(make_problem, width, value, place, queries=11)
    assert_equals_the_reference(kernels, types, inputs, tolerance)


@pytest.mark.parametrize("points", [1, 4, 90])
def test_many_samples_are_read_in_several_tiles(kernels, make_problem, points):
    inputs = problem(make_problem, 32, torch.float32, torch.float32, queries=3, points=points)
    assert_equals_the_reference(kernels, 0, inputs, 1e-5)


def test_a_head_wider_than_a_warp_reads(kernels, make_problem):
    inputs = problem(make_problem, 520, torch.float32, torch.float32, queries=2)
    assert_equals_the_reference(kernels, 0, inputs, 1e-5)


def test_four_gradients_are_added_at_once_from_hopper_on(tmp_path, make_problem):
    kernels = compile_kernels(tmp_path, "-DHOPPER")
    for width in (16, 30):
        inputs = problem(make_problem, width, torch.float32, torch.float32, queries=5)
        assert_equals_the_reference(kernels, 0, inputs, 1e-5)


def test_values_that_are_not_aligned(kernels, make_problem):
    inputs = problem(make_problem, 32, torch.float32, torch.float32, queries=5)
    storage = torch.empty(inputs[0].numel() + 1)
    value = storage[1:].view(inputs[0].shape).copy_(inputs[0])
    assert value.data_ptr() % 16
    assert_equals_the_reference(kernels, 0, (value, *inputs[1:]), 1e-5)


def test_locations_at_borders_and_outside(kernels, make_problem):
    inputs = problem(make_problem, 16, torch.float64, torch.float64, queries=8)
    places = torch.tensor([-1e30, -0.2, 0.0, 1e-3, 0.5, 1 - 1e-3, 1.0, 1e30], dtype=torch.float64)
    locations = inputs[3].clone()
    locations[..., 0] = places[:, None, None, None]
    locations[..., 1] = places.flip(0)[:, None, None, None] * 0.5 + 0.25
    assert_equals_the_reference(kernels, 1, (*inputs[:3], locations, inputs[4]), 1e-12)


@pytest.mark.parametrize("width", [16, 20])
def test_a_table_that_does_not_fit_shows_as_nan(kernels, make_problem, width):
    value, shapes, starts, locations, weights = problem(
        make_problem, width, torch.float32, torch.float32
    )
    assert forward(kernels, 0, (value, shapes * 2, starts, locations, weights)).isnan().all()

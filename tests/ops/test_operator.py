from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hipie.ops import ms_deform_attn, ms_deform_attn_reference
from hipie.ops.library import cpu_problem
from hipie.ops.operator import _plain, _plain_backward

REPOSITORY = Path(__file__).parents[2]
SHAPES = [(6, 7), (3, 4), (1, 1)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}

problems = st.fixed_dictionaries(
    {
        "shapes": st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5),
        "batch": st.integers(0, 4),
        "queries": st.integers(0, 12),
        "heads": st.integers(1, 16),
        "width": st.integers(1, 128),
        "points": st.integers(1, 8),
        "seed": st.integers(0, 1000),
    }
)


def exact(tensor):
    return tensor.detach().double().clone() if tensor.is_floating_point() else tensor


def away_from_borders(locations, shapes):
    """Moves locations from where their gradient jumps: pixel coordinates with small fractions."""
    size = shapes.flip(1)[:, None].to(locations)
    pixel = locations * size - 0.5
    whole = pixel.floor()
    return ((whole + (pixel - whole).clamp(0.05, 0.95)) + 0.5) / size


def relative(found, wanted):
    found, wanted = found.detach(), wanted.detach()
    return float((found.double() - wanted).norm() / wanted.norm().clamp(min=1e-6))


def compare(arguments, tolerance):
    """Output and all gradients against the reference in float64 on the same numbers."""
    value, shapes, starts, locations, weights = arguments
    inputs = [value, locations, weights]
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    reference_inputs = [exact(tensor).requires_grad_() for tensor in inputs]
    output = ms_deform_attn(inputs[0], shapes, starts, *inputs[1:])
    wanted = ms_deform_attn_reference(reference_inputs[0], shapes, starts, *reference_inputs[1:])
    assert output.dtype == value.dtype and output.shape == wanted.shape
    assert relative(output, wanted) < tolerance
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    output.backward(gradient.to(output.dtype))
    wanted.backward(gradient.to(output.dtype).double())
    for tensor, reference in zip(inputs, reference_inputs, strict=True):
        assert tensor.grad.dtype == tensor.dtype
        assert relative(tensor.grad, reference.grad) < tolerance


@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(problem=problems)
def test_equals_the_reference(make_problem, dtype, problem):
    value, shapes, starts, locations, weights = make_problem(**problem, dtype=torch.float64)
    locations = away_from_borders(locations, shapes)
    # bfloat16 keeps too few digits of a location for its gradient to stay on one side of a border.
    place = torch.float32 if dtype == torch.bfloat16 else dtype
    compare(
        (value.to(dtype), shapes, starts, locations.to(place), weights.to(place)), TOLERANCE[dtype]
    )


def test_bfloat16_throughout(make_problem):
    arguments = make_problem([(9, 9)], dtype=torch.bfloat16, width=48)
    output = ms_deform_attn(*arguments)
    wanted = ms_deform_attn_reference(*map(exact, arguments))
    assert relative(output, wanted) < 2e-2


def test_float16_on_the_cpu_is_summed_in_float32(make_problem):
    arguments = make_problem(SHAPES, dtype=torch.float16)
    output = ms_deform_attn(*arguments)
    assert output.dtype == torch.float16
    assert relative(output, ms_deform_attn_reference(*map(exact, arguments))) < 2e-3


@pytest.mark.parametrize("width", [1, 3, 30, 32, 71])
def test_gradcheck(make_problem, width):
    value, shapes, starts, locations, weights = make_problem(
        [(4, 3), (2, 2)], batch=1, queries=2, heads=2, width=width, points=2, dtype=torch.float64
    )
    locations = away_from_borders(locations, shapes)
    inputs = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    assert torch.autograd.gradcheck(
        lambda v, x, w: ms_deform_attn(v, shapes, starts, x, w), inputs, fast_mode=width > 3
    )


@pytest.mark.parametrize("offset", [0.0, 20.0, 1e4])
def test_locations_at_borders_and_far_away(make_problem, offset):
    value, shapes, starts, locations, weights = make_problem([(10, 13), (5, 7)], queries=200)
    size = shapes.flip(1)[:, None].float()
    locations = ((locations * size).round() + 0.5 * torch.randint(0, 2, locations.shape)) / size
    locations += offset * torch.randn(locations.shape).round() / size
    arguments = (value, shapes, starts, locations, weights)
    wanted = ms_deform_attn_reference(*map(exact, arguments))
    assert (ms_deform_attn(*arguments) - wanted).abs().max() < 5e-6


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38, -3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_locations_that_are_no_numbers_count_as_outside(make_problem, bad, dtype):
    value, shapes, starts, locations, weights = make_problem(SHAPES, dtype=dtype)
    locations[:, 0, ..., 1] = bad
    without = weights.clone()
    without[:, 0] = 0
    locations.requires_grad_()
    output = ms_deform_attn(value, shapes, starts, locations, weights)
    assert output[:, 0].eq(0).all()
    assert torch.equal(
        output[:, 1:], ms_deform_attn(value, shapes, starts, locations, without)[:, 1:]
    )
    output.sum().backward()
    assert locations.grad.isfinite().all() and locations.grad[:, 0].eq(0).all()


@pytest.mark.parametrize("empty", [{"batch": 0}, {"queries": 0}, {"points": 0}])
def test_empty_input(make_problem, empty):
    arguments = make_problem(SHAPES, **empty)
    value = arguments[0].requires_grad_()
    output = ms_deform_attn(value, *arguments[1:])
    assert output.shape == (arguments[3].shape[0], arguments[3].shape[1], 16)
    assert output.eq(0).all()
    output.sum().backward()
    assert value.grad.eq(0).all()


def test_empty_level_contributes_nothing(make_problem):
    with_empty = make_problem([(3, 4), (0, 5), (2, 2)])
    wanted = ms_deform_attn_reference(*map(exact, with_empty))
    assert relative(ms_deform_attn(*with_empty), wanted) < 1e-5


def test_tensors_that_are_not_contiguous(make_problem):
    arguments = make_problem(SHAPES)
    scattered = [
        tensor.transpose(0, -1).contiguous().transpose(0, -1)
        if tensor.is_floating_point()
        else tensor.repeat_interleave(2, 0)[::2]
        for tensor in arguments
    ]
    assert not any(tensor.is_contiguous() for tensor in scattered[3:])
    assert torch.equal(ms_deform_attn(*scattered), ms_deform_attn(*arguments))
    value = scattered[0].requires_grad_()
    ms_deform_attn(value, *scattered[1:]).backward(torch.ones(2, 5, 1).expand(2, 5, 16))
    plain = arguments[0].clone().requires_grad_()
    ms_deform_attn(plain, *arguments[1:]).sum().backward()
    assert torch.equal(value.grad, plain.grad)


def test_level_tables_of_32_bits(make_problem):
    value, shapes, starts, *rest = make_problem(SHAPES)
    output = ms_deform_attn(value, shapes.int(), starts.int(), *rest)
    assert torch.equal(output, ms_deform_attn(value, shapes, starts, *rest))


BAD = {
    "value must be .*\\[2, 47, 16\\]": lambda v, s, i, x, w: (v.flatten(2), s, i, x, w),
    "spatial_shapes must be .*\\[6\\]": lambda v, s, i, x, w: (v, s.flatten(), i, x, w),
    "level_start_index must .*\\[3, 2\\].*\\[2\\]": lambda v, s, i, x, w: (v, s, i[:2], x, w),
    "sampling_locations must be": lambda v, s, i, x, w: (v, s, i, x[..., 0], w),
    "sampling_locations .*differ": lambda v, s, i, x, w: (v, s, i, x[:, :, :1], w[:, :, :1]),
    "sampling_locations .*and value .*differ": lambda v, s, i, x, w: (v[:1], s, i, x, w),
    "has 2 levels": lambda v, s, i, x, w: (v, s, i, x[:, :, :, :2], w[:, :, :, :2]),
    "attention_weights .*\\[2, 5, 2, 3, 3\\]": lambda v, s, i, x, w: (v, s, i, x, w[..., :3]),
    "sampling_locations must have the dtype": lambda v, s, i, x, w: (v, s, i, x.double(), w),
    "attention_weights must have the dtype": lambda v, s, i, x, w: (v, s, i, x, w.double()),
    "value must be float": lambda v, s, i, x, w: (v.int(), s, i, x, w),
    "add up to 55, and value has 56": lambda v, s, i, x, w: (
        torch.cat([v, v[:, :1]], 1),
        s,
        i,
        x,
        w,
    ),
    "level 2 .*does not lie within": lambda v, s, i, x, w: (v[:, :-1], s, i, x, w),
    "level 1 .*does not lie within": lambda v, s, i, x, w: (v, s, i * 4, x, w),
    "level 0 .*does not lie within": lambda v, s, i, x, w: (v, -s, i, x, w),
}


@pytest.mark.parametrize("message", BAD)
def test_arguments_that_do_not_fit(make_problem, message):
    arguments = BAD[message](*make_problem(SHAPES))
    pattern = message.replace("47", "55")
    plain = pattern.replace("\\[", "[\\[(]").replace("\\]", ",?[\\])]")
    with pytest.raises(ValueError, match=pattern):
        ms_deform_attn(*arguments)
    with pytest.raises(ValueError, match=plain.replace("value must be float", "value must be")):
        _plain(*arguments)


def test_devices_that_differ(make_problem):
    value, shapes, starts, locations, weights = make_problem(SHAPES)
    with pytest.raises(ValueError, match="on one device, and are on meta, cpu"):
        ms_deform_attn(value.to("meta"), shapes, starts, locations, weights)


def test_a_gradient_that_does_not_fit(make_problem):
    arguments = make_problem(SHAPES)
    with pytest.raises(ValueError, match="grad_output"):
        torch.ops.hipie.ms_deform_attn_backward(torch.ones(2, 5, 15), *arguments)


def test_the_same_bits_from_run_to_run_and_for_any_number_of_threads(make_problem):
    arguments = make_problem([(20, 20), (10, 10)], queries=300, heads=4, width=24)
    gradient = torch.randn(2, 300, 96)
    results = []
    for threads in (1, 2, 3, 5, 1):
        torch.set_num_threads(threads)
        output = torch.ops.hipie.ms_deform_attn(*arguments)
        results.append((output, *torch.ops.hipie.ms_deform_attn_backward(gradient, *arguments)))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


def test_opcheck(make_problem):
    value, shapes, starts, locations, weights = make_problem(SHAPES)
    inputs = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    torch.library.opcheck(
        torch.ops.hipie.ms_deform_attn.default, (inputs[0], shapes, starts, *inputs[1:])
    )
    torch.library.opcheck(
        torch.ops.hipie.ms_deform_attn_backward.default,
        (torch.randn(2, 5, 16), *(tensor.detach() for tensor in make_problem(SHAPES))),
    )


def test_second_derivatives_are_refused(make_problem):
    value, *rest = make_problem(SHAPES)
    value.requires_grad_()
    rest[3].requires_grad_()
    (gradient,) = torch.autograd.grad(ms_deform_attn(value, *rest).sum(), value, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.autograd.grad(gradient.sum(), rest[3])


@pytest.mark.filterwarnings("ignore")
def test_compiles_as_one_graph(make_problem):
    arguments = make_problem(SHAPES)
    value = arguments[0].requires_grad_()
    compiled = torch.compile(lambda *a: ms_deform_attn(*a) * 2, fullgraph=True, backend="aot_eager")
    output = compiled(value, *arguments[1:])
    assert torch.equal(output, ms_deform_attn(value, *arguments[1:]) * 2)
    output.sum().backward()
    plain = arguments[0].detach().clone().requires_grad_()
    (ms_deform_attn(plain, *arguments[1:]) * 2).sum().backward()
    assert torch.equal(value.grad, plain.grad)


class Wrapped(torch.nn.Module):
    def forward(self, *arguments):
        return ms_deform_attn(*arguments)


def test_exports_as_one_node(make_problem):
    arguments = make_problem(SHAPES)
    program = torch.export.export(Wrapped(), arguments)
    assert "hipie.ms_deform_attn" in str(program.graph)
    assert torch.equal(program.module()(*arguments), ms_deform_attn(*arguments))


def test_vmap(make_problem):
    value, shapes, starts, locations, weights = make_problem(SHAPES)
    stacked = torch.stack([value, 2 * value, value.flip(1)], dim=1)
    mapped = torch.func.vmap(
        lambda v: ms_deform_attn(v, shapes, starts, locations, weights), in_dims=1
    )(stacked)
    for index in range(3):
        wanted = ms_deform_attn(stacked[:, index], shapes, starts, locations, weights)
        assert torch.equal(mapped[index], wanted)
    with pytest.raises(ValueError, match="share the levels"):
        torch.func.vmap(lambda s: ms_deform_attn(value, s, starts, locations, weights))(
            shapes[None]
        )


def test_autocast_takes_values_to_its_dtype_and_locations_to_float32(make_problem):
    value, shapes, starts, locations, weights = make_problem(SHAPES)
    locations.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = ms_deform_attn(value, shapes, starts, locations, weights.bfloat16())
        twice = ms_deform_attn(value.double(), shapes, starts, locations, weights)
    wanted = ms_deform_attn(value.bfloat16(), shapes, starts, locations, weights.bfloat16().float())
    assert output.dtype == torch.bfloat16 and torch.equal(output, wanted)
    assert twice.dtype == torch.float64
    output.float().sum().backward()
    assert locations.grad.dtype == torch.float32


def test_the_plain_backward_is_the_kernels(make_problem):
    arguments = make_problem([*SHAPES, (0, 3)], dtype=torch.float64)
    arguments[3][0, 0, 0] = math.nan
    arguments[3][0, 1, 0] = 1e30
    gradient = torch.randn(2, 5, 16, dtype=torch.float64)
    gradients = torch.ops.hipie.ms_deform_attn_backward(gradient, *arguments)
    for kernel, reference in zip(gradients, _plain_backward(gradient, *arguments), strict=True):
        assert torch.allclose(kernel, reference, atol=1e-12)


def test_plain_pytorch_runs_without_compiled_kernels(tmp_path):
    """In a copy of the package without its libraries, as a broken build leaves it."""
    folder = tmp_path / "hipie" / "ops"
    folder.mkdir(parents=True)
    (tmp_path / "hipie" / "__init__.py").write_text("")
    for file in (REPOSITORY / "hipie" / "ops").glob("*.py"):
        shutil.copy(file, folder)
    program = """
import warnings
from conftest import build
from hipie.ops import explain
from test_operator import SHAPES, compare
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        compare(build(SHAPES), 1e-5)
said = [str(one.message) for one in caught if "hipie" in str(one.message)]
assert len(said) == 1 and "_C.so is missing" in said[0] and "hipie doctor" in said[0], said
print(explain().implementation)
"""
    done = run(program, PYTHONPATH=os.pathsep.join([str(tmp_path), str(Path(__file__).parent)]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "plain PyTorch"


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(cpu_problem is not None, reason="the extension is not built")
@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_that_this_machine_has(capability):
    """A new process, as the choice is made once."""
    program = """
import sys, torch
from conftest import build
from hipie.ops import explain
from test_operator import TOLERANCE, SHAPES, compare
for dtype in TOLERANCE:
    for width in (1, 2, 3, 7, 16, 24, 33, 64, 100, 128):
        value, *tables, locations, weights = build(SHAPES, width=width, dtype=dtype)
        if dtype == torch.bfloat16:
            locations, weights = locations.float(), weights.float()
        compare((value, *tables, locations, weights), TOLERANCE[dtype])
print(explain().implementation)
"""
    path = os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])
    done = run(program, HIPIE_CPU_CAPABILITY=capability, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("native CPU kernel")

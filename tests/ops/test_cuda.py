from __future__ import annotations

import pytest
import torch

from hipie.ops import explain, ms_deform_attn, ms_deform_attn_reference
from hipie.ops.library import cuda_problem

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.skipif(cuda_problem is not None, reason=f"the CUDA part: {cuda_problem}"),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [1, 3, 8, 16, 30, 32, 64, 100, 256, 520])
def test_equals_the_reference(make_problem, dtype, width):
    value, shapes, starts, locations, weights = make_problem(
        [(6, 7), (3, 4), (1, 1)], width=width, queries=37, dtype=torch.float64
    )
    place = torch.float64 if dtype == torch.float64 else torch.float32
    cuda_inputs = [value.to(dtype), locations.to(place), weights.to(place)]
    cuda_inputs = [tensor.cuda().requires_grad_() for tensor in cuda_inputs]
    cpu_inputs = [tensor.detach().cpu().double().requires_grad_() for tensor in cuda_inputs]
    output = ms_deform_attn(cuda_inputs[0], shapes.cuda(), starts.cuda(), *cuda_inputs[1:])
    wanted = ms_deform_attn_reference(cpu_inputs[0], shapes, starts, *cpu_inputs[1:])
    gradient = torch.randn(output.shape).to(dtype)
    output.backward(gradient.cuda())
    wanted.backward(gradient.double())
    pairs = [
        (output, wanted),
        *((a.grad, b.grad) for a, b in zip(cuda_inputs, cpu_inputs, strict=True)),
    ]
    for found, other in pairs:
        assert (found.cpu().double() - other).norm() / other.norm() < TOLERANCE[dtype]


def test_a_table_on_the_device_that_does_not_fit_shows_as_nan(make_problem):
    value, shapes, starts, locations, weights = (t.cuda() for t in make_problem([(6, 7), (3, 4)]))
    assert ms_deform_attn(value, shapes * 2, starts, locations, weights).isnan().all()


def test_a_table_on_the_host_that_does_not_fit_is_refused(make_problem):
    value, shapes, starts, locations, weights = make_problem([(6, 7), (3, 4)])
    with pytest.raises(ValueError, match="does not lie within"):
        ms_deform_attn(value.cuda(), shapes * 2, starts, locations.cuda(), weights.cuda())


def test_the_stream_and_the_device_of_the_tensors_are_used(make_problem):
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    arguments = [tensor.to(device) for tensor in make_problem([(6, 7), (3, 4)])]
    with torch.cuda.stream(torch.cuda.Stream(device)):
        output = ms_deform_attn(*arguments)
    torch.cuda.synchronize(device)
    assert torch.allclose(output, ms_deform_attn(*arguments))


def test_names_the_native_kernel(make_problem):
    found = explain(*(tensor.cuda() for tensor in make_problem([(6, 7)])))
    assert found.implementation == "native CUDA kernel"

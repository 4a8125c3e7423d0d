"""Depthwise convolution: its weight gradient against PyTorch's in float64."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional

from hipie.modeling.backbone.depthwise import (
    DepthwiseConv2d,
    DepthwiseConv2dSame,
    use_depthwise_gradient,
)
from hipie.ops import library
from hipie.ops.depthwise import depthwise_conv2d, has_fast_gradient

pytestmark = pytest.mark.skipif(
    library.cpu_problem is not None, reason=f"no CPU kernels: {library.cpu_problem}"
)


def _gradients(convolve, input, weight, bias, direction):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (input, weight, bias)]
    output = convolve(*leaves)
    output.backward(direction.to(output.dtype))
    return [output.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("channels", "size", "kernel", "stride", "padding"),
    [
        (16, (9, 12), 3, 1, 1),
        (5, (8, 7), 5, 1, 2),
        (33, (17, 13), 5, 2, 0),
        (48, (12, 12), 3, 2, 1),
        (20, (7, 7), 7, 1, 0),
        (17, (16, 11), 7, 2, 3),
        (3, (3, 3), 3, 1, 0),
    ],
)
def test_output_and_gradients_are_those_of_float64(channels, size, kernel, stride, padding, dtype):
    torch.manual_seed(0)
    input = torch.randn(3, channels, *size).to(dtype)
    weight, bias = torch.randn(channels, 1, kernel, kernel).to(dtype), torch.randn(channels)
    bias = bias.to(dtype)
    reference = functional.conv2d(
        input.double(), weight.double(), bias.double(), stride, padding, groups=channels
    )
    direction = torch.randn_like(reference).to(dtype).double()
    arguments = (input, weight, bias)
    expected = _gradients(
        lambda *a: functional.conv2d(*a, stride, padding, groups=channels),
        *(argument.double() for argument in arguments),
        direction,
    )
    ours = _gradients(lambda *a: depthwise_conv2d(*a, stride, padding), *arguments, direction)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for value, right in zip(ours, expected, strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(
            value.double(), right, rtol=tolerance, atol=tolerance * float(right.abs().max())
        )


def test_the_weight_gradient_is_the_same_with_any_number_of_threads_and_layout():
    torch.manual_seed(0)
    input, direction = torch.randn(2, 40, 15, 14), torch.randn(2, 40, 15, 14)
    threads = torch.get_num_threads()
    results = []
    try:
        for number, memory_format in (
            (1, torch.contiguous_format),
            (2, torch.channels_last),
        ):
            torch.set_num_threads(number)
            results.append(
                torch.ops.hipie.depthwise_weight_gradient(
                    direction.contiguous(memory_format=memory_format), input, 3, 1, 1
                )
            )
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": 4}, "has to be 3, 5 or 7"),
        ({"stride": 3}, "the stride 1 or 2"),
        ({"padding": -1}, "not negative"),
        ({"padding": 2}, "does not fit input"),
        ({"grad_output": torch.zeros(1, 4, 6, 6, dtype=torch.float64)}, "float32 or bfloat16"),
        ({"grad_output": torch.zeros(1, 3, 6, 6)}, "does not fit input"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    arguments = {
        "grad_output": torch.zeros(1, 4, 6, 6),
        "input": torch.zeros(1, 4, 6, 6),
        "kernel": 3,
        "stride": 1,
        "padding": 1,
    }
    with pytest.raises(ValueError, match=message):
        torch.ops.hipie.depthwise_weight_gradient(**{**arguments, **change})


def test_other_types_and_kernels_take_pytorchs_gradient():
    weight = torch.randn(4, 1, 3, 3, requires_grad=True)
    assert has_fast_gradient(torch.zeros(1, 4, 6, 6), weight, 1)
    assert not has_fast_gradient(torch.zeros(1, 4, 6, 6).double(), weight.double(), 1)
    assert not has_fast_gradient(torch.zeros(1, 4, 6, 6), weight, 3)
    assert not has_fast_gradient(torch.zeros(1, 4, 6, 6), weight.detach(), 1)
    with torch.no_grad():
        assert not has_fast_gradient(torch.zeros(1, 4, 6, 6), weight, 1)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_lite0"])
def test_a_network_has_the_same_parameters_outputs_and_gradients(name):
    torch.manual_seed(0)
    plain = timm.create_model(name, features_only=True).train()
    fast = timm.create_model(name, features_only=True).train()
    fast.load_state_dict(plain.state_dict())
    use_depthwise_gradient(fast)
    replaced = [m for m in fast.modules() if isinstance(m, DepthwiseConv2d | DepthwiseConv2dSame)]
    assert len(replaced) == sum(1 for name, _ in plain.named_modules() if "conv_dw" in name)
    images = torch.randn(2, 3, 64, 64)
    for net in (plain, fast):
        sum(feature.square().mean() for feature in net(images)).backward()
    assert list(plain.state_dict()) == list(fast.state_dict())
    with torch.no_grad():
        for one, other in zip(plain(images), fast(images), strict=True):
            assert torch.equal(one, other)
    for (key, one), other in zip(plain.named_parameters(), fast.parameters(), strict=True):
        scale = float(one.grad.abs().max())
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-3 * scale, msg=key)


def test_autocast_computes_in_its_dtype_and_the_gradient_in_that_of_the_weight():
    torch.manual_seed(0)
    weight = torch.randn(8, 1, 3, 3, requires_grad=True)
    images = torch.randn(1, 8, 10, 10)
    with torch.autocast("cpu", torch.bfloat16):
        output = depthwise_conv2d(images, weight, None, 1, 1)
    output.float().square().sum().backward()
    assert output.dtype == torch.bfloat16
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32

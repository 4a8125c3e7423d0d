"""Depthwise convolutions of timm's networks with the fast weight gradient of `hipie.ops`."""

from __future__ import annotations

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn

from hipie.ops.depthwise import KERNEL_SIZES, STRIDES, depthwise_conv2d


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with a group for each channel."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return depthwise_conv2d(input, weight, bias, self.stride[0], int(self.padding[0]))


class DepthwiseConv2dSame(Conv2dSame):
    """timm's `Conv2dSame`, with TensorFlow's padding and a group for each channel."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute features [B, C, ceil(H / stride), ceil(W / stride)] of [B, C, H, W]."""
        padded = pad_same(x, [*self.kernel_size], [*self.stride], [*self.dilation])
        return depthwise_conv2d(padded, self.weight, self.bias, self.stride[0], 0)


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: DepthwiseConv2d,
    Conv2dSame: DepthwiseConv2dSame,
}


def use_depthwise_gradient(net: nn.Module) -> None:
    """Let the depthwise convolutions of a network compute their weight gradient fast, in place.

    Names and values of parameters do not change.
    """
    for module in net.modules():
        if type(module) in _CLASSES and _is_supported(module):
            module.__class__ = _CLASSES[type(module)]


def _is_supported(module: nn.Module) -> bool:
    assert isinstance(module, nn.Conv2d)
    kernel, stride, padding = module.kernel_size, module.stride, module.padding
    return (
        module.groups == module.in_channels == module.out_channels
        and kernel[0] == kernel[1]
        and kernel[0] in KERNEL_SIZES
        and stride[0] == stride[1]
        and stride[0] in STRIDES
        and tuple(module.dilation) == (1, 1)
        and module.padding_mode == "zeros"
        and (isinstance(module, Conv2dSame) or _is_symmetric(padding))
    )


def _is_symmetric(padding: str | tuple[int, ...]) -> bool:
    return not isinstance(padding, str) and padding[0] == padding[1]

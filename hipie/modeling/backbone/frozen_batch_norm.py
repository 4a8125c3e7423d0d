"""Freezing of batch norms and their fusion into the preceding convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d, freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Convolutions whose output is linear in the stored weight; standardized weights are not.
FUSIBLE_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)


def freeze_norms(net: nn.Module, input_size: Sequence[int]) -> None:
    """Freeze the statistics, scales and shifts of all 2-d batch norms, in place.

    A batch norm that follows a convolution is fused into it, and only its activation is kept. The
    weight of the convolution, and its bias if it had one, stay trainable. Other batch norms become
    frozen affine maps. The output of the network in evaluation mode does not change.

    Args:
        net: a network of timm.
        input_size: (3, H, W) of a valid image; one forward pass finds which norm follows which
            convolution.
    """
    for conv_name, norm_name in _convolution_norm_pairs(net, input_size):
        conv: Any = net.get_submodule(conv_name)
        norm: Any = net.get_submodule(norm_name)
        fused = fuse_conv_bn_eval(conv, norm)
        has_activation = isinstance(norm, BatchNormAct2d)
        activation = nn.Sequential(norm.drop, norm.act) if has_activation else nn.Identity()
        net.set_submodule(conv_name, fused)
        net.set_submodule(norm_name, activation)
    freeze_batch_norm_2d(net)


def _convolution_norm_pairs(net: nn.Module, input_size: Sequence[int]) -> list[tuple[str, str]]:
    """Return pairs of names: a convolution and the batch norm that directly follows it."""
    norms = {
        name: module for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)
    }
    if not norms:
        return []
    # Outputs are kept alive, so that no two of them share an identity.
    outputs: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []
    hooks = []
    for name, module in net.named_modules():
        if type(module) in FUSIBLE_CONVOLUTIONS:
            hooks.append(
                module.register_forward_hook(
                    lambda _module, _args, output, name=name: outputs.update(
                        {id(output): (name, output)}
                    )
                )
            )
    for name, module in norms.items():
        hooks.append(
            module.register_forward_pre_hook(
                lambda _module, args, name=name: (
                    pairs.append((outputs[id(args[0])][0], name))
                    if id(args[0]) in outputs
                    else None
                )
            )
        )
    net.eval()
    with torch.no_grad():
        net(torch.zeros(1, *input_size))
    for hook in hooks:
        hook.remove()
    return pairs

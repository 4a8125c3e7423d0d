"""Batch norms that no longer learn, folded into the convolutions before them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Their output is linear in the stored weight, which those of a standardised weight are not.
FOLDABLE = (nn.Conv2d, Conv2dSame)


def freeze_norms(net: nn.Module, input_size: Sequence[int]) -> None:
    """Fix the statistics and scales of all 2-d batch norms, in place.

    A norm that reads a convolution's output becomes part of that convolution, and its place keeps
    its activation. What the convolution had learned before, it goes on learning: its weight, and
    its bias if it had one of its own. Other norms become frozen affine maps. The network computes
    what it did in evaluation.

    Args:
        net: a network of timm.
        input_size: (3, H, W) of an image that it takes; it runs once to see who reads whom.
    """
    for conv_name, norm_name in _pairs(net, input_size):
        norm = net.get_submodule(norm_name)
        folded = fuse_conv_bn_eval(net.get_submodule(conv_name), norm)
        kept = isinstance(norm, BatchNormAct2d)
        after = nn.Sequential(norm.drop, norm.act) if kept else nn.Identity()
        net.set_submodule(conv_name, folded)
        net.set_submodule(norm_name, after)
    freeze_batch_norm_2d(net)


def _pairs(net: nn.Module, input_size: Sequence[int]) -> list[tuple[str, str]]:
    """Names of every convolution and the batch norm that reads its output."""
    norms = {
        name: module for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)
    }
    if not norms:
        return []
    # Outputs are kept, so that no two of them share an identity.
    made: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []
    hooks = []
    for name, module in net.named_modules():
        if type(module) in FOLDABLE:
            hooks.append(
                module.register_forward_hook(
                    lambda _module, _args, out, name=name: made.update({id(out): (name, out)})
                )
            )
    for name, module in norms.items():
        hooks.append(
            module.register_forward_pre_hook(
                lambda _module, args, name=name: (
                    pairs.append((made[id(args[0])][0], name)) if id(args[0]) in made else None
                )
            )
        )
    net.eval()
    with torch.no_grad():
        net(torch.zeros(1, *input_size))
    for hook in hooks:
        hook.remove()
    return pairs

"""Nothing in the full-size models is idle: every tensor moves some result or some loss.

A gradient tells it for all tensors at once, those that training leaves alone (statistics of frozen
norms, the first layers of the backbone) included.
"""

from __future__ import annotations

import torch
from detectron2.structures import BitMasks, Boxes, Instances

from hipie.vocabularies.vocabulary import Vocabulary

WORDS = Vocabulary.from_names(things=["red car", "dog"], stuff=["grass", "sky"])
# The mean of three normalised colours is fixed, not learned.
CONSTANTS = {"pixel_mean", "pixel_std"}
# The bias of an attention's keys is the same for all of them, and softmax takes it out again.
WITHOUT_EFFECT = ("attention.self.key.bias",)


def image() -> torch.Tensor:
    across = torch.linspace(0, 160, 96).expand(3, 64, 96)
    return across + 90 * torch.rand(3, 64, 96)


def item(task: str) -> dict:
    masks = torch.zeros(3, 64, 96, dtype=torch.bool)
    masks[0, 8:40, 4:30] = masks[1, 20:60, 40:70] = masks[2, :20, 30:96] = True
    found = Instances((64, 96))
    found.gt_masks, found.gt_boxes = BitMasks(masks), BitMasks(masks).get_bounding_boxes()
    found.gt_classes = torch.tensor([0, 1, 2])
    words = {"vocabulary": WORDS}
    if task == "referring":
        found, words = found[:2], {"expressions": ["the red car", "a dog"]}
    assert isinstance(found.gt_boxes, Boxes)
    return {"image": image(), "task": task, "instances": found, **words}


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Heads and tables that start at zero would hide what comes before them."""
    for parameter in model.parameters():
        if parameter.ndim > 1 or not parameter.any():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return model


def test_every_tensor_has_an_effect(tiny_published) -> None:
    model = shaken(tiny_published)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors = {k: v for k, v in tensors.items() if v.is_floating_point() and k not in CONSTANTS}
    for tensor in tensors.values():
        tensor.requires_grad_(True)
    total = 0
    for task in ("detection", "referring"):
        total = total + sum(model.losses([item(task)]).values())
    shown = model._raw([{"image": image(), "vocabulary": WORDS}], False, None, None)
    for branch in (shown.things, shown.stuff):
        for one in (branch.token_logits, branch.boxes, branch.mask_logits, branch.iou_logits):
            if one is not None:
                total = total + (one * torch.randn(one.shape)).sum()
    total.backward()
    idle = [
        name
        for name, tensor in tensors.items()
        if tensor.grad is None or not tensor.grad.abs().max() > 0
    ]
    assert [name for name in idle if not name.endswith(WITHOUT_EFFECT)] == []

"""Every tensor of the full-size models has a gradient of some prediction or some loss.

This includes tensors that are not trained (statistics of frozen norms, first backbone layers).
"""

from __future__ import annotations

import torch
from detectron2.structures import BitMasks, Boxes, Instances

from hipie.vocabularies.vocabulary import Vocabulary

VOCABULARY = Vocabulary.from_names(things=["red car", "dog"], stuff=["grass", "sky"])
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
    instances = Instances((64, 96))
    instances.gt_masks, instances.gt_boxes = BitMasks(masks), BitMasks(masks).get_bounding_boxes()
    instances.gt_classes = torch.tensor([0, 1, 2])
    text = {"vocabulary": VOCABULARY}
    if task == "referring":
        instances, text = instances[:2], {"expressions": ["the red car", "a dog"]}
    assert isinstance(instances.gt_boxes, Boxes)
    return {"image": image(), "task": task, "instances": instances, **text}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Add noise, since heads and tables that are zero block gradients."""
    for parameter in model.parameters():
        if parameter.ndim > 1 or not parameter.any():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return model


def test_every_tensor_has_a_gradient(tiny_published) -> None:
    model = randomised(tiny_published)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors = {k: v for k, v in tensors.items() if v.is_floating_point() and k not in CONSTANTS}
    for tensor in tensors.values():
        tensor.requires_grad_(True)
    total = 0
    for task in ("detection", "referring"):
        total = total + sum(model.losses([item(task)]).values())
    raw = model._predict_raw([{"image": image(), "vocabulary": VOCABULARY}])
    for branch in (raw.things, raw.stuff):
        for tensor in (branch.token_logits, branch.boxes, branch.mask_logits, branch.iou_logits):
            if tensor is not None:
                total = total + (tensor * torch.randn(tensor.shape)).sum()
    total.backward()
    unused = [
        name
        for name, tensor in tensors.items()
        if tensor.grad is None or not tensor.grad.abs().max() > 0
    ]
    assert [name for name in unused if not name.endswith(WITHOUT_EFFECT)] == []

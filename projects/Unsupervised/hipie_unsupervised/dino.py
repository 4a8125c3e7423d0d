"""DINO: a vision transformer that learns from images without labels.

Caron, Touvron, Misra, Jegou, Mairal, Bojanowski, Joulin, "Emerging Properties in Self-Supervised
Vision Transformers", ICCV 2021.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from hipie.errors import InputError
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie_unsupervised.modeling.dino_head import DINOHead
from hipie_unsupervised.modeling.dino_loss import (
    DINOLoss,
    teacher_momentum,
    teacher_temperature,
    update_teacher,
)
from hipie_unsupervised.modeling.vit import build_vit, patch_features, vit_arguments

if TYPE_CHECKING:
    from hipie.structures import ImageFeatures


@dataclass(frozen=True)
class DINOSchedule:
    """Schedules of a training; see `MODEL.UNSUPERVISED.DINO`.

    Attributes:
        iterations: of the training, `SOLVER.MAX_ITER`.
        momentum: the teacher's at the first iteration.
        first_temperature, temperature: of the teacher's softmax at the first iteration, and after
            the warm-up.
        warmup: iterations of the change of temperature.
        freeze_last_layer: iterations without gradients of the head's last layer.
    """

    iterations: int
    momentum: float = 0.996
    first_temperature: float = 0.04
    temperature: float = 0.07
    warmup: int = 37500
    freeze_last_layer: int = 1250

    @classmethod
    def from_config(cls, cfg: CfgNode) -> DINOSchedule:
        """Read `MODEL.UNSUPERVISED.DINO` and `SOLVER.MAX_ITER`."""
        node = cfg.MODEL.UNSUPERVISED.DINO
        return cls(
            cfg.SOLVER.MAX_ITER,
            node.TEACHER_MOMENTUM,
            node.WARMUP_TEACHER_TEMPERATURE,
            node.TEACHER_TEMPERATURE,
            node.WARMUP_ITERATIONS,
            node.FREEZE_LAST_LAYER,
        )


class ViTWithHead(nn.Module):
    """Vision transformer and projection head of its class token.

    Args:
        network: the transformer.
        head: of its class token.
    """

    def __init__(self, network: VisionTransformer, head: DINOHead) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, crops: list[Tensor], fixed_prototypes: bool = False) -> Tensor:
        """Compute outputs [V, B, K] of V views.

        Args:
            crops: each [V_i, B, 3, S_i, S_i] normalised, of one size.
            fixed_prototypes: whether the last layer gets no gradient.
        """
        views = sum(len(crop) for crop in crops)
        tokens = [self.network(crop.flatten(0, 1)) for crop in crops if len(crop)]
        outputs: Tensor = self.head(torch.cat(tokens), fixed_prototypes)
        return outputs.unflatten(0, (views, -1))


@META_ARCH_REGISTRY.register()
class DINO(SegmentationModel):
    """Student that predicts the teacher's outputs for other crops; the teacher is its moving mean.

    In training, input dicts have `global_crops` [2, 3, G, G] and `local_crops` [L, 3, l, l], RGB in
    0..255, as the mapper `multi_crop` makes them. The teacher is updated at the start of an
    iteration, from the weights after the previous one. Gradient accumulation would update it in
    every micro-batch.

    Otherwise takes dicts with `image` ([3, H, W], 0..255, in `image_format`) and returns a dict an
    image: `tokens` and `keys` [C, h, w] and `attention` [heads, h, w] of the teacher; see
    `hipie_unsupervised.modeling.vit.patch_features`.

    Args:
        network: vision transformer with random weights.
        head: of its class token.
        loss: DINO's.
        schedule: of temperatures and momentum.
        image_format: "RGB" or "BGR", of `image`.
    """

    tasks: ClassVar[frozenset[str]] = frozenset()

    @configurable
    def __init__(
        self,
        *,
        network: VisionTransformer,
        head: DINOHead,
        loss: DINOLoss,
        schedule: DINOSchedule,
        image_format: str = "RGB",
    ) -> None:
        super().__init__()
        self.student = ViTWithHead(network, head)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.loss, self.schedule, self.image_format = loss, schedule, image_format
        settings: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.iteration: Tensor
        self.register_buffer("pixel_mean", _channels(settings["mean"]), False)
        self.register_buffer("pixel_std", _channels(settings["std"]), False)
        self.register_buffer("iteration", torch.zeros((), dtype=torch.long))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.UNSUPERVISED`."""
        node = cfg.MODEL.UNSUPERVISED
        network = build_vit(node.VIT.NAME, vit_arguments(cfg))
        dino = node.DINO
        return {
            "network": network,
            "head": DINOHead(network.embed_dim, dino.OUT_DIM, dino.HIDDEN_DIM, dino.BOTTLENECK_DIM),
            "loss": DINOLoss(dino.OUT_DIM, dino.STUDENT_TEMPERATURE, dino.CENTER_MOMENTUM),
            "schedule": DINOSchedule.from_config(cfg),
            "image_format": cfg.INPUT.FORMAT,
        }

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Return False: it is trained from random weights."""
        return False

    @classmethod
    def dataset_mapper(cls, cfg: CfgNode, dataset_name: str, training: bool) -> str | None:
        """Name of the mapper of crops."""
        return "multi_crop"

    def parameters_without_weight_decay(self) -> set[str]:
        """Names of biases and norms, and of the transformer's own choice, as published."""
        skipped = {f"student.network.{name}" for name in self.student.network.no_weight_decay()}
        vectors = {name for name, value in self.named_parameters() if value.ndim <= 1}
        return vectors | skipped

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute `loss_dino`, and update teacher and centre.

        Raises:
            InputError: if an input has no crops.
        """
        if any("global_crops" not in item for item in batched_inputs):
            raise InputError("DINO trains on the crops of the dataset mapper multi_crop")
        iteration, schedule = int(self.iteration), self.schedule
        if iteration > 0:
            momentum = teacher_momentum(iteration - 1, schedule.momentum, schedule.iterations)
            update_teacher(self.teacher, self.student, momentum)
        self.iteration += 1
        large, small = (
            self._normalize(torch.stack([item[key] for item in batched_inputs], dim=1))
            for key in ("global_crops", "local_crops")
        )
        with torch.no_grad():
            targets = self.teacher([large])
        outputs = self.student([large, small], iteration < schedule.freeze_last_layer)
        temperature = teacher_temperature(
            iteration, schedule.first_temperature, schedule.temperature, schedule.warmup
        )
        return {"loss_dino": self.loss(outputs, targets, temperature)}

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[dict[str, Tensor]]:
        """Compute features of images, each side rounded up to a multiple of the patch size."""
        return [self._features(item["image"]) for item in batched_inputs]

    def _features(self, image: Tensor) -> dict[str, Tensor]:
        network = self.teacher.network
        patch = network.patch_embed.patch_size[0]
        size = [-(-side // patch) * patch for side in image.shape[-2:]]
        pixels = self._normalize(image.flip(0) if self.image_format == "BGR" else image)
        pixels = nn.functional.interpolate(pixels[None], size=size, mode="bilinear")
        return {key: value[0] for key, value in patch_features(network, pixels).items()}

    def _normalize(self, images: Tensor) -> Tensor:
        return (images.to(self.pixel_mean.device).float() - self.pixel_mean) / self.pixel_std


def _channels(values: tuple[float, ...]) -> Tensor:
    """[3, 1, 1] of values in 0..1, scaled to 0..255."""
    return 255 * torch.tensor(values).view(3, 1, 1)

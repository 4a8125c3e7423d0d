"""Class activation maps of an image classifier.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016: where the score of
a class is a linear function of the mean of the last feature map, the same function of each of its
positions says how much it contributes to the class (equation 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hipie.errors import InputError, cause_of
from hipie.modeling.backbone.timm_checkpoint import (
    PACKAGES,
    create_with_published_weights,
    read_timm_weights,
)

PUBLISHED = "published"
SCALES = (1.0, 1.5, 2.0)
STRIDE = 32
MAX_ASPECT_RATIO = 4
# Largest difference between the scores of a network and those of its mean features, relative to the
# largest score.
HEAD_TOLERANCE = 1e-3


class ClassActivation(nn.Module):
    """Class activation maps of a timm classifier.

    Args:
        net: a classifier of timm, in evaluation mode afterwards.
        name: of the network, for messages.

    Attributes:
        weight: [K, C] of the linear classifier.
        input_size: pixels of the shorter side of an image at scale 1.

    Raises:
        InputError: if the scores are not a linear function of the mean of the last feature map.
    """

    weight: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        self.name = name
        config: Any = getattr(net, "pretrained_cfg", None) or {}
        self.input_size = int(config.get("input_size", (3, 224, 224))[-1])
        self.register_buffer("mean", _color(config.get("mean", (0.5, 0.5, 0.5))), persistent=False)
        self.register_buffer("std", _color(config.get("std", (0.5, 0.5, 0.5))), persistent=False)
        self.register_buffer("weight", self._linear_head(), persistent=False)

    @classmethod
    def from_timm(cls, name: str, weights: str = "package") -> ClassActivation:
        """Build the maps of a timm model.

        Args:
            name: of the model.
            weights: "package" (`tf_efficientnet_lite0`, `tf_efficientnet_lite2`), "published" (they
                are downloaded), or a `.pth` or `.safetensors` file.

        Raises:
            InputError: if timm has no such model or weights, or the model has another head.
            MissingPackageError: if the package with the weights is not installed.
        """
        if not timm.is_model(name):
            raise InputError(f"timm {timm.__version__} has no model {name!r}")
        if weights == PUBLISHED:
            try:
                return cls(create_with_published_weights(name), name)
            except (OSError, RuntimeError, ValueError) as error:
                raise InputError(
                    f"the published weights of {name} cannot be loaded: {cause_of(error)}"
                ) from error
        if weights == "package" and name not in PACKAGES:
            raise InputError(
                f"no package has weights of {name}, as of {' and '.join(PACKAGES)}; name a file, "
                f'or "{PUBLISHED}" for a download'
            )
        net = timm.create_model(name, pretrained=False)
        net.load_state_dict(read_timm_weights(net.state_dict(), name, weights))
        return cls(net, name)

    @property
    def num_classes(self) -> int:
        """K, the classes of the network."""
        return len(self.weight)

    def _linear_head(self) -> Tensor:
        """Return the weight [K, C] of the classifier, after a test that the maps need no more."""
        message = (
            f"the scores of {self.name} are not a linear function of the mean of its last feature "
            "map; class activation maps need a network whose pooling is followed by one linear "
            "layer, such as an EfficientNet, a ResNet or a DenseNet"
        )
        net: Any = self.net
        head = net.get_classifier() if hasattr(net, "get_classifier") else None
        if not isinstance(head, nn.Linear) or not hasattr(net, "forward_features"):
            raise InputError(message)
        side = self.input_size
        pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            features, scores = net.forward_features(pixels), net(pixels)
            if features.dim() != 4 or features.shape[1] != head.in_features:
                raise InputError(message)
            error = (head(features.mean((2, 3))) - scores).abs().max()
        if not error <= HEAD_TOLERANCE * max(1.0, float(scores.abs().max())):
            raise InputError(message)
        return head.weight.detach().clone()

    def forward(
        self,
        image: NDArray[np.uint8],
        classes: Sequence[Sequence[int]],
        scales: Sequence[float] = SCALES,
    ) -> Tensor:
        """Compute the maps of N concepts; see `encode` and `maps`."""
        return self.maps(self.encode(image, scales), classes, image.shape[:2])

    @torch.no_grad()
    def encode(self, image: NDArray[np.uint8], scales: Sequence[float] = SCALES) -> list[Tensor]:
        """Compute the last feature maps of an image and of its mirror image at every scale.

        Args:
            image: [H, W, 3] uint8 RGB.
            scales: of the shorter side, relative to `input_size`.

        Returns:
            Of every scale, [2, C, h, w].
        """
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.weight.device)
        pixels = pixels.permute(2, 0, 1)[None].float() / 255
        return [self._features(pixels, scale, mirror=True) for scale in scales]

    @torch.no_grad()
    def probabilities(self, pixels: Tensor, scale: float = 1.0) -> Tensor:
        """Compute the probabilities of all classes at every position of the last feature map.

        Args:
            pixels: [1, 3, H, W] RGB in 0..1.
            scale: of the shorter side, relative to `input_size`.

        Returns:
            [h, w, K] float32.
        """
        (features,) = self._features(pixels, scale, mirror=False)
        net: Any = self.net
        logits: Tensor = net.get_classifier()(features.permute(1, 2, 0))
        return logits.softmax(-1)

    @torch.no_grad()
    def maps(
        self, features: Sequence[Tensor], classes: Sequence[Sequence[int]], size: Sequence[int]
    ) -> Tensor:
        """Compute the maps of N concepts, each of which is one or more classes of the network.

        The classes of a concept are averaged, weighted by their probabilities among themselves in
        this image. Maps are averaged over the scales and mirror images, are positive where the
        concept is favoured over the mean of all classes, and have the maximum 1.

        Args:
            features: of `encode`.
            classes: N lists of class indices.
            size: (H, W) of the maps.

        Returns:
            [N, H, W] float32 in 0..1; zero where a concept has no positive value at all.
        """
        # Adding a constant to all scores changes no probability: what counts is the difference.
        weight = self.weight - self.weight.mean(0)
        pooled = torch.stack([both.mean((0, 2, 3)) for both in features]).mean(0)
        logits = weight @ pooled
        rows = torch.stack(
            [weight[list(group)].T @ logits[list(group)].softmax(0) for group in classes]
        )
        height, width = size
        maps = torch.zeros(len(rows), height, width, device=weight.device)
        for both in features:
            scored = torch.einsum("nc,bchw->bnhw", rows, both)
            scored = (scored[0] + scored[1].flip(-1)) / 2
            maps += F.interpolate(
                scored[None], (height, width), mode="bilinear", align_corners=False
            )[0]
        maps = maps.clamp(min=0)
        return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)

    def _features(self, pixels: Tensor, scale: float, *, mirror: bool) -> Tensor:
        """Last feature maps [1 or 2, C, h, w] of an image [1, 3, H, W] in 0..1 and its mirror."""
        height, width = pixels.shape[-2:]
        shorter = scale * self.input_size
        factor = shorter / min(height, width)
        longest = MAX_ASPECT_RATIO * shorter
        size = [
            max(1, round(min(side * factor, longest) / STRIDE)) * STRIDE for side in (height, width)
        ]
        resized = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        resized = (resized - self.mean) / self.std
        net: Any = self.net
        images = torch.cat([resized, resized.flip(-1)]) if mirror else resized
        features: Tensor = net.forward_features(images)
        return features


def _color(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)

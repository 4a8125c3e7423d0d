"""Segmentation by cosine k-means of the features of a frozen backbone over a whole data set.

The cluster probe with which STEGO (Hamilton, Zhang, Hariharan, Snavely, Freeman, ICLR 2022,
section 4.1) evaluates features: centroids are learned by mini-batches that maximise the cosine of
every pixel's feature with its nearest centroid. STEGO's own training of features is not included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from torch import Tensor, nn

from hipie.errors import InputError
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.inputs import output_size, pad_images

if TYPE_CHECKING:
    from hipie.structures import ImageFeatures

# Features of the first batch among which the initial centroids are drawn.
INITIAL_FEATURES = 4096


@META_ARCH_REGISTRY.register()
class FeatureClustering(SegmentationModel):
    """Frozen backbone and centroids of its features.

    Takes dicts with `image` ([3, H, W], 0..255); returns a dict an image with `sem_seg`
    [clusters, height, width], the cosine of every pixel with every centroid, and in training
    `loss_cluster`, 1 - the mean cosine with the nearest centroid.

    Args:
        backbone: of `BACKBONE_REGISTRY`; it is frozen.
        clusters: number of centroids.
        features: outputs of the backbone, see MODEL.UNSUPERVISED.CLUSTERING.FEATURES.
        pixel_mean, pixel_std: of the three channels, 0..255.

    Raises:
        InputError: if the backbone lacks an output, or there are fewer than 2 clusters.
    """

    tasks: ClassVar[frozenset[str]] = frozenset()

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        clusters: int,
        features: Sequence[str],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        shapes = backbone.output_shape()
        key = "MODEL.UNSUPERVISED.CLUSTERING"
        unknown = [name for name in features if name not in shapes]
        if unknown or not features:
            raise InputError(
                f"{key}.FEATURES is {tuple(features)}; the backbone has {', '.join(shapes)}"
            )
        if clusters < 2:
            raise InputError(f"{key}.CLUSTERS is {clusters}; it has to be at least 2")
        self.backbone = backbone.eval().requires_grad_(False)
        self.features = tuple(features)
        width = sum(shapes[name].channels for name in features)
        self.centroids = nn.Parameter(F.normalize(torch.randn(clusters, width)))
        self.initialized: Tensor
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(3, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(3, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.UNSUPERVISED.CLUSTERING` and Detectron2's keys."""
        node = cfg.MODEL.UNSUPERVISED.CLUSTERING
        return {
            "backbone": build_backbone(cfg),
            "clusters": node.CLUSTERS,
            "features": tuple(node.FEATURES),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Return False: the centroids are learned from random ones."""
        return False

    @classmethod
    def dataset_mapper(cls, cfg: CfgNode, dataset_name: str, training: bool) -> str | None:
        """Name of the mapper of images without annotations."""
        return "unlabelled"

    @classmethod
    def evaluator(cls, cfg: CfgNode, dataset_name: str) -> str | None:
        """Name of the evaluator of clusters."""
        return "clusters"

    def train(self, mode: bool = True) -> FeatureClustering:
        """Set the mode; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def parameters_without_weight_decay(self) -> set[str]:
        """Name of the centroids, whose length has no meaning."""
        return {"centroids"}

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute `loss_cluster`; the first call draws the centroids from the batch's features."""
        maps, sizes = self._encode(batched_inputs)
        rows = torch.cat(
            [
                of_image[:, :height, :width].flatten(1).t()
                for of_image, (height, width) in zip(maps, sizes, strict=True)
            ]
        )
        if not self.initialized:
            drawn = rows[torch.randperm(len(rows), device=rows.device)[:INITIAL_FEATURES]]
            with torch.no_grad():
                self.centroids.copy_(cosine_plus_plus(drawn, len(self.centroids)))
            self.initialized.fill_(True)
        cosines = rows @ F.normalize(self.centroids.float()).t()
        return {"loss_cluster": 1 - cosines.amax(1).mean()}

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[dict[str, Any]]:
        """Compute the cosines of every pixel with the centroids; see the class."""
        maps, sizes = self._encode(batched_inputs)
        unit = F.normalize(self.centroids.float())
        results = []
        for item, of_image, (height, width) in zip(batched_inputs, maps, sizes, strict=True):
            scores = torch.einsum("kc,chw->khw", unit, of_image[:, :height, :width])
            shape = (int(item["image"].shape[-2]), int(item["image"].shape[-1]))
            size = output_size(item, shape)
            results.append({"sem_seg": F.interpolate(scores[None], size=size, mode="bilinear")[0]})
        return results

    @torch.no_grad()
    def _encode(self, batched_inputs: list[dict[str, Any]]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Unit features [B, C, h, w], and the part of the grid that each image covers."""
        images = [item["image"] for item in batched_inputs]
        pixels, _, sizes = pad_images(
            images, self.pixel_mean, self.pixel_std, self.backbone.size_divisibility
        )
        outputs = self.backbone(pixels)
        first = outputs[self.features[0]]
        parts = [
            F.interpolate(F.normalize(outputs[name].float(), dim=1), first.shape[-2:])
            for name in self.features
        ]
        stride = self.backbone.output_shape()[self.features[0]].stride
        assert stride is not None  # every backbone of this package states it
        grids = [(-(-height // stride), -(-width // stride)) for height, width in sizes]
        return F.normalize(torch.cat(parts, dim=1), dim=1), grids


def cosine_plus_plus(rows: Tensor, clusters: int) -> Tensor:
    """Draw initial centroids as k-means++ does (Arthur and Vassilvitskii, SODA 2007), by cosine.

    Args:
        rows: [N, C] unit vectors.
        clusters: number of centroids, at most N.

    Returns:
        [clusters, C] different rows where there are as many. Torch's generator draws them.

    Raises:
        InputError: if there are fewer rows than clusters.
    """
    if len(rows) < clusters:
        raise InputError(
            f"{clusters} clusters need as many features, and the first batch has {len(rows)}"
        )
    index = int(torch.randint(len(rows), ()))
    centroids = [rows[index]]
    distances = 1 - rows @ rows[index]
    for _ in range(clusters - 1):
        weights = distances.clamp(min=1e-9)
        index = int(torch.multinomial(weights, 1))
        centroids.append(rows[index])
        distances = torch.minimum(distances, 1 - rows @ rows[index])
    return torch.stack(centroids)

"""SLIC superpixels, merged by their colours or divided by normalised cuts.

Achanta et al., "SLIC Superpixels Compared to State-of-the-art Superpixel Methods", IEEE Trans. PAMI
2012; Shi, Malik, "Normalized Cuts and Image Segmentation", IEEE Trans. PAMI 2000; region adjacency
graphs by scikit-image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import graph
from skimage.segmentation import slic

from hipie.errors import InputError
from hipie_classical.modeling.label_maps import LabelMap, RGBImage, lab_colors


@dataclass(frozen=True)
class Slic:
    """SLIC superpixels of an image.

    Attributes:
        segments: approximate number of superpixels.
        compactness: weight of positions against colours.
    """

    segments: int = 250
    compactness: float = 10.0

    def __post_init__(self) -> None:
        if self.segments < 1 or self.compactness <= 0:
            raise InputError(
                "MODEL.CLASSICAL.SLIC needs 1 or more SEGMENTS and a COMPACTNESS above 0, and not "
                f"{self.segments} and {self.compactness}"
            )

    def __call__(self, image: RGBImage) -> LabelMap:
        """Divide an image [H, W, 3] into superpixels [H, W], numbered from 0."""
        labels: LabelMap = slic(
            image, self.segments, self.compactness, start_label=0, channel_axis=2
        ).astype(np.int32)
        return labels


@dataclass(frozen=True)
class MergedSuperpixels:
    """Superpixels, merged while the most similar neighbours differ by less than a threshold.

    Attributes:
        superpixels: of the image.
        threshold: distance of the mean colours in CIELAB.
    """

    superpixels: Slic = Slic()
    threshold: float = 10.0

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise InputError(
                f"MODEL.CLASSICAL.SLIC.THRESHOLD is {self.threshold}; it has to be 0 or more"
            )

    def __call__(self, image: RGBImage) -> LabelMap:
        """Divide an image [H, W, 3] into regions [H, W], numbered from 0."""
        labels = self.superpixels(image)
        if self.threshold == 0 or not labels.any():
            return labels
        adjacency = graph.rag_mean_color(lab_colors(image), labels)
        merged: LabelMap = graph.merge_hierarchical(
            labels,
            adjacency,
            thresh=self.threshold,
            rag_copy=False,
            in_place_merge=True,
            merge_func=_add_colors,
            weight_func=_color_distance,
        ).astype(np.int32)
        return merged


@dataclass(frozen=True)
class NormalizedCut:
    """Superpixels, divided into regions by recursive normalised cuts of their adjacency graph.

    Attributes:
        superpixels: of the image.
        threshold: a region is not divided where the normalised cut is not below it.
        cuts: number of cuts of which the best is taken.
        sigma: scale of the similarity exp(-distance^2 / sigma).
    """

    superpixels: Slic = Slic()
    threshold: float = 0.05
    cuts: int = 10
    sigma: float = 60.0

    def __post_init__(self) -> None:
        if self.threshold < 0 or self.cuts < 1 or self.sigma <= 0:
            raise InputError(
                "MODEL.CLASSICAL.NORMALIZED_CUT needs a THRESHOLD of 0 or more, 1 or more CUTS and "
                f"a SIGMA above 0, and not {self.threshold}, {self.cuts} and {self.sigma}"
            )

    def __call__(self, image: RGBImage) -> LabelMap:
        """Divide an image [H, W, 3] into regions [H, W], numbered from 0."""
        labels = self.superpixels(image)
        if not labels.any():
            return labels
        similarity = graph.rag_mean_color(
            lab_colors(image), labels, mode="similarity", sigma=self.sigma
        )
        cut = graph.cut_normalized(
            labels, similarity, self.threshold, self.cuts, rng=np.random.default_rng(0)
        )
        regions: LabelMap = np.unique(cut, return_inverse=True)[1].reshape(labels.shape)
        return regions.astype(np.int32)


def _add_colors(adjacency: Any, source: int, target: int) -> None:
    """Update the sums of colours of a region that receives another one."""
    into, removed = adjacency.nodes[target], adjacency.nodes[source]
    for key in ("total color", "pixel count"):
        into[key] = into[key] + removed[key]
    into["mean color"] = into["total color"] / into["pixel count"]


def _color_distance(adjacency: Any, _: int, target: int, neighbour: int) -> dict[str, float]:
    """Distance of the mean colours of a region and a neighbour, as an edge of the graph."""
    colors: list[NDArray[Any]] = [adjacency.nodes[n]["mean color"] for n in (target, neighbour)]
    return {"weight": float(np.linalg.norm(colors[0] - colors[1]))}

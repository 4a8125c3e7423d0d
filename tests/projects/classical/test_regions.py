"""Classical methods against scikit-image and planted regions."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("skimage", reason="scikit-image is not installed")

from skimage.color import rgb2gray
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.segmentation import flood

from hipie.errors import InputError
from hipie_classical.modeling.felzenszwalb import Felzenszwalb
from hipie_classical.modeling.grabcut import GrabCut
from hipie_classical.modeling.label_maps import absorb_small_regions, connected_regions
from hipie_classical.modeling.otsu import Otsu
from hipie_classical.modeling.region_growing import RegionGrowing
from hipie_classical.modeling.superpixels import MergedSuperpixels, NormalizedCut, Slic
from hipie_classical.modeling.watershed import Watershed

METHODS = {
    "otsu": Otsu(4),
    "region_growing": RegionGrowing(20),
    "watershed": Watershed(12),
    "felzenszwalb": Felzenszwalb(400.0, 0.0),
    "slic": MergedSuperpixels(Slic(60), 12.0),
    "normalized_cut": NormalizedCut(Slic(60), 0.3),
    "grabcut": GrabCut(MergedSuperpixels(Slic(60), 12.0)),
}


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray]:
    """An image of sky, ground, a box and a disc with noise, and its regions."""
    rows, columns = np.mgrid[:64, :96]
    target = (rows >= 40).astype(np.int32)
    target[(rows - 30) ** 2 + (columns - 25) ** 2 < 14**2] = 2
    target[15:52, 60:85] = 3
    colors = np.array([[120, 180, 240], [40, 110, 50], [220, 50, 40], [250, 220, 60]])
    noise = np.random.default_rng(0).integers(-4, 5, (64, 96, 3))
    return (colors[target] + noise).clip(0, 255).astype(np.uint8), target


def is_numbered(labels: np.ndarray) -> bool:
    return np.array_equal(np.unique(labels), np.arange(labels.max() + 1))


def best_ious(labels: np.ndarray, target: np.ndarray) -> list[float]:
    """IoU of the best region with each planted one."""
    regions = [labels == number for number in range(labels.max() + 1)]
    return [
        max((r & (target == t)).sum() / (r | (target == t)).sum() for r in regions)
        for t in range(target.max() + 1)
    ]


@pytest.mark.parametrize("name", METHODS)
def test_planted_regions_are_recovered(planted, name) -> None:
    image, target = planted
    labels = METHODS[name](image)
    assert labels.shape == target.shape and labels.dtype == np.int32 and is_numbered(labels)
    labels = absorb_small_regions(labels, 40)
    if name in ("watershed", "normalized_cut"):  # they divide regions, and cross no borders
        pairs = (labels * 4 + target).ravel()
        confusion = np.bincount(pairs, minlength=4 * labels.max() + 4).reshape(-1, 4)
        assert confusion.max(1).sum() / target.size > 0.97
    else:
        assert min(best_ious(labels, target)) > 0.93, best_ious(labels, target)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (4, 3)])
def test_flat_and_tiny_images_are_divided(name, size) -> None:
    labels = METHODS[name](np.full((*size, 3), 90, np.uint8))
    assert labels.shape == size and is_numbered(labels)


def test_otsu_of_two_classes_is_the_threshold_of_scikit_image(planted) -> None:
    image = planted[0]
    grey = np.round(rgb2gray(image) * 255).astype(np.uint8)
    bright = (grey >= threshold_otsu(grey)).astype(int)
    expected = label(bright, background=-1, connectivity=1) - 1
    assert np.array_equal(Otsu(2)(image), expected)


def test_a_grown_region_is_the_flood_of_its_seed() -> None:
    """On grey images, where the colours of CIELAB are constant, as scikit-image's flood."""
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 4, (24, 30)).repeat(2, 0).repeat(2, 1) * 60
    image = np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)
    import cv2

    lightness = cv2.cvtColor(cv2.GaussianBlur(image, (5, 5), 0), cv2.COLOR_RGB2LAB)[:, :, 0]
    labels = RegionGrowing(15)(image)
    # The first region is free to grow everywhere; later ones only where no other one is.
    first = labels == 0
    floods = [
        flood(lightness.astype(int), (y, x), connectivity=1, tolerance=15)
        for y, x in zip(*np.nonzero(first), strict=True)
        if (abs(lightness[first].astype(int) - int(lightness[y, x])) <= 15).all()
    ]
    assert any(np.array_equal(first, mask) for mask in floods)
    for region in range(labels.max() + 1):
        values = lightness[labels == region].astype(int)
        assert values.max() - values.min() <= 30
        assert label(labels == region, connectivity=1).max() == 1, "regions are connected"


def test_small_regions_go_to_the_nearest_region() -> None:
    labels = np.zeros((6, 10), np.int32)
    labels[:, 5:] = 1
    labels[0, 0], labels[5, 9], labels[2, 8] = 2, 3, 4
    expected = (np.arange(10) >= 5).astype(np.int32)[None].repeat(6, 0)
    assert np.array_equal(absorb_small_regions(labels, 2), expected)
    assert not absorb_small_regions(labels, 1000).any(), "the largest region stays"
    assert np.array_equal(absorb_small_regions(labels, 0), labels)


def test_components_of_equal_labels_are_numbered() -> None:
    labels = connected_regions(np.array([[5, 5, 0], [0, 5, 5], [5, 0, 5]]))
    assert is_numbered(labels) and labels.max() == 4
    assert labels[0, 0] == labels[2, 2] != labels[2, 0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Otsu(1), r"OTSU.CLASSES is 1; it has to be 2 to 5"),
        (lambda: RegionGrowing(-1), r"REGION_GROWING.TOLERANCE is -1"),
        (lambda: Watershed(0), r"1 or more MARKERS"),
        (lambda: Felzenszwalb(0.0), r"a SCALE above 0"),
        (lambda: Slic(0), r"1 or more SEGMENTS"),
        (lambda: MergedSuperpixels(Slic(), -1.0), r"SLIC.THRESHOLD is -1.0"),
        (lambda: NormalizedCut(Slic(), 0.1, 0), r"1 or more CUTS"),
        (lambda: GrabCut(Slic(), 0), r"1 or more ITERATIONS"),
    ],
)
def test_invalid_settings_are_named(build, message) -> None:
    with pytest.raises(InputError, match=message):
        build()

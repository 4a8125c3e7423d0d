"""Methods by name, built from a configuration."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.config import CfgNode
from torch import nn

from hipie.errors import MissingPackageError
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.error import unknown_name

try:
    from hipie_classical.modeling.felzenszwalb import Felzenszwalb
    from hipie_classical.modeling.grabcut import GrabCut
    from hipie_classical.modeling.label_maps import LabelMap, RGBImage
    from hipie_classical.modeling.naming import ClipNaming, PrototypeNaming
    from hipie_classical.modeling.otsu import Otsu
    from hipie_classical.modeling.prototypes import Prototypes
    from hipie_classical.modeling.region_growing import RegionGrowing
    from hipie_classical.modeling.superpixels import MergedSuperpixels, NormalizedCut, Slic
    from hipie_classical.modeling.watershed import Watershed
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("skimage"):
        raise
    raise MissingPackageError(
        "hipie_classical needs the package scikit-image: pip install scikit-image "
        '(or "hipie[classical]")'
    ) from error

RegionMethod = Callable[[RGBImage], LabelMap]


def build_regions(cfg: CfgNode) -> RegionMethod:
    """Build the method that `MODEL.CLASSICAL.METHOD` names.

    Raises:
        InputError: for an unknown name, with similar ones, or an invalid value of a key.
    """
    node = cfg.MODEL.CLASSICAL
    if node.METHOD not in METHODS:
        raise unknown_name("classical method", node.METHOD, tuple(METHODS))
    return METHODS[node.METHOD](node)


def build_naming(cfg: CfgNode) -> nn.Module:
    """Build what `MODEL.CLASSICAL.NAMING` names.

    Raises:
        InputError: for an unknown name, a file without prototypes, or weights that do not exist.
    """
    node = cfg.MODEL.CLASSICAL
    if node.NAMING not in NAMINGS:
        raise unknown_name("way of naming regions", node.NAMING, tuple(NAMINGS))
    return NAMINGS[node.NAMING](node)


def _superpixels(node: CfgNode) -> Slic:
    return Slic(node.SLIC.SEGMENTS, node.SLIC.COMPACTNESS)


def _merged(node: CfgNode) -> MergedSuperpixels:
    return MergedSuperpixels(_superpixels(node), node.SLIC.THRESHOLD)


def _normalized_cut(node: CfgNode) -> NormalizedCut:
    keys = node.NORMALIZED_CUT
    return NormalizedCut(_superpixels(node), keys.THRESHOLD, keys.CUTS, keys.SIGMA)


METHODS: dict[str, Callable[[CfgNode], RegionMethod]] = {
    "otsu": lambda node: Otsu(node.OTSU.CLASSES),
    "region_growing": lambda node: RegionGrowing(node.REGION_GROWING.TOLERANCE),
    "watershed": lambda node: Watershed(node.WATERSHED.MARKERS, node.WATERSHED.COMPACTNESS),
    "felzenszwalb": lambda node: Felzenszwalb(node.FELZENSZWALB.SCALE, node.FELZENSZWALB.SIGMA),
    "slic": _merged,
    "normalized_cut": _normalized_cut,
    "grabcut": lambda node: GrabCut(_merged(node), node.GRABCUT.ITERATIONS, node.GRABCUT.MARGIN),
}
NAMINGS: dict[str, Callable[[CfgNode], nn.Module]] = {
    "prototypes": lambda node: PrototypeNaming(
        Prototypes.read(node.PROTOTYPES.FILE), node.PROTOTYPES.TEMPERATURE
    ),
    "clip": lambda node: ClipNaming(
        Clip.from_source(node.CLIP.MODEL, node.CLIP.WEIGHTS), node.CLIP.TEMPLATES
    ),
}

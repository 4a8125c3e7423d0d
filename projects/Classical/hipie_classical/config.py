"""Defaults of all keys of `MODEL.CLASSICAL`."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_hipie_classical_config(cfg: CN) -> None:
    """Add `MODEL.CLASSICAL` to a configuration, in place."""
    node = CN()
    # How an image is divided into regions: "otsu", "region_growing", "watershed", "felzenszwalb",
    # "slic", "normalized_cut" or "grabcut".
    node.METHOD = "slic"
    # Regions with a smaller share of the image's pixels are given to the nearest other regions.
    node.MIN_AREA = 0.001
    # How regions get their classes: "prototypes" or "clip".
    node.NAMING = "prototypes"
    # Regions that touch and have the same class are one segment; else every region of a thing class
    # is a segment.
    node.JOIN_TOUCHING = True
    # Refinement of the segments: "crf", "pamr" (see hipie.refinement) or "" for none.
    node.REFINEMENT = ""
    _add_methods(node)

    node.PROTOTYPES = CN()
    # JSON file that `python -m hipie_classical` has written; "package:picturebook" is that of the
    # picture book in this package.
    node.PROTOTYPES.FILE = "package:picturebook"
    # Divisor of the cosines with the prototypes before the softmax over classes.
    node.PROTOTYPES.TEMPERATURE = 0.1
    # Features of a region for new prototypes: "color" (mean and standard deviation of CIELAB) and
    # "network" (mean of the ImageNet features of tf_efficientnet_lite0, strides 4 to 16).
    node.PROTOTYPES.FEATURES = ("color", "network")

    node.CLIP = CN()
    # A model name of open_clip with the tag or file of its weights, a folder, "hf-hub:..." or
    # "random:NAME"; see hipie.modeling.open_vocabulary.clip_loading.
    node.CLIP.MODEL = "ViT-B-16"
    # Tag of open_clip, or file of the weights.
    node.CLIP.WEIGHTS = "openai"
    # Prompt templates: "imagenet" (80), "simple" (7), "one" or "none".
    node.CLIP.TEMPLATES = "imagenet"
    cfg.MODEL.CLASSICAL = node


def _add_methods(node: CN) -> None:
    node.OTSU = CN()
    # Number of classes of brightness; one less than that of the thresholds.
    node.OTSU.CLASSES = 3

    node.REGION_GROWING = CN()
    # Largest difference of a pixel from its region's seed, in each channel of CIELAB (0..255).
    node.REGION_GROWING.TOLERANCE = 12

    node.WATERSHED = CN()
    # Number of markers on an even grid.
    node.WATERSHED.MARKERS = 60
    # Higher values make basins more compact; 0 is the plain watershed.
    node.WATERSHED.COMPACTNESS = 0.0

    node.FELZENSZWALB = CN()
    # Higher values prefer larger regions.
    node.FELZENSZWALB.SCALE = 300.0
    # Standard deviation of the blur before it, in pixels.
    node.FELZENSZWALB.SIGMA = 0.8

    node.SLIC = CN()
    # Number of superpixels; also of "normalized_cut" and "grabcut".
    node.SLIC.SEGMENTS = 250
    # Weight of positions against colours, likewise.
    node.SLIC.COMPACTNESS = 10.0
    # Neighbours are merged while their mean colours differ by less, a distance in CIELAB; also of
    # "grabcut".
    node.SLIC.THRESHOLD = 10.0

    node.NORMALIZED_CUT = CN()
    # Largest normalised cut that divides a region.
    node.NORMALIZED_CUT.THRESHOLD = 0.05
    # Number of cuts of which the best is taken.
    node.NORMALIZED_CUT.CUTS = 10
    # Scale of the similarity exp(-distance^2 / SIGMA) of the superpixels' mean colours in CIELAB.
    node.NORMALIZED_CUT.SIGMA = 60.0

    node.GRABCUT = CN()
    # Iterations for every region.
    node.GRABCUT.ITERATIONS = 3
    # Width of the surroundings of a region's box that may become foreground, a share of its sides.
    node.GRABCUT.MARGIN = 0.2

"""Defaults of all keys of `MODEL.FEWSHOT`; they are the published settings for COCO-20i."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_hipie_fewshot_config(cfg: CN) -> None:
    """Add `MODEL.FEWSHOT` to a configuration, in place."""
    node = CN()
    # "prototype", "clip_prototype", "persam", "persam_f" or "matcher".
    node.METHOD = "matcher"
    # "persam", "persam_f" and "matcher": SAM's type ("vit_b", "vit_l", "vit_h") and its authors'
    # checkpoint file; a type with the prefix "random:", or "random:tiny", has random weights.
    node.SAM = "vit_h"
    # Checkpoint file of SAM's authors for that type.
    node.SAM_WEIGHTS = ""
    # "prototype" and "matcher": a ViT of timm and a checkpoint file (timm's or the authors'); ""
    # downloads timm's. The prefix "random:", or "random:tiny", gives random weights.
    node.DINO = "vit_large_patch14_dinov2"
    # Checkpoint file of DINO; "" downloads timm's.
    node.DINO_WEIGHTS = ""
    # Side of the square input of DINO, or of CLIP, in pixels, a multiple of its patch size. The
    # aspect ratio of images is not kept.
    node.SIZE = 518

    node.CLIP = CN()
    # "clip_prototype": a model name of open_clip, a folder, "hf-hub:..." or "random:NAME"; see
    # hipie.modeling.open_vocabulary.clip_loading.
    node.CLIP.MODEL = "ViT-B-16-quickgelu"
    # Tag of open_clip, or file of the weights.
    node.CLIP.WEIGHTS = "openai"

    node.PROTOTYPE = CN()
    # "prototype" and "clip_prototype": compare patches with a background prototype as well; if
    # False, the midpoint of the lowest and the highest similarity is the threshold.
    node.PROTOTYPE.BACKGROUND = True

    node.PERSAM = CN()
    # Stretch the similarity map over SAM's padded square, as published; if False, it stays inside
    # the image and the padding is not attended to.
    node.PERSAM.STRETCHED_GUIDANCE = True
    # "persam_f": optimisation steps and initial learning rate of the mask weights.
    node.PERSAM.STEPS = 1000
    # Initial learning rate of the mask weights ("persam_f").
    node.PERSAM.RATE = 1e-3

    node.MATCHER = _matcher_keys()

    node.EPISODES = CN()
    # Number of episodes drawn from a data set, and support examples of each.
    node.EPISODES.NUMBER = 1000
    # Number of support examples of an episode.
    node.EPISODES.SHOTS = 1
    # Determines the episodes.
    node.EPISODES.SEED = 0
    # Classes FOLD, FOLD + FOLDS, FOLD + 2 FOLDS, ... are evaluated (COCO-20i); FOLDS = 1: all.
    node.EPISODES.FOLDS = 1
    # First of the evaluated classes, less than FOLDS.
    node.EPISODES.FOLD = 0
    # Folds are equal parts of consecutive classes instead, as in PASCAL-5i.
    node.EPISODES.CONSECUTIVE = False
    cfg.MODEL.FEWSHOT = node


def _matcher_keys() -> CN:
    node = CN()
    # Smallest and largest number of matched points in a prompt, and prompts drawn of each number.
    node.POINTS = (1, 6)
    # Number of prompts drawn for each number of points.
    node.DRAWS = 64
    # Replace the points by this number of k-means centres; 0 keeps the points.
    node.CENTRES = 0
    # Rows and columns of a grid of additional single-point prompts; 0: no grid.
    node.GRID = 64
    # Use three of SAM's masks a prompt instead of one (never for the grid).
    node.THREE_MASKS = True
    # Lowest IoU predicted by SAM for masks of matched points and of the grid; 0: no threshold.
    node.QUALITY = 0.85
    # Lowest IoU predicted by SAM for masks of the grid.
    node.GRID_QUALITY = 0.88
    # Lowest stability score, likewise.
    node.STABILITY = 0.90
    # Lowest stability score for masks of the grid.
    node.GRID_STABILITY = 0.95
    # IoU threshold of the non-maximum suppression of mask boxes.
    node.NMS = 0.65
    # Weights a, b and exponent c of a mask's score
    # a * (1 - earth mover's distance) + b * purity * coverage ** c.
    node.SCORE = (1.0, 0.0, 0.0)
    # Lowest number of matched points per patch of a mask, unless all masks are below it.
    node.PURITY = 0.02
    # Highest distance (1 - score) of a merged mask, and highest excess over the best mask's
    # distance as a fraction of the largest distance.
    node.DISTANCE = 0.33
    # Highest excess of a merged mask over the best mask's distance, as a fraction of the largest
    # distance.
    node.RELATIVE_DISTANCE = 0.1
    # Largest number of masks whose union is the result.
    node.MERGED = 9
    return node

"""Every key of `MODEL.FEWSHOT`, its default, and what it means; the defaults are published."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_hipie_fewshot_config(cfg: CN) -> None:
    """Add `MODEL.FEWSHOT` to a configuration, in place."""
    node = CN()
    # "prototype", "persam", "persam_f" or "matcher".
    node.METHOD = "matcher"
    # Of all but "prototype": "vit_b", "vit_l", "vit_h" with the file that SAM's authors publish;
    # "random:" before it, or "random:tiny", for random weights.
    node.SAM = "vit_h"
    node.SAM_WEIGHTS = ""
    # Of "prototype" and "matcher": a ViT of timm, with a file of weights (timm's or the authors');
    # "" fetches timm's. "random:" before it, or "random:tiny", for random weights.
    node.DINO = "vit_large_patch14_dinov2"
    node.DINO_WEIGHTS = ""
    # Images are squashed to a square of this side for DINO; a multiple of its patch.
    node.SIZE = 518

    node.PROTOTYPE = CN()
    # The rest of the examples is a prototype too; off: the similarity is cut in its middle.
    node.PROTOTYPE.BACKGROUND = True

    node.PERSAM = CN()
    # The published guidance is the similarity of the image stretched over SAM's padded square;
    # off: it lies where the image lies, and the padding gets none.
    node.PERSAM.STRETCHED_GUIDANCE = True
    # Of "persam_f": how long the weights of SAM's masks are fitted, and how fast.
    node.PERSAM.STEPS = 1000
    node.PERSAM.RATE = 1e-3

    node.MATCHER = _matcher_keys()

    node.EPISODES = CN()
    # So many pairs of a query and examples are drawn from a data set ...
    node.EPISODES.NUMBER = 1000
    # ... with so many examples each, ...
    node.EPISODES.SHOTS = 1
    node.EPISODES.SEED = 0
    # ... of the classes FOLD, FOLD + FOLDS, FOLD + 2 FOLDS, ... (COCO-20i); FOLDS = 1: of all.
    node.EPISODES.FOLDS = 1
    node.EPISODES.FOLD = 0
    cfg.MODEL.FEWSHOT = node


def _matcher_keys() -> CN:
    node = CN()
    # Prompts have from so many to so many of the matched points, drawn so often a number.
    node.POINTS = (1, 6)
    node.DRAWS = 64
    # Points are replaced by so many centres of theirs; 0: they are drawn themselves.
    node.CENTRES = 0
    # A grid of so many by so many lone points asks SAM, too; 0: none.
    node.GRID = 64
    # SAM gives three masks a prompt (never to points of the grid), else one.
    node.THREE_MASKS = True
    # Masks with a lower estimate of SAM's are dropped; 0: none. Then those of points of the grid.
    node.QUALITY = 0.85
    node.GRID_QUALITY = 0.88
    # Likewise by how little a mask changes with its threshold.
    node.STABILITY = 0.90
    node.GRID_STABILITY = 0.95
    # Of masks whose boxes overlap by more than this IoU, the best stays.
    node.NMS = 0.65
    # A mask's score is a * (1 - cost of moving the example's patches to its own)
    # + b * purity * coverage ** c.
    node.SCORE = (1.0, 0.0, 0.0)
    # Masks with fewer matched points a patch are dropped, unless all have fewer.
    node.PURITY = 0.02
    # Masks whose distance 1 - score is above the first, or above the best one's by the second
    # times the largest, do not join the result ...
    node.DISTANCE = 0.33
    node.RELATIVE_DISTANCE = 0.1
    # ... which is the union of at most so many.
    node.MERGED = 9
    return node

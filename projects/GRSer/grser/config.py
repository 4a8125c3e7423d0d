"""Every key of `MODEL.GRSER`, its default, and what it means.

The paper fixes the encoders, the three phases, the order, the rule and the names of the losses; all
sizes, weights and margins below are ours, since it has not published its own.
"""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_grser_config(cfg: CN) -> None:
    """Add `MODEL.GRSER` to a configuration, in place."""
    node = CN()
    # The image encoder's trunk: "swin_b", "swin_t", "swin_nano", or "timm": the EfficientNet of
    # MODEL.TIMM.
    node.TRUNK = "swin_b"
    # Of Swin: chance that the last block is skipped in training; earlier ones less.
    node.DROP_PATH = 0.3
    node.DECODER_WIDTH = 512
    # Batch norm of the decoder: "BN", of each process by itself; "SyncBN", of all together;
    # "FrozenBN", that never changes.
    node.DECODER_NORM = "SyncBN"
    # The stage whose map is asked by the group: 4 (at 1/32) or 3 (at 1/16).
    node.FEATURE_STAGE = 4
    # "ranked": a channel an image, groups are cut and filled to SIZE; "pooled": SIZE summaries of
    # a group of any size; "none": no group modules, LAVT alone.
    node.HEATMAPS = "ranked"
    node.SIZE = 8
    # Bring the heatmaps into the order of the hierarchizer.
    node.HIERARCHIZER = True
    # Heatmaps of equal trust: "difference" of their two distances, or "order" of the images.
    node.TIES = "difference"
    # Vectors are taken to be at least this long where cosines are made of them.
    node.SHORTEST = 1e-6
    # Also give the language heatmap to the decoder.
    node.LANGUAGE_CHANNEL = False
    # Channels of the space in which images and expressions are compared.
    node.COMPARE_WIDTH = 256
    # What is compared of an image's map: "mean" over places, or "mean_max", both side by side.
    node.COMPARE_POOLING = "mean"

    node.TEXT = CN()
    # "bert-base-uncased" (built from its configuration), "minilm" (weights of the installed
    # package), a folder, or a name on the Hugging Face hub.
    node.TEXT.SOURCE = "bert-base-uncased"
    node.TEXT.FROZEN = False
    # Tokens an expression may have, its two markers included; longer ones are cut.
    node.TEXT.MAX_TOKENS = 20
    # The expression's one vector: the feature at "cls", or the "mean" over its tokens.
    node.TEXT.POOLING = "cls"

    node.LOSS = CN()
    # "ce" (LAVT's cross entropy) or "bce_dice".
    node.LOSS.MASK = "ce"
    # Of background and target in the cross entropy.
    node.LOSS.CLASS_WEIGHTS = (0.9, 1.1)
    node.LOSS.TRIPLET_WEIGHT = 1.0
    node.LOSS.TRIPLET_MARGIN = 1.0
    # Images that do not show it have expression and anti-expression exchanged in the triplet; else
    # they are not in it.
    node.LOSS.TRIPLET_NEGATIVES = True
    # Weight of the pass in which the anti-expression means the background; 0 leaves it out.
    node.LOSS.MIRROR_WEIGHT = 1.0
    # With mirror training: weight of the loss that the language heatmaps of expression and
    # anti-expression have of their own. 0: none.
    node.LOSS.HEATMAP_WEIGHT = 0.0

    node.TRAIN = CN()
    # Images of a training group, and how many of them show what the expression says.
    node.TRAIN.IMAGES = 8
    node.TRAIN.MOST_POSITIVES = 6
    # Groups have images that do not show it.
    node.TRAIN.NEGATIVES = True

    node.TEST = CN()
    # Images that the rule rejects get an empty mask.
    node.TEST.DECIDE = True
    # ... also where one image is asked by itself, as in RefCOCO, whose expressions are all true.
    node.TEST.DECIDE_SINGLE = False
    node.TEST.MARGIN = 0.0
    # Answer with the chance of each pixel instead of 0 and 1 (for co-saliency's measures).
    node.TEST.SOFT = False

    # Images that the encoder sees at once at test.
    node.IMAGES_PER_FORWARD = 8
    # An image that cannot be read is left out of its group, with a warning; else it is an error.
    node.SKIP_BROKEN = False
    cfg.MODEL.GRSER = node

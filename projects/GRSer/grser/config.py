"""Defaults of the keys of `MODEL.GRSER`.

The paper fixes the encoders, the three phases, the order of the heatmaps, the rejection rule and
the names of the losses. It publishes no sizes, weights or margins; those below are our choices.
"""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_grser_config(cfg: CN) -> None:
    """Add `MODEL.GRSER` to a configuration, in place."""
    node = CN()
    # Backbone of the image encoder: "swin_b", "swin_t", "swin_nano", or "timm" (the EfficientNet of
    # MODEL.TIMM).
    node.BACKBONE = "swin_b"
    # Stochastic depth rate of Swin's last block; it grows linearly from 0.
    node.DROP_PATH = 0.3
    # Channels of the mask decoder.
    node.DECODER_WIDTH = 512
    # Batch norm of the decoder: "BN" (per process), "SyncBN" or "FrozenBN".
    node.DECODER_NORM = "SyncBN"
    # Stage whose feature map the group modules use: 4 (stride 32) or 3 (stride 16).
    node.FEATURE_STAGE = 4
    # "ranked": one heatmap channel per image, groups are split and padded to GROUP_SIZE;
    # "pooled": GROUP_SIZE channels for groups of any size; "language": the language heatmap only,
    # without queries between images; "none": no group modules (LAVT).
    node.HEATMAPS = "ranked"
    # Number of images of a group, hence of heatmap channels.
    node.GROUP_SIZE = 8
    # Sort the heatmaps by the hierarchizer.
    node.HIERARCHIZER = True
    # Ranks that the hierarchizer adds: "both", or only that of the distance to the expression
    # ("positive") or to the anti-expression ("negative").
    node.RANKS = "both"
    # Order of heatmaps with equal rank sums: "difference" of their two distances, or "order" of the
    # images.
    node.TIES = "difference"
    # Lower bound of vector norms in cosine similarities.
    node.NORM_EPS = 1e-6
    # Concatenate the language heatmap to the decoder's input; "language" always does.
    node.LANGUAGE_CHANNEL = False
    # Size of the embedding space in which images and expressions are compared.
    node.REJECTION_WIDTH = 256
    # Pooling of an image's feature map before the comparison: "mean" or "mean_max" (concatenated).
    node.REJECTION_POOLING = "mean"

    node.TEXT = CN()
    # "bert-base-uncased" (a checkpoint or MODEL.TEXT_ENCODER_WEIGHTS has its weights), "minilm"
    # (weights of the installed package), a folder, or a name on the Hugging Face hub.
    node.TEXT.SOURCE = "bert-base-uncased"
    # Do not train the text encoder.
    node.TEXT.FROZEN = False
    # Maximum number of an expression's tokens, both markers included; longer ones are truncated.
    node.TEXT.MAX_TOKENS = 20
    # Pooled feature of an expression: the hidden state of [CLS] ("cls") or the "mean" over tokens.
    node.TEXT.POOLING = "cls"
    # Prefix that makes an expression its anti-expression; "": there are no anti-expressions, which
    # needs RANKS "positive", LOSS.TRIPLET_WEIGHT 0 and LOSS.MIRROR_WEIGHT 0.
    node.TEXT.ANTI_PREFIX = "<no>"

    node.LOSS = CN()
    # "ce" (cross entropy, as in LAVT) or "bce_dice".
    node.LOSS.MASK = "ce"
    # Class weights of background and target in the cross entropy.
    node.LOSS.CLASS_WEIGHTS = (0.9, 1.1)
    # 0: there is no comparison of images with expressions, so that no image is rejected by it; an
    # image is positive if its mask is not empty.
    node.LOSS.TRIPLET_WEIGHT = 1.0
    # Margin m of the triplet loss and of the rejection.
    node.LOSS.TRIPLET_MARGIN = 1.0
    # Use negative images in the triplet loss, with expression and anti-expression exchanged.
    node.LOSS.TRIPLET_NEGATIVES = True
    # Mirror training: weight of the pass in which the anti-expression denotes the background; 0
    # turns it off.
    node.LOSS.MIRROR_WEIGHT = 1.0
    # With mirror training: weight of the loss on the language heatmaps of both passes; 0 turns it
    # off.
    node.LOSS.HEATMAP_WEIGHT = 0.0

    node.TRAIN = CN()
    # Number of images in a training group, and maximum number of positive ones among them.
    node.TRAIN.IMAGES_PER_GROUP = 8
    # Maximum number of positive images of a training group.
    node.TRAIN.MAX_POSITIVES = 6
    # Sample negative images.
    node.TRAIN.NEGATIVES = True

    node.TEST = CN()
    # Give rejected images an empty mask.
    node.TEST.REJECT_NEGATIVES = True
    # Reject also for expressions about a single image (RefCOCO), which always have a target.
    node.TEST.REJECT_SINGLE_IMAGES = False
    # An image is positive if its distance to the expression + m is less than that to the
    # anti-expression; None: m is LOSS.TRIPLET_MARGIN, as in training.
    node.TEST.MARGIN = None
    # Outputs have the heatmaps of every image, which the evaluator of groups then scores.
    node.TEST.HEATMAPS = False
    # Output probabilities instead of binary masks (for the measures of co-saliency).
    node.TEST.SOFT_MASKS = False

    # Number of images that are encoded and decoded at once at test.
    node.IMAGES_PER_FORWARD = 8
    # Leave images that cannot be read out of their group, with a warning; else raise an error.
    node.SKIP_BROKEN = False
    cfg.MODEL.GRSER = node

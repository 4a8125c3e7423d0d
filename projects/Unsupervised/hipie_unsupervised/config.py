"""Defaults of the keys of `MODEL.UNSUPERVISED`."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_hipie_unsupervised_config(cfg: CN) -> None:
    """Add `MODEL.UNSUPERVISED` to a configuration, in place."""
    node = CN()

    node.VIT = CN()
    # Vision transformer of timm by name; its normalisation of images is used in training.
    node.VIT.NAME = "vit_small_patch16_224.dino"
    # Side of the images whose position embeddings are learned, in pixels; 0: that of the name.
    node.VIT.IMAGE_SIZE = 0
    # Side of a patch in pixels; 0: that of the name.
    node.VIT.PATCH_SIZE = 0
    # Width of the tokens; 0: that of the name.
    node.VIT.EMBED_DIM = 0
    # Number of blocks; 0: that of the name.
    node.VIT.DEPTH = 0
    # Number of attention heads; 0: that of the name.
    node.VIT.NUM_HEADS = 0
    # File of weights of build_vit_tokens_backbone; "": random weights.
    node.VIT.WEIGHTS = ""

    _add_dino(node)

    node.CLUSTERING = CN()
    # Number of clusters of FeatureClustering; published: the number of classes.
    node.CLUSTERING.CLUSTERS = 27
    # Outputs of the backbone that are clustered, by name. Each is scaled to unit length, resized to
    # the first one's grid, and all are concatenated.
    node.CLUSTERING.FEATURES = ("tokens",)

    node.TSEG = CN()
    # Outputs of the backbone that are the patches of TSEG, by name. They are resized to the first
    # one's grid and concatenated.
    node.TSEG.FEATURES = ("tokens",)
    # Channels in which patches and texts are compared.
    node.TSEG.EMBED_DIM = 256
    # A pixel belongs to the mask of an expression if its probability is above this share of the
    # largest one in the image.
    node.TSEG.MASK_THRESHOLD = 0.5

    # Unmatched queries whose box has no IoU above this with any object are not punished (CutLER's
    # drop loss); published 0.01. Used by the criteria DropLossThingCriterion and
    # DropLossStuffCriterion.
    node.DROP_LOSS_IOU = 0.01
    cfg.MODEL.UNSUPERVISED = node


def _add_dino(node: CN) -> None:
    node.DINO = CN()
    # Outputs of the projection head; published 65536.
    node.DINO.OUT_DIM = 65536
    # Width of the hidden layers of the head.
    node.DINO.HIDDEN_DIM = 2048
    # Width of the layer before the outputs.
    node.DINO.BOTTLENECK_DIM = 256
    # Temperature of the student's softmax.
    node.DINO.STUDENT_TEMPERATURE = 0.1
    # Temperature of the teacher's softmax after the warm-up.
    node.DINO.TEACHER_TEMPERATURE = 0.07
    # Temperature of the teacher's softmax at the first iteration.
    node.DINO.WARMUP_TEACHER_TEMPERATURE = 0.04
    # Iterations over which the teacher's temperature changes linearly; published 30 epochs.
    node.DINO.WARMUP_ITERATIONS = 37500
    # Share of the old centre of the teacher's outputs at every iteration.
    node.DINO.CENTER_MOMENTUM = 0.9
    # Share of the teacher's old weights at the first iteration; it grows to 1 by half a cosine.
    node.DINO.TEACHER_MOMENTUM = 0.996
    # Iterations without changes of the last layer; published one epoch.
    node.DINO.FREEZE_LAST_LAYER = 1250

    # Crops of an image: two global ones, which the teacher reads, too, and local ones.
    node.CROPS = CN()
    # Side of the global crops after resizing, in pixels.
    node.CROPS.GLOBAL_SIZE = 224
    # Smallest and largest share of the image's area in a global crop; published (0.4, 1) and for
    # ViT-S (0.25, 1).
    node.CROPS.GLOBAL_SCALE = (0.25, 1.0)
    # Side of the local crops after resizing, in pixels.
    node.CROPS.LOCAL_SIZE = 96
    # Smallest and largest share of the image's area in a local crop.
    node.CROPS.LOCAL_SCALE = (0.05, 0.25)
    # Number of local crops; published 8, for ViT-S 10.
    node.CROPS.LOCAL_CROPS = 10

"""Defaults of the keys of `MODEL.PROPOSAL_CLIP`."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_hipie_proposal_clip_config(cfg: CN) -> None:
    """Add `MODEL.PROPOSAL_CLIP` to a configuration, in place."""
    node = CN()
    # Source of the masks: "maskdino" or "mask2former" (a decoder that is trained), "sam" (automatic
    # masks), "kmeans" (clusters of CLIP's dense features), or "hipie" (another model's segments).
    node.MASKS = "maskdino"
    # CLIP's features of a mask: "dense" (mean of a convolutional CLIP's features inside the mask,
    # FC-CLIP), "crops" (masked crops, OVSeg) or "class_token" (attention inside the mask, of ViTs).
    node.MASK_FEATURES = "dense"
    # Use CLIP's convolutional image encoder as the backbone of the decoder, too, with CLIP's
    # normalisation in place of PIXEL_MEAN and PIXEL_STD; False: MODEL.BACKBONE.
    node.SHARED_BACKBONE = True
    # What is trained: "decoder" (with CLIP frozen), "clip" (CLIP's image encoder, on masked crops
    # of the ground truth), or "mask_prompts" (the mask prompts alone, likewise).
    node.TRAIN = "decoder"
    # Number of OVSeg's mask prompts: replacements of the patches outside the mask, before and
    # between the first blocks of the ViT; published 3, 0: none.
    node.MASK_PROMPT_DEPTH = 0
    # Mask probability above which a pixel belongs to a crop; published (OVSeg) 0.4.
    node.CROP_THRESHOLD = 0.4
    # Largest number of crops of an image in the training of CLIP or its prompts.
    node.MAX_CROPS = 32
    # Prompt templates: "vild" (14, published), "imagenet" (80), "simple" (7), "one" or "none".
    node.TEMPLATES = "vild"

    node.CLIP = CN()
    # A model name of open_clip with the tag or file of its weights, a folder, "hf-hub:..." or
    # "random:NAME"; see hipie.modeling.open_vocabulary.clip_loading. Checkpoints include it.
    node.CLIP.MODEL = "convnext_large_d_320"
    # Tag of open_clip, or file of the weights.
    node.CLIP.WEIGHTS = "laion2b_s29b_b131k_ft_soup"

    # Geometric ensemble p^(1 - w) c^w of the decoder's probabilities p and CLIP's c.
    node.ENSEMBLE = CN()
    # Weight w for classes of the training vocabulary (FC-CLIP's alpha; OVSeg 0.7).
    node.ENSEMBLE.ALPHA = 0.4
    # Weight w for all other classes (FC-CLIP's beta; OVSeg 0.7).
    node.ENSEMBLE.BETA = 0.8
    # Name of a public vocabulary, or of a registered data set: the training vocabulary.
    node.ENSEMBLE.TRAIN_VOCABULARY = "coco_panoptic"
    # Leave CLIP out where a mask has no pixel among CLIP's features; published for ResNets.
    node.ENSEMBLE.VALID_MASKS_ONLY = False
    # Combine probabilities without no object and let them sum to 1 (FC-CLIP); False: combine those
    # with no object, without any normalisation (OVSeg).
    node.ENSEMBLE.NORMALIZED = True

    # Channels of the feed-forward blocks of the pixel decoder's layers; published 1024.
    node.ENCODER_DIM_FEEDFORWARD = 1024

    node.SAM = CN()
    # SAM's type ("vit_b", "vit_l", "vit_h", "random:tiny"), with the source "sam".
    node.SAM.MODEL = "vit_h"
    # The checkpoint file of its authors.
    node.SAM.WEIGHTS = ""
    # Number of SAM's point prompts along each side.
    node.SAM.POINTS = 32
    # Least predicted IoU of a mask.
    node.SAM.PRED_IOU = 0.88
    # Least stability score of a mask.
    node.SAM.STABILITY = 0.95

    node.KMEANS = CN()
    # Largest number of clusters, with the source "kmeans"; 2, 3, ... are tried, and the connected
    # parts of every cluster are masks.
    node.KMEANS.CLUSTERS = 6
    # Number of initialisations, of which the best result is kept.
    node.KMEANS.RESTARTS = 10

    node.HIPIE = CN()
    # Configuration file, or name in the model zoo, of the model whose segments are renamed, with
    # the source "hipie".
    node.HIPIE.CONFIG_FILE = "nano/hipie_nano_photos.yaml"
    # Its checkpoint; "" takes that of the model zoo.
    node.HIPIE.WEIGHTS = ""
    cfg.MODEL.PROPOSAL_CLIP = node

"""Defaults of the keys of `MODEL.TRAINED_CLIP`; they are the published values."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_hipie_trained_clip_config(cfg: CN) -> None:
    """Add `MODEL.TRAINED_CLIP` to a configuration, in place."""
    node = CN()
    node.CLIP = CN()
    # A model name of open_clip with the tag or file of its weights, a folder, "hf-hub:..." or
    # "random:NAME"; see hipie.modeling.open_vocabulary.clip_loading.
    node.CLIP.MODEL = "RN50"
    # Tag of open_clip, or file of the weights.
    node.CLIP.WEIGHTS = "openai"
    # Maximum number of an expression's tokens, both markers included; longer ones are truncated.
    node.MAX_TOKENS = 17
    # Channels of the neck and the decoder of CRIS and ETRIS, a multiple of 4.
    node.HIDDEN_DIM = 512
    # A pixel belongs to an expression's mask if its probability is above this (CRIS, ETRIS).
    node.MASK_THRESHOLD = 0.35

    node.DECODER = CN()
    # Number of layers of the decoder.
    node.DECODER.LAYERS = 3
    # Number of its attention heads, and of those of ETRIS's neck.
    node.DECODER.HEADS = 8
    # Hidden channels of its feed-forward networks (CRIS 2048, ETRIS 512, ZegCLIP 2048).
    node.DECODER.DIM_FEEDFORWARD = 2048
    # Dropout rate of the decoder.
    node.DECODER.DROPOUT = 0.1

    node.ETRIS = CN()
    # Channels of the bridges between the image and the text encoder.
    node.ETRIS.BRIDGE_CHANNELS = 64
    # Number of their attention heads.
    node.ETRIS.BRIDGE_HEADS = 8

    node.ZEGCLIP = _zegclip_keys()
    cfg.MODEL.TRAINED_CLIP = node


def _zegclip_keys() -> CN:
    node = CN()
    # What is trained in CLIP's image encoder: "prompts" (published), "adapter", "lora" or "none".
    node.TUNING = "prompts"
    # Number of prompt tokens.
    node.NUM_PROMPTS = 10
    # Number of blocks after the first that have prompts of their own; 0: those of the first block
    # pass through all blocks.
    node.PROMPT_BLOCKS = 11
    # Channels of the adapters after every block, with TUNING "adapter".
    node.ADAPTER_CHANNELS = 64
    # Factor of their outputs.
    node.ADAPTER_SCALE = 0.1
    # Rank of the updates of every block's query, key and value projections, with TUNING "lora".
    node.LORA_RANK = 8
    # Factor of the updates.
    node.LORA_SCALE = 1.0
    # Stochastic depth of the last block in training; the rate grows linearly from 0.
    node.DROP_PATH = 0.1
    # Patches leave the last block by "attention" (published) or by their "values", as in MaskCLIP.
    node.LAST_BLOCK = "attention"
    # The class embedding is added twice to the first block's input, as the released program does.
    node.DOUBLE_CLASS_EMBEDDING = True
    # Prompt templates of class names: "one", "simple" (7), "imagenet" (80) or "none".
    node.TEMPLATES = "one"
    # Weight of the focal loss of all classes ...
    node.FOCAL_WEIGHT = 100.0
    # ... and of the dice loss of the classes of an image.
    node.DICE_WEIGHT = 1.0
    # Pixels without a label are negatives of all classes, as in the released program; False: they
    # have no loss.
    node.UNLABELLED_NEGATIVE = True
    # At test the probabilities of classes that are not in training are this much larger. Classes of
    # training are those of DATASETS.TRAIN without DATASETS.HELD_OUT_CLASSES and `unseen_classes`.
    node.UNSEEN_OFFSET = 0.1
    # Share of SOLVER.MAX_ITER after which unlabelled pixels have the most probable class of
    # DATASETS.HELD_OUT_CLASSES as a pseudo label (the transductive setting, published 0.5);
    # 1: never.
    node.SELF_TRAINING = 1.0
    # Side of sliding windows at test; 0 processes the image at once.
    node.WINDOW = 512
    # Stride of the sliding windows, in pixels.
    node.STRIDE = 426
    return node

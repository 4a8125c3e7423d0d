"""Defaults of the keys of `MODEL.REFERSAM`; they are the published values."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_refersam_config(cfg: CN) -> None:
    """Add `MODEL.REFERSAM` to a configuration, in place."""
    node = CN()
    # Image encoder: "vit_b", "vit_l", "vit_h" of SAM, or "vit_t" (ViT-Tiny, for 256 pixels).
    node.SAM = "vit_b"
    # Number of learned tokens that are concatenated to the text in the interactor.
    node.CONTEXT_TOKENS = 16
    # Number of learned tokens that become SAM's sparse prompt; 0: the mask prompt only.
    node.SPARSE_TOKENS = 4
    # Fuse text and image inside the image encoder; False: in the prompter only (an ablation).
    node.INTERACTOR = True
    # The interactor has vision-language fusions; False: it exchanges features of the ViT and the
    # maps, and the text is unchanged (an ablation, with CONTEXT_TOKENS 0).
    node.INTERACTOR_TEXT = True
    # Strides of the feature maps of the interactor and the prompter: 16 with any of 8 and 32.
    node.FEATURE_STRIDES = (8, 16, 32)
    # Number of interaction blocks, 1 to 4; each ends at a ViT block with global attention.
    node.NUM_INTERACTIONS = 4
    # Number of further pairs of extractor and fusion in the last interaction block.
    node.NUM_EXTRA_PAIRS = 2
    # Prompt SAM with tokens that query the maps and the text; False: with the feature of the whole
    # expression as only sparse prompt (an ablation, with DENSE_PROMPT False; without the interactor
    # as well it is the baseline of SAM and a text encoder).
    node.PROMPTER = True
    # Number of layers of the prompter.
    node.NUM_PROMPT_BLOCKS = 2
    # Give SAM the coarse mask as mask prompt; False: SAM's embedding of no mask (an ablation).
    node.DENSE_PROMPT = True
    # Do not train the image encoder (the published training does).
    node.FREEZE_IMAGE_ENCODER = False

    node.TEXT = CN()
    # "bert-base-uncased" (a checkpoint or MODEL.TEXT_ENCODER_WEIGHTS has its weights), "minilm"
    # (weights of the installed package), a folder, a name on the Hugging Face hub, or CLIP's text
    # tower: "clip:ViT-L-14:<tag of open_clip or file>", or "clip:random:ViT-L-14".
    node.TEXT.SOURCE = "bert-base-uncased"
    # Do not train the text encoder.
    node.TEXT.FROZEN = False
    # Maximum number of an expression's tokens, both markers included; longer ones are truncated.
    node.TEXT.MAX_TOKENS = 20

    node.LOSS = CN()
    # Number of points at which the losses of a mask are computed.
    node.LOSS.NUM_POINTS = 12544
    # Weights of cross entropy and dice of the mask, then of the coarse mask; 0 turns a loss off.
    node.LOSS.WEIGHTS = (1.0, 1.0, 1.0, 1.0)

    node.TEST = CN()
    # Masks with fewer pixels, counted as if the image were 480x480, are cleared ("no target"); 0
    # keeps every mask.
    node.TEST.NO_TARGET_PIXELS = 0
    cfg.MODEL.REFERSAM = node

"""Every key of `MODEL.REFERSAM`, its default, and what it means. The defaults are published."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_refersam_config(cfg: CN) -> None:
    """Add `MODEL.REFERSAM` to a configuration, in place."""
    node = CN()
    # The image encoder: "vit_b", "vit_l", "vit_h" of SAM, or "vit_t" (ViT-Tiny, for 256 pixels).
    node.SAM = "vit_b"
    # Learned tokens that read along with the words inside the interactor.
    node.CONTEXT_TOKENS = 16
    # Learned tokens that become SAM's sparse prompt.
    node.SPARSE_TOKENS = 4
    # Words and image meet inside the image encoder; off: in the prompter only (an ablation).
    node.INTERACTOR = True
    # The coarse mask is SAM's mask prompt; off: SAM is told that there is none (an ablation).
    node.DENSE_PROMPT = True
    # The image encoder keeps its weights (the published training tunes it).
    node.FREEZE_IMAGE_ENCODER = False
    # Compute transformer blocks again for gradients instead of keeping what they computed.
    node.CHECKPOINT_ACTIVATIONS = False

    node.TEXT = CN()
    # "bert-base-uncased" (built from its configuration), "minilm" (weights of the installed
    # package), a folder, a name on the Hugging Face hub, or CLIP's text tower as
    # "clip:ViT-L-14" (random weights), "clip:ViT-L-14:<tag of open_clip or file>".
    node.TEXT.SOURCE = "bert-base-uncased"
    node.TEXT.FROZEN = False
    # Tokens an expression may have, its two markers included; longer ones are cut.
    node.TEXT.MAX_TOKENS = 20

    node.LOSS = CN()
    # Points at which the losses of a mask are taken.
    node.LOSS.NUM_POINTS = 12544
    # Weights of cross entropy and DICE of the mask, then of the coarse mask.
    node.LOSS.WEIGHTS = (1.0, 1.0, 1.0, 1.0)

    node.TEST = CN()
    # A mask of fewer pixels than this, counted as if the image were 480x480, says that nothing
    # is meant, and is cleared; 0 keeps every mask.
    node.TEST.NO_TARGET_PIXELS = 0
    cfg.MODEL.REFERSAM = node

"""Every key of `MODEL.TRAINING_FREE`, its default, and what it means."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_hipie_training_free_config(cfg: CN) -> None:
    """Add `MODEL.TRAINING_FREE` to a configuration, in place."""
    node = CN()
    # Expressions around a class name: "imagenet" (80), "simple" (7), "one" or "none".
    node.TEMPLATES = "imagenet"
    # What cosines are multiplied by before the softmax over names.
    node.SCALE = 100.0
    # A pixel whose best class is less likely than this is background: no segment, and in the scores
    # the class "background", where the vocabulary has one; its name is then not asked for.
    # 0: every pixel is of some class, and "background" is a name like any other.
    node.BACKGROUND = 0.0
    # The image is squeezed to a square of this side; 0: its sides as they come, each up to the
    # next multiple of the patch.
    node.SIZE = 0
    # The image is looked at through windows of this side, moved on by STRIDE; 0: at once.
    node.WINDOW = 0
    node.STRIDE = 112

    # Maps follow the image's colours (PAMR), so often; the paper takes 10, 0 is off ...
    node.PAMR = CN()
    node.PAMR.STEPS = 0
    # ... with neighbours so many pixels away.
    node.PAMR.DILATIONS = (8, 16)

    node.CLIP = CN()
    # A name of open_clip with the tag or file of its weights, a folder, "hf-hub:..." or
    # "random:NAME"; see hipie.modeling.open_vocabulary.clip_loading.
    node.CLIP.MODEL = "ViT-B-16"
    node.CLIP.WEIGHTS = "openai"

    node.DINO = CN()
    # A ViT of timm by name, a folder, or "random:NAME"; WEIGHTS is a file, "" fetches timm's.
    node.DINO.MODEL = "vit_base_patch16_224.dino"
    node.DINO.WEIGHTS = ""

    _add_methods(node)
    cfg.MODEL.TRAINING_FREE = node


def _add_methods(node: CN) -> None:
    node.MASKCLIP = CN()
    # The last block keeps its residual and MLP, as the authors' ViT; off: its values alone.
    node.MASKCLIP.KEEP_BLOCK = True
    # Names that are nowhere as likely as this are taken out; published 0.5, 0 is off.
    node.MASKCLIP.PROMPT_DENOISING = 0.0
    # Patches less sure than this are smoothed by their keys; published 1.0, 0 is off.
    node.MASKCLIP.KEY_SMOOTHING = 0.0
    # Keys are normalised along the patches, as the authors' code does; off: each key by itself.
    node.MASKCLIP.KEYS_ALONG_PATCHES = True

    node.GEM = CN()
    # Last blocks with a side path.
    node.GEM.BLOCKS = 6
    node.GEM.ITERATIONS = 1
    # Inverse temperature; 0: from the length of each image's tokens.
    node.GEM.TEMPERATURE = 0.0
    # Every name's map is stretched to 0..1.
    node.GEM.MIN_MAX = True

    # CLIP-DINOiser's teacher: affinities below it are 0.
    node.POOLING_THRESHOLD = 0.2
    # Share of the class token's attention that a mask holds.
    node.ATTENTION_MASS = 0.6

    node.KMEANS = CN()
    node.KMEANS.CLUSTERS = 4
    node.KMEANS.RESTARTS = 10

    node.TOKENCUT = CN()
    # Patches above this cosine are joined, others by an edge of WEAK.
    node.TOKENCUT.THRESHOLD = 0.2
    node.TOKENCUT.WEAK = 1e-5
    # Objects that are cut out, one after the other.
    node.TOKENCUT.OBJECTS = 1

    node.REFERRING = CN()
    # Where masks come from: "sam" (its automatic masks) or "kmeans" (groups of DINO's features).
    node.REFERRING.PROPOSALS = "sam"
    node.REFERRING.SAM = "vit_h"
    node.REFERRING.SAM_WEIGHTS = ""
    # Points down and across that SAM is asked at.
    node.REFERRING.POINTS = 32
    # How much the whole image counts against the cut-out mask, the expression against its target.
    node.REFERRING.GLOBAL = 0.85
    node.REFERRING.EXPRESSION = 0.5
    # Last blocks that see patches faded outside the mask.
    node.REFERRING.BLOCKS = 3

    node.DIFFUSION = CN()
    # A pipeline of diffusers: a folder, a name on the hub, or "random:tiny".
    node.DIFFUSION.SOURCE = ""
    # Side of the square that the image is resized to, and step of the noise.
    node.DIFFUSION.SIZE = 512
    node.DIFFUSION.STEP = 100
    # How often a word's map goes through the self-attention.
    node.DIFFUSION.SPREAD = 1

"""Defaults of the keys of `MODEL.TRAINING_FREE`."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_hipie_training_free_config(cfg: CN) -> None:
    """Add `MODEL.TRAINING_FREE` to a configuration, in place."""
    node = CN()
    # Prompt templates: "imagenet" (80), "simple" (7), "one" or "none".
    node.TEMPLATES = "imagenet"
    # Factor of the cosines before the softmax over names (logit scale).
    node.SCALE = 100.0
    # Pixels whose highest probability is lower are background: they are in no segment, and in the
    # scores of the class "background" if the vocabulary has one, which then has no text features.
    # 0: no background, and "background" is an ordinary class name.
    node.BACKGROUND = 0.0
    # Side of the square that images are resized to; 0: their own size, each side rounded up to a
    # multiple of the patch size.
    node.SIZE = 0
    # Side and stride of sliding windows; WINDOW 0 processes the image at once.
    node.WINDOW = 0
    # Stride of the sliding windows, in pixels.
    node.STRIDE = 112

    # Iterations of pixel-adaptive mask refinement (PAMR); published 10, 0 turns it off.
    node.PAMR = CN()
    # Number of iterations.
    node.PAMR.STEPS = 0
    # Distances of the neighbours in pixels.
    node.PAMR.DILATIONS = (8, 16)

    node.CLIP = CN()
    # A model name of open_clip with the tag or file of its weights, a folder, "hf-hub:..." or
    # "random:NAME"; see hipie.modeling.open_vocabulary.clip_loading.
    node.CLIP.MODEL = "ViT-B-16"
    # Tag of open_clip, or file of the weights.
    node.CLIP.WEIGHTS = "openai"

    node.DINO = CN()
    # A ViT of timm by name, a folder, or "random:NAME"; WEIGHTS is a file, "" downloads timm's.
    node.DINO.MODEL = "vit_base_patch16_224.dino"
    # File of the weights; "" downloads timm's.
    node.DINO.WEIGHTS = ""

    _add_methods(node)
    cfg.MODEL.TRAINING_FREE = node


def _add_methods(node: CN) -> None:
    node.MASKCLIP = CN()
    # Keep the residual and MLP of the last block, as in the authors' ViT; False: its values alone.
    node.MASKCLIP.KEEP_BLOCK = True
    # Names whose probability is lower at every patch are removed; published 0.5, 0 turns it off.
    node.MASKCLIP.PROMPT_DENOISING = 0.0
    # Patches with a lower highest probability are smoothed by their keys; published 1.0, 0 turns
    # it off.
    node.MASKCLIP.KEY_SMOOTHING = 0.0
    # Normalise keys over the patches, as the authors' code does; False: each key.
    node.MASKCLIP.KEYS_ALONG_PATCHES = True

    node.GEM = CN()
    # Number of last blocks with a parallel path.
    node.GEM.BLOCKS = 6
    # Number of iterations of self-self attention.
    node.GEM.ITERATIONS = 1
    # Inverse temperature; 0 derives it from the norm of each image's tokens.
    node.GEM.TEMPERATURE = 0.0
    # Scale every name's map to 0..1.
    node.GEM.MIN_MAX = True

    # CLIP-DINOiser and its teacher: affinities below this threshold are 0.
    node.POOLING_THRESHOLD = 0.2
    # Trained saliency of CLIP-DINOiser's teachers, with a background threshold and in training.
    node.FOUND = CN()
    # A ViT of timm by name, a folder, or "random:NAME".
    node.FOUND.MODEL = "vit_small_patch8_224.dino"
    # File of its weights; "" downloads timm's.
    node.FOUND.DINO_WEIGHTS = ""
    # File of FOUND's layer, its authors' decoder_weights.pt; "": FOUND's untrained first stage on
    # DINO.
    node.FOUND.WEIGHTS = ""

    node.STUDENT = CN()
    # Channels of the convolution whose cosines are CLIP-DINOiser's affinities.
    node.STUDENT.CHANNELS = 256
    # Block of CLIP, counted from the last as 1, whose features both convolutions read.
    node.STUDENT.BLOCK = 3
    # Learning rate of the saliency as a multiple of SOLVER.BASE_LR (published 0.01 and 5e-5).
    node.STUDENT.SALIENCY_MULTIPLIER = 200.0

    # Share of the class token's attention inside a mask.
    node.ATTENTION_MASS = 0.6

    node.KMEANS = CN()
    # Number of clusters of an image's patches.
    node.KMEANS.CLUSTERS = 4
    # Number of initialisations, of which the best result is kept.
    node.KMEANS.RESTARTS = 10

    node.TOKENCUT = CN()
    # Patches with a higher cosine have an edge of weight 1, others of weight WEAK.
    node.TOKENCUT.THRESHOLD = 0.2
    # Weight of the other edges.
    node.TOKENCUT.WEAK = 1e-5
    # Number of objects that are cut out, one after the other.
    node.TOKENCUT.OBJECTS = 1

    node.MASKCUT = CN()
    # Patches with a higher cosine have an edge of weight 1, others of weight WEAK; published 0.15.
    node.MASKCUT.THRESHOLD = 0.15
    # Weight of the other edges.
    node.MASKCUT.WEAK = 1e-5
    # Number of cuts, and so of objects at most.
    node.MASKCUT.OBJECTS = 3
    # Features of hipie_training_free.pseudo_masks: "" (keys of MODEL.TRAINING_FREE.DINO), or the
    # name of an output of MODEL.BACKBONE.
    node.MASKCUT.FEATURES = ""
    # Refinement of the pseudo masks by the image's colours: "" (none), "crf" (dense CRF, published;
    # needs pydensecrf2) or "pamr" (with the keys of PAMR).
    node.MASKCUT.REFINEMENT = ""

    _add_referring_methods(node)
    _add_diffusion_methods(node)


def _add_referring_methods(node: CN) -> None:
    node.REFERRING = CN()
    # Mask proposals: "sam" (automatic masks) or "kmeans" (clusters of DINO's features).
    node.REFERRING.PROPOSALS = "sam"
    # SAM's type ("vit_b", "vit_l", "vit_h"), with "sam" ...
    node.REFERRING.SAM = "vit_h"
    # ... and the checkpoint file of its authors.
    node.REFERRING.SAM_WEIGHTS = ""
    # Number of SAM's point prompts along each side.
    node.REFERRING.POINTS = 32
    # Weight of the global against the local visual feature, and of the expression against its
    # target phrase.
    node.REFERRING.GLOBAL = 0.85
    # Weight of the expression against its target phrase.
    node.REFERRING.EXPRESSION = 0.5
    # Number of last blocks whose input is multiplied by the mask.
    node.REFERRING.BLOCKS = 3

    node.TAS = CN()
    # Model of transformers that describes masks and the image, a folder or a name on the hub such
    # as "Salesforce/blip2-opt-2.7b"; "": no captions and no negative phrases.
    node.TAS.CAPTIONER = ""
    # Weight of the similarity of a mask's caption and the expression.
    node.TAS.CAPTION = 0.1
    # Weight of the similarity of a mask and the phrases of the image's caption that do not name the
    # target.
    node.TAS.NEGATIVE = 0.7
    # Masks with fewer pixels are left out ...
    node.TAS.MIN_AREA = 2000
    # ... and of two masks with a larger overlap, as a share of the smaller one, that one.
    node.TAS.MAX_OVERLAP = 0.4
    # An expression with a direction ("on the left") describes one of the masks on that side of the
    # median of all centres.
    node.TAS.SPATIAL = True


def _add_diffusion_methods(node: CN) -> None:
    node.DIFFUSION = CN()
    # A pipeline of diffusers: a folder, a name on the hub, or "random:tiny".
    node.DIFFUSION.SOURCE = ""
    # Side of the square that images are resized to, and time step of the noise.
    node.DIFFUSION.SIZE = 512
    # Time step of the noise.
    node.DIFFUSION.STEP = 100
    # Class names whose cross-attention is a channel of build_diffusion_backbone's outputs.
    node.DIFFUSION.PHRASES = ()
    # Number of multiplications of a name's map with the self-attention.
    node.DIFFUSION.SELF_ATTENTION_STEPS = 1

    # Masks that are optimised under the score of DIFFUSION.SOURCE.
    node.PEEKABOO = CN()
    # Soft mask: "fourier" (a network of Fourier features of the coordinates) or "raster" (a value a
    # pixel).
    node.PEEKABOO.MASK = "fourier"
    # Side of the square of the soft mask.
    node.PEEKABOO.SIZE = 256
    # Number of weighted means over neighbours of similar colour; 0: no smoothing.
    node.PEEKABOO.SMOOTHING_STEPS = 40
    # Number of steps of stochastic gradient descent for every expression.
    node.PEEKABOO.ITERATIONS = 300
    # Its learning rate, which can be larger with "raster".
    node.PEEKABOO.LEARNING_RATE = 1e-5
    # Scale of the classifier-free guidance.
    node.PEEKABOO.GUIDANCE = 100.0
    # Weight of the sum of the soft mask; the authors take 0.01 to 0.15, by expression.
    node.PEEKABOO.AREA = 0.05
    # Time steps of the noise are drawn between this share of all ...
    node.PEEKABOO.MIN_STEP = 0.02
    # ... and this one.
    node.PEEKABOO.MAX_STEP = 0.98
    # Pixels with a higher value of the soft mask are the mask (no published value).
    node.PEEKABOO.THRESHOLD = 0.5

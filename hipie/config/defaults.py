"""Every configuration key that `hipie` adds to Detectron2's, with its default.

The defaults are those of the published HIPIE R50 model; the files in `configs/` have the
differences. Detectron2's own keys keep their meaning.
"""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from hipie.projects import add_project_configs


def add_hipie_config(cfg: CN) -> None:
    """Add the keys of HIPIE and of all installed projects to Detectron2's configuration, in place.

    Args:
        cfg: a node from `detectron2.config.get_cfg()`.
    """
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.MASK_ON = True
    # Number format of inference and of evaluations: "float32", "bfloat16" for matrix products and
    # convolutions, or "auto": bfloat16 where the processor (AVX512_BF16, AMX, Arm's BF16) or
    # the GPU computes in it. Of inference only: "int8" for large linear layers of HIPIE, which
    # needs torchao. Training has SOLVER.AMP instead.
    cfg.MODEL.PRECISION = "float32"
    cfg.MODEL.ACTIVATION_CHECKPOINTING = _activation_checkpointing_keys()
    # Shell patterns of names of parameters that are not trained, such as "backbone.*". Random
    # weights may not be frozen, neither by these nor by MODEL.BACKBONE.FREEZE_AT.
    cfg.MODEL.FREEZE = ()
    # Weights of a BERT with which the text encoder starts a training, if MODEL.WEIGHTS has none of
    # it: a model's name ("bert-base-uncased"), a file or an address. Not read at test.
    cfg.MODEL.TEXT_ENCODER_WEIGHTS = ""
    # A training whose backbone, image encoder or text encoder would start from random weights is
    # refused instead of a warning; on in the recipes of published models.
    cfg.MODEL.REQUIRE_PRETRAINED = False
    cfg.MODEL.HIPIE = model_keys()
    cfg.MODEL.TIMM = _timm_keys()
    cfg.MODEL.SWIN = _swin_keys()
    cfg.MODEL.VIT = _vit_keys()
    _add_solver_keys(cfg)
    _add_data_keys(cfg)
    cfg.TRACKING = _tracking_keys()
    cfg.SEMI_SUPERVISED = _semi_supervised_keys()
    add_project_configs(cfg)


def _activation_checkpointing_keys() -> CN:
    node = CN()
    # Parts of a model whose layers keep their inputs only and are computed again in the backward
    # pass: less memory, more time, the same gradients. The blocks of the backbone, ...
    node.BACKBONE = False
    # ... the early fusion, ...
    node.FUSION = False
    # ... the layers of the encoders, ...
    node.ENCODER = False
    # ... and the layers of the decoders.
    node.DECODER = False
    return node


def model_keys() -> CN:
    """Return the node `MODEL.HIPIE` with its defaults."""
    node = CN()
    # Channels of feature levels and queries in both branches.
    node.HIDDEN_DIM = 256
    # Outputs of the backbone that both encoders read, the finest first: such as ("res3", "res4",
    # "res5") as published, or ("p3", "p4", "p5", "p6") of a feature pyramid.
    node.IN_FEATURES = ("res3", "res4", "res5")
    # Levels of both encoders; those beyond IN_FEATURES are made by convolutions of stride 2.
    node.NUM_FEATURE_LEVELS = 4
    # Images are padded to a multiple of this in training, and at test if PAD_AT_TEST is on, and
    # always to a multiple of what the backbone needs (its `size_divisibility`).
    node.SIZE_DIVISIBILITY = 32
    # Pad images to a multiple of SIZE_DIVISIBILITY at test as well.
    node.PAD_AT_TEST = False
    # A query is in the panoptic map if its best class score is above this ...
    node.OBJECT_MASK_THRESHOLD = 0.25
    # ... and keeps its segment if it has at least this share of its own mask.
    node.OVERLAP_THRESHOLD = 0.8

    node.TEXT = CN()
    # A name in TEXT_ENCODER_REGISTRY (hipie.modeling.text_encoder).
    node.TEXT.ENCODER = "BertTextEncoder"
    # "bert-base-uncased" (built from its configuration; a checkpoint or
    # MODEL.TEXT_ENCODER_WEIGHTS has its weights), "minilm" (weights of the installed package), a
    # folder, or a name on the Hugging Face hub.
    node.TEXT.SOURCE = "bert-base-uncased"
    # Do not train the text encoder.
    node.TEXT.FROZEN = False
    # Tokens a training caption may have.
    node.TEXT.MAX_TOKENS = 512
    # Tokens that are encoded together; longer captions are cut between class names. No more than
    # the text encoder has positions for.
    node.TEXT.WINDOW = 512

    node.THINGS = CN()
    # Queries, taken from the proposals of the encoder with the best scores.
    node.THINGS.NUM_QUERIES = 900
    # Further learned queries with learned reference points.
    node.THINGS.NUM_BACKGROUND_QUERIES = 10
    # Layers of the deformable encoder.
    node.THINGS.ENCODER_LAYERS = 6
    # Layers of the decoder.
    node.THINGS.DECODER_LAYERS = 6
    # Attention heads of encoder and decoder.
    node.THINGS.NUM_HEADS = 8
    # Sampling points per head and level of the deformable attention.
    node.THINGS.NUM_POINTS = 4
    # Hidden channels of the feed-forward networks.
    node.THINGS.DIM_FEEDFORWARD = 2048
    # Fuse text and image features before the thing encoder; off: text enters at the class heads.
    node.THINGS.EARLY_FUSION = True
    # Encoder layers before which text and image are fused, rising.
    node.THINGS.FUSION_LAYERS = (0,)
    # Channels in which text and image attend to each other.
    node.THINGS.FUSION_EMBED_DIM = 2048
    # Attention heads of the fusion.
    node.THINGS.FUSION_HEADS = 8
    # Dropout of the attention weights of the fusion.
    node.THINGS.FUSION_DROPOUT = 0.1
    # Masks: "dynamic" (convolutions whose weights are predicted, CondInst) or "dot_product" (of a
    # mask embedding of HIDDEN_DIM channels with mask features, MaskFormer).
    node.THINGS.MASK_HEAD = "dynamic"
    # Channels of the mask features of dynamic masks.
    node.THINGS.MASK_CHANNELS = 8
    # Predict the IoU of every box; its square root is a factor of the score. Off: the score is the
    # class probability.
    node.THINGS.IOU_HEAD = True
    # Noised ground-truth queries that the decoder learns to denoise; 0: no denoising.
    node.THINGS.DENOISING_QUERIES = 200

    node.STUFF = CN()
    # Stuff has a decoder of its own; off: the thing branch predicts stuff and parts as well.
    node.STUFF.ENABLED = True
    # Fuse text and image features before the stuff encoder as well, by a fusion of its own (sizes
    # as of things); off: its masks and boxes do not depend on the text (late fusion, published).
    node.STUFF.EARLY_FUSION = False
    # Text at its class head and in its denoising: after the early fusion (its own, or that of
    # things), or as the text encoder returns it.
    node.STUFF.FUSED_TEXT = True
    # Boxes of stuff have losses and matching costs in the stuff decoder. The paper says that they
    # have none; the published program has them.
    node.STUFF.BOX_LOSS = True
    # The stuff decoder is trained on things as well (auxiliary supervision); off: on stuff and
    # parts only.
    node.STUFF.SUPERVISE_THINGS = True
    # A further, finer output of the backbone for the mask features of stuff, such as "res2" in
    # MaskDINO; "": the finest of IN_FEATURES (published).
    node.STUFF.LATERAL_FEATURE = ""
    # Queries, taken from the proposals of the encoder with the best scores.
    node.STUFF.NUM_QUERIES = 300
    # Layers of the deformable encoder in the pixel decoder.
    node.STUFF.ENCODER_LAYERS = 6
    # Layers of the decoder.
    node.STUFF.DECODER_LAYERS = 9
    # Attention heads of encoder and decoder.
    node.STUFF.NUM_HEADS = 8
    # Sampling points per head and level of the deformable attention.
    node.STUFF.NUM_POINTS = 4
    # Hidden channels of the feed-forward networks.
    node.STUFF.DIM_FEEDFORWARD = 2048
    # Noised ground-truth queries that the decoder learns to denoise; 0: no denoising.
    node.STUFF.DENOISING_QUERIES = 100
    # Scale of the noise of their boxes, relative to the object.
    node.STUFF.DENOISING_NOISE = 0.4

    node.PIXEL_HEAD = _pixel_head_keys()
    node.LOSS = _loss_keys()
    node.TEST = _test_keys()
    node.CLIP = _clip_keys()
    node.IMAGENET = _imagenet_keys()
    return node


def _pixel_head_keys() -> CN:
    node = CN()
    # Compare every pixel with the names of the vocabulary, by a head of its own (not in the paper;
    # as in LSeg). It reads the backbone's features and the stuff decoder's mask features. Its
    # scores, averaged over a mask, are combined with those of the mask's query.
    node.ENABLED = False
    # Train this head and the backbone only: encoders and decoders are not run and have no losses. A
    # first stage of training in which an image takes a third of the time.
    node.ONLY = False
    # With ONLY, compute the mask features for it, without training what computes them: a last
    # stage.
    node.ONLY_READS_MASKS = False
    # Add features of the whole image to those of every pixel.
    node.CONTEXT = False
    # Stride of its logits, 4 or 8. At 4 mask features are read at their own stride as well.
    node.STRIDE = 8
    # Weight of its cross entropy.
    node.LOSS_WEIGHT = 10.0
    # Weight of its Dice loss, in which rare and small classes count as much as others; 0 = off.
    node.DICE_WEIGHT = 0.0
    # Weight w of the mean probability c of a mask in the class score s of its query,
    # s ** (1 - w) * c ** w.
    node.MASK_WEIGHT = 0.5
    # The same of the probability of a pixel in the semantic map.
    node.SEMANTIC_WEIGHT = 0.5
    return node


def _loss_keys() -> CN:
    node = CN()
    # Points per mask at which mask losses are computed.
    node.NUM_POINTS = 12544
    # Two errors of the published training: boxes of stuff are relative to the unpadded image, and
    # masks of denoising queries are centered at other queries' reference points.
    node.OFFICIAL_BOX_FRAMES = True
    # Average the normalizers of the losses over processes, and lay out denoising for the image with
    # most objects of all processes, so that gradients do not depend on the number of processes
    # (published: off).
    node.AVERAGE_NORMALIZERS = True
    # Supervise the IoU head of the last layer, which inference reads (published: off).
    node.SUPERVISE_LAST_IOU = False
    # A part is also positive for its whole's name wherever the caption has it (part training).
    node.PROPAGATE_PART_TO_WHOLE = False
    # Names in CRITERION_REGISTRY, MATCHER_REGISTRY and LOSS_REGISTRY of hipie.modeling, and the
    # weight of every loss term by its key.
    node.THING_CRITERION = "ThingCriterion"
    # "SimOTAMatcher" (several queries an object) or "HungarianMatcher" (one query an object).
    node.THING_MATCHER = "SimOTAMatcher"
    # Costs of SimOTA: weights of class and GIoU, costs of queries whose centre is not both in the
    # object's box and near its centre, and of those that are in neither of any object; the reach of
    # "near" (share of the image's sides), and how many of the largest IoUs sum up to the number of
    # queries of an object.
    node.SIM_OTA = CN(
        {
            "CLASS": 1.0,
            "GIOU": 3.0,
            "OFF_CENTER": 100.0,
            "OUTSIDE": 10_000.0,
            "CENTER_RADIUS": 2.5 / 32,
            "NUM_CANDIDATES": 10,
        }
    )
    # Costs of the Hungarian matching of things, and of the encoder's proposals.
    node.THING_COSTS = CN({"CLASS": 2.0, "BOX": 5.0, "GIOU": 2.0, "MASK": 0.0, "DICE": 0.0})
    # Costs of the Hungarian matching of the encoder's proposals.
    node.PROPOSAL_COSTS = CN({"CLASS": 2.0, "BOX": 5.0, "GIOU": 2.0})
    # Loss terms of things, names in LOSS_REGISTRY.
    node.THING_TERMS = (
        "class_loss",
        "box_l1_loss",
        "giou_loss",
        "iou_loss",
        "mask_focal_loss",
        "mask_dice_loss",
    )
    # Weight of every loss term of things by the key that the term declares; 1 without an entry.
    node.THING_WEIGHTS = CN(
        {"CLASS": 2.0, "BOX": 5.0, "GIOU": 2.0, "IOU": 1.0, "MASK": 5.0, "DICE": 5.0},
        new_allowed=True,
    )
    # Criterion of stuff, a name in CRITERION_REGISTRY.
    node.STUFF_CRITERION = "StuffCriterion"
    # Matcher of stuff, a name in MATCHER_REGISTRY.
    node.STUFF_MATCHER = "HungarianMatcher"
    # Loss terms of stuff, names in LOSS_REGISTRY.
    node.STUFF_TERMS = (
        "class_loss",
        "mask_cross_entropy_loss",
        "mask_dice_loss",
        "box_l1_loss",
        "giou_loss",
    )
    # Weight of every loss term of stuff by the key that the term declares; 1 without an entry.
    node.STUFF_WEIGHTS = CN(
        {"CLASS": 4.0, "BOX": 5.0, "GIOU": 2.0, "MASK": 5.0, "DICE": 5.0}, new_allowed=True
    )
    # Costs of the Hungarian matching of stuff; None: the weight of the loss term.
    node.STUFF_COSTS = CN({"CLASS": None, "BOX": None, "GIOU": None, "MASK": None, "DICE": None})
    # Losses of objects without masks (DATASETS.SUPERVISION), in both decoders.
    node.WEAK = CN()
    # Weight of the projections of a mask onto the sides of its box, as a multiple of DICE.
    node.WEAK.PROJECTION = 1.0
    # Likewise of neighbouring pixels of similar colour, which are to be in the same mask, ...
    node.WEAK.PAIRWISE = 1.0
    # ... where the similarity of their colours, in 0..1, is at least this.
    node.WEAK.COLOR_THRESHOLD = 0.3
    # The weight PAIRWISE rises from 0 in so many iterations.
    node.WEAK.WARMUP_ITERS = 10000
    return node


def _clip_keys() -> CN:
    node = CN()
    # Combine the model's class scores with CLIP's scores of every mask.
    node.ENABLED = False
    # A model of open_clip with the tag or file of its weights, a folder, "hf-hub:..." or
    # "random:NAME"; OpenAI's weights select the matching activation.
    node.MODEL = "ViT-L-14-336"
    # Tag or file of the weights of MODEL.
    node.WEIGHTS = "openai"
    # Weight of CLIP, for things and for stuff, of classes in TRAIN_VOCABULARY ...
    node.ALPHA = (0.35, 0.35)
    # ... and of all other classes.
    node.BETA = (0.7, 0.7)
    # "multiply" (p^(1-a) c^a) or "add" ((1-a) p + a c).
    node.ENSEMBLE = "multiply"
    # Temperature of the softmax over the classes of things before the ensemble.
    node.THING_TEMPERATURE = 0.06
    # Score of a thing: sqrt(class ** a * IoU ** b) with these a and b.
    node.SCORE_POWERS = (0.3, 1.7)
    # CLIP's feature of a mask: "class_token" (a class token that attends to the mask's patches,
    # published), "patch_pooling" (mean of the patches' features) or "crops" (image of the mask's
    # patches, grey elsewhere; one pass through CLIP a mask).
    node.MASK_FEATURES = "class_token"
    # Classes of the training: a public vocabulary, or a registered data set.
    node.TRAIN_VOCABULARY = "coco_panoptic"
    return node


def _imagenet_keys() -> CN:
    node = CN()
    # Combine the probabilities of the pixel class head (PIXEL_HEAD) with those of a classifier of
    # ImageNet, whose classes are compared with the names by the text encoder: for names that no
    # training had. The text encoder has to embed sentences, as MiniLM does.
    node.ENABLED = False
    # A model of timm whose classifier is linear.
    node.MODEL = "tf_efficientnet_lite2"
    # Its weights: "package" (of tf_efficientnet_lite0 and tf_efficientnet_lite2), "published" (a
    # download) or a file.
    node.WEIGHTS = "package"
    # Size of its input, relative to the size at which it was trained.
    node.SCALE = 1.5
    # Weight of the classifier for names of the training, which counts beside other names only.
    node.ALPHA = 0.35
    # Its weight for all other names.
    node.BETA = 0.85
    # Temperature of the softmax over the names, by their cosines with a class.
    node.TEMPERATURE = 0.06
    # Cosine of "none of the names" with every class.
    node.NONE_SIMILARITY = 0.35
    # Lowest cosine of a name and the class that is most similar to it; others have weight 0.
    node.MIN_SIMILARITY = 0.5
    # Names of the training: public vocabularies, or registered data sets, ...
    node.TRAIN_VOCABULARIES = ("coco_panoptic",)
    # ... and further names. DATASETS.HELD_OUT_CLASSES are none of them.
    node.TRAIN_NAMES = ()
    return node


def _test_keys() -> CN:
    node = CN()
    # Results have `instances`, masks of things with boxes and scores.
    node.INSTANCE_ON = True
    # Results have `sem_seg`, scores of all classes at every pixel.
    node.SEMANTIC_ON = True
    # Results have `panoptic_seg`, things and stuff in one map of segments.
    node.PANOPTIC_ON = True
    # At test expressions are compared by their features before the fusion, in training by those
    # after it, as the published weights expect. Off: after it in both.
    node.UNFUSED_EXPRESSION_FEATURES = True
    # Reduction of the logits of a class's tokens: "mean" or "max".
    node.TOKEN_POOLING = "mean"
    # IoU of boxes of the same class above which the one with the lower score is removed.
    node.NMS_THRESHOLD = 0.7
    # Temperature of the softmax over classes in panoptic inference.
    node.TEMPERATURE = 0.06
    # Smaller vocabularies are filled with absent classes to this number before the softmax of
    # panoptic inference, as the published threshold is meant for COCO's 133 classes; otherwise one
    # or two classes always score high and fill the map with noise. 0: off, the published rule.
    node.MIN_SOFTMAX_CLASSES = 133
    # Semantic and part sets with a `background_class`: a pixel is background where the best score
    # of the other classes is below this. Evaluations write the mIoU of other thresholds.
    node.BACKGROUND_THRESHOLD = 0.5
    # An expression describes nothing where the score of the best query (0 to 1) is below this; 0:
    # off, the best query always counts (published). Evaluations of expressions of which some have
    # no target report the threshold with the best gIoU.
    node.NO_TARGET = 0.0
    # The stuff decoder scores things as well in panoptic inference.
    node.THING_SCORES_FROM_STUFF_DECODER = False
    # Semantic and panoptic inference use the stuff decoder only.
    node.PANOPTIC_FROM_STUFF_DECODER_ONLY = False
    # Parts at a pixel of the semantic map belong to the same whole.
    node.CONSISTENT_PARTS = False
    return node


def _vit_keys() -> CN:
    node = CN()
    # Channels of the blocks.
    node.EMBED_DIM = 1280
    # Number of blocks.
    node.DEPTH = 32
    # Attention heads of each block.
    node.NUM_HEADS = 16
    # Image size of the tables of relative positions.
    node.IMAGE_SIZE = 1024
    # Image size of the pre-trained table of absolute positions.
    node.PRETRAIN_IMAGE_SIZE = 224
    # Side of an attention window, in patches.
    node.WINDOW_SIZE = 14
    # Blocks with window attention; all others have global attention. The published ViT-H has the
    # list of a ViT-B, so that its blocks from 11 on are all global.
    node.WINDOW_BLOCKS = (0, 1, 3, 4, 6, 7, 9, 10)
    # Drop-path rate of the last block; it grows linearly from 0.
    node.DROP_PATH = 0.5
    # Blocks, counted from 0, whose outputs become res3, res4 and res5; (): the last one for all
    # three (published).
    node.FEATURE_BLOCKS = ()
    return node


def _swin_keys() -> CN:
    # A Swin-T; the names are those of Mask2Former.
    node = CN()
    # Channels of the first stage; each further stage doubles them.
    node.EMBED_DIM = 96
    # Blocks of each stage.
    node.DEPTHS = (2, 2, 6, 2)
    # Attention heads of each stage.
    node.NUM_HEADS = (3, 6, 12, 24)
    # Side of an attention window, in patches.
    node.WINDOW_SIZE = 7
    # Drop-path rate of the last block; it grows linearly from 0.
    node.DROP_PATH_RATE = 0.3
    # Of "res2" to "res5", strides 4 to 32.
    node.OUT_FEATURES = ("res2", "res3", "res4", "res5")
    return node


def _timm_keys() -> CN:
    node = CN()
    # A model of timm.
    node.NAME = "tf_efficientnet_lite0"
    # "" (random), "package" (ImageNet weights of tf_efficientnet_lite0 or tf_efficientnet_lite2,
    # which an installed package has), or a file.
    node.WEIGHTS = ""
    # Batch norms are frozen.
    node.FREEZE_NORM = True
    return node


def _add_solver_keys(cfg: CN) -> None:
    # A name in OPTIMIZER_REGISTRY (hipie.engine.optimizer): "ADAMW", or "SGD" with Detectron2's
    # MOMENTUM and NESTEROV.
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.BASE_LR = 1e-4
    cfg.SOLVER.WEIGHT_DECAY = 0.01
    # Weight decay of normalization layers; None: WEIGHT_DECAY (published; Detectron2's is 0).
    cfg.SOLVER.WEIGHT_DECAY_NORM = None
    # Learning rates of pre-trained modules, as multiples of BASE_LR.
    cfg.SOLVER.TEXT_ENCODER_MULTIPLIER = 0.1
    # Likewise of the backbone ...
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # ... and of the layers that predict sampling offsets of the deformable attention.
    cfg.SOLVER.SAMPLING_OFFSETS_MULTIPLIER = 0.1
    # Power of the schedule WarmupPolyLR: (1 - iteration / MAX_ITER) ** POLY_POWER.
    cfg.SOLVER.POLY_POWER = 0.9
    # Bound of the norm of the gradient of all parameters together; 0: no clipping.
    cfg.SOLVER.MAX_GRAD_NORM = 0.1
    # Steps in a row that are skipped for losses or gradients that are not finite; one more saves a
    # checkpoint and stops the training.
    cfg.SOLVER.MAX_SKIPPED_STEPS = 20
    # Micro-batches into which the batch of an iteration (SOLVER.IMS_PER_BATCH) is split, to save
    # memory; their gradients are summed.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Format of activations with AMP.ENABLED: "bfloat16", "float16" (losses are scaled), or "auto":
    # bfloat16 on CPUs and GPUs that compute in it, float16 on older GPUs, float32 on other CPUs.
    cfg.SOLVER.AMP.PRECISION = "auto"
    cfg.SOLVER.FSDP = CN()
    # Shard parameters, gradients and the optimizer's state over the processes (FSDP2), instead of a
    # copy in every process; checkpoints are folders NAME.dcp.
    cfg.SOLVER.FSDP.ENABLED = False
    # Backbone blocks and transformer layers with at least so many parameters are gathered one by
    # one; the rest of the model is gathered for a whole step.
    cfg.SOLVER.FSDP.MIN_LAYER_PARAMETERS = 1_000_000
    # Exponential moving average of the weights, to which every step adds the share 1 - DECAY.
    # Evaluations during the training are of the averaged weights; checkpoints have both, and
    # MODEL.WEIGHTS "FILE?ema=True" takes the averaged ones.
    cfg.MODEL_EMA = CN()
    # Keep averaged weights.
    cfg.MODEL_EMA.ENABLED = False
    # Share of the former average at every step.
    cfg.MODEL_EMA.DECAY = 0.999
    # Checkpoints that are kept beside the final one.
    cfg.SOLVER.MAX_CHECKPOINTS = 2
    # Determines all random numbers of a training. A negative one, Detectron2's default, draws
    # another seed for every run; it is in OUTPUT_DIR/config.yaml.
    cfg.SEED = 0
    # Prefixes or patterns of tensor names that a training does not take from MODEL.WEIGHTS, such as
    # ("backbone.",) for a new backbone with trained decoders; the same as --exclude.
    cfg.MODEL.WEIGHTS_EXCLUDE = ()
    # Modules or files with architectures, data sets or evaluators, imported before anything is
    # built; the same as --import on the command line, which has to name them too if the file is
    # not the package's own, unless --allow-imports is there.
    cfg.IMPORTS = ()
    # Metric of the best checkpoint, OUTPUT_DIR/model_best.pth: "data set/task/metric" as in
    # results.json, with a data set of DATASETS.TEST; "": none.
    cfg.TEST.BEST_CHECKPOINT_METRIC = ""
    # "max" or "min": which values of the metric are better.
    cfg.TEST.BEST_CHECKPOINT_MODE = "max"
    # Compute COCO's AP with the package faster-coco-eval instead of pycocotools.
    cfg.TEST.FASTER_COCO_EVAL = False
    # Evaluate LVIS by AP_fixed (the best 10,000 detections of each class over the data set) instead
    # of AP (the best 300 of each image).
    cfg.TEST.LVIS_FIXED_AP = False
    # Masks whose classes are evaluated on data sets of parts: "" (each pixel has its own class),
    # "sam" (SAM's automatic masks) or "ground_truth" (the annotated masks: what a perfect SAM would
    # give). A mask has the class with the largest sum of semantic scores over its pixels.
    cfg.TEST.PART_MASKS = ""
    # SAM of "sam": a name such as "sam-vit-b", or a type ("vit_b") with the file TEST.SAM_WEIGHTS.
    cfg.TEST.SAM = ""
    # File of SAM's weights, if TEST.SAM is a type.
    cfg.TEST.SAM_WEIGHTS = ""


def _semi_supervised_keys() -> CN:
    node = CN()
    # Learn from images without annotation by a mean teacher (Unbiased Teacher): the averaged
    # weights of MODEL_EMA predict objects, which the trained weights learn. Images without
    # annotation are those of sets with the supervision "none", and those that
    # DATASETS.LABELED_FRACTION leaves out.
    node.ENABLED = False
    # Iterations on annotated images only, before the teacher starts.
    node.BURN_IN_ITERS = 2000
    # Objects of the teacher with a lower score are not learned.
    node.SCORE_THRESHOLD = 0.7
    # Weight of the losses of the teacher's objects, a factor of their scores.
    node.WEIGHT = 1.0
    return node


def _tracking_keys() -> CN:
    node = CN()
    # Names in EVENT_WRITER_REGISTRY (hipie.engine.tracking): "tensorboard", "wandb", "mlflow". The
    # log, metrics.json and curves.png are always written.
    node.WRITERS = ("tensorboard",)
    # Project of Weights & Biases, experiment of MLflow.
    node.PROJECT = "hipie"
    # Name of the run; "": the name of OUTPUT_DIR.
    node.RUN_NAME = ""
    return node


def _add_data_keys(cfg: CN) -> None:
    # Images of more pixels are refused before they are decoded.
    cfg.INPUT.MAX_PIXELS = 50_000_000
    # Own data sets: [name, instances JSON in COCO's format, folder of the images] each, to be used
    # by name in DATASETS.TRAIN and DATASETS.TEST.
    cfg.DATASETS.COCO_FORMAT = []
    # Likewise [name, panoptic JSON, folder of its PNGs, folder of the images].
    cfg.DATASETS.COCO_PANOPTIC = []
    # Likewise [name, folder of the images, folder of the label maps, file of class names (one a
    # line, line number from 0 = value), ignored value].
    cfg.DATASETS.SEMANTIC = []
    # Likewise, for classes that are parts of a whole: [name, images, label maps, file of class
    # names, ignored value, name of the whole].
    cfg.DATASETS.PARTS = []
    # Likewise, for referring expressions: [name, refs file, instances JSON, folder of the images].
    cfg.DATASETS.REFERRING = []
    # Likewise, for groups of images: [name, groups.json, split, folder].
    cfg.DATASETS.GROUPS = []
    # Classes, by name, that training leaves out in all sets with a vocabulary: they are in no
    # prompt, their objects are no targets, and their pixels are unlabelled. Needs
    # INPUT.IGNORE_UNLABELLED.
    cfg.DATASETS.HELD_OUT_CLASSES = ()
    # What is annotated of training sets: [name of DATASETS.TRAIN, kind] each. Kinds are "masks"
    # (sets that are not named), "boxes", "points" (a box and some pixels), "scribbles", "tags" (the
    # classes of an image) and "none". What a file does not have is derived from its masks.
    cfg.DATASETS.SUPERVISION = []
    # Share of the images of every set in DATASETS.TRAIN whose annotations are used. The others are
    # left out, or are images without annotation where SEMI_SUPERVISED is enabled.
    cfg.DATASETS.LABELED_FRACTION = 1.0
    # Determines which images these are; SEED does not.
    cfg.DATASETS.LABELED_FRACTION_SEED = 0
    # What is derived from the masks of a set that SUPERVISION names.
    cfg.DATASETS.WEAK_LABELS = CN()
    # Random points in the box of an object.
    cfg.DATASETS.WEAK_LABELS.POINTS = 10
    # Pixels of a scribble at most, and of those of other objects that are known to be beside it.
    cfg.DATASETS.WEAK_LABELS.SCRIBBLE_PIXELS = 64
    # Determines points and scribbles; SEED does not.
    cfg.DATASETS.WEAK_LABELS.SEED = 0
    # Larger annotation files are refused before they are read, bytes.
    cfg.DATASETS.MAX_ANNOTATION_BYTES = 8 * 2**30
    # Allow absolute names of images and maps, and names with "..", in annotation files. Records of
    # your own functions in Detectron2's catalog may have them in any case.
    cfg.DATASETS.ALLOW_OUTSIDE_FILES = False
    # Relative sampling frequency of each of DATASETS.TRAIN; (): equal.
    cfg.DATALOADER.DATASET_RATIO = ()
    # Batch size of each of DATASETS.TRAIN; (): SOLVER.IMS_PER_BATCH.
    cfg.DATALOADER.DATASET_BATCH_SIZE = ()
    # Copy batches to the GPU from page-locked memory; without effect where MODEL.DEVICE is no GPU.
    cfg.DATALOADER.PIN_MEMORY = True
    # Keep a loader's workers when it is iterated again; without effect if NUM_WORKERS is 0.
    cfg.DATALOADER.PERSISTENT_WORKERS = True
    # Check the names and sizes of all images and label maps before the run.
    cfg.DATALOADER.CHECK_FILES = True
    # Leave out images and expressions that cannot be used, with a warning each, in training and
    # evaluation; by default the run ends.
    cfg.DATALOADER.SKIP_BROKEN = False
    # With SKIP_BROKEN: the run ends if more images than this cannot be used.
    cfg.DATALOADER.MAX_BROKEN = 100
    # Expressions per image in a training batch.
    cfg.INPUT.EXPRESSIONS_PER_IMAGE = 4
    # Train with expressions that describe several objects or none as well.
    cfg.INPUT.GENERALIZED_EXPRESSIONS = False
    # Probability of a horizontal flip of a training image with expressions; "left" and "right" in
    # the expressions are swapped. Without effect unless RANDOM_FLIP is "horizontal".
    cfg.INPUT.EXPRESSION_FLIP_PROB = 0.5
    # Images with expressions are resized to a square of this side; 0: by MIN_SIZE_* and MAX_SIZE_*,
    # with their aspect ratio.
    cfg.INPUT.SQUARE_SIZE = 0
    # At most this many objects of a training image are sampled; 0: all are kept.
    cfg.INPUT.MAX_OBJECTS = 0
    # Smallest area of a connected component of a part that is an object, in pixels.
    cfg.INPUT.MIN_PART_AREA = 100
    # Pixels without annotation (`ignore_label`, void, 0 of part maps) give no mask loss, and
    # queries without an object whose boxes are mostly such pixels or crowds give no class loss.
    # Off: these pixels have none of the classes (published).
    cfg.INPUT.IGNORE_UNLABELLED = False
    # Copy-paste: with this probability objects of another image of the same set are pasted into a
    # training image, in the sets that DATASETS names; (): in all. Things of instance and panoptic
    # sets, classes of semantic ones, all parts of an image; not for images with expressions.
    cfg.INPUT.COPY_PASTE = CN()
    # Probability that objects are pasted into a training image; 0: off.
    cfg.INPUT.COPY_PASTE.PROBABILITY = 0.0
    # Names of DATASETS.TRAIN whose images take part; (): all.
    cfg.INPUT.COPY_PASTE.DATASETS = ()
    # Distort brightness, contrast, saturation and hue of training images, as in Mask2Former. Not
    # for images with expressions, which may name colours.
    cfg.INPUT.COLOR_AUG_SSD = False
    # Large-scale jitter: with this probability an image is resized into a square of SIZE times a
    # scale from MIN_SCALE to MAX_SCALE, and cropped or padded to SIZE, before it is resized. Not
    # for images with expressions.
    cfg.INPUT.LSJ = CN()
    # Probability of large-scale jitter of an image.
    cfg.INPUT.LSJ.PROBABILITY = 0.5
    # Smallest scale ...
    cfg.INPUT.LSJ.MIN_SCALE = 0.1
    # ... and largest scale, as multiples of SIZE.
    cfg.INPUT.LSJ.MAX_SCALE = 2.0
    # Side of the square, in pixels.
    cfg.INPUT.LSJ.SIZE = 1024

    cfg.PICTUREBOOK = CN()
    # Determines every page.
    cfg.PICTUREBOOK.SEED = 0
    # Pages of the split `train`, ...
    cfg.PICTUREBOOK.TRAIN_PAGES = 6000
    # ... of the split `val`, ...
    cfg.PICTUREBOOK.VAL_PAGES = 500
    # ... and of the split `unseen`, with classes and pairs of attribute and class that are withheld
    # from training.
    cfg.PICTUREBOOK.UNSEEN_PAGES = 200
    # Groups of 4 to 8 pages, in addition to the pages above.
    cfg.PICTUREBOOK.TRAIN_GROUPS = 400
    # Groups of the split `val` ...
    cfg.PICTUREBOOK.VAL_GROUPS = 60
    # ... and of the split `unseen`.
    cfg.PICTUREBOOK.UNSEEN_GROUPS = 40
    # Folder of the drawn pages; "": below Detectron2's data set root.
    cfg.PICTUREBOOK.ROOT = ""

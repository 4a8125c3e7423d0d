"""Defaults of the keys of `MODEL.REASONING`; they are LISA's where LISA has them."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_hipie_reasoning_config(cfg: CN) -> None:
    """Add `MODEL.REASONING` to a configuration, in place."""
    node = CN()
    # Multimodal language model: a folder or a name on the Hugging Face hub that transformers loads
    # as image-text-to-text model (LLaVA, Qwen-VL, SmolVLM, ...), or a folder in the layout of
    # LLaVA's authors, which LISA has; "nano" or "tiny" builds a small LLaVA without any trained
    # layer, "nano" with the word embeddings of MiniLM.
    node.LANGUAGE_MODEL = ""
    # Hidden state that becomes the prompt of a mask: "predicting" is that of the position before
    # [SEG], as in the published code of LISA and GSVA; "token" that of [SEG] itself.
    node.SEG_STATE = "predicting"
    # Largest number of tokens of a question, its image and its answer together.
    node.MAX_TOKENS = 512
    # Mask decoder that is prompted: "sam", or "hipie" for the queries of a trained HIPIE.
    node.MASK_DECODER = "sam"
    # Type of SAM: "vit_b", "vit_l" or "vit_h", with the prefix "random:" random weights.
    node.SAM = "vit_h"
    # Checkpoint file of SAM's authors for that type.
    node.SAM_WEIGHTS = ""
    # Configuration of the HIPIE whose queries are prompted; it is frozen.
    node.HIPIE = "nano/hipie_nano_picturebook.yaml"
    # Weights of that HIPIE; "" takes those in the package.
    node.HIPIE_WEIGHTS = ""
    # Do not train the mask decoder of SAM (the published training does).
    node.FREEZE_MASK_DECODER = False

    node.LORA = CN()
    # Rank of the low-rank adapters in the language model; 0 trains of it the embeddings of tokens
    # and the output layer only, -1 trains all of it.
    node.LORA.RANK = 8
    # Scale of the adapters, divided by the rank.
    node.LORA.ALPHA = 16.0
    # Dropout of the adapters' input.
    node.LORA.DROPOUT = 0.05
    # Names of the linear layers that have adapters.
    node.LORA.TARGETS = ("q_proj", "v_proj")

    node.LOSS = CN()
    # Weight of the cross entropy of the answer's tokens.
    node.LOSS.TEXT = 1.0
    # Weight of the cross entropy of masks.
    node.LOSS.BCE = 2.0
    # Weight of the dice loss of masks.
    node.LOSS.DICE = 0.5

    node.DATA = CN()
    # Largest number of questions about an image in a training item.
    node.DATA.QUESTIONS_PER_IMAGE = 3
    # Largest number of expressions or classes that one training question names, each answered by a
    # [SEG] or [REJ] of its own: 1 as in LISA, 3 as in GSVA.
    node.DATA.OBJECTS_PER_QUESTION = 1
    # Probability that a training question with an explanation asks for it.
    node.DATA.EXPLANATION_PROB = 0.1

    node.TEST = CN()
    # Largest number of tokens of a generated answer.
    node.TEST.MAX_NEW_TOKENS = 64
    # Answer that is assumed in place of generating one, such as "It is [SEG]." (LISA and GSVA are
    # evaluated so): a [SEG] that the model finds less likely there than [REJ] has an empty mask.
    node.TEST.ASSUMED_ANSWER = ""
    cfg.MODEL.REASONING = node

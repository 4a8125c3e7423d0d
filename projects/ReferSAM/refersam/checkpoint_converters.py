"""Converter of the authors' checkpoints.

SAM's own files need no converter: image encoder, prompt encoder and mask decoder have SAM's names.
"""

from __future__ import annotations

from hipie.checkpoint.converters.conversion import CheckpointConverter, Rename, rename_by_table

_BLOCK = r"vl_adapter\.interactions\.(\d)\."
_SAMPLING = {"attn": "attention", "query_norm": "norm", "value_norm": "value_norm"}
_EXCHANGE = {
    "p2l_cross_attn": "text_self",
    "l2v_cross_attn": "text_to_vision",
    "prompt_mlp": "text_mlp",
    "v2l_cross_attn": "vision_to_text",
    "vis_mlp": "vision_mlp",
    "l_norm2": "norm_text_self",
    "l_norm1": "norm_text_vision",
    "l_norm3": "norm_text_mlp",
    "v_norm1": "norm_vision_text",
    "v_norm2": "norm_vision_mlp",
}
_GAMMAS = {"gamma_l2v": "gamma_text", "gamma_v2l": "gamma_vision"}
_PROMPT_BLOCK = {
    "p_self_attn": "self_attention",
    "p2v_cross_attn": "to_vision",
    "p2l_cross_attn": "to_text",
    "prompt_mlp": "mlp",
    "norm1": "norm_self",
    "norm2": "norm_vision",
    "norm3": "norm_text",
    "norm4": "norm_mlp",
}
_ADAPTER = {
    r"level_embed": "interactor.level_embedding",
    r"level_embed_prompter": "prompter.level_embedding",
    r"lang_prompts\.weight": "interactor.context.weight",
    r"sparse_prompts\.weight": "prompter.sparse.weight",
    r"prompt_pos\.weight": "prompter.position.weight",
    r"spm\.stem\.(.+)": r"interactor.spatial_prior.stem.\1",
    r"lang_proj\.(.+)": r"projections.text.\1",
    r"adapter_proj\.(.+)": r"projections.levels.\1",
    r"c1_conv\.weight": "projections.fine.weight",
    r"c1_norm\.(\w+)": r"projections.fine_norm.\1",
    r"out_conv\.(.+)": r"projections.out.\1",
    r"vis_model\.(.+)": r"image_encoder.\1",
}


def _pair(extractor: str, exchange: str, number: int) -> list[Rename]:
    """Rules of an extractor and a fusion of an interaction block, its pair `number`."""
    pair = rf"interactor.interactions.\1.pairs.{number}"
    return [
        *(
            Rename(rf"{_BLOCK}{extractor}\.{name}\.(.+)", rf"{pair}.extractor.{new}.\2")
            for name, new in _SAMPLING.items()
        ),
        *(
            Rename(rf"{_BLOCK}{exchange}\.{name}\.(.+)", rf"{pair}.exchange.{new}.\2")
            for name, new in _EXCHANGE.items()
        ),
        *(
            Rename(rf"{_BLOCK}{exchange}\.{name}", rf"{pair}.exchange.{new}")
            for name, new in _GAMMAS.items()
        ),
    ]


RULES: tuple[Rename, ...] = (
    Rename(r"text_encoder\.pooler\..+", None),  # unused
    Rename(r"text_encoder\.embeddings\.position_ids", None),  # 0, 1, 2, ...
    Rename(r"text_encoder\.(.+)", r"text_encoder.model.\1"),
    Rename(r"sam_prompt_encoder\.(.+)", r"prompt_encoder.\1"),
    Rename(r"sam_mask_decoder\.(.+)", r"mask_decoder.\1"),
    *(Rename(rf"vl_adapter\.{official}", name) for official, name in _ADAPTER.items()),
    *(
        Rename(rf"vl_adapter\.spm\.conv{i}\.(.+)", rf"interactor.spatial_prior.stages.{i - 2}.\1")
        for i in (2, 3, 4)
    ),
    *(
        Rename(
            rf"vl_adapter\.spm\.fc{i}\.(.+)", rf"interactor.spatial_prior.projections.{i - 2}.\1"
        )
        for i in (2, 3, 4)
    ),
    Rename(_BLOCK + r"injector\.gamma", r"interactor.interactions.\1.injector.gamma"),
    *(
        Rename(rf"{_BLOCK}injector\.{name}\.(.+)", rf"interactor.interactions.\1.injector.{new}.\2")
        for name, new in _SAMPLING.items()
    ),
    *_pair("extractor", "vl_extractor", 0),
    *_pair(r"extra_extractors\.0", r"extra_vl_extractors\.0", 1),
    *_pair(r"extra_extractors\.1", r"extra_vl_extractors\.1", 2),
    *(
        Rename(rf"vl_adapter\.prompt_blocks\.(\d)\.{name}\.(.+)", rf"prompter.blocks.\1.{new}.\2")
        for name, new in _PROMPT_BLOCK.items()
    ),
    Rename(r"((?:mask|sparse)_embedding|mask_scaling)\.(.+)", r"prompt_head.\1.\2"),
)


def _is_official(names: set[str]) -> bool:
    return any(name.startswith("vl_adapter.interactions.") for name in names)


OFFICIAL_REFERSAM = CheckpointConverter("official ReferSAM", _is_official, rename_by_table(RULES))

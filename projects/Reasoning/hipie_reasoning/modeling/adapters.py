"""Which weights of the language model are trained: low-rank adapters, embeddings, or all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hipie.errors import InputError, MissingPackageError

KEY = "MODEL.REASONING.LORA"


def make_trainable(
    model: Any, *, rank: int, alpha: float, dropout: float, targets: Sequence[str]
) -> None:
    """Freeze a language model but for adapters (Hu et al., ICLR 2022) and token embeddings.

    The adapters are in its text decoder only; the image encoder and its projector stay frozen. The
    embeddings of tokens and the output layer are trained, since [SEG] and [REJ] are new.

    Args:
        model: of `AutoModelForImageTextToText`; it is changed in place.
        rank: of the adapters; 0 = none, -1 = all weights are trained.
        alpha: scale of the adapters, divided by the rank.
        dropout: of the adapters' input.
        targets: names of the linear layers that have adapters.

    Raises:
        InputError: for another rank, or if no layer has such a name.
        MissingPackageError: without peft.
    """
    if rank < -1:
        raise InputError(f"{KEY}.RANK is {rank}; it has to be -1, 0 or a rank of adapters")
    if rank == -1:
        model.requires_grad_(True)
        return
    model.requires_grad_(False)
    if rank > 0:
        _add_adapters(model, rank, alpha, dropout, targets)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        module.requires_grad_(True)


def _add_adapters(
    model: Any, rank: int, alpha: float, dropout: float, targets: Sequence[str]
) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingPackageError(
            f"{KEY}.RANK {rank} needs the package peft: pip install peft accelerate"
        ) from error
    inside = {id(module) for module in model.get_decoder().modules()}
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside
    ]
    names = [name for name in linear if name.rsplit(".", 1)[-1] in targets]
    if not names:
        known = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise InputError(
            f"{KEY}.TARGETS {tuple(targets)} names no linear layer of the language model; it has "
            f"{', '.join(known)}"
        )
    options: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout}
    config = LoraConfig(**options, target_modules=names, bias="none")
    inject_adapter_in_model(config, model)

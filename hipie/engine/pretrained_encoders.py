"""Encoders at the start of a training: released text weights, and a check that none is random."""

from __future__ import annotations

from collections.abc import Iterator

from detectron2.config import CfgNode
from torch import nn

from hipie.checkpoint import LoadReport, read_state
from hipie.checkpoint.converters.bert import RELEASED_BERT
from hipie.checkpoint.converters.conversion import convert_state
from hipie.checkpoint.load import load_state
from hipie.engine.freezing import parameters_as_built
from hipie.errors import InputError
from hipie.logs import get_logger

logger = get_logger(__name__)

# Names of modules that are trained on other data first, wherever they are in a model.
TEXT_ENCODER = "text_encoder"
ENCODER_NAMES = ("backbone", "image_encoder", TEXT_ENCODER)
# An encoder counts as random if more than this share of its parameters is. Released weights lack
# what a detector adds to an encoder, such as norms of features or relative positions.
MAX_RANDOM_SHARE = 0.5


def random_encoders(model: nn.Module, report: LoadReport | None) -> dict[str, float]:
    """Return the encoders of a model whose weights are mostly random.

    Args:
        model: its encoders are the outermost modules with a name in `ENCODER_NAMES`.
        report: of the checkpoint that was loaded; None = there was none.

    Returns:
        Share of random parameters by name of the encoder, above `MAX_RANDOM_SHARE`.
    """
    as_built = parameters_as_built(model, report)
    shares = {}
    for encoder in _encoders(model):
        sizes = {
            name: parameter.numel()
            for name, parameter in model.named_parameters()
            if name.startswith(f"{encoder}.")
        }
        total = sum(sizes.values())
        random = sum(size for name, size in sizes.items() if name in as_built)
        if total and random > MAX_RANDOM_SHARE * total:
            shares[encoder] = random / total
    return shares


def load_text_encoder(cfg: CfgNode, model: nn.Module, report: LoadReport | None) -> None:
    """Load `MODEL.TEXT_ENCODER_WEIGHTS` into a text encoder of random weights, in place.

    A text encoder that `MODEL.WEIGHTS` or a package has set keeps its weights.

    Args:
        cfg: reads that key.
        model: with a module `text_encoder`, anywhere.
        report: see `random_encoders`.

    Raises:
        InputError: if the model has no text encoder, or the file does not have all its weights.
    """
    weights = cfg.MODEL.TEXT_ENCODER_WEIGHTS
    if not weights:
        return
    encoders = [name for name in _encoders(model) if name.rpartition(".")[2] == TEXT_ENCODER]
    if not encoders:
        raise InputError(
            f'MODEL.TEXT_ENCODER_WEIGHTS is "{weights}", and a {type(model).__name__} has no text '
            "encoder"
        )
    random = random_encoders(model, report)
    for name in encoders:
        if name not in random:
            continue
        encoder = model.get_submodule(name)
        state = convert_state(read_state(weights)["model"], [RELEASED_BERT]).state
        loaded = load_state(encoder, state, weights, same_shapes=True)
        if loaded.missing:
            raise InputError(
                f"MODEL.TEXT_ENCODER_WEIGHTS: {weights} lacks {len(loaded.missing)} tensors of "
                f"{name}, the first is {loaded.missing[0]}"
            )
        # Read by `parameters_as_built`.
        encoder.has_pretrained_weights = True  # type: ignore[assignment]
        logger.info("Weights of %s for %s: %s", weights, name, loaded)


def check_pretrained_encoders(cfg: CfgNode, model: nn.Module, report: LoadReport | None) -> None:
    """Warn of encoders that would be trained from random weights, when weights have been loaded.

    Args:
        cfg: reads `MODEL.REQUIRE_PRETRAINED`.
        model: see `random_encoders`.
        report: likewise.

    Raises:
        InputError: with `MODEL.REQUIRE_PRETRAINED`, naming the encoders.
    """
    shares = random_encoders(model, report)
    if not shares:
        return
    names = " and ".join(f"{name} ({share:.0%})" for name, share in shares.items())
    message = f"the training would start from random weights of {names}"
    advice = "name released weights by MODEL.WEIGHTS"
    if any(name.rpartition(".")[2] == TEXT_ENCODER for name in shares):
        advice += ", and those of a BERT by MODEL.TEXT_ENCODER_WEIGHTS bert-base-uncased"
    if cfg.MODEL.REQUIRE_PRETRAINED:
        raise InputError(f"MODEL.REQUIRE_PRETRAINED is True, and {message}; {advice}")
    logger.warning("%s; %s", message[0].upper() + message[1:], advice)


def _encoders(model: nn.Module) -> Iterator[str]:
    """Yield the full names of the outermost encoders."""
    outermost: tuple[str, ...] = ()
    for name, _ in model.named_modules():
        inside = name.startswith(outermost) if outermost else False
        if name.rpartition(".")[2] in ENCODER_NAMES and not inside:
            outermost += (f"{name}.",)
            yield name

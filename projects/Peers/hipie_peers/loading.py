"""Loading of networks of transformers with their processors, without running code of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.read import read_state
from hipie.errors import cause_of, printable
from hipie.model_zoo import MODELS, model_weights
from hipie.modeling.hub import without_loading_messages
from hipie.modeling.model_folder import find_weights, read_model_config, require_sizes
from hipie_peers.error import PeerError

RANDOM_TINY = "random:tiny"
CONFIG_FILE, INDEX_FILE = "config.json", "model.safetensors.index.json"


@dataclass(frozen=True)
class NetworkType:
    """A type of network and the classes of transformers that load it.

    Attributes:
        model_type: as its configuration names it.
        network: name of the class of the network.
        processor: name of the class of its processor.
        options: of the processor, in place of those that its folder has.
    """

    model_type: str
    network: str
    processor: str
    options: tuple[tuple[str, Any], ...] = ()


CLIPSEG = NetworkType("clipseg", "CLIPSegForImageSegmentation", "CLIPSegProcessor")
SAM3 = NetworkType("sam3", "Sam3Model", "Sam3Processor")
GROUNDING_DINO = NetworkType(
    "grounding-dino", "GroundingDinoForObjectDetection", "GroundingDinoProcessor"
)
MASK2FORMER = NetworkType(
    "mask2former", "Mask2FormerForUniversalSegmentation", "Mask2FormerImageProcessor"
)
# The file of classes that OneFormer's processor names is on the hub, and serves training only.
ONEFORMER = NetworkType(
    "oneformer",
    "OneFormerForUniversalSegmentation",
    "OneFormerProcessor",
    (("class_info_file", None),),
)
FLORENCE2 = NetworkType("florence2", "Florence2ForConditionalGeneration", "Florence2Processor")


def load_network(source: str, kind: NetworkType) -> tuple[Any, Any]:
    """Load a network in evaluation mode, and its processor.

    Args:
        source: a model of `hipie models list`; a folder in the layout of transformers; or
            "random:tiny", a small network with random weights.
        kind: the type that the source has to be of.

    Raises:
        PeerError: naming the source, if it is of another type, incomplete or damaged.
        ModelError: if the weights of a model are not available.
    """
    if source == RANDOM_TINY:
        from hipie_peers.random_networks import build_random

        return build_random(kind.model_type)
    folder = _folder_of(source)
    _require_type(folder, kind)
    network = _load_weights(folder, kind)
    return network.eval().requires_grad_(False), _load_processor(folder, kind)


def _folder_of(source: str) -> Path:
    """Return the folder of a source, downloaded if it is a model of the table."""
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        return folder
    if source in MODELS:
        return model_weights(source).parent
    if not source:
        raise PeerError("MODEL.PEERS.SOURCE names no network; name a model or a folder")
    raise PeerError(
        f'MODEL.PEERS.SOURCE: "{printable(source)}" is neither a model of hipie models list nor '
        "a folder"
    )


def _require_type(folder: Path, kind: NetworkType) -> None:
    """Check the type and the sizes of the network that a folder describes."""
    file = folder / CONFIG_FILE
    config = read_model_config(file)
    model_type = config.get("model_type")
    # A checkpoint for videos contains the network for images.
    if model_type != kind.model_type and (model_type, kind.model_type) != ("sam3_video", "sam3"):
        raise PeerError(
            f"{file}: this is a network of the type {printable(repr(model_type))}, and the "
            f"configuration needs {kind.model_type}"
        )
    # Florence-2 lists ids of tokens, which are no sizes.
    require_sizes(config, str(file))


def _class(name: str) -> Any:
    import transformers

    cls = getattr(transformers, name, None)
    if cls is None:
        raise PeerError(
            f"transformers {transformers.__version__} has no {name}: pip install -U transformers"
        )
    return cls


def _load_weights(folder: Path, kind: NetworkType) -> Any:
    cls = _class(kind.network)
    options = {"local_files_only": True, "output_loading_info": True}
    try:
        with without_loading_messages():
            if (folder / INDEX_FILE).is_file() or any(folder.glob("*.safetensors")):
                loaded = cls.from_pretrained(
                    str(folder), use_safetensors=True, trust_remote_code=False, **options
                )
            else:
                state = read_state(find_weights(folder))["model"]
                config = cls.config_class.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
                loaded = cls.from_pretrained(
                    None, config=config, state_dict=state, trust_remote_code=False, **options
                )
    except CheckpointError:
        raise
    except Exception as error:  # whatever transformers makes of a folder
        raise PeerError(f"{folder}: the network cannot be loaded ({cause_of(error)})") from error
    network, report = loaded
    for problem in ("missing_keys", "mismatched_keys"):
        if report.get(problem):
            names = ", ".join(sorted(map(_first, report[problem]))[:3])
            word = "lack" if problem == "missing_keys" else "have other sizes than its config for"
            raise PeerError(f"{folder}: the weights {word} {names}")
    return network.float()


def _first(entry: Any) -> str:
    return str(entry[0] if isinstance(entry, tuple) else entry)


def _load_processor(folder: Path, kind: NetworkType) -> Any:
    try:
        with without_loading_messages():
            return _class(kind.processor).from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                **dict(kind.options),
            )
    except PeerError:
        raise
    except Exception as error:  # whatever transformers makes of a folder
        raise PeerError(
            f"{folder}: the processor ({kind.processor}) cannot be loaded ({cause_of(error)})"
        ) from error

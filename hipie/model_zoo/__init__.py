"""Configurations of the package and its projects, and models by name with their weights.

Configurations of a project are stored in the folder `configs` of its package. The table of models
is `models.MODELS`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie.errors import InputError
from hipie.model_zoo.models import (
    MODELS,
    Model,
    ModelError,
    PackagedFile,
    find_model,
    packaged_model,
    packaged_models,
    register_model,
    similar_models,
)
from hipie.model_zoo.records import digest
from hipie.projects import project_folders, require_project

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from hipie.modeling.meta_arch.base import SegmentationModel
    from hipie.vocabularies import Vocabulary

__all__ = [
    "CONFIGS",
    "MODELS",
    "WEIGHTS",
    "Model",
    "ModelError",
    "Pretrained",
    "configs_for_task",
    "download_weights",
    "find_model",
    "get",
    "get_config",
    "get_config_file",
    "get_weights",
    "model_config",
    "model_weights",
    "names",
    "packaged_model",
    "packaged_models",
    "pretrained",
    "register_model",
    "register_weights",
    "sam_source",
    "save_model",
    "similar_models",
    "trained_weights",
    "verify_weights",
    "weights_address",
    "weights_on_disk",
]

# Names of Segment Anything models; the rest is the type, "vit-b".
# Similar names in a message.
MAX_SUGGESTIONS = 5
FOLDER = Path(__file__).parent
CONFIGS, WEIGHTS = FOLDER / "configs", FOLDER / "weights"

# Configuration -> file of its packaged weights; projects add theirs by `register_weights`.
_weights_of: dict[str, Path] = {
    "nano/hipie_nano_photos.yaml": WEIGHTS / "hipie_nano_photos.pth",
    "nano/hipie_nano_picturebook.yaml": WEIGHTS / "hipie_nano_picturebook.pth",
}


def register_weights(name: str, file: Path) -> None:
    """Register the packaged weights of a configuration.

    Args:
        name: of the configuration, such as "grser/grser_nano_picturebook.yaml".
        file: weights that `hipie.checkpoint` reads.
    """
    _weights_of[name] = file


def names() -> list[str]:
    """Names of all configurations, such as "nano/hipie_nano_picturebook.yaml".

    Names of a project's begin with the name of its package: "grser/grser_swin_b.yaml".
    """
    return sorted(_config_files())


def _config_folders() -> dict[str, Path]:
    """Return the folders of configurations by the prefix of their names."""
    folders = {"": CONFIGS}
    folders |= {f"{name}/": folder / "configs" for name, folder in project_folders().items()}
    return folders


def _config_files() -> dict[str, Path]:
    folders = _config_folders()
    return {
        f"{prefix}{path.relative_to(folder).as_posix()}": path
        for prefix, folder in folders.items()
        for path in folder.glob("**/*.yaml")
        if not path.name.startswith("Base-")
    }


def get_config_file(name: str) -> Path:
    """Return the file of a configuration.

    Args:
        name: a name of this zoo, with or without ".yaml" and folder, or a file.

    Raises:
        ValueError: if there is neither, with the nearest names, or if several folders have it.
    """
    # What is no regular file is an error later.
    if os.path.exists(name) and not os.path.isdir(name):
        return Path(name)
    requested = name if name.endswith(".yaml") else f"{name}.yaml"
    requested = requested.removeprefix("configs/")
    files = _config_files()
    if requested in files:
        return files[requested]
    matches = sorted(config_name for config_name, file in files.items() if file.name == requested)
    if len(matches) == 1:
        return files[matches[0]]
    if matches:
        raise InputError(f'the name "{name}" is ambiguous: {" or ".join(matches)}')
    stem = requested.removesuffix(".yaml")
    containing = sorted(
        (n for n in files if stem and stem in n), key=lambda n: (not n.startswith(stem), n)
    )
    close = difflib.get_close_matches(requested, files, 3, 0.4) if stem else []
    similar = [*containing, *close]
    trained = sorted(files.keys() & _weights_of.keys())
    suggestions = list(dict.fromkeys(similar))[:MAX_SUGGESTIONS] or trained
    raise InputError(
        f'there is no configuration "{name}"; similar names are {", ".join(suggestions)}'
    )


def get_base_file(name: str) -> str:
    """Return the file of a `_BASE_` that is a name, such as "nano/Base-nano.yaml".

    Raises:
        ValueError: if there is no such configuration, with the nearest names.
    """
    requested = name.removeprefix("configs/")
    requested = requested if requested.endswith(".yaml") else f"{requested}.yaml"
    for prefix, folder in _config_folders().items():
        file = folder / requested.removeprefix(prefix)
        if requested.startswith(prefix) and file.is_file():
            return str(file)
    return str(get_config_file(name))


def get_config(name: str, options: Sequence[Any] = (), imports: Sequence[str] = ()) -> CfgNode:
    """Build a configuration, with all keys of this package and of installed projects.

    Args:
        name: see `get_config_file`.
        options: KEY VALUE KEY VALUE ..., which override the file.
        imports: modules or files that are imported first, as are those of the file's `IMPORTS`;
            see `hipie.registration.import_modules`. A file that is not of the package or a
            project may name modules that are here, or in `IMPORTS` of the options, only; unless
            the environment has HIPIE_ALLOW_IMPORTS=1.

    Raises:
        ValueError: for an unknown name, key or value, naming it; if the configuration is of a
            project that could not be loaded; or if it names code that is not permitted.
    """
    from hipie.config.loading import import_names, listed_imports, merge
    from hipie.config.named_downloads import require_permitted_imports, warn_about_downloads
    from hipie.registration import import_modules

    cfg = _default_config()
    file = get_config_file(name)
    for package, folder in project_folders().items():
        if file.resolve().is_relative_to((folder / "configs").resolve()):
            require_project(package)
    own_folders = [CONFIGS, *(folder / "configs" for folder in project_folders().values())]
    listed = listed_imports(file, get_base_file)
    overridden = dict(zip(options[::2], options[1::2], strict=False)).get("IMPORTS")
    if overridden is None:
        require_permitted_imports(file, own_folders, imports, get_base_file)
    else:
        chosen = import_names(overridden, "KEY VALUE")
        listed = [name for name in listed if name in chosen]
    import_modules(list(dict.fromkeys([*imports, *listed])), cfg)
    merge(cfg, file, options, get_base_file)
    import_modules([module for module in cfg.IMPORTS if module not in listed], cfg)
    warn_about_downloads(cfg, file, own_folders, get_base_file)
    _address_weights(cfg)
    return cfg


def weights_address(weights: str | Path) -> str:
    """Return `hipie://NAME` for the name of a model, and any other file or address unchanged.

    A file in the working folder that has the name is that file. Options at the end stay, as in
    "mae-vit-h-p16?matching_heuristics=True".
    """
    text = str(weights)
    if text.partition("?")[0] not in MODELS or os.path.exists(text):
        return text
    from hipie.model_zoo import path_handler

    path_handler.register(model_weights)
    return f"{path_handler.PREFIX}{text}"


def _address_weights(cfg: CfgNode) -> None:
    """Replace names of models in the keys of weights, such as `MODEL.WEIGHTS`, by addresses."""
    from hipie.config.loading import keys
    from hipie.model_zoo import path_handler

    path_handler.register(model_weights)
    for key in list(keys(cfg)):
        # CLIP's are tags of open_clip.
        if key.endswith("WEIGHTS") and not key.endswith(".CLIP.WEIGHTS"):
            *nodes, last = key.split(".")
            node = reduce(getattr, nodes, cfg)
            if isinstance(node[last], str):
                node[last] = weights_address(node[last])


def sam_source(model: str, weights: str = "") -> tuple[str, str]:
    """Return type and weights of a Segment Anything model.

    Args:
        model: a name of the table, such as "sam-vit-b", whose weights are downloaded if necessary;
            or anything else that `hipie.modeling.sam.loading.load_sam` takes.
        weights: a file, or a name of the table.

    Raises:
        ModelError: see `model_weights`.
    """
    if not weights and model in MODELS and MODELS[model].sam_type:
        return MODELS[model].sam_type, str(model_weights(model))
    return model, weights_address(weights) if weights else ""


def _default_config() -> CfgNode:
    from detectron2.config import get_cfg

    from hipie.config import add_hipie_config
    from hipie.registration import register_all

    register_all()
    cfg = get_cfg()
    add_hipie_config(cfg)
    return cfg


def get_weights(name: str) -> Path | None:
    """Return the file of a configuration's packaged weights, or None if there are none.

    Args:
        name: see `get_config_file`; a file has weights if it is the zoo's own.
    """
    from hipie.registration import register_all

    register_all()  # projects register their weights
    file = get_config_file(name).resolve()
    files = _config_files()
    for config, weights in _weights_of.items():
        if config in files and files[config].resolve() == file and weights.is_file():
            return weights
    return None


def trained_weights(cfg: CfgNode, options: Sequence[Any] = ()) -> str:
    """Return the `MODEL.WEIGHTS` of a configuration if they are of a trained model.

    Weights beside which `MODEL.TEXT_ENCODER_WEIGHTS` is set are encoders from which a training
    starts, such as SAM's; what is evaluated has to be named.

    Args:
        cfg: the merged configuration.
        options: KEY VALUE KEY VALUE ..., merged into it; weights named there count as trained.
    """
    if cfg.MODEL.TEXT_ENCODER_WEIGHTS and "MODEL.WEIGHTS" not in options[::2]:
        return ""
    return str(cfg.MODEL.WEIGHTS)


def model_weights(name: str) -> Path:
    """Return the file of a model's weights.

    Args:
        name: see `find_model`.

    Raises:
        ModelError: for an unknown name, with similar ones; or if there are no weights, with the
            reason.
        MissingPackageError: if its use needs a package that is not installed.
    """
    from hipie.registration import register_all

    register_all()  # projects register their models
    model = find_model(name)
    model.require_package()
    return download_weights(model)


def download_weights(model: Model) -> Path:
    """Return the file of a model's weights, which is downloaded if it is not on this machine.

    Raises:
        ModelError: see `model_weights`.
    """
    from hipie.model_zoo.download import model_file

    return _packaged_file(model) if model.is_packaged else model_file(model)


def weights_on_disk(model: Model) -> Path | None:
    """Return the file of a model's weights on this machine, unchecked; None if there is none."""
    from hipie.model_zoo.download import find_file

    return get_weights(model.config) if model.is_packaged else find_file(model)


def verify_weights(model: Model) -> Path | None:
    """Compute the checksum of a model's weights on this machine.

    Returns:
        The file; None if there is none.

    Raises:
        ModelError: if it is not the model's.
    """
    from hipie.model_zoo.download import check_file

    file = weights_on_disk(model)
    if file is None or not isinstance(model.source, PackagedFile):
        return None if file is None else check_file(model, file, again=True)
    if digest(file) != model.source.sha256:
        raise ModelError(
            f"{file} is not the file of {model.name}: its SHA-256 is another one; install the "
            "package again"
        )
    return file


def _packaged_file(model: Model) -> Path:
    file = get_weights(model.config)
    if file is None:
        raise ModelError(f"{model.name}: the installed package does not contain its weights")
    return file


@dataclass(frozen=True)
class Pretrained:
    """What a model is built from.

    Attributes:
        config: name or file of the configuration.
        weights: file; "" for an architecture that loads what `options` name.
        options: KEY VALUE KEY VALUE ..., which belong to it.
        folder: of `save_model`; None for a model of the table.
    """

    config: str
    weights: str
    options: tuple[str, ...] = ()
    folder: Path | None = None

    def vocabulary(self) -> Vocabulary | None:
        """Class names that the model was trained with; None if they are not known."""
        from hipie.model_zoo.model_folder import folder_vocabulary

        return None if self.folder is None else folder_vocabulary(self.folder)


def pretrained(name: str | Path, revision: str = "") -> Pretrained:
    """Return configuration and weights of a model that segments.

    Args:
        name: of the table (see `find_model`); or the folder of a model (`save_model`); or a
            repository of the Hugging Face hub that holds one, "owner/name" or
            "owner/name@revision".
        revision: commit, branch or tag of a repository.

    Raises:
        ModelError: see `model_weights`; also for weights of a part of models, a folder without a
            model, or a revision of something else than a repository.
        MissingPackageError: if the model needs a package that is not installed.
    """
    from hipie.model_zoo.hub import is_repository_name
    from hipie.model_zoo.model_folder import folder_parts, hub_folder
    from hipie.registration import register_all

    register_all()  # projects register their models
    text = str(name)
    repository, _, named_revision = text.partition("@")
    if text in MODELS and not revision:
        model = find_model(text)
        config, weights = model.require_config(), str(model_weights(text))
        if model.source_key:
            return Pretrained(config, "", (model.source_key, text))
        return Pretrained(config, weights)
    if os.path.isdir(os.path.expanduser(text)) and text:
        folder = Path(text).expanduser()
    elif is_repository_name(repository) and not text.endswith((".yaml", ".pth")):
        folder = hub_folder(repository, revision or named_revision)
    else:
        raise ModelError(
            f'there is no model "{text}", nor a folder of this name; {similar_models(text)}'
        )
    config, weights, options = folder_parts(folder)
    return Pretrained(config, weights, tuple(options), folder)


def model_config(name: str | Path) -> str:
    """Return the file of a model's configuration, without its weights where that is possible.

    Args:
        name: see `pretrained`.

    Raises:
        ModelError: likewise.
    """
    from hipie.model_zoo.model_folder import CONFIG_FILE, is_model_folder
    from hipie.registration import register_all

    register_all()  # projects register their models
    if str(name) in MODELS:
        return str(get_config_file(find_model(str(name)).require_config()))
    folder = Path(name).expanduser()
    return str(folder / CONFIG_FILE) if is_model_folder(folder) else pretrained(name).config


def save_model(
    model: SegmentationModel, cfg: CfgNode, folder: str | Path, vocabulary: Vocabulary | None = None
) -> Path:
    """Write a model's configuration, weights and class names into a folder for `pretrained`.

    Args:
        model: its weights are written in their own precision.
        cfg: its configuration.
        folder: created if needed; files of the same names are replaced.
        vocabulary: class names; None if they are not known.

    Raises:
        HipieError: naming the file that cannot be written.
    """
    from hipie.model_zoo import model_folder

    return model_folder.save_model(model, cfg, _default_config(), folder, vocabulary)


def get(name: str, trained: bool = True) -> SegmentationModel:
    """Build the model of a configuration, in evaluation mode, on the CPU if there is no GPU.

    Args:
        name: see `get_config_file`.
        trained: load the configuration's packaged weights, or else its `MODEL.WEIGHTS`.

    Raises:
        ValueError: if trained weights are requested and there are none.
    """
    import torch
    from detectron2.modeling import build_model

    from hipie.checkpoint import Checkpointer

    cfg = get_config(name)
    weights = (get_weights(name) or trained_weights(cfg)) if trained else None
    if trained and not weights:
        raise InputError(
            f"the package has no weights for {name}; trained=False builds the model without"
        )
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    model: SegmentationModel = build_model(cfg).eval()
    if weights:
        Checkpointer(model).load(str(weights))
    return model


def configs_for_task(task: str, trained: bool = False) -> list[str]:
    """Return the configurations whose architecture supports a task.

    Args:
        task: one of the `tasks` of an architecture, such as "universal", "referring" or "group".
        trained: only configurations with packaged weights.
    """
    from hipie.config.loading import merge
    from hipie.modeling.meta_arch.base import meta_architecture

    suitable, defaults = [], _default_config()
    for name, file in sorted(_config_files().items()):
        if trained and not (name in _weights_of and _weights_of[name].is_file()):
            continue
        cfg = defaults.clone()
        merge(cfg, file)
        architecture = meta_architecture(cfg)
        if architecture is not None and task in architecture.tasks:
            suitable.append(name)
    return suitable

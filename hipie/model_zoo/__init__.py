"""Configurations that come with the package and its projects, and weights for some of them.

A project's lie in the folders `configs` and `weights` of its package.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hipie.projects import project_folders, require_project

FOLDER = Path(__file__).parent
CONFIGS, WEIGHTS = FOLDER / "configs", FOLDER / "weights"


def names() -> list[str]:
    """All configurations by name, such as "nano/hipie_nano_picturebook.yaml".

    Names of a project's begin with the name of its package: "grser/grser_swin_b.yaml".
    """
    return sorted(_files())


def _files() -> dict[str, Path]:
    shelves = {"": CONFIGS}
    shelves |= {f"{name}/": folder / "configs" for name, folder in project_folders().items()}
    return {
        f"{prefix}{path.relative_to(shelf).as_posix()}": path
        for prefix, shelf in shelves.items()
        for path in shelf.glob("**/*.yaml")
        if not path.name.startswith("Base-")
    }


def get_config_file(name: str) -> Path:
    """The file of a configuration.

    Args:
        name: of this zoo, with or without ".yaml" and folder, or a file.

    Raises:
        ValueError: if there is neither, with the nearest names, or if several folders have it.
    """
    if Path(name).is_file():
        return Path(name)
    wanted = name if name.endswith(".yaml") else f"{name}.yaml"
    wanted = wanted.removeprefix("configs/")
    files = _files()
    if wanted in files:
        return files[wanted]
    alike = sorted(known for known, file in files.items() if file.name == wanted)
    if len(alike) == 1:
        return files[alike[0]]
    if alike:
        raise ValueError(f'the configuration "{name}" can be {" or ".join(alike)}')
    near = difflib.get_close_matches(wanted, files, 3, 0.4) or sorted(files)
    raise ValueError(f'there is no configuration "{name}"; near ones are {", ".join(near)}')


def get_config(name: str, options: Sequence[Any] = (), imports: Sequence[str] = ()) -> Any:
    """A configuration, all keys of this package and of installed projects included.

    Args:
        name: see `get_config_file`.
        options: KEY VALUE KEY VALUE ..., which override the file.
        imports: modules or files that are imported first, as are those of the file's `IMPORTS`;
            see `hipie.registration.import_modules`.

    Raises:
        ValueError: for an unknown name, key or value; the message names it.
    """
    from hipie.config.loading import listed_imports, merge
    from hipie.registration import import_modules

    cfg = _all_keys()
    file = get_config_file(name)
    for package, folder in project_folders().items():
        if file.resolve().is_relative_to((folder / "configs").resolve()):
            require_project(package)
    import_modules([*imports, *listed_imports(file)], cfg)
    merge(cfg, file, options)
    import_modules([name for name in cfg.IMPORTS if name not in listed_imports(file)], cfg)
    return cfg


def _all_keys() -> Any:
    from detectron2.config import get_cfg

    from hipie.config import add_hipie_config
    from hipie.registration import register_all

    register_all()
    cfg = get_cfg()
    add_hipie_config(cfg)
    return cfg


def get_weights(name: str) -> Path | None:
    """The file of the weights that the package carries for a configuration, or None.

    They are called like the configuration, in a folder `weights`.
    """
    stem = get_config_file(name).stem
    shelves = (WEIGHTS, *(folder / "weights" for folder in project_folders().values()))
    files = (shelf / f"{stem}{end}" for shelf in shelves for end in (".safetensors", ".pth"))
    return next((path for path in files if path.is_file()), None)


def get(name: str, trained: bool = True) -> Any:
    """Build the model of a configuration, in evaluation mode, on the CPU if there is no GPU.

    Args:
        name: see `get_config_file`.
        trained: load the configuration's weights, or those that the package carries for it.

    Raises:
        ValueError: if trained weights are asked for and there are none.
    """
    import torch
    from detectron2.modeling import build_model

    from hipie.checkpoint import Checkpointer

    cfg = get_config(name)
    weights = (cfg.MODEL.WEIGHTS or get_weights(name)) if trained else None
    if trained and not weights:
        raise ValueError(f"the package carries no weights for {name}; trained=False does without")
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    if weights:
        Checkpointer(model).load(str(weights))
    return model


def configs_for_task(task: str, trained: bool = False) -> list[str]:
    """Configurations whose architecture can do a task ("universal", "referring", "group", ...).

    Args:
        task: one of the `tasks` of an architecture.
        trained: only those that the package carries weights for.
    """
    from detectron2.modeling import META_ARCH_REGISTRY

    from hipie.config.loading import merge
    from hipie.modeling.meta_arch.base import SegmentationModel

    able, defaults = [], _all_keys()
    for name, file in sorted(_files().items()):
        if trained and not get_weights(str(file)):
            continue
        cfg = defaults.clone()
        merge(cfg, file)
        try:
            architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
        except KeyError:
            continue
        if issubclass(architecture, SegmentationModel) and task in architecture.tasks:
            able.append(name)
    return able

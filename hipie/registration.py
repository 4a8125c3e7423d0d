"""Registration of everything that a configuration can name.

Architectures and backbones register themselves in Detectron2's registries, data sets in its
catalogs, evaluators in `EVALUATOR_REGISTRY`; so do the installed projects. Taking `add_hipie_config`
or `model_zoo` from `hipie` calls `register_all`, and so does everything that builds models by name.
"""

from __future__ import annotations

from threading import RLock

_lock = RLock()
_started = False


def register_all() -> None:
    """Register architectures, backbones, data sets, evaluators and projects, once a process.

    Data sets that are registered already, such as Detectron2's own, stay as they are. A project
    that cannot be imported is reported by one warning; see `hipie.projects`.
    """
    global _started
    with _lock:
        # A project may take `add_hipie_config` from `hipie` while it is imported here.
        if _started:
            return
        _started = True
        import hipie.evaluation
        import hipie.modeling.backbone
        import hipie.modeling.meta_arch.hipie  # noqa: F401
        from hipie.data.datasets import register_default_datasets
        from hipie.projects import load_projects

        register_default_datasets()
        load_projects()

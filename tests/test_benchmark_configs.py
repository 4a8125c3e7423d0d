"""Published training stages and evaluations: registered data sets, models that build and run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from hipie import add_hipie_config, model_zoo
from hipie.checkpoint import save_weights
from hipie.config.loading import check, keys, merge
from hipie.data.datasets import register_public_datasets
from tests import benchmark_trees as trees

ROOT = Path(__file__).parents[1]
STAGES = sorted(ROOT.glob("configs/universal/hipie_*.yaml"))
# Each of the models without a stage is the base of its stages, and names no training set.
TRAINED = [path for path in STAGES if path.stem.endswith(("_pretrain", "_joint", "_parts"))]
EVALUATIONS = sorted(ROOT.glob("configs/eval/*.yaml"))
REDUCED = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.HIPIE.HIDDEN_DIM": 32,
    "MODEL.HIPIE.CLIP.MODEL": "random:tiny",
    "MODEL.HIPIE.THINGS.NUM_QUERIES": 12,
    "MODEL.HIPIE.THINGS.NUM_HEADS": 4,
    "MODEL.HIPIE.THINGS.ENCODER_LAYERS": 1,
    "MODEL.HIPIE.THINGS.DECODER_LAYERS": 1,
    "MODEL.HIPIE.THINGS.DIM_FEEDFORWARD": 32,
    "MODEL.HIPIE.THINGS.FUSION_EMBED_DIM": 32,
    "MODEL.HIPIE.THINGS.FUSION_HEADS": 2,
    "MODEL.HIPIE.STUFF.NUM_QUERIES": 8,
    "MODEL.HIPIE.STUFF.NUM_HEADS": 4,
    "MODEL.HIPIE.STUFF.ENCODER_LAYERS": 1,
    "MODEL.HIPIE.STUFF.DECODER_LAYERS": 1,
    "MODEL.HIPIE.STUFF.DIM_FEEDFORWARD": 32,
    "MODEL.SWIN.EMBED_DIM": 24,
    "MODEL.SWIN.DEPTHS": "(1, 1, 1, 1)",
    "MODEL.SWIN.NUM_HEADS": "(1, 1, 2, 2)",
    "MODEL.VIT.EMBED_DIM": 32,
    "MODEL.VIT.DEPTH": 2,
    "MODEL.VIT.NUM_HEADS": 2,
    "MODEL.VIT.WINDOW_BLOCKS": "(0,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 96,
    "DATALOADER.NUM_WORKERS": 0,
}


def by_name(path: Path) -> str:
    return path.stem


def read(path: Path, *options: str) -> object:
    cfg = get_cfg()
    add_hipie_config(cfg)
    merge(cfg, path, options)
    check(cfg)
    return cfg


def reduced_options(text: Path) -> list[str]:
    pairs = {**REDUCED, "MODEL.HIPIE.TEXT.SOURCE": str(text)}
    return [str(item) for pair in pairs.items() for item in pair]


@pytest.fixture(scope="module", autouse=True)
def _registered():
    register_public_datasets()


def test_the_number_of_configurations():
    assert len(EVALUATIONS) == 2 * (8 + 1)
    swin = [path for path in STAGES if "swin" in path.name]
    assert len(STAGES) - len(swin) == 10 + 5
    assert {path.stem for path in STAGES} >= {"hipie_swin_t_pretrain", "hipie_swin_l_pretrain"}


@pytest.mark.parametrize("path", [*STAGES, *EVALUATIONS], ids=by_name)
def test_data_sets_are_registered_and_files_are_short(path):
    cfg = read(path)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert name in DatasetCatalog, name
        assert MetadataCatalog.get(name).evaluator_type
    assert len(path.read_text().splitlines()) < 60
    published = read(ROOT / "configs/universal/hipie_r50.yaml")
    for key in ("THINGS.NUM_QUERIES", "STUFF.NUM_QUERIES", "OBJECT_MASK_THRESHOLD"):
        assert dict_of(cfg)[f"MODEL.HIPIE.{key}"] == dict_of(published)[f"MODEL.HIPIE.{key}"]


def dict_of(cfg) -> dict:
    """Every value of a configuration by its full name."""
    values = {}
    for key in keys(cfg):
        node = cfg
        for name in key.split("."):
            node = node[name]
        values[key] = node
    return values


@pytest.mark.parametrize(
    "path", [p for p in (*STAGES, *EVALUATIONS) if "vit_h" in p.name], ids=by_name
)
def test_r50_and_vit_h_differ_in_the_backbone_only(path):
    twin = path.with_name(path.name.replace("vit_h", "r50"))
    large, small = dict_of(read(path)), dict_of(read(twin))
    differing = {key for key in large if large[key] != small[key]}
    allowed = {"MODEL.BACKBONE.NAME", "MODEL.HIPIE.PAD_AT_TEST", "MODEL.WEIGHTS", "OUTPUT_DIR"}
    if "part" in path.name:
        allowed |= {"MODEL.HIPIE.TEST.TOKEN_POOLING"}
    if "pretrain" in path.name:
        allowed |= {"SOLVER.IMS_PER_BATCH"}
    assert (
        {"MODEL.BACKBONE.NAME", "MODEL.HIPIE.PAD_AT_TEST"}
        <= differing
        <= allowed | {key for key in differing if key.startswith("MODEL.VIT.")}
    )


def test_the_stages_are_the_published_recipe():
    stages = {path.stem.removeprefix("hipie_r50_"): read(path) for path in STAGES}
    solver = {name: stages[name].SOLVER for name in ("pretrain", "joint", "parts")}
    assert [(s.IMS_PER_BATCH, s.STEPS, s.MAX_ITER) for s in solver.values()] == [
        (64, (312346,), 340741),
        (32, (55100, 84000), 91990),
        (32, (50000, 72000), 91990),
    ]
    for stage in solver.values():
        assert (stage.BASE_LR, stage.WEIGHT_DECAY, stage.WARMUP_ITERS) == (1e-4, 0.01, 2000)
        assert (stage.WARMUP_FACTOR, stage.MAX_GRAD_NORM) == (0, 0.1)
    assert stages["parts"].DATALOADER.DATASET_RATIO == (3.0, 1.0, 1.0)
    assert stages["parts"].MODEL.HIPIE.LOSS.PROPAGATE_PART_TO_WHOLE
    assert not stages["joint"].MODEL.HIPIE.LOSS.PROPAGATE_PART_TO_WHOLE
    texts = [stages[name].MODEL.HIPIE.TEXT.MAX_TOKENS for name in solver]
    assert texts == [512, 512, 1024]
    assert stages["pretrain"].INPUT.MIN_SIZE_TRAIN == (1024, 600, 800)
    assert [stages[name].INPUT.MAX_OBJECTS for name in solver] == [150, 0, 0]
    for before, after in (("pretrain", "joint"), ("joint", "parts")):
        start = stages[after].MODEL.WEIGHTS
        assert start == f"{stages[before].OUTPUT_DIR}/model_final.pth"


@pytest.mark.parametrize("path", [*STAGES, *EVALUATIONS], ids=by_name)
def test_a_reduced_model_predicts(path, tiny_text):
    cfg = read(path, *reduced_options(tiny_text))
    model = build_model(cfg).eval()
    item = {"image": torch.randint(0, 256, (3, 64, 96)).float(), "height": 32, "width": 48}
    tests = cfg.DATASETS.TEST
    if not tests or MetadataCatalog.get(tests[0]).evaluator_type == "refer":
        item["expressions"] = ["the dog", "the second cat from the left"]
        (result,) = model([item])
        assert len(result["referring"]) == 2
        assert all(r.pred_masks.shape == (1, 32, 48) for r in result["referring"])
        return
    (result,) = model([item])
    vocabulary = MetadataCatalog.get(tests[0]).vocabulary
    assert result["sem_seg"].shape == (len(vocabulary), 32, 48)
    assert result["sem_seg"].isfinite().all()
    assert result["panoptic_seg"][0].shape == (32, 48)
    assert ("part_seg" in result) == ("part_pq" in path.name)
    if cfg.MODEL.HIPIE.TEST.INSTANCE_ON:
        classes = result["instances"].pred_classes
        assert not len(classes) or int(classes.max()) < len(vocabulary)


def write_trees(root: Path, names: tuple[str, ...]) -> None:
    """Write trees of the data sets that a configuration evaluates on."""
    trees.coco(root)
    trees.ade20k(root)
    trees.pascal(root)
    odinw = {}
    for name in names:
        if name.startswith("refcoco"):
            trees.refcoco(root, *name.rsplit("-", 1))
        if name.startswith("odinw"):
            meta = MetadataCatalog.get(name)
            start = (
                Path(MetadataCatalog.get("coco_2017_val_instance").image_root).parents[1] / "odinw"
            )
            file, folder = Path(meta.json_file), Path(meta.image_root)
            odinw[str(file.relative_to(start))] = str(folder.relative_to(start))
    trees.in_the_wild(root, odinw)


TRAINING = {
    # The first layers are not frozen: they are random here.
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "SOLVER.MAX_ITER": 3,
    "SOLVER.STEPS": "()",
    "SOLVER.WARMUP_ITERS": 1,
    "SOLVER.IMS_PER_BATCH": 1,
    "DATALOADER.DATASET_RATIO": "()",
    "DATASETS.TEST": "()",
    "INPUT.MIN_SIZE_TRAIN": "(128,)",
    "INPUT.MAX_SIZE_TRAIN": 192,
    "INPUT.LSJ.SIZE": 128,
    "MODEL.HIPIE.LOSS.NUM_POINTS": 32,
    "MODEL.HIPIE.THINGS.DENOISING_QUERIES": 8,
    "MODEL.HIPIE.STUFF.DENOISING_QUERIES": 8,
}


@pytest.mark.slow
@pytest.mark.parametrize("path", TRAINED, ids=by_name)
def test_stages_train(path, tiny_text, tmp_path, monkeypatch):
    root = tmp_path / "sets"
    trees.coco(root, "train")
    trees.pascal(root)
    trees.coco_format(root)
    trees.refcoco(root, "refcoco-mixed", "train")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    output = tmp_path / "output"
    options = [str(item) for pair in TRAINING.items() for item in pair]
    done = train_net("--config-file", path, *reduced_options(tiny_text), *options, output=output)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (output / "model_final.pth").is_file()


def train_net(*arguments: object, output: Path) -> subprocess.CompletedProcess[str]:
    """Run train_net.py to its end."""
    return subprocess.run(
        [sys.executable, "train_net.py", *map(str, arguments), "OUTPUT_DIR", str(output)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def initial_weights(path: Path, options: list[str], folder: Path) -> Path:
    """Write the weights with which the model of a configuration is built."""
    cfg = model_zoo.get_config(str(path), [*options, "MODEL.DEVICE", "cpu"])
    save_weights(build_model(cfg), folder / "initial.pth", half=False)
    return folder / "initial.pth"


# Kind of configuration -> {"task" of any data set, or "dataset/task": metric}.
SCORES = {
    "coco": {"bbox": "AP", "segm": "AP", "sem_seg": "mIoU", "panoptic_seg": "PQ"},
    "ade20k": {"sem_seg": "mIoU", "panoptic_seg": "PQ", "bbox": "AP"},
    "pascal_context_459": {"sem_seg": "mIoU"},
    "voc": {"sem_seg": "mIoU", "pascal21_sem_seg_val/sem_seg": "mIoU"},
    "odinw": {"bbox": "AP"},
    "seginw": {"bbox": "AP", "segm": "AP", "seginw_Cows_val/segm": "AP"},
    "refcoco": {"refer": "oIoU", "refcocog-umd-test/refer": "mIoU"},
    "parts": {"parts": "mIoU_grouped"},
    "part_pq": {"part_pq": "PartPQ", "cityscapes_part_pq_val/part_pq": "PartPQ-parts"},
}


QUICK = (
    "hipie_r50_part_pq",
    "hipie_r50_seginw",
    "hipie_vit_h_pascal_context_459",
)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=() if path.stem in QUICK else pytest.mark.slow, id=path.stem)
        for path in EVALUATIONS
    ],
)
def test_evaluations_write_results(path, tiny_text, tmp_path, monkeypatch):
    write_trees(tmp_path / "sets", read(path).DATASETS.TEST)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    output = tmp_path / "output"
    options = ["--eval-only", *reduced_options(tiny_text)]
    options += ["MODEL.WEIGHTS", initial_weights(path, reduced_options(tiny_text), tmp_path)]
    done = train_net("--config-file", path, *options, output=output)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads((output / "results.json").read_text())
    kind = path.stem.removeprefix("hipie_r50_").removeprefix("hipie_vit_h_")
    for name, score in SCORES[kind].items():
        dataset, _, task = name.rpartition("/")
        scores = [
            tasks[task] for key, tasks in result.items() if dataset in ("", key) and task in tasks
        ]
        assert scores and all(score in metrics for metrics in scores), (name, result)

"""Configuration: consistent defaults, shipped files that merge, and messages for what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg

from hipie.config import add_hipie_config
from hipie.config.device import require_device
from hipie.config.loading import ConfigError, check, keys, merge

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(ROOT.glob("configs/**/*.yaml"))


@pytest.fixture
def cfg():
    """Detectron2's configuration with the keys of HIPIE."""
    node = get_cfg()
    add_hipie_config(node)
    return node


def test_defaults_are_the_published_model(cfg):
    hipie_keys = cfg.MODEL.HIPIE
    assert (hipie_keys.HIDDEN_DIM, hipie_keys.THINGS.NUM_QUERIES, hipie_keys.STUFF.NUM_QUERIES) == (
        256,
        900,
        300,
    )
    assert (hipie_keys.THINGS.DECODER_LAYERS, hipie_keys.STUFF.DECODER_LAYERS) == (6, 9)
    assert hipie_keys.LOSS.NUM_POINTS == 112 * 112
    assert hipie_keys.LOSS.OFFICIAL_BOX_FRAMES
    check(cfg)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_published_files_do_not_average_normalizers(cfg, path):
    published = "hipie_" in path.name and path.parent.name in ("universal", "eval")
    merge(cfg, path)
    assert published or path.name.startswith("Base-") or path.parent.name in ("nano", "finetune")
    assert published != cfg.MODEL.HIPIE.LOSS.AVERAGE_NORMALIZERS


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_merge(cfg, path):
    before = set(keys(cfg))
    merge(cfg, path)
    assert set(keys(cfg)) == before
    check(cfg)


def test_no_key_is_defined_twice():
    text = (ROOT / "hipie/config/defaults.py").read_text(encoding="utf-8")
    for block in re.split(r"^def ", text, flags=re.MULTILINE):
        assigned = re.findall(r"^    ((?:cfg|node)\.[\w.]+) = ", block, re.MULTILINE)
        assert len(assigned) == len(set(assigned))


def test_every_key_is_used(cfg):
    own = {key.rpartition(".")[2] for key in set(keys(cfg)) - set(keys(get_cfg()))}
    readers = [p for p in ROOT.glob("hipie/**/*.py") if p != ROOT / "hipie/config/defaults.py"]
    readers += ROOT.glob("projects/*/*/**/*.py")
    sources = "\n".join(path.read_text(encoding="utf-8") for path in readers)
    assert "EXPRESSIONS_PER_IMAGE" in own
    assert {name for name in own if not re.search(rf"\b{name}\b", sources)} == set()


def test_options_follow_the_file(cfg, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text("SOLVER:\n  MAX_ITER: 7\n  BASE_LR: 0.5\nVERSION: 2\n")
    options = ["SOLVER.MAX_ITER", "8", "DATASETS.TEST", '("a", "b")']
    merge(cfg, file, [*options, "MODEL.HIPIE.TEST.TOKEN_POOLING", "max"])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (8, 0.5)
    assert cfg.DATASETS.TEST == ("a", "b")
    assert cfg.MODEL.HIPIE.TEST.TOKEN_POOLING == "max"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["SOLVER.MAX_ITR", "3"], r"no key SOLVER\.MAX_ITR; similar names are SOLVER\.MAX_ITER"),
        (["NUM_QUERIES", "3"], r"no key NUM_QUERIES; similar names are MODEL\.\S+NUM_QUERIES"),
        (["SOLVER.MAX_ITER.X", "3"], r"no key SOLVER\.MAX_ITER\.X"),
        (["SOLVER", "3"], "no key SOLVER"),
        (["SOLVER.MAX_ITER", "abc"], r"SOLVER\.MAX_ITER cannot be 'abc': it is of type int"),
        (["SOLVER.MAX_ITER", "1e3"], r"SOLVER\.MAX_ITER cannot be '1e3'"),
        (["MODEL.HIPIE.TEXT.FROZEN", "yes"], r"FROZEN cannot be 'yes': it is of type bool"),
        (["SOLVER.BASE_LR", "1", "SOLVER.MAX_ITER"], r"SOLVER\.MAX_ITER has no value"),
    ],
)
def test_invalid_options_are_named(cfg, options, message):
    with pytest.raises(ConfigError, match=message) as raised:
        merge(cfg, "", options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "MODEL:\n  HIPIE:\n    WIDHT: 3\n",
            r"MODEL\.HIPIE\.WIDHT; similar names are MODEL\.HIPIE\.",
        ),
        (
            "SOLVER:\n  MAX_ITER: many\n",
            r"SOLVER\.MAX_ITER cannot have this value: it is of type int",
        ),
        ("SOLVER: [\n", "is not YAML"),
        ("- a\n- b\n", r"bad\.yaml: "),
        (
            "a: !!python/object/apply:os.system ['echo ran > ran']\n",
            r"line 1 has the tag \S+os\.system",
        ),
        ("_BASE_: absent.yaml\n", r"absent\.yaml cannot be read"),
    ],
)
def test_invalid_files_are_named(cfg, in_tmp, text, message):
    Path("bad.yaml").write_text(text + "VERSION: 2\n" * text.startswith(("MODEL", "SOLVER:\n")))
    with pytest.raises(ConfigError, match=message) as raised:
        merge(cfg, "bad.yaml")
    assert "\n" not in str(raised.value)
    assert not Path("ran").exists()


def test_a_missing_file_is_named(cfg, tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: there is no such file"):
        merge(cfg, tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.HIPIE.HIDDEN_DIM", 100, r"MODEL\.HIPIE\.HIDDEN_DIM is 100; .* a multiple of 32"),
        ("MODEL.HIPIE.HIDDEN_DIM", 0, r"MODEL\.HIPIE\.HIDDEN_DIM is 0"),
        ("MODEL.HIPIE.STUFF.NUM_HEADS", 3, r"a multiple of 3, which is .*STUFF\.NUM_HEADS"),
        ("MODEL.HIPIE.THINGS.FUSION_HEADS", 7, r"FUSION_EMBED_DIM is 2048; .*FUSION_HEADS"),
        ("MODEL.HIPIE.THINGS.NUM_QUERIES", 0, r"THINGS\.NUM_QUERIES is 0; .* at least 1"),
        ("MODEL.HIPIE.TEST.TOKEN_POOLING", "sum", r"TOKEN_POOLING is 'sum'; .* mean or max"),
        ("INPUT.FORMAT", "YUV-BT.601", r"INPUT\.FORMAT is 'YUV-BT\.601'; .* RGB or BGR"),
        ("MODEL.DEVICE", "gpu", r"MODEL\.DEVICE is 'gpu'"),
        ("SOLVER.AMP.PRECISION", "float8", r"SOLVER\.AMP\.PRECISION is 'float8'; .* or float16"),
        ("SOLVER.CHECKPOINT_PERIOD", 0, r"SOLVER\.CHECKPOINT_PERIOD is 0"),
        ("TEST.BEST_CHECKPOINT_METRIC", "segm/AP", r"METRIC is 'segm/AP'; .* data set/task/metric"),
        ("TEST.BEST_CHECKPOINT_METRIC", "nowhere/segm/AP", r"one of DATASETS\.TEST"),
        ("INPUT.RANDOM_FLIP", "both", r"RANDOM_FLIP is 'both'; .* horizontal or vertical or none"),
        ("INPUT.MIN_SIZE_TRAIN", (), r"MIN_SIZE_TRAIN is \(\); it has to be not empty"),
        ("INPUT.MIN_SIZE_TRAIN", (64, -1), r"MIN_SIZE_TRAIN is \(64, -1\); .* at least 0"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", r"two lengths with MIN_SIZE_TRAIN_SAMPLING"),
        (
            "INPUT.LSJ.MAX_SCALE",
            0.05,
            r"LSJ\.MAX_SCALE is 0\.05; .* at least INPUT\.LSJ\.MIN_SCALE",
        ),
        ("MODEL.HIPIE.TEST.TEMPERATURE", 0.0, r"TEST\.TEMPERATURE is 0\.0; .* above 0"),
        ("MODEL.HIPIE.CLIP.THING_TEMPERATURE", -1.0, r"THING_TEMPERATURE is -1\.0; .* above 0"),
        ("MODEL.HIPIE.TEST.NMS_THRESHOLD", 1.5, r"NMS_THRESHOLD is 1\.5; .* from 0 to 1"),
        ("MODEL.HIPIE.OBJECT_MASK_THRESHOLD", float("nan"), r"OBJECT_MASK_THRESHOLD is nan"),
        ("MODEL.HIPIE.OVERLAP_THRESHOLD", -0.1, r"OVERLAP_THRESHOLD is -0\.1; .* from 0 to 1"),
        ("MODEL.HIPIE.CLIP.ALPHA", (0.3,), r"CLIP\.ALPHA is \(0\.3,\); .* of things and of stuff"),
        ("MODEL.HIPIE.CLIP.BETA", (0.3, 2.0), r"CLIP\.BETA is \(0\.3, 2\.0\); .* from 0 to 1"),
        ("SOLVER.BASE_LR", float("inf"), r"SOLVER\.BASE_LR is inf; .* at least 0"),
        ("SOLVER.GAMMA", float("nan"), r"SOLVER\.GAMMA is nan"),
        ("DATALOADER.NUM_WORKERS", -1, r"NUM_WORKERS is -1; .* at least 0"),
        ("TEST.BEST_CHECKPOINT_MODE", "best", r"MODE is 'best'; it has to be max or min"),
    ],
)
def test_invalid_values_are_named(cfg, key, value, message):
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=message):
        check(cfg)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_device_that_is_there_is_returned(device) -> None:
    assert require_device(device) == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", object(), "meta", "cuda:93", "xpu", "mps:7"])
def test_device_that_is_not_there_is_one_sentence(device) -> None:
    with pytest.raises(ConfigError, match="does not exist|is not available") as raised:
        require_device(device)
    assert len(str(raised.value).splitlines()) == 1

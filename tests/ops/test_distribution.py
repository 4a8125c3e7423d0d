"""`hipie-ops`: the operator as a distribution of its own, alone and beside `hipie`."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from hipie.ops import library

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "packages/hipie-ops"
TORCH = re.match(r"\d+\.\d+", torch.__version__)[0]

# A client with a function of the form of transformers and mmcv, in its own words.
CLIENT = """
import torch
import torch.nn.functional as F

def core(value, value_spatial_shapes, sampling_locations, attention_weights):
    batch, _, heads, width = value.shape
    queries = sampling_locations.shape[1]
    grid = 2 * sampling_locations.transpose(1, 2).flatten(0, 1) - 1
    weights = attention_weights.transpose(1, 2).flatten(0, 1)
    total, start = 0, 0
    for level, (rows, columns) in enumerate(value_spatial_shapes):
        tokens = value[:, start : start + rows * columns].permute(0, 2, 3, 1)
        start += rows * columns
        image = tokens.reshape(batch * heads, width, rows, columns)
        samples = F.grid_sample(image, grid[:, :, level], align_corners=False)
        total = total + (samples * weights[:, None, :, level]).sum(-1)
    return total.view(batch, heads * width, queries).transpose(1, 2)
"""

# Output and gradients of the client on its own code and on the operator, in float64.
USE = """
import client
import torch

generator = torch.Generator().manual_seed(0)
levels = [(4, 6), (2, 3)]
inputs = [
    torch.randn((2, 30, 2, 8), generator=generator, dtype=torch.float64),
    torch.rand((2, 5, 2, 2, 3, 2), generator=generator, dtype=torch.float64) * 1.4 - 0.2,
    torch.rand((2, 5, 2, 2, 3), generator=generator, dtype=torch.float64),
]

def outcome(function):
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output = function(leaves[0], levels, *leaves[1:])
    output.square().mean().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves)]

plain, before = outcome(client.core), id(client.core)
with hipie_ops.patch("client") as handle:
    assert "client.core" in handle.served, str(handle)
    assert id(client.core) != before
    served = outcome(client.core)
assert id(client.core) == before
shapes = torch.tensor(levels)
starts = torch.tensor([0, 24])
operator = hipie_ops.ms_deform_attn
direct = outcome(lambda value, levels, *rest: operator(value, shapes, starts, *rest))
for result in (served, direct):
    for ours, theirs in zip(result, plain, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-10 * float(theirs.abs().max())
"""


def python(program: str, *paths: Path, **options: str) -> subprocess.CompletedProcess[str]:
    """Run a program with these folders on its path, and no others but the environment's."""
    joined = os.pathsep.join(str(path) for path in paths)
    environment = {**os.environ, "PYTHONPATH": joined, **options}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_beside_hipie_both_names_are_one_operator():
    run = python(
        """
        import hipie_ops, hipie_ops.check, hipie_ops.drop_in, MultiScaleDeformableAttention
        import hipie.ops, hipie.ops.check, hipie.ops.stand_in_modules as modules
        assert hipie_ops.IMPLEMENTATION == "hipie.ops"
        for name in hipie_ops.__all__:
            assert getattr(hipie_ops, name) is getattr(hipie.ops, name), name
        assert hipie_ops.__all__ == hipie.ops.__all__
        assert hipie_ops.check.main is hipie.ops.check.main
        function = MultiScaleDeformableAttention.ms_deform_attn_forward
        assert function is modules.ms_deform_attn_forward
        """,
        ROOT,
        PACKAGE,
    )
    assert run.returncode == 0, run.stderr


@pytest.fixture
def link(tmp_path):
    """A folder from which `hipie_ops` can be imported and `hipie` cannot."""
    (tmp_path / "hipie_ops").symlink_to(PACKAGE / "hipie_ops")
    return tmp_path


# Hides an installed `hipie`, as an editable one is found by a hook.
ALONE = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "hipie" else real(name, *rest)
import hipie_ops
importlib.util.find_spec = real
assert hipie_ops.IMPLEMENTATION == "hipie_ops._ops"
assert "hipie" not in sys.modules
"""


def test_alone_it_has_its_own_copy_which_excludes_a_second_one(link, tmp_path):
    (tmp_path / "client.py").write_text(CLIENT)
    program = f"""
import warnings
warnings.simplefilter("ignore")  # where no kernel is built
{ALONE}
assert "pip install" in hipie_ops._ops.explanation.build_command() or "setup.py" in (
    hipie_ops._ops.explanation.build_command()
)
{USE if library.cpu_problem is None else ""}
sys.path.insert(0, {str(ROOT)!r})
try:
    import hipie.ops
except ImportError as error:
    print(error)
"""
    run = python(program, link)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("hipie.ops cannot be imported: hipie_ops was imported")


def test_messages_name_the_distribution_that_is_installed(link):
    run = python(
        f"""
{ALONE}
from hipie_ops._ops import patching
patching.cpu_problem = patching.cuda_problem = "it was not built"
try:
    hipie_ops.patch()
except hipie_ops.OperatorNotBuiltError as error:
    print(error)
hipie_ops._ops.explanation.CPU_LIBRARY = hipie_ops._ops.explanation.Path("/nowhere/a/b/_C.so")
print(hipie_ops._ops.explanation.build_command())
""",
        link,
    )
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first.startswith("hipie_ops.patch needs the compiled operator")
    assert "`python -m hipie_ops.check` reports more" in first
    assert second == "pip install --no-build-isolation --no-deps --force-reinstall hipie-ops"


@pytest.mark.parametrize(("built", "problem"), [("1.13.1", "torch 1.13"), (TORCH, "load")])
def test_a_library_for_another_release_of_torch_is_not_loaded(built, problem, tmp_path):
    file = tmp_path / "_C.so"
    file.write_bytes(b"\x7fELF\0hipie: built for torch " + built.encode() + b"\0")
    reason = library._load(file)
    assert problem in reason
    assert torch.__version__ in reason
    assert reason.startswith("it was built for torch 1.13 and torch") == (built != TORCH)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The source distribution and the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    program = [sys.executable, ROOT / "install/build_wheels.py", "--output", folder]
    run = subprocess.run(program, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    source, wheel = (Path(line) for line in run.stdout.splitlines()[-2:])
    return source, wheel


@pytest.mark.slow
def test_contents_of_the_distributions(distributions):
    source, wheel = distributions
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    ours = [path for path in (ROOT / "hipie/ops").rglob("*") if path.suffix not in (".so", ".pyc")]
    files = {path.relative_to(ROOT / "hipie/ops").as_posix() for path in ours if path.is_file()}
    assert {f"hipie_ops/_ops/{name}" for name in files} <= names
    assert not any(name.endswith(".so") for name in names)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert [name for name in names if ".so" in name] == ["hipie_ops/_ops/_C.so"]
    assert not any(name.endswith((".cpp", ".h", ".cu")) for name in names)
    assert f"+torch{TORCH}-py3-none-" in wheel.name
    assert ("-manylinux" in wheel.name) == (sys.platform == "linux")
    (line,) = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    requirement = Requirement(line.partition(":")[2].strip())
    assert requirement.name == "torch"
    major, minor = map(int, TORCH.split("."))
    assert requirement.specifier.contains(f"{major}.{minor}.7")
    assert not requirement.specifier.contains(f"{major}.{minor + 1}.0")


def link_torch(folder: Path) -> None:
    """Link torch and what it requires, and nothing else of this environment, into a folder."""
    pending, linked = ["torch"], set()
    while pending:
        name = pending.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        if distribution.metadata["Name"] in linked:
            continue
        linked.add(distribution.metadata["Name"])
        requirements = [Requirement(line) for line in distribution.requires or []]
        pending += [
            requirement.name
            for requirement in requirements
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
        entries = {file.parts[0] for file in distribution.files if file.parts[0] != ".."}
        for entry in entries - {"__pycache__", "setuptools", "pkg_resources", "_distutils_hack"}:
            if not (folder / entry).exists():
                (folder / entry).symlink_to(distribution.locate_file(entry))


@pytest.mark.slow
def test_the_wheel_works_where_torch_alone_is_installed(distributions, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    interpreter = tmp_path / "venv/bin/python"
    pip = [interpreter, "-m", "pip", "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", distributions[1]], check=True)
    (site,) = tmp_path.glob("venv/lib/python*/site-packages")
    link_torch(site)
    (site / "client.py").write_text(CLIENT)
    program = f"""
import importlib.util, sys
import hipie_ops
for name in ("hipie", "detectron2", "numpy", "torchvision", "transformers"):
    assert importlib.util.find_spec(name) is None, name
assert hipie_ops.IMPLEMENTATION == "hipie_ops._ops"
assert hipie_ops.__file__.startswith({str(site)!r})
assert str(hipie_ops.explain()).startswith("runs:    native CPU kernel")
from hipie_ops._ops import library
assert library.built_for(library.CPU_LIBRARY) == {tuple(map(int, TORCH.split(".")))}
{USE}
"""
    run = subprocess.run([interpreter, "-I", "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    check = [interpreter, "-I", "-m", "hipie_ops.check", "--repeats", "0"]
    run = subprocess.run(check, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "passed"

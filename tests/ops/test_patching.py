"""`hipie.ops.patch` against the fallbacks of transformers, and against clients written here."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import hipie.ops
from hipie.ops import client_forms, ms_deform_attn_reference, patching
from hipie.ops.installed_clients import installed_clients
from tests.ops import client_models

LEVELS = [(4, 6), (2, 3), (1, 2)]
TOKENS = sum(height * width for height, width in LEVELS)


@pytest.fixture(autouse=True)
def nothing_stays_patched():
    yield
    hipie.ops.unpatch()
    assert not patching._state.replacements
    assert patching._state.hook not in sys.meta_path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write modules of a client; they are forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(**sources):
        for name, source in sources.items():
            file = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"shelf", "groundingdino", "detrex"} or "shelf" in name:
            del sys.modules[name]


# A core function of the form that most projects have, by the formula of the reference.
CORE = """
import torch
from hipie.ops.reference import ms_deform_attn_reference

def core(value, value_spatial_shapes, sampling_locations, attention_weights):
    shapes = torch.as_tensor(value_spatial_shapes)
    areas = shapes.prod(1)
    starts = areas.cumsum(0) - areas
    return ms_deform_attn_reference(value, shapes, starts, sampling_locations, attention_weights)
"""


def tensors(points=4, *, rank=6, dtype=torch.float64, seed=0):
    """Value, locations and weights; with rank 5 the points of all levels in one dimension."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn((2, TOKENS, 2, 8), generator=generator, dtype=dtype)
    places = (2, 5, 2, len(LEVELS), points) if rank == 6 else (2, 5, 2, points)
    locations = torch.rand((*places, 2), generator=generator, dtype=dtype) * 1.4 - 0.2
    return value, locations, torch.rand(places, generator=generator, dtype=dtype)


def outcome(function, inputs):
    """Output and gradients."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output = function(*leaves)
    output.square().mean().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def relative(first, second):
    pairs = zip(first, second, strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def calls_of_operator(function):
    """How often a function calls the operator."""
    counts = []

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.hipie.ms_deform_attn.default:
                counts.append(func)
            return func(*args, **(kwargs or {}))

    with Count(), torch.no_grad():
        function()
    return len(counts)


def found_in_transformers():
    pytest.importorskip("transformers")
    (client,) = [client for client in installed_clients() if client.name == "transformers"]
    return client


def call(module, name, title):
    """A call of a client's function or layer with value, locations and weights."""
    shapes = torch.tensor(LEVELS)
    areas = shapes.prod(1)
    if title == client_forms.LAYER.title:
        layer = getattr(module, name.partition(".")[0])()
        starts = areas.cumsum(0) - areas
        return lambda value, *rest: layer(value, shapes, LEVELS, starts, *rest, 64)
    if title == client_forms.POINTS_PER_LEVEL.title:
        points = [3, 6, 2]
        return lambda value, *rest: getattr(module, name)(value, LEVELS, *rest, points)
    return lambda value, *rest: getattr(module, name)(value, LEVELS, *rest)


def test_every_function_and_layer_of_transformers_is_found_and_served():
    client = found_in_transformers()
    families = {name.split(".")[2] for name in client.served}
    assert {"deformable_detr", "mask2former", "oneformer", "grounding_dino"} <= families
    assert {"rt_detr", "rt_detr_v2", "d_fine", "omdet_turbo", "mm_grounding_dino"} <= families
    for place, title in client.served.items():
        module_name, _, name = place.partition(":")
        module = importlib.import_module(module_name)
        flat = title == client_forms.POINTS_PER_LEVEL.title
        inputs = tensors(11 if flat else 4, rank=5 if flat else 6)
        run = call(module, name, title)
        plain = outcome(run, inputs)
        assert calls_of_operator(lambda run=run, inputs=inputs: run(*inputs)) == 0
        with hipie.ops.patch("transformers") as handle:
            assert f"{module_name}.{name}" in handle.served
            assert calls_of_operator(lambda run=run, inputs=inputs: run(*inputs)) == 1
            served = outcome(run, inputs)
        assert relative(plain, served) < 1e-5, place
        assert calls_of_operator(lambda run=run, inputs=inputs: run(*inputs)) == 0


QUICK = {"deformable_detr", "mask2former", "rt_detr_v2_discrete", "d_fine_points_per_level"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in client_models.FAMILIES
    ],
)
def test_models_of_transformers_have_the_same_outputs_and_gradients(name):
    pytest.importorskip("transformers")
    model = client_models.build(name).double()
    plain, plain_gradients = client_models.results(model, name)
    with hipie.ops.patch("transformers"):
        served, served_gradients = client_models.results(model, name)
        count = calls_of_operator(lambda: client_models.run(model, name))
        later = client_models.build(name).double()  # built while patched
        same, _ = client_models.results(later, name)
    assert (count == 0) == name.endswith("discrete")
    assert relative(plain, served) < 1e-5
    assert relative(plain, same) < 1e-5
    assert plain_gradients.keys() == served_gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in plain_gradients.values())
    for key, gradient in plain_gradients.items():
        bound = 1e-5 * float(gradient.abs().max()) + 1e-12 * largest
        assert float((gradient - served_gradients[key]).abs().max()) <= bound, key
    assert calls_of_operator(lambda: client_models.run(model, name)) == 0
    assert calls_of_operator(lambda: client_models.run(later, name)) == 0


def test_outputs_in_float32_are_the_same():
    pytest.importorskip("transformers")
    model = client_models.build("mask2former")
    plain, _ = client_models.results(model, "mask2former")
    with hipie.ops.patch("transformers"):
        served, _ = client_models.results(model, "mask2former")
    assert relative(plain, served) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "part"),
    [("aot_eager", ""), ("inductor", "model.pixel_level_module.decoder.encoder")],
)
def test_compiled_and_patched_mask2former_has_the_same_outputs(backend, part):
    """The whole model as a graph, and its deformable encoder by the compiler for C++."""
    pytest.importorskip("transformers")
    model = client_models.build("mask2former").double()
    counter = CompileCounterWithBackend(backend)
    torch._dynamo.reset()
    with torch.no_grad():
        plain = client_models.run(model, "mask2former")
        model.get_submodule(part).compile(backend=counter)
        with hipie.ops.patch("transformers"):
            served = client_models.run(model, "mask2former")
    assert relative(plain, served) < 1e-5
    targets = [str(node.target) for graph in counter.graphs for node in graph.graph.nodes]
    layers = model.config.encoder_layers
    assert len([target for target in targets if "hipie.ms_deform_attn" in target]) == layers


def test_unpatching_restores_the_very_objects(package):
    package(shelf=CORE, shelf_user="from shelf import core as mine\n")
    import shelf
    import shelf_user

    class MultiScale(nn.Module):
        def __init__(self):
            super().__init__()
            self.function = shelf.core

        def forward(
            self,
            value,
            value_spatial_shapes,
            value_spatial_shapes_list,
            level_start_index,
            sampling_locations,
            attention_weights,
            im2col_step,
        ):
            return shelf.core(
                value, value_spatial_shapes_list, sampling_locations, attention_weights
            )

    shelf.MultiScale = MultiScale
    layer = MultiScale()
    core, forward, meta_path = shelf.core, MultiScale.forward, list(sys.meta_path)
    handle = hipie.ops.patch()
    assert shelf.core is not core
    assert shelf.core is shelf_user.mine is layer.function
    assert MultiScale.forward is not forward
    stale = shelf.core
    built = MultiScale()
    hipie.ops.unpatch()
    assert shelf.core is shelf_user.mine is layer.function is built.function is core
    assert MultiScale.forward is forward
    assert sys.meta_path == meta_path
    assert "undone" in str(handle)
    assert calls_of_operator(lambda: stale(*_core_arguments())) == 0  # a reference kept elsewhere
    hipie.ops.unpatch()  # again: nothing


def _core_arguments():
    value, locations, weights = tensors()
    return value, LEVELS, locations, weights


def test_two_patches_at_once(package):
    package(shelf=CORE, shelf_other=CORE)
    import shelf
    import shelf_other

    originals = shelf.core, shelf_other.core
    first = hipie.ops.patch("shelf")
    assert (shelf.core is originals[0], shelf_other.core is originals[1]) == (False, True)
    with hipie.ops.patch("shelf", "shelf_other") as second:
        assert set(first.served) == {"shelf.core"}
        assert set(second.served) == {"shelf.core", "shelf_other.core"}
    assert (shelf.core is originals[0], shelf_other.core is originals[1]) == (False, True)
    assert calls_of_operator(lambda: shelf.core(*_core_arguments())) == 1
    first.undo()
    first.undo()
    assert (shelf.core, shelf_other.core) == originals


def test_module_that_is_imported_later_is_served(package):
    package(shelf=CORE)
    with hipie.ops.patch() as handle:
        import shelf

        assert "serves shelf.core (function)" in str(handle)
        assert calls_of_operator(lambda: shelf.core(*_core_arguments())) == 1
        assert not isinstance(shelf.__loader__, patching._Loader)
        assert shelf.__spec__.loader is shelf.__loader__
    assert shelf.core.__module__ == "shelf"
    assert not hasattr(shelf.core, "__wrapped__")


def test_unknown_signatures_and_other_computations_are_left_alone(package, caplog):
    package(
        shelf_signature=CORE.replace("attention_weights):", "attention_weights, mode=0):"),
        shelf_variadic=CORE.replace("attention_weights):", "attention_weights, **more):"),
        shelf_numbers=CORE + "\nright = core\ndef core(value, value_spatial_shapes, "
        "sampling_locations, attention_weights):\n    return 2 * right(value, value_spatial_shapes,"
        " sampling_locations, attention_weights)\n",
        shelf_error=CORE.replace("    areas =", "    raise OSError\n    areas ="),
    )
    names = ["shelf_signature", "shelf_variadic", "shelf_numbers", "shelf_error"]
    modules = [importlib.import_module(name) for name in names]
    functions = [module.core for module in modules]
    with caplog.at_level(logging.WARNING), hipie.ops.patch(*names) as handle:
        assert [module.core for module in modules] == functions
        reasons = handle.left_alone
        assert "mode" in reasons["shelf_signature.core"]
        assert "*" in reasons["shelf_variadic.core"]
        assert "other numbers" in reasons["shelf_numbers.core"]
        assert "OSError" in reasons["shelf_error.core"]
        assert "leaves shelf_numbers.core alone" in str(handle)
        hipie.ops.patch(*names)  # the second call does not repeat the lines
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "alone" in line]) == len(names)


@pytest.mark.parametrize("points", [[2, 2, 2], [1, 4, 2], [0, 3, 1]])
def test_points_per_level_are_padded_by_points_that_count_nothing(points):
    value, locations, weights = tensors(sum(points), rank=5)
    shapes, starts = client_forms.level_tables(LEVELS, value)

    def padded(value, locations, weights):
        sampled = client_forms.rectangular(locations, weights, points)
        return hipie.ops.ms_deform_attn(value, shapes, starts, *sampled)

    def by_level(value, locations, weights):
        total = 0
        for level, (part, weight) in enumerate(
            zip(locations.split(points, 3), weights.split(points, 3), strict=True)
        ):
            start, area = int(starts[level]), int(shapes[level].prod())
            total = total + ms_deform_attn_reference(
                value[:, start : start + area],
                shapes[level : level + 1],
                torch.tensor([0]),
                part[:, :, :, None],
                weight[:, :, :, None],
            )
        return total

    inputs = (value, locations, weights)
    assert relative(outcome(by_level, inputs), outcome(padded, inputs)) < 1e-12


def test_autocast_has_the_dtype_and_the_numbers_of_the_fallback():
    client = importlib.import_module("transformers.models.mask2former.modeling_mask2former")
    value, locations, weights = tensors(dtype=torch.float32)
    for kinds in [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)]:
        arguments = (value.to(kinds[0]), LEVELS, locations, weights.to(kinds[1]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            plain = client.multi_scale_deformable_attention(*arguments)
            with hipie.ops.patch("transformers"):
                served = client.multi_scale_deformable_attention(*arguments)
        assert served.dtype == plain.dtype
        assert relative([plain], [served]) < 1e-5


def test_mixed_dtypes_get_the_error_of_the_client():
    client = importlib.import_module("transformers.models.mask2former.modeling_mask2former")
    value, locations, weights = tensors(dtype=torch.float32)
    with hipie.ops.patch("transformers"), pytest.raises(RuntimeError, match="expected scalar type"):
        client.multi_scale_deformable_attention(value.double(), LEVELS, locations, weights)


# The autograd function of Deformable DETR and its descendants, and of GroundingDINO and detrex.
FUNCTION = """
import torch
{imports}

class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, shapes, starts, locations, weights, step):
        ctx.step = step
        ctx.save_for_backward(value, shapes, starts, locations, weights)
        return extension.ms_deform_attn_forward(value, shapes, starts, locations, weights, step)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        first, second, third = extension.ms_deform_attn_backward(
            *ctx.saved_tensors, gradient, ctx.step
        )
        return first, None, None, second, third, None
"""
IMPORTS = {
    "shelf.functions": "import MultiScaleDeformableAttention as extension",
    "groundingdino.functions": "from groundingdino import _C as extension",
    "detrex.functions": "from detrex import _C as extension",
}


@pytest.mark.parametrize("name", IMPORTS)
def test_missing_extensions_are_stood_in_for(name, package, monkeypatch):
    monkeypatch.delitem(sys.modules, "MultiScaleDeformableAttention", raising=False)
    root = name.partition(".")[0]
    package(
        **{f"{root}____init__": "", f"{root}__functions": FUNCTION.format(imports=IMPORTS[name])}
    )
    with pytest.raises(ImportError):
        importlib.import_module(name)
    with hipie.ops.patch() as handle:
        client = importlib.import_module(name)
        extension = client.extension.__name__
        assert handle.served[extension] == "stand-in for an extension module"
        shapes, starts = client_forms.level_tables(LEVELS, torch.zeros(()))
        inputs = tensors()
        served = outcome(
            lambda value, *rest: client.Function.apply(value, shapes, starts, *rest, 64), inputs
        )
        plain = outcome(
            lambda value, *rest: ms_deform_attn_reference(value, shapes, starts, *rest), inputs
        )
        assert relative(plain, served) < 1e-5
        if root != "shelf":
            with pytest.raises(NotImplementedError, match="dcnv3_forward"):
                client.extension.dcnv3_forward()
        else:
            assert not hasattr(client.extension, "dcnv3_forward")
    assert extension not in sys.modules
    assert not hasattr(sys.modules[root], "_C")
    with pytest.raises(ImportError):
        importlib.import_module(extension)


@pytest.mark.parametrize("early", [True, False])
def test_compiled_extensions_are_replaced_where_there_is_a_kernel(early, package, monkeypatch):
    monkeypatch.delitem(sys.modules, "MultiScaleDeformableAttention", raising=False)
    package(
        MultiScaleDeformableAttention="def ms_deform_attn_forward(value, *rest): return 'theirs'\n"
        "def ms_deform_attn_backward(value, *rest): return 'theirs'\n"
    )
    name = "MultiScaleDeformableAttention"
    if early:
        importlib.import_module(name)
    with hipie.ops.patch() as handle:
        extension = importlib.import_module(name)
        assert handle.served[name] == "extension module"
        value, locations, weights = tensors()
        tables = client_forms.level_tables(LEVELS, value)
        output = extension.ms_deform_attn_forward(value, *tables, locations, weights, 64)
        assert relative(
            [ms_deform_attn_reference(value, *tables, locations, weights)], [output]
        ) < (1e-5)
        assert extension.ms_deform_attn_forward(value.to("meta")) == "theirs"
    assert extension.ms_deform_attn_forward(value) == "theirs"
    del sys.modules[name]


def test_threads_see_the_same_numbers_while_others_patch(package):
    package(shelf=CORE)
    import shelf

    arguments = _core_arguments()
    expected = shelf.core(*arguments)
    errors = []
    stop = threading.Event()

    def compute():
        while not stop.is_set():
            if relative([expected], [shelf.core(*arguments)]) > 1e-10:
                errors.append("a wrong number")

    def toggle():
        for _ in range(10):
            with hipie.ops.patch("shelf"):
                shelf.core(*arguments)

    workers = [threading.Thread(target=compute) for _ in range(2)]
    togglers = [threading.Thread(target=toggle) for _ in range(2)]
    for thread in (*workers, *togglers):
        thread.start()
    for thread in togglers:
        thread.join()
    stop.set()
    for thread in workers:
        thread.join()
    assert not errors
    assert not hasattr(shelf.core, "__wrapped__")


def test_without_a_kernel_nothing_is_patched(package, monkeypatch):
    package(shelf=CORE)
    import shelf

    monkeypatch.setattr(patching, "cpu_problem", "it was not built: _C.so is missing")
    monkeypatch.setattr(patching, "cuda_problem", "torch has no CUDA")
    with pytest.raises(hipie.ops.OperatorNotBuiltError, match="hipie doctor") as caught:
        hipie.ops.patch()
    assert "it was not built" in str(caught.value)
    assert "build" in str(caught.value)
    assert not hasattr(shelf.core, "__wrapped__")


def test_tensors_on_a_device_without_a_kernel_take_the_fallback(package, monkeypatch):
    package(shelf=CORE)
    import shelf

    monkeypatch.setattr(client_forms, "cpu_problem", "it was not built")
    with hipie.ops.patch("shelf"):
        assert calls_of_operator(lambda: shelf.core(*_core_arguments())) == 0


@pytest.mark.slow
def test_mmcv_from_the_package_index(tmp_path):
    """mmcv-lite has no extension; it is in a folder of its own, as it brings another `cv2`."""
    names = ["mmcv-lite==2.2.0", "mmengine", "addict", "yapf"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    done = subprocess.run([*install, tmp_path, *names], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("mmcv-lite 2.2.0 cannot be installed here: " + done.stderr[-200:])
    paths = [str(Path(__file__).parents[2]), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    program = [sys.executable, Path(__file__).with_name("mmcv_program.py")]
    run = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.split()[-1]) < 1e-5

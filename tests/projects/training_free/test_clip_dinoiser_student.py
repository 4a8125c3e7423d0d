"""CLIP-DINOiser's student: features, losses, learning of a random teacher, and its checkpoints."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hipie import Segmenter, model_zoo
from hipie.checkpoint import load_weights
from hipie.vocabularies import Vocabulary
from hipie_training_free import CLIPDINOiser, CLIPDINOiserStudent
from hipie_training_free.clip_dinoiser import pool_by_affinity
from hipie_training_free.meta_arch import ClassificationConfig, InferenceConfig
from hipie_training_free.modeling.found_background import SaliencyLayer
from tests.projects.training_free.ruled import fill_from_names, normal_tensor


@pytest.fixture
def student(clip, dino):
    torch.manual_seed(0)
    teacher = {"dino": dino, "saliency": None}
    return CLIPDINOiserStudent(clip=clip, teacher=lambda: teacher, channels=32).eval()


def images(count: int) -> list[dict]:
    """Images of coloured blocks, so that patches have affinities."""
    items = []
    for seed in range(count):
        coarse = normal_tensor(f"blocks {seed}", 1, 3, 3, 3)
        image = F.interpolate(coarse, size=(64, 64), mode="nearest")[0]
        items.append({"image": (128 + 60 * image).clamp(0, 255)})
    return items


def test_features_are_those_of_clips_blocks(student, clip):
    """Read by hooks on CLIP's own forward pass; the last block's are MaskCLIP's."""
    from hipie_training_free import MaskCLIP

    pixels = normal_tensor("pixels", 1, 3, 64, 64)
    outputs = []
    blocks = clip.visual.transformer.resblocks
    handle = blocks[-3].ln_2.register_forward_hook(lambda m, i, output: outputs.append(output))
    with torch.no_grad():
        clip.model.encode_image(pixels)
        handle.remove()
        read, features = student.encode_patches(pixels)
        text = F.normalize(torch.randn(4, 48), dim=1)
        cosines = MaskCLIP(clip=clip).cosines(pixels, text)
    torch.testing.assert_close(read[0].flatten(1).t(), outputs[0][0, 1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        (F.normalize(features, dim=1) @ text.t()).t().unflatten(1, (8, 8)),
        cosines,
        atol=1e-5,
        rtol=1e-4,
    )


def test_losses_equal_sums_over_patches(student):
    (item,) = images(1)
    with torch.no_grad():
        losses = student.losses([item])
    image = student.rgb_image(item)
    with torch.no_grad():
        read = student.encode_patches(student.preprocess(image))[0]
        values, logits = (x.double() for x in student.predict(read))
        guide = student.teach(image, (8, 8))
    cosines = F.cosine_similarity(values[:, None], values[None], dim=-1).clamp(min=0)

    def entropy(x, target):
        p = x.sigmoid()
        return float(-(target * p.log() + (1 - target) * (1 - p).log()).mean())

    assert float(losses["loss_affinity"]) == pytest.approx(entropy(cosines, guide[0]), rel=1e-5)
    assert float(losses["loss_saliency"]) == pytest.approx(entropy(logits, guide[1]), rel=1e-5)
    assert 0 < float(guide[0].mean()) < 1 and bool(guide[0].diagonal().all())


def test_it_learns_the_affinities_of_a_random_teacher(student):
    """Cosines of an image that is not in training correlate more with the teacher's."""
    *training, unknown = images(5)
    image = student.rgb_image(unknown)
    target = student.teach(image, (8, 8))[0]

    @torch.no_grad()
    def correlation() -> float:
        values = student.predict(student.encode_patches(student.preprocess(image))[0])[0]
        unit = F.normalize(values, dim=1)
        off_diagonal = ~torch.eye(64, dtype=torch.bool)
        pairs = torch.stack([(unit @ unit.t())[off_diagonal], target[off_diagonal]])
        return float(torch.corrcoef(pairs)[0, 1])

    before = correlation()
    optimizer = torch.optim.AdamW(
        [{"params": student.affinity.parameters()}, {"params": student.saliency.parameters()}], 2e-3
    )
    losses = []
    for _ in range(40):
        loss = sum(student.losses(training).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05
    assert correlation() > before + 0.1


def test_only_the_convolutions_are_trained_and_stored(student, tmp_path):
    from hipie.checkpoint import save_weights

    trained = {n for n, p in student.named_parameters() if p.requires_grad}
    assert trained == {
        f"{layer}.{kind}" for layer in ("affinity", "saliency") for kind in ("weight", "bias")
    }
    file = tmp_path / "student.safetensors"
    save_weights(student, file)
    from safetensors.torch import load_file

    assert set(load_file(file)) == trained
    assert student.learning_rate_multipliers() == [("saliency", 200.0)]


def test_pooling_uses_the_predicted_values(student):
    (item,) = images(1)
    image = student.rgb_image(item)
    guide = student.guide_pooling(image)
    unit = F.normalize(guide.values, dim=1).double()
    weights = unit @ unit.t()
    weights[weights < 0.2] = 0
    expected = weights @ guide.features.double() / weights.sum(1, keepdim=True)
    pooled = pool_by_affinity(guide.features, guide.values, 0.2)
    torch.testing.assert_close(pooled.double(), expected, atol=1e-5, rtol=1e-4)
    item["vocabulary"] = Vocabulary.from_names(["dog", "cat"])
    assert student([item])[0]["sem_seg"].shape == (2, 64, 64)


def test_a_file_of_the_authors_is_loaded(student, tmp_path):
    """As their program writes it: the four tensors below `model_state_dict`."""
    names = {"obj_proj": student.affinity, "bkg_decoder": student.saliency}
    state = {
        f"{name}.{kind}": torch.randn_like(getattr(layer, kind))
        for name, layer in names.items()
        for kind in ("weight", "bias")
    }
    torch.save({"epoch": 99, "model_state_dict": state}, tmp_path / "last.pt")
    report = load_weights(student, tmp_path / "last.pt")
    assert not (report.missing or report.unexpected or report.mismatched)
    assert torch.equal(student.affinity.weight, state["obj_proj.weight"])
    assert torch.equal(student.saliency.bias, state["bkg_decoder.bias"])


def test_trained_saliency_of_found(clip, dino, tmp_path):
    """The layer of a file classifies DINO's keys, in the teacher and in training."""
    layer = nn.Conv2d(48, 1, 1)
    torch.save({"decoder": layer.state_dict()}, tmp_path / "decoder_weights.pt")
    found = SaliencyLayer.from_source("random:tiny", "", str(tmp_path / "decoder_weights.pt"))
    fill_from_names(found.dino.network)
    image = images(1)[0]["image"] / 255
    keys = dino.extract_features(image).keys
    expected = keys @ layer.weight[0, :, 0, 0] + layer.bias > 0
    assert torch.equal(found.salient_patches(image, (8, 8)), expected)
    names = ["dog", "cat", "background"]
    teacher = CLIPDINOiser(
        clip=clip,
        dino=dino,
        saliency=found,
        classification=ClassificationConfig("one", scale=1.0),
        inference=InferenceConfig(background=1.0),
    ).eval()
    item = {"image": 255 * image, "vocabulary": Vocabulary.from_names(names)}
    background = teacher([item])[0]["sem_seg"][2]
    corners = background[4::8, 4::8].flatten()
    assert torch.equal(corners > 0.5, ~expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("WINDOW", 224), "CLIPDINOiserStudent, which pools features over the whole image"),
        (("STUDENT.BLOCK", 4), r"STUDENT.BLOCK is 4; it has to be in 2\.\.3"),
    ],
)
def test_unusable_settings_are_named(configs, options, message):
    from detectron2.modeling import build_model

    name, value = options
    file = str(configs / "clip_dinoiser_student_random.yaml")
    with pytest.raises(ValueError, match=message):
        build_model(model_zoo.get_config(file, [f"MODEL.TRAINING_FREE.{name}", value]))


@pytest.mark.slow
def test_training_resumes_and_is_evaluated(configs, tiny_book, tmp_path):
    from hipie.cli import train

    options = [
        *("PICTUREBOOK.ROOT", str(tiny_book / "student"), "PICTUREBOOK.TRAIN_PAGES", "4"),
        *("PICTUREBOOK.VAL_PAGES", "2", "OUTPUT_DIR", str(tmp_path)),
        *("SOLVER.CHECKPOINT_PERIOD", "2"),
    ]
    file = str(configs / "clip_dinoiser_student_random.yaml")
    for arguments in (("SOLVER.MAX_ITER", "2"), ("--resume", "SOLVER.MAX_ITER", "4")):
        train.run(train.parse_arguments(["--config-file", file, *arguments, *options]))
    assert (tmp_path / "results.json").is_file()
    segmenter = Segmenter.from_config(file, tmp_path / "model_final.pth", "cpu")
    assert isinstance(segmenter.model, CLIPDINOiserStudent)

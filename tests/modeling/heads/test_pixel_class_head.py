"""Logits of the pixel class head against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie.errors import InputError
from hipie.modeling.heads.pixel_class_head import PixelClassHead, class_features
from hipie.structures import TextFeatures

WIDTH, TEXT_WIDTH, CHANNELS = 32, 5, (3, 4)


@pytest.fixture
def head() -> PixelClassHead:
    torch.manual_seed(0)
    return PixelClassHead(CHANNELS, WIDTH, TEXT_WIDTH).double()


def test_logits_against_numpy(head: PixelClassHead) -> None:
    pixels = torch.randn(WIDTH, 3, 4).double()
    classes = torch.randn(2, TEXT_WIDTH).double()
    logits = head.float()(pixels, classes).detach()
    values = {name: p.detach().double().numpy() for name, p in head.named_parameters()}
    names = classes.numpy() / np.linalg.norm(classes.numpy(), axis=1, keepdims=True)
    keys = names @ values["text_projection.weight"].T + values["text_projection.bias"]
    no_class = np.einsum("c,chw->hw", values["no_class.weight"][0, :, 0, 0], pixels.numpy())
    expected = [*np.einsum("kc,chw->khw", keys, pixels.numpy()), no_class + values["no_class.bias"]]
    np.testing.assert_allclose(logits.numpy(), np.stack(expected), atol=1e-5)


def test_pixel_features_are_those_of_the_sum_of_all_maps(head: PixelClassHead) -> None:
    features = [torch.randn(2, c, 4 // 2**i, 6 // 2**i).double() for i, c in enumerate(CHANNELS)]
    masks = torch.randn(2, WIDTH, 8, 12).double()
    torch.nn.init.normal_(head.mask_projection.weight)
    fine, coarse = (p(f) for p, f in zip(head.projections, features, strict=True))
    total = fine + torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(head.encode(features, None), head.features(total))
    pooled = head.mask_projection(masks).unflatten(2, (4, 2)).unflatten(4, (6, 2)).mean((3, 5))
    torch.testing.assert_close(head.encode(features, masks), head.features(total + pooled))


def test_at_the_start_mask_features_change_nothing(head: PixelClassHead) -> None:
    features = [torch.randn(1, c, 4, 6).double() for c in CHANNELS]
    masks = torch.randn(1, WIDTH, 8, 12).double()
    torch.testing.assert_close(head.encode(features, masks), head.encode(features, None))


def test_at_stride_4_mask_features_add_details(head: PixelClassHead) -> None:
    torch.manual_seed(0)
    fine = PixelClassHead(CHANNELS, WIDTH, TEXT_WIDTH, stride=4).double()
    missing, unexpected = fine.load_state_dict(head.state_dict(), strict=False)
    assert missing == ["detail_projection.weight"] and not unexpected
    features = [torch.randn(1, c, 4, 6).double() for c in CHANNELS]
    masks = torch.randn(1, WIDTH, 8, 12).double()
    coarse = head.encode(features, masks)
    upsampled = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(fine.encode(features, masks), upsampled)
    torch.testing.assert_close(fine.encode(features, None), coarse)
    torch.nn.init.normal_(fine.detail_projection.weight)
    added = torch.einsum("dc,bchw->bdhw", fine.detail_projection.weight[:, :, 0, 0], masks)
    torch.testing.assert_close(fine.encode(features, masks), upsampled + added)


def test_context_is_the_mean_of_the_image_without_padding() -> None:
    torch.manual_seed(0)
    head = PixelClassHead(CHANNELS, WIDTH, TEXT_WIDTH, context=True).double()
    features = [torch.randn(2, c, 4 // 2**i, 6 // 2**i).double() for i, c in enumerate(CHANNELS)]
    padding = torch.zeros(2, 32, 48, dtype=torch.bool)
    padding[0, 16:], padding[1, :, 16:] = True, True
    without = head.encode(features, None, padding)
    assert head.context is not None
    torch.nn.init.normal_(head.context[2].weight)
    added = head.encode(features, None, padding) - without
    means = torch.stack([features[1][0, :, :1].mean((1, 2)), features[1][1, :, :, :1].mean((1, 2))])
    expected = head.context(means)[:, :, None, None].expand_as(added)
    torch.testing.assert_close(added, expected)
    everywhere = head.encode(features, None) - without
    mean = features[1].mean((2, 3))
    torch.testing.assert_close(everywhere, head.context(mean)[:, :, None, None].expand_as(added))


def test_other_strides_are_refused() -> None:
    with pytest.raises(InputError, match=r"PIXEL_HEAD\.STRIDE must be 4 or 8, not 16"):
        PixelClassHead(CHANNELS, WIDTH, TEXT_WIDTH, stride=16)


def test_order_of_classes_is_the_order_of_logits(head: PixelClassHead) -> None:
    pixels, classes = torch.randn(WIDTH, 3, 4), torch.randn(3, TEXT_WIDTH)
    head = head.float()
    logits = head(pixels, classes)
    torch.testing.assert_close(head(pixels, classes[[2, 0, 1]]), logits[[2, 0, 1, 3]])
    torch.testing.assert_close(head(pixels, classes[:1]), logits[[0, 3]])


def test_a_class_is_the_mean_of_its_tokens() -> None:
    hidden = torch.randn(2, 4, 3)
    mask = torch.ones(2, 4, dtype=torch.bool)
    spans = (((1,), (2, 3)), ((0, 2),))
    text = TextFeatures(hidden, mask, torch.zeros(2, 4, dtype=torch.long), spans)
    first = class_features(text, spans[0], 0)
    torch.testing.assert_close(first, torch.stack([hidden[0, 1], hidden[0, 2:].mean(0)]))
    torch.testing.assert_close(class_features(text, spans[1], 1), hidden[1, [0, 2]].mean(0)[None])

# SPDX-License-Identifier: Apache-2.0
"""ACMF against its equations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.data.batch import collate
from mien.engine import predictions
from mien.errors import BadInput
from mien.forensics.acmf import ACMF, FAC, Adaptation, draw_mask, masked_frequency
from mien.forensics.data import Faces
from mien.forensics.detector import cross_entropy, forged_score
from mien.nn.frequency import high_part
from mien.nn.gradcam import gradcam
from mien.nn.network import Network


class Videos(Dataset):
    """Four "videos" of four noisy faces."""

    seeded = False

    def __init__(self, names="abcd", seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.image = torch.rand(4 * len(names), 3, 32, 32, generator=generator)
        self.units = [names[i // 4] for i in range(len(self.image))]

    def __len__(self):
        return len(self.image)

    def __getitem__(self, i):
        return Faces(
            self.image[i], i // 4 % 2, self.units[i], "real" if i // 4 % 2 == 0 else "x", "", None, self.units[i]
        )


def make(**changes):
    torch.manual_seed(0)
    return ACMF(**{"network": Network("tiny_cnn"), "image_size": 32, "mask_ratio": 0.5, **changes}).eval()


def test_the_masked_image_at_the_ends_of_r():
    x = torch.rand(2, 3, 32, 32)
    h = high_part(x, 3)
    assert torch.equal(masked_frequency(x, torch.ones(32, 32), 3), x), "r = 0 must return x bit for bit"
    assert torch.allclose(masked_frequency(x, torch.zeros(32, 32), 3), x - h, atol=1e-7)
    mask = draw_mask(32, 32, 0.4, torch.Generator().manual_seed(0))
    both = h * mask + (x - h)
    assert torch.allclose(masked_frequency(x, mask, 3), both, atol=3e-7)


def test_the_mask_drops_r_of_the_pixels_and_is_shared():
    mask = draw_mask(400, 400, 0.1, torch.Generator().manual_seed(0))
    assert 1 - float(mask.mean()) == pytest.approx(0.1, abs=0.005)
    x = torch.rand(1, 3, 32, 32).expand(5, 3, 32, 32)
    method = make()
    masked = method.masked(x, method.mask(x))
    assert torch.equal(masked[0], masked[4]), "one mask for all images of a batch"


def test_the_two_sigmoid_score_is_the_papers_formula():
    z = torch.randn(50, 2, dtype=torch.float64) * 5
    real, forged = 1 / (1 + torch.exp(-z[:, 0])), 1 / (1 + torch.exp(-z[:, 1]))
    assert torch.allclose(forged_score(z, "two_sigmoid"), 1 - real / (real + forged))
    assert torch.allclose(forged_score(z, "softmax"), z.softmax(1)[:, 1])
    assert torch.isfinite(forged_score(torch.tensor([[-500.0, -500.0]]), "two_sigmoid")).all()


def test_the_adaptation_loss_is_the_equation():
    method, data = make(), Videos()
    source, frames = collate([data[i] for i in (0, 5, 9, 14)]), data.image[4:8]
    with torch.no_grad():
        a_s = gradcam(method.classifier, method.classifier.cam_layer, source.image)[0].mean(0)
    mask = draw_mask(32, 32, 0.5, torch.Generator().manual_seed(1))
    twin = make()
    losses = method.adaptation_losses(Adaptation(source, frames, a_s, mask))
    twin.classifier.train()
    plain = F.cross_entropy(twin.classifier(twin.masked(source.image, mask)), source.label)
    assert float(losses["cross_entropy"]) == pytest.approx(float((plain - 0.04).abs() + 0.04), rel=1e-6)
    maps = gradcam(twin.classifier, twin.classifier.cam_layer, frames)[0]  # after the pass in train mode, as the paper
    assert float(losses["attention"]) == pytest.approx(float(((maps.mean(0) - a_s) ** 2).mean()), rel=1e-4)


def test_equal_networks_and_images_give_no_attention_loss():
    method, data = make(fac=FAC(masked=False)), Videos()
    source = collate([data[i] for i in range(6)])
    for module in method.classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0  # the pass in train mode then leaves f = f_0
    with torch.no_grad():
        a_s = gradcam(method.classifier, method.classifier.cam_layer, source.image)[0].mean(0)
    losses = method.adaptation_losses(Adaptation(source, source.image, a_s, torch.ones(32, 32)))
    assert float(losses["attention"]) < 1e-12


def verdicts(method, data):
    return {batch.unit[0]: float(answer.score[0]) for batch, answer in predictions(method, data)}


def test_fac_restores_the_weights_and_does_not_depend_on_the_order_of_videos():
    method = make(mode="fac", fac=FAC(batch=8))
    method.use_source(Videos("wxyz", seed=7))
    before = {k: v.clone() for k, v in method.state_dict().items()}
    data, turned = Videos(), Videos()
    order = [*range(8, 16), *range(8)]
    turned.image, turned.units = turned.image[order], [turned.units[i] for i in order]
    first, second = verdicts(method, data), verdicts(method, turned)
    assert first == second
    assert len(set(first.values())) > 1
    assert all(torch.equal(before[k], v) for k, v in method.state_dict().items())


def test_kept_moments_are_the_published_behaviour_and_depend_on_the_order():
    method = make(mode="fac", fac=FAC(batch=8, moments="kept"))
    method.use_source(Videos("wxyz", seed=7))
    data, turned = Videos(), Videos()
    order = [*range(8, 16), *range(8)]
    turned.image, turned.units = turned.image[order], [turned.units[i] for i in order]
    first = verdicts(method, data)
    method.use_source(Videos("wxyz", seed=7))
    assert first != verdicts(method, turned)


def test_the_attention_term_changes_the_result_and_can_be_switched_off():
    data, results = Videos(), []
    for weight in (0.0, 1.0):
        method = make(mode="fac", fac=FAC(batch=8, attention_weight=weight))
        method.use_source(Videos("wxyz", seed=7))
        results.append(verdicts(method, data))
    assert results[0] != results[1]
    notebook = make(mode="fac", fac=replace(FAC.notebook(), batch=8))
    notebook.use_source(Videos("wxyz", seed=7))
    assert len(verdicts(notebook, data)) == 4


def test_fac_without_a_source_names_the_mode_that_works():
    with pytest.raises(BadInput, match="mode 'plain' works without"):
        verdicts(make(mode="fac"), Videos())


def test_bad_arguments_and_labels():
    for changes, message in [
        ({"mask_ratio": 1.5}, "mask_ratio is 1.5"),
        ({"mode": "fast"}, "mode is 'fast'"),
        ({"half_box": 0}, "half_box is 0"),
        ({"high_pass": "x"}, "high_pass is 'x'"),
        ({"score": "x"}, "score is 'x'"),
    ]:
        with pytest.raises(BadInput, match=message):
            make(**changes)
    with pytest.raises(BadInput, match="labels are"):
        cross_entropy(torch.zeros(2, 2), torch.tensor([0, -1]))

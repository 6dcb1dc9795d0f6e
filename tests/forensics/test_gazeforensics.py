# SPDX-License-Identifier: Apache-2.0
"""GazeForensics: sizes of the paper, the fading guidance and whom it reaches, the loss, the stages, resume."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mien.engine import Phase, Settings, Stages, fit
from mien.engine.method import build
from mien.errors import BadInput
from mien.forensics.clips.stills import StillClips
from mien.forensics.data import Faces
from mien.forensics.gazeforensics import GazeForensics, guidance_weight, mlp, one_cycle, random_part
from mien.forensics.opening import OpenedData, generated_people
from mien.forensics.parts.gaze import Gaze
from mien.forensics.readers.gaze import TEACHER, GazeImages, WithTeacher
from mien.nn.network import Network
from mien.optim.recipe import Recipe


def small(**config):
    torch.manual_seed(0)
    values = {"frames": 3, "leaky": 4, "width": 32, "heads": 2, "compression": (16, 8), "hidden": (16,), "view": 1.0}
    recipe = Recipe(kind="adamw", lr=1e-3, weight_decay=1e-2)
    options = {"network": Network("tiny_blocks"), "image_size": 32, "optimizer": recipe, "teacher_epochs": 1}
    return GazeForensics(**options | values | config)


def batch(count=4, frames=3):
    return Faces(torch.rand(count, frames, 3, 32, 32), torch.arange(count) % 2)


def data():
    faces, people = generated_people(range(2), 2, size=48)
    clips = StillClips(faces, people, 32, 3, kinds=("self-blend",), training=True)
    gaze = GazeImages(torch.randint(0, 256, (8, 3, 32, 32)).byte(), torch.randn(8, 2) * 10, ["a"] * 8, 32)
    return WithTeacher(OpenedData(clips, None, {}), gaze, gaze, "noise")


def in_student(method):
    build(method, Phase(name="student", epochs=5))
    method.taught.fill_(True)
    method.begin_phase(Phase(name="student", epochs=5), [])
    return method


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_papers_size():
    with torch.device("meta"):
        method = GazeForensics()
    assert count(method.gaze_layer) == 279_072
    assert [count(m) for m in (method.attention.query, method.attention.key, method.attention.value)] == [541_696] * 3
    assert count(method.attention.attention) == 1_050_624
    assert count(method.attention.compress) == 168_352
    assert count(method.attention.head) == 156_226
    outside = count(method.gaze_layer) + count(method.attention)
    assert outside == 3_279_362
    assert outside + count(method.trunk) == 14_455_874


def test_guidance_fades_to_a_hundredth():
    weight = 4.0
    for epoch in range(25):
        assert guidance_weight(4.0, epoch, 25) == pytest.approx(weight)
        weight *= 0.01 ** (1 / 25)
    assert guidance_weight(4.0, 25, 25) == pytest.approx(0.04)


@pytest.mark.parametrize("epochs", [25, 12, 4])
def test_one_cycle_is_that_of_torch_stepped_once_per_epoch(epochs):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], 7e-5)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 7e-5, total_steps=epochs, pct_start=0.3, div_factor=1000)
    for epoch in range(epochs):
        assert 7e-5 * one_cycle(epoch, epochs) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        if epoch + 1 < epochs:
            theirs.step()
    assert 7e-5 * one_cycle(0, 25) == pytest.approx(7e-8)
    assert one_cycle(0, 1) == 1.0


def test_the_rate_changes_with_the_epoch_not_with_the_step():
    method = small()
    optimizer, schedule = method.optimizers(Phase(name="student", epochs=5, total_steps=15))["main"]
    rates = []
    for _ in range(15):
        rates.append(optimizer.param_groups[0]["lr"] / 1e-3)
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([one_cycle(step // 3, 5) for step in range(15)])
    _, by_step = small(cycle_by="step").optimizers(Phase(name="student", epochs=5, total_steps=15))["main"]
    assert [by_step.lr_lambdas[0](step) for step in range(15)] == [one_cycle(step, 15) for step in range(15)]


def test_the_loss_is_cross_entropy_and_that_is_the_papers_bce():
    method, some = in_student(small()).eval(), batch()
    losses = method.losses(some)
    logits = method.attention(method.represent(some.image)[0])
    p = logits.softmax(dim=1)
    target = F.one_hot(some.label, 2).float()
    torch.testing.assert_close(losses["cross_entropy"], F.binary_cross_entropy(p, target))
    free = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 1, 1, 0, 1, 0])
    ours = torch.autograd.grad(F.cross_entropy(free, label), free)[0]
    theirs = torch.autograd.grad(F.binary_cross_entropy(free.softmax(1), F.one_hot(label, 2).double()), free)[0]
    torch.testing.assert_close(ours, theirs)


def test_guidance_is_the_mean_over_everything_and_leaves_the_leaky_part_alone():
    method, some = in_student(small()).train(), batch()
    method.guidance_now.fill_(1.0)
    torch.manual_seed(0)
    guidance = method.losses(some)["guidance"]
    h = method.gaze_layer(method.trunk(some.image.flatten(0, 1)))
    g = method.teacher.trunk(some.image.flatten(0, 1))
    torch.testing.assert_close(guidance, F.mse_loss(h[:, :64], g))
    guidance.backward()
    layer = method.gaze_layer[0]
    assert float(layer.weight.grad[64:].abs().max()) == 0
    assert float(layer.bias.grad[64:].abs().max()) == 0
    assert float(layer.weight.grad[:64].abs().max()) > 0
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(p.grad is None for p in method.attention.parameters())


def test_the_teacher_stays_in_eval_mode_and_unchanged():
    method = in_student(small()).train()
    before = copy.deepcopy(method.teacher.state_dict())
    method.losses(batch())
    assert not any(m.training for m in method.teacher.trunk.modules())
    assert all(torch.equal(v, before[k]) for k, v in method.teacher.state_dict().items())


def test_attention_across_frames_by_loops():
    method = small().eval()
    h = torch.rand(2, 3, 68)
    parts = method.attention
    q, k, v = parts.query(h), parts.key(h), parts.value(h)
    wq, wk, wv = parts.attention.in_proj_weight.chunk(3)
    bq, bk, bv = parts.attention.in_proj_bias.chunk(3)
    out = torch.zeros(2, 3, 32)
    for b in range(2):
        for head in range(2):
            rows = slice(16 * head, 16 * head + 16)
            Q, K, V = (x[b] @ w[rows].T + c[rows] for x, w, c in ((q, wq, bq), (k, wk, bk), (v, wv, bv)))
            out[b, :, rows] = (Q @ K.T / 4).softmax(dim=1) @ V
    seen = parts.attention.out_proj(out)
    flat = torch.cat([parts.compress(seen[:, t]) for t in range(3)], dim=1)
    torch.testing.assert_close(parts(h), parts.head(flat))


def test_layers_start_kaiming_uniform_with_zero_biases():
    torch.manual_seed(0)
    layers = mlp(50, 400, 3)
    assert [type(m).__name__ for m in layers] == ["Linear", "ReLU", "Linear"]
    bound = (6 / 50) ** 0.5
    assert float(layers[0].weight.abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(layers[0].bias.abs().max()) == 0


def test_stages_teach_first_and_the_student_starts_there(monkeypatch):
    method, started = small(), {}
    original = GazeForensics.begin_phase

    def noted(self, phase, dataset):
        original(self, phase, dataset)
        if phase.name == "student":
            started.update(copy.deepcopy(self.trunk.state_dict()))
            started["same"] = all(torch.equal(v, started[k]) for k, v in self.teacher.trunk.state_dict().items())

    monkeypatch.setattr(GazeForensics, "begin_phase", noted)
    untaught = copy.deepcopy(method.teacher.state_dict())
    stages = method.phases(2, data())
    assert stages == {TEACHER: 1, "student": 2}
    fit(method, data(), schedule=Stages(dict(stages)), settings=Settings(batch_size=4))
    assert started["same"]
    assert any(not torch.equal(v, untaught[k]) for k, v in method.teacher.state_dict().items())
    assert any(not torch.equal(v, started[k]) for k, v in method.trunk.state_dict().items())
    assert float(method.guidance_now) == pytest.approx(0.04)


def test_an_untaught_teacher_is_refused():
    clips = data().data
    with pytest.raises(BadInput, match="gaze teacher was not trained"):
        fit(small(), clips, settings=Settings(batch_size=4, max_steps=1))
    imagenet = small()
    imagenet.network = replace(imagenet.network, pretrained=True)  # as if its weights had been loaded
    with pytest.raises(BadInput, match="gaze teacher was not trained"):
        fit(imagenet, clips, settings=Settings(batch_size=4, max_steps=1))
    free = small(guidance=0.0, start_from_teacher=False)
    assert free.phases(3, data()) == {"student": 3}
    fit(free, clips, settings=Settings(batch_size=4, max_steps=1))


def test_frozen_features_are_leaky_then_gaze():
    method = in_student(small(backend="frozen"))
    h, u = method.represent(batch().image)
    assert u is None
    g = method.gaze_features(batch().image)
    assert h.shape == (4, 3, 68)
    torch.manual_seed(0)
    some = batch()
    h, _ = method.represent(some.image)
    torch.testing.assert_close(h[..., 4:], method.gaze_features(some.image))
    torch.testing.assert_close(h[..., :4], method.gaze_layer(method.gaze_features(some.image)))
    assert "guidance" not in method.losses(some)
    assert g.shape == (4, 3, 64)
    assert in_student(small(backend="frozen", leaky=0)).represent(some.image)[0].shape == (4, 3, 64)


def test_the_standard_view_is_the_enlarged_middle():
    method = small(view=0.5)
    clip = torch.rand(1, 3, 3, 32, 32)
    expected = F.interpolate(clip[0, :, :, 8:24, 8:24], 32, mode="bilinear")
    torch.testing.assert_close(method.standard_view(clip)[0], expected)
    assert round(GazeForensics.__init__.__kwdefaults__["view"] * 224) == 177


def test_a_random_part_is_the_same_for_all_frames():
    still = torch.rand(2, 1, 3, 24, 24).expand(-1, 4, -1, -1, -1)
    torch.manual_seed(0)
    found = random_part(still, 24)
    assert all(torch.equal(found[:, 0], found[:, t]) for t in range(1, 4))
    assert not torch.allclose(found[:, 0], still[:, 0])
    ramp = torch.linspace(0, 1, 24).expand(64, 1, 3, 24, 24)
    width = random_part(ramp, 24)[:, 0, 0, 0]
    shares = (width[:, -1] - width[:, 0]).clamp(0, 1) ** 2
    assert float(shares.min()) > 0.66
    assert float(shares.max()) < 0.94


def test_strong_views_are_the_students_alone():
    some = batch()
    method = in_student(small(strong=True)).train()
    seen = []
    method.gaze_features = lambda clip: seen.append(clip) or torch.zeros(4, 3, 64)
    method.losses(some)
    assert torch.equal(seen[0], some.image)


def test_gaze_batches_train_the_teacher_alone():
    method = small()
    build(method, Phase(name=TEACHER, epochs=1))
    losses = method.losses(Gaze(torch.rand(2, 3, 32, 32), torch.zeros(2, 2)))
    sum(losses.values()).backward()
    assert {n.split(".")[0] for n, p in method.named_parameters() if p.grad is not None} == {"teacher"}
    assert set(method.validate(data().held)) == {"gaze_degrees", "gaze_degrees_of_the_mean"}


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    stages = Stages({TEACHER: 1, "student": 2})
    options = {"batch_size": 4, "checkpoint_every": 1}
    whole = small()
    fit(whole, data_once(), schedule=stages, settings=Settings(**options), out=tmp_path / "whole")

    class KilledError(RuntimeError):
        pass

    broken = small()
    steps = iter(range(100))
    original = broken.after_step

    def dies():
        original()
        if next(steps) == 3:
            raise KilledError

    broken.after_step = dies
    with pytest.raises(KilledError):
        fit(broken, data_once(), schedule=stages, settings=Settings(**options), out=tmp_path / "broken")
    again = small()
    fit(again, data_once(), schedule=stages, settings=Settings(**options), out=tmp_path / "broken", resume=True)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())


def data_once():
    torch.manual_seed(5)
    return data()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"heads": 3}, "heads must divide"),
        ({"cycle_by": "week"}, "epoch or step"),
        ({"backend": "other"}, "guided or frozen"),
        ({"leaky": -1}, "leaky is -1"),
        ({"guidance": -0.5}, "guidance is -0.5"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"fade": 0.0}, "fade is 0"),
        ({"view": 1.5}, "view is 1.5"),
        ({"view": 0.01}, "view is 0.01: of 32 pixels that leaves none"),
        ({"share": 0.0}, "share is 0"),
        ({"compression": ()}, "give widths"),
        ({"frames": 0}, "at least 1"),
    ],
)
def test_bad_input(config, message):
    with pytest.raises(BadInput, match=message):
        small(**config)

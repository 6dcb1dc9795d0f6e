# SPDX-License-Identifier: Apache-2.0
"""HFC-MFFD against its equations: patches, streams, levels, fusion, and its stages of training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, Dataset, Subset

from mien import api, catalog
from mien.engine import Fixed, Phase, Settings, Single, Stages, fit
from mien.engine.method import build
from mien.errors import BadInput
from mien.forensics.data import FaceRecords, Faces
from mien.forensics.hfc_mffd import HFCMFFD
from mien.forensics.labels import labels_of
from mien.forensics.parts.hfc_figures import kind_figures, patch_map
from mien.forensics.parts.hfc_fusion import Fusion, decide, fused, learn_weights
from mien.forensics.parts.hfc_streams import (
    DescriptorStream,
    HeadSize,
    PatchStream,
    TokenHead,
    levels,
    one_channel,
    patch_starts,
    patches,
)
from mien.forensics.readers.forgery_nir import forgery_nir
from mien.nn.descriptors import descriptors, face_points
from mien.nn.network import Network
from mien.optim.recipe import Recipe

SMALL = HeadSize(heads=4, feedforward=32, hidden=(32, 16), patch_hidden=16, attention_dropout=0.0, dropout=0.0)
KINDS = ("a", "b", "c")


def make(seed=0, **changes):
    torch.manual_seed(seed)
    plain = {
        "network": Network("tiny_blocks"),
        "dct_network": Network("tiny_blocks"),
        "optimizer": Recipe("adam", lr=1e-3, weight_decay=0.0),
        "image_size": 24,
        "patch": 12,
        "kinds": KINDS,
        "head": SMALL,
        "landmarks": 17,
        "fusion": Fusion(lr=0.05, epochs=5),
    }
    return HFCMFFD(**{**plain, **changes})


class Noise(Dataset):
    """Real faces, and three kinds that differ by brightness."""

    seeded = False

    def __init__(self, size=32, seed=0, side=24):
        self.image = torch.rand(size, 3, side, side, generator=torch.Generator().manual_seed(seed)) / 2
        self.kind = [("real", *KINDS)[i % 4] for i in range(size)]

    def __len__(self):
        return len(self.image)

    def __getitem__(self, i):
        return Faces(self.image[i] + 0.15 * (i % 4), int(i % 4 > 0), f"p{i // 4}", self.kind[i])


def batch(size=8, seed=3):
    data = Noise(size, seed)
    samples = [data[i] for i in range(size)]
    image, label = torch.stack([s.image for s in samples]), torch.tensor([s.label for s in samples])
    return Faces(image, label, [s.group for s in samples], data.kind, [""] * size, None, [""] * size)


def settings(**changes):
    return Settings(**{"batch_size": 8, "device": "cpu", **changes})


# --- patches and streams ---------------------------------------------------------------------------------------------


def test_patches_lie_where_the_paper_cuts_them():
    assert patch_starts(224, 128, 3) == [0, 48, 96], "unfold with stride 48"
    assert patch_starts(256, 128, 3) == [0, 64, 128], "the corners, the middle and the sides' middles"
    assert patch_starts(100, 31, 4) == [0, 23, 46, 69]
    image = torch.rand(2, 3, 20, 26)
    cut = patches(image, 8, 3)
    assert cut.shape == (2, 9, 3, 8, 8)
    assert torch.equal(cut[:, 5], image[:, :, 6:14, 18:26]), "row by row: middle row, last column"
    assert patches(image, 8, 1).shape == (2, 1, 3, 8, 8)
    assert float(patches(image, 8, 1).mean()) == pytest.approx(float(image.mean()), abs=0.02)
    with pytest.raises(BadInput, match="patch is 21"):
        patches(image, 21, 2)


def test_sizes_are_the_papers():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        paper = HFCMFFD()
        for level, (head, patch, descriptor) in {
            paper.first: (63_987_202, 1_312_770, 19_470_978),
            paper.second: (63_988_228, 1_313_796, 19_472_004),
        }.items():
            image = level.streams["image"]
            assert count(image.trunk) == 23_508_032
            assert count(image.head) == head
            assert count(image.patch_classifier) == patch
            assert count(level.streams["descriptor"].head) == descriptor
        assert count(paper.first.streams["dct"].trunk) == 23_501_760
        assert paper.second.names() == ["image", "descriptor"]
        first = paper.first.streams["dct"].trunk.conv1
        assert (first.weight.shape, first.bias, first.stride) == ((64, 1, 7, 7), None, (2, 2))
    assert list(paper.phases(8)) == [
        *("level 1, image", "level 1, dct", "level 1, descriptor"),
        *("level 2, image", "level 2, descriptor"),
    ]
    assert list(paper.phases(8).values()) == [8, 8, 15, 8, 15]


def test_the_frequency_stream_sees_standardised_coefficients_of_the_grey_patch():
    torch.manual_seed(0)
    stream = PatchStream(Network("tiny_blocks"), 8, 2, 2, SMALL, frequency=True).eval()
    shown = torch.rand(6, 3, 12, 12)
    stream.observe(shown[:4])
    stream.observe(shown[4:])
    loops = [
        scipy.fft.dctn(255 * np.tensordot([0.299, 0.587, 0.114], image[:, r : r + 8, c : c + 8], 1), norm="ortho")
        for image in shown.double().numpy()
        for r in (0, 4)
        for c in (0, 4)
    ]
    mean, deviation = np.mean(loops, axis=0), np.std(loops, axis=0)
    assert int(stream.statistics.count) == 24, "all places pooled"
    new = torch.rand(1, 3, 12, 12)
    found = stream.clues(patches(new, 8, 2))[0, 3]
    grey_patch = 255 * np.tensordot([0.299, 0.587, 0.114], new[0, :, 4:, 4:].double().numpy(), 1)
    assert np.allclose(found.numpy(), (scipy.fft.dctn(grey_patch, norm="ortho") - mean) / deviation, atol=1e-3)
    assert torch.allclose(stream.tokens(new), stream.trunk(stream.clues(patches(new, 8, 2))[0][:, None])[None])


def test_the_descriptor_stream_describes_the_template_of_every_image():
    stream = DescriptorStream(17, 1.5, 2, SMALL)
    image = torch.rand(3, 3, 30, 20)
    points = face_points(17) * torch.tensor([20.0, 30.0])
    expected = torch.stack([descriptors(levels(image[i : i + 1]), points[None])[0] for i in range(3)])
    assert torch.equal(stream.tokens(image), expected)


def test_batches_with_and_without_forged_faces_have_the_same_losses():
    data, method = Noise(8), make()
    terms = []
    for rows in ([0, 4], [0, 1]):
        shown = [data[i] for i in rows]
        image, label = torch.stack([s.image for s in shown]), torch.tensor([s.label for s in shown])
        found = method.losses(Faces(image, label, kind=[s.kind for s in shown]))
        terms.append(list(found))
        assert all(torch.isfinite(value) for value in found.values())
    assert terms[0] == terms[1]


def test_the_landmarks_of_the_middle_of_a_face_are_those_of_the_whole_face():
    whole = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    middle = whole[..., 24:88, 24:88]
    found = DescriptorStream(17, 1.5, 2, SMALL, face=112 / 64).tokens(middle)
    wanted = DescriptorStream(17, 1.5, 2, SMALL).tokens(whole)
    points = 112 * face_points(17)
    inner = ((points > 24 + 6) & (points < 88 - 6)).all(dim=1)
    beyond = ((points < 24 - 6) | (points > 88 + 6)).any(dim=1)
    assert inner.any()
    assert beyond.any()
    assert torch.equal(found[:, inner], wanted[:, inner])
    assert not found[:, beyond].any()


def test_a_trunk_is_any_network_that_gives_features():
    method = HFCMFFD(
        network=Network("tiny_cnn_highpass"),
        dct_network=Network("tiny_cnn"),
        image_size=32,
        patch=16,
        head=SMALL,
        landmarks=17,
    )
    assert method.first.streams["image"].tokens(torch.rand(2, 3, 32, 32)).shape == (2, 9, 48)


def test_a_head_is_one_post_norm_encoder_layer_over_the_tokens_of_one_image():
    torch.manual_seed(0)
    head = TokenHead(3, 8, 2, HeadSize(2, 16, (8, 4), 4, 0.0, 0.0)).eval()
    layer = head.encoder
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # biases and norms start at 0 and 1
    tokens = torch.randn(2, 3, 8)
    for b in range(2):
        x = tokens[b]
        q, k, v = F.linear(x, layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias).split(8, dim=1)
        mixed = torch.empty(3, 8)
        for h in (0, 4):
            share = (q[:, h : h + 4] @ k[:, h : h + 4].T / math.sqrt(4)).softmax(dim=1)
            mixed[:, h : h + 4] = share @ v[:, h : h + 4]
        x = F.layer_norm(x + layer.self_attn.out_proj(mixed), (8,), layer.norm1.weight, layer.norm1.bias)
        inner = layer.linear2(F.relu(layer.linear1(x)))
        x = F.layer_norm(x + inner, (8,), layer.norm2.weight, layer.norm2.bias)
        expected = head.classifier(x.flatten()[None])[0]
        assert torch.allclose(head(tokens)[b], expected, atol=1e-5)


@pytest.mark.parametrize(("attention", "alone"), [("patches", True), ("none", True), ("batch", False)])
def test_a_score_depends_on_batch_mates_only_with_the_released_codes_axis(attention, alone):
    method = make(attention=attention).eval()
    given = batch(6)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    with torch.no_grad():
        whole = method.predict(given).score
        moved = method.predict(Faces(given.image[order], given.label[order])).score
        first = torch.cat([method.predict(Faces(given.image[i : i + 1], given.label[:1])).score for i in range(6)])
    assert torch.allclose(moved, whole[order], atol=1e-5), "permuting a batch permutes its scores"
    assert torch.allclose(first, whole, atol=1e-5) == alone


def test_the_order_of_patches_matters_and_the_mean_of_tokens_does_not_know_it():
    tokens = torch.randn(2, 4, 8)
    moved = tokens[:, [2, 0, 3, 1]]
    for attention, same in (("patches", False), ("none", True)):
        torch.manual_seed(0)
        head = TokenHead(4, 8, 2, HeadSize(2, 16, (8, 4), 4, 0.0, 0.0), attention=attention).eval()
        assert torch.allclose(head(tokens), head(moved), atol=1e-5) == same


# --- losses and fusion -----------------------------------------------------------------------------------------------


def at(method, stage):
    build(method, Phase(name=stage))
    return method


def test_the_loss_of_a_stream_weighs_image_and_patches():
    method, given = at(make(patch_weight=0.6), "level 1, image"), batch()
    method.eval()
    losses = method.losses(given)
    stream = method.first.streams["image"]
    tokens = stream.tokens(given.image)
    whole = F.cross_entropy(stream.head(tokens), given.label)
    parts = torch.stack([F.cross_entropy(stream.patch_classifier(tokens[:, j]), given.label) for j in range(9)]).mean()
    assert list(losses) == ["level 1, image", "level 1, image, patches"]
    assert float(losses["level 1, image"].detach()) == pytest.approx(0.4 * float(whole.detach()), rel=1e-5)
    assert float(losses["level 1, image, patches"].detach()) == pytest.approx(0.6 * float(parts.detach()), rel=1e-5)
    sum(losses.values()).backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None}
    assert reached
    assert all(name.startswith("first.streams.image.") for name in reached)


def test_level_two_learns_from_forged_faces_alone():
    method, given = at(make(), "level 2, descriptor").eval(), batch()
    forged = given.label == 1
    logits = method.second.streams["descriptor"](given.image[forged])
    target = torch.tensor([KINDS.index(k) for k in given.kind if k != "real"])
    loss = method.losses(given)["level 2, descriptor"]
    assert float(loss.detach()) == pytest.approx(float(F.cross_entropy(logits, target).detach()), rel=1e-5)
    given.image[~forged] = float("nan")
    assert torch.isfinite(method.losses(given)["level 2, descriptor"])
    nothing = Faces(given.image[~forged], given.label[~forged], [], ["real"] * 2)
    empty = method.losses(nothing)["level 2, descriptor"]
    empty.backward()
    assert float(empty.detach()) == 0.0
    given.kind[1] = "unheard of"
    with pytest.raises(BadInput, match="unheard of"):
        method.losses(given)


def test_flat_networks_tell_real_and_every_kind_apart():
    method, given = make(decision="flat").eval(), batch()
    rows, target = method.targets(method.second, given)
    assert target.tolist() == [0, 1, 2, 3] * 2
    assert len(rows) == 8
    assert {s.head.classifier[-1].out_features for level in (method.first, method.second)
            for s in level.streams.values()} == {4}  # fmt: skip
    with torch.no_grad():
        scores = torch.cat([level.scores(given.image, level.names()) for level in (method.first, method.second)])
        verdict = method.predict(given)
    assert torch.allclose(verdict.score, 1 - scores.mean(dim=0).softmax(1)[:, 0], atol=1e-6)
    assert verdict.columns["kind"] == [("real", *KINDS)[i] for i in scores.mean(dim=0).argmax(dim=1).tolist()]


def test_the_published_weights_are_softmaxes():
    for w, expected in (
        ([1.0462, 1.0462, 0.9523], [0.3436, 0.3436, 0.3128]),
        ([1.2808, 1.2808, 0.6968], [0.3910, 0.3910, 0.2180]),
    ):
        share = fused(torch.eye(3)[:, None], torch.tensor(w))[0]  # stream k says 1 for class k alone
        assert share.tolist() == pytest.approx(expected, abs=5e-5)


def test_weights_are_learned_towards_the_stream_that_knows():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(2, (300,), generator=generator)
    knows = F.one_hot(target, 2).float() * 2
    noise = torch.randn(300, 2, generator=generator)
    scores = torch.stack([noise, knows])
    learned = learn_weights(scores, target, Fusion(lr=0.02, batch=64, epochs=30))
    assert float(learned[1] - learned[0]) > 1
    before, after = (F.cross_entropy(fused(scores, w), target) for w in (torch.ones(2), learned))
    assert after < before
    step = learn_weights(scores, target, Fusion(lr=0.02, batch=300, epochs=1))
    assert torch.allclose(step, torch.tensor([0.98, 1.02]), atol=1e-4), "Adam's first step is its learning rate"
    assert torch.equal(learn_weights(scores[:1], target, Fusion()), torch.ones(1))
    assert torch.equal(learn_weights(scores[:, :0], target[:0], Fusion()), torch.ones(2))


def test_the_decision_never_asks_level_two_about_real_faces():
    s_b = torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.5, 3.0]])
    assert decide(s_b, torch.tensor([[0.0, 0.0, 9.0], [5.0, 0.0, 0.0]])).tolist() == [0, 3, 1]
    method, given = make().eval(), batch(12)
    with torch.no_grad():
        first = method.fused(given.image, method.first)
        called = first.argmax(dim=1) == 1
        shown = []
        method.second.streams["image"].register_forward_hook(lambda m, i, o: shown.append(i[0]))
        # push the borderline to where some are called real and some forged
        middle = (first[:, 1] - first[:, 0]).median()
        for stream in method.first.streams.values():
            stream.head.classifier[-1].bias[0] += middle
        first = method.fused(given.image, method.first)
        called = first.argmax(dim=1) == 1
        assert 0 < int(called.sum()) < 12
        verdict = method.predict(given)
    assert torch.equal(shown[0], given.image[called])
    assert [kind == "real" for kind in verdict.columns["kind"]] == (~called).tolist()
    assert torch.allclose(verdict.score, first.softmax(1)[:, 1])
    for parameter in method.second.parameters():
        nn.init.constant_(parameter, float("nan"))
    with torch.no_grad():
        assert torch.equal(method.predict(given).score, verdict.score)


def test_the_plain_sum_is_as_many_times_the_mean():
    given = batch()
    with torch.no_grad():
        one, other = make(fusion=Fusion(kind="sum")).eval(), make().eval()
        assert torch.allclose(one.fused(given.image, one.first), 3 * other.fused(given.image, other.first), atol=1e-5)


# --- training --------------------------------------------------------------------------------------------------------


def stages(method):
    return Stages(dict(method.phases(1)))


def test_stages_train_one_stream_each_and_then_the_weights():
    method, data = make(), Noise()
    seen = {}

    class Watched(HFCMFFD):
        def losses(self, batch):
            seen.setdefault(self.built[-1].name, set()).update(batch.kind)
            return super().losses(batch)

    torch.manual_seed(0)
    method = Watched(**{k: getattr(method, k) for k in method.config()})
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    fit(method, data, schedule=stages(method), settings=settings())
    assert list(seen) == list(method.phases(1))
    for stage, kinds in seen.items():
        assert kinds == set(KINDS) | ({"real"} if "1" in stage else set()), stage
    moved = {n.split(".")[0] + n.split(".")[2] for n, p in method.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"firstimage", "firstdct", "firstdescriptor", "secondimage", "seconddescriptor"}
    assert not torch.equal(method.first.weights, torch.ones(3))
    assert not torch.equal(method.second.weights, torch.ones(2))
    assert int(method.first.streams["dct"].statistics.count) == 32 * 9

    # w is what the frozen scores of the training images give
    method.eval()
    with torch.no_grad():
        whole = torch.stack([data[i].image for i in range(32)])
        forged = labels_of(data) == 1
        scores = method.first.scores(whole, method.first.names())
        second = method.second.scores(whole[forged], method.second.names())
    kinds = torch.tensor([KINDS.index(k) for k in data.kind if k != "real"])
    assert torch.allclose(learn_weights(scores, forged.long(), method.fusion), method.first.weights, atol=1e-4)
    assert torch.allclose(learn_weights(second, kinds, method.fusion), method.second.weights, atol=1e-4)


def test_streams_that_were_not_trained_yet_have_no_say():
    method, given = make().eval(), batch()
    build(method, Phase(name="level 1, image"))
    with torch.no_grad():
        found = method.predict(given)
        assert torch.allclose(found.score, method.first.streams["image"](given.image).softmax(1)[:, 1])
        build(method, Phase(name="level 1, dct"))
        both = method.first.scores(given.image, ["image", "dct"]).mean(dim=0)
        assert torch.allclose(method.predict(given).score, both.softmax(1)[:, 1], atol=1e-6)
    assert method.in_use(method.second) == []


def test_any_other_phase_trains_all_streams_together():
    method = make()
    fit(method, Noise(), schedule=Single(1), settings=settings(max_steps=2))
    assert len(method.losses(batch())) == 3 + 2 + 3
    assert not torch.equal(method.first.weights, torch.ones(3))


def test_afterwards_the_losses_are_those_of_all_streams_also_when_loaded(tmp_path):
    method = make()
    schedule = stages(method)
    fit(method, Noise(), schedule=schedule, settings=settings(max_steps=1), out=tmp_path / "r")
    assert len(method.losses(batch())) == 3 + 2 + 3
    loaded = api.load(tmp_path / "r")
    assert len(loaded.losses(batch())) == 3 + 2 + 3
    assert list(at(loaded, "level 2, image").losses(batch())) == ["level 2, image", "level 2, image, patches"]


def test_heads_on_patches_have_a_rate_of_their_own():
    method = at(make(head_lr=0.1), "level 1, image")
    optimizer, _ = method.optimizers(Phase(total_steps=10))["main"]
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    stream = method.first.streams["image"]
    assert {rates[id(p)] for p in stream.head.parameters()} == {1e-3 * 0.1}
    assert {rates[id(p)] for m in (stream.trunk, stream.patch_classifier) for p in m.parameters()} == {1e-3}
    assert len(rates) == len(list(stream.parameters()))
    optimizer, _ = at(method, "level 1, descriptor").optimizers(Phase(total_steps=10))["main"]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3]


def test_balance_by_weights_and_by_sampler():
    data, given = Noise(), batch()
    method = at(make(balance="weights"), "level 1, descriptor").eval()
    method.begin_phase(Phase(), data)
    assert method.class_weight.tolist() == [3.0, 1.0]
    loss = method.losses(given)["level 1, descriptor"].detach()
    each = F.cross_entropy(method.first.streams["descriptor"](given.image), given.label, reduction="none").detach()
    real = given.label == 0
    assert float(loss) == pytest.approx(float((3 * each[real].sum() + each[~real].sum()) / (3 * 2 + 6)), rel=1e-5)
    at(method, "level 2, descriptor")
    assert method._class_weight(method.second) is None
    sampler = at(make(balance="sampler"), "level 1, image")
    torch.manual_seed(0)
    chosen = sampler.begin_epoch(0, data).indices
    label = labels_of(data)[chosen]
    assert (label == 0).sum() == (label == 1).sum() == 16
    counts = torch.bincount(chosen, minlength=32)[labels_of(data) == 0]
    assert counts.tolist() == [2] * 8, "every real face equally often"
    at(sampler, "level 2, image")
    assert set(labels_of(data)[sampler.begin_epoch(0, data).indices].tolist()) == {1}
    with pytest.raises(BadInput, match="both are needed"):
        method.begin_phase(Phase(), Subset(data, [0, 4]))


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    data = Fixed(Noise(16), Noise(16, 5))
    whole = make(balance="sampler")
    fit(whole, data, schedule=stages(whole), settings=settings(checkpoint_every=1))
    broken, left = make(balance="sampler"), {"steps": 9}

    def stop():
        left["steps"] -= 1
        if left["steps"] == 0:
            raise KeyboardInterrupt

    broken.after_step = stop
    with pytest.raises(KeyboardInterrupt):
        fit(broken, data, schedule=stages(broken), settings=settings(checkpoint_every=1), out=tmp_path / "r")
    again = make(9, balance="sampler")
    fit(again, data, schedule=stages(again), settings=settings(checkpoint_every=1), out=tmp_path / "r", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    loaded = api.load(tmp_path / "r").eval()
    with torch.no_grad():
        assert torch.equal(loaded.predict(batch()).score, again.eval().predict(batch()).score)


# --- answers ---------------------------------------------------------------------------------------------------------


def test_near_infrared_is_brightness_alone():
    method = make(modality="infrared").eval()
    image = batch().image
    seen = method.seen(image)
    expected = 0.299 * image[:, 0] + 0.587 * image[:, 1] + 0.114 * image[:, 2]
    assert all(torch.allclose(seen[:, c], expected, atol=1e-6) for c in range(3))
    with torch.no_grad():
        once, twice = (method.predict(Faces(x, torch.zeros(8))).score for x in (image, seen))
    assert torch.allclose(once, twice, atol=1e-5)


def test_evidence_is_painted_where_the_patches_lie():
    forged = torch.zeros(1, 4)
    forged[0, 3] = 1.0  # the patch at the lower right
    painted = patch_map(forged, 6, 6, 4, 2)[0, 0]
    assert painted[0, 0] == 0
    assert painted[5, 5] == 1
    assert float(painted[2, 2]) == 0.25, "all four overlap there"
    assert float(painted[5, 3]) == 0.5
    method = make().eval()
    method.evidence = True
    with torch.no_grad():
        shown = method.predict(batch()).evidence
    assert shown.shape == (8, 1, 24, 24)
    assert 0 <= float(shown.min()) <= float(shown.max()) <= 1
    assert make(streams=("descriptor",)).patch_evidence(batch().image) is None


def test_figures_count_what_they_say():
    given = Faces(torch.zeros(6, 3, 8, 8), torch.tensor([0, 0, 1, 1, 1, 1]), list("uvwxyz"),
                  ["real", "real", "a", "b", "c", "new"])  # fmt: skip
    said = (["real", "a", "a", "real", "a", "a"], ["a", "a", "a", "b", "a", "a"])
    found = {name: interval.value for name, interval in kind_figures([given], lambda b: said, KINDS, 0).items()}
    assert found == {
        "real_recall": pytest.approx(1 / 2),
        "class_accuracy": pytest.approx(2 / 5),  # the kind that nobody learned is left out
        "kind_accuracy": pytest.approx(2 / 3),  # of a, b, c whatever level 1 said
    }
    method = make()
    found = method.further_figures(Noise(16))
    assert list(found) == ["real_recall", "class_accuracy", "kind_accuracy"]
    assert all(0 <= interval.value <= 1 for interval in found.values())


def test_one_kind_of_forgery_needs_no_second_level():
    method = make(kinds=("a",)).eval()
    assert list(method.phases(2)) == ["level 1, image", "level 1, dct", "level 1, descriptor"]
    assert set(method.predict(batch()).columns["kind"]) <= {"real", "a"}
    data = Subset(Noise(), [i for i in range(32) if i % 4 < 2])
    fit(method, data, schedule=stages(method), settings=settings(max_steps=1))
    assert not torch.equal(method.first.weights, torch.ones(3))


def test_labels_are_known_without_reading(tmp_path):
    data = Noise(8)
    expected = [0, 1, 1, 1] * 2
    assert labels_of(data).tolist() == expected, "read, sample by sample"
    data.label = torch.tensor(expected)
    data.__class__ = type("Blind", (Noise,), {"__getitem__": None})
    assert labels_of(data).tolist() == expected
    assert labels_of(ConcatDataset([data, Subset(data, [1])])).tolist() == [*expected, 1]
    from mien.data.folders import Record

    records = [Record(tmp_path / "none.png", y, "g") for y in (1, 0, None)]
    assert labels_of(FaceRecords(records, 8)).tolist() == [1, 0, -1]


def test_kinds_come_from_the_data():
    room = catalog.room("hfc-mffd")
    from mien.room import DataOptions

    found = room.data_config("hfc-mffd", "embedded", DataOptions())
    assert found == {"kinds": ["self-blend", "swap", "re-synthesis", "region-edit"]}
    assert room.data_config("acmf", "embedded", DataOptions()) == {}


def test_kinds_that_are_not_named_are_what_the_papers_data_call_them(tmp_path):
    for kind in ("0_real", "cyclegan", "progan", "stylegan", "stylegan2"):
        (tmp_path / "train" / kind).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / kind / "a.png")
    records = forgery_nir(tmp_path)
    method, label = make(kinds=None), torch.tensor([r.label for r in records])
    given = Faces(torch.rand(len(records), 3, 24, 24), label, kind=[r.kind for r in records])
    assert method.targets(method.second, given)[1].tolist() == [0, 1, 2, 3]


def test_the_first_convolution_is_replaced():
    body = nn.Sequential(nn.Identity(), nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False)))
    one_channel(body)
    assert body(torch.rand(1, 1, 9, 9)).shape == (1, 5, 5, 5)
    with pytest.raises(BadInput, match="begins with a convolution"):
        one_channel(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attention": "rows"}, "attention is 'rows': use patches, batch, none"),
        ({"balance": "yes"}, "balance is 'yes'"),
        ({"decision": "deep"}, "decision is 'deep'"),
        ({"modality": "x-ray"}, "modality is 'x-ray'"),
        ({"patch_weight": 1.5}, "patch_weight is 1.5"),
        ({"patch": 30}, "patch is 30: it must fit into images of 24 pixels"),
        ({"patch_grid": 0}, "patch_grid is 0"),
        ({"streams": ("image", "sound")}, "sound"),
        ({"streams": ()}, "name at least one of image, dct, descriptor"),
        ({"kind_streams": ("image", "image")}, "each once"),
        ({"kinds": ("real", "a")}, "not 'real'"),
        ({"landmarks": 5}, "count is 5"),
        ({"cell": 0.0}, "cell is 0.0"),
        ({"cell": math.nan}, "cell is nan"),
        ({"face": 0.5}, "face 0.5"),
        ({"head": HeadSize(heads=3)}, "no multiple of it"),
    ],
)
def test_bad_arguments_are_refused(changes, said):
    with pytest.raises(BadInput, match=said):
        make(**changes)


def test_bad_settings_are_refused():
    for bad, said in (
        (lambda: HeadSize(dropout=1.0), "head.dropout is 1.0"),
        (lambda: HeadSize(heads=0), "each must be at least 1"),
        (lambda: Fusion(kind="vote"), "fusion.kind is 'vote'"),
        (lambda: Fusion(lr=0), "fusion.lr is 0"),
        (lambda: Fusion(samples=0), "fusion.samples is 0"),
    ):
        with pytest.raises(BadInput, match=said):
            bad()
    given = batch()
    given.label = torch.tensor([0, 1, -1, 1, 0, 1, 1, 1])
    with pytest.raises(BadInput, match="training needs 0"):
        make().losses(given)

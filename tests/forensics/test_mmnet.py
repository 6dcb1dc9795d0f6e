# SPDX-License-Identifier: Apache-2.0
"""MMNet against its equations: scales, presence, both directions, decoding, recovery and the losses of both stages."""

from __future__ import annotations

import copy
import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from mien.data.batch import collate
from mien.engine import Phase, Settings, Stages, fit, load_weights
from mien.engine.method import build
from mien.errors import BadInput
from mien.forensics.data import Faces
from mien.forensics.edits.faces import EditedFaces
from mien.forensics.mmnet import MMNet, set_loss
from mien.forensics.parts.collaboration import Collaboration, CrossScale, place_grid, sine_code
from mien.forensics.parts.recovery import (
    Condition,
    Supervision,
    edited_mask,
    feature_distance,
    identity_distances,
    region_psnr,
)
from mien.forensics.parts.sequence_decoder import (
    END,
    PAD,
    START,
    GaussianPrior,
    Read,
    SequenceDecoder,
    reversed_lists,
    strings,
    token_loss,
    unmentioned,
)
from mien.nn.network import Network
from mien.nn.patchgan import PatchGAN, hinge
from mien.optim.recipe import Recipe

SMALL = {
    "network": Network("tiny_pyramid"),
    "image_size": 32,
    "width": 16,
    "hidden": 32,
    "decoder_layers": 1,
    "dropout": 0.0,
    "recovery_width": 8,
    "discriminator": PatchGAN(scales=1, width=8, layers=1),
}


def make(**changes):
    torch.manual_seed(0)
    return MMNet(**{**SMALL, **changes}).eval()


def batch_of(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = [[0] * 5, [3, 0, 0, 0, 0], [1, 5, 0, 0, 0], [4, 2, 1, 0, 0], [2, 1, 4, 3, 0], [5, 4, 3, 2, 1]]
    samples = []
    for i in range(count):
        image, sequence = torch.rand(3, 32, 32, generator=generator), torch.tensor(rows[i % 6])
        original = (
            image if i % 6 == 0 else (image + 0.3 * (torch.rand(3, 32, 32, generator=generator) > 0.8)).clamp(0, 1)
        )
        label = int(i % 6 > 0)
        samples.append(
            EditedFaces(image, label, f"p{i % 3}", "x" if label else "real", sequence=sequence, original=original)
        )
    return samples


def recovering(**changes):
    method = make(**changes)
    build(method, Phase(index=1, name="recover"))
    return method


# --- scales ---------------------------------------------------------------------------------------------------
def test_the_sine_code_in_loops():
    code = sine_code(place_grid(3, 2), 8)
    for n, (row, column) in enumerate((r, c) for r in range(3) for c in range(2)):
        expected = []
        for place in ((row + 0.5) / 3, (column + 0.5) / 2):
            for i in range(2):
                angle = 2 * math.pi * place / 10_000 ** (i / 2)
                expected += [math.sin(angle), math.cos(angle)]
        assert code[n].tolist() == pytest.approx(expected, abs=1e-6)


def attention(module, query, memory, bias=None):
    """Multi-head attention in plain steps."""
    d, h = query.shape[-1], module.num_heads
    q, k, v = (
        F.linear(x, w, b)
        for x, w, b in zip(
            (query, memory, memory), module.in_proj_weight.split(d), module.in_proj_bias.split(d), strict=True
        )
    )
    out = []
    for head in range(h):
        part = slice(head * d // h, (head + 1) * d // h)
        logits = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(d / h)
        if bias is not None:
            logits = logits + bias[:, head]
        out.append(logits.softmax(dim=-1) @ v[..., part])
    return F.linear(torch.cat(out, dim=-1), module.out_proj.weight, module.out_proj.bias)


def norm(module, x):
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + module.eps).sqrt() * module.weight + module.bias


def test_across_scales_is_the_equation():
    torch.manual_seed(0)
    cross = CrossScale(16, 24, 0.0).double().eval()
    t, others = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, 9, 16, dtype=torch.float64)
    one = t + attention(cross.attention, norm(cross.norm, t), norm(cross.norm_others, others))
    wide = norm(cross.norm_after, one) @ cross.feed[0].weight.T + cross.feed[0].bias
    two = one + wide.clamp(min=0) @ cross.feed[3].weight.T + cross.feed[3].bias
    assert torch.allclose(cross(t, others), two, atol=1e-10)


def test_collaboration_is_the_equation_and_scales_read_the_values_from_before():
    torch.manual_seed(0)
    part = Collaboration((3, 5, 7), (8, 4, 2), width=16, hidden=24, layers=1, dropout=0.0, pooled=True).double().eval()
    part.code = part.code.double()
    maps = [torch.randn(2, c, s, s, dtype=torch.float64) for c, s in ((3, 8), (5, 4), (7, 2))]
    tokens = []
    for i, feature in enumerate(maps):
        entered = (
            torch.einsum("dc,bchw->bdhw", part.enter[i].weight[:, :, 0, 0], feature) + part.enter[i].bias[:, None, None]
        )
        if i == 0:  # averaged over 2 x 2
            entered = entered.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5))
        side = entered.shape[-1]
        code = sine_code(place_grid(side, side), 16).double()
        tokens.append(part.within[i](entered.flatten(2).mT + code + part.scale[i]))
    gated = []
    for i in range(3):
        others = torch.cat([tokens[m] for m in range(3) if m != i], dim=1)
        t = part.across[i](tokens[i], others)
        mlp = part.gates[i].mlp
        hidden = (t.mean(dim=1) @ mlp[0].weight.T + mlp[0].bias).clamp(min=0)
        gate = 1 / (1 + torch.exp(-(hidden @ mlp[2].weight.T + mlp[2].bias)))
        assert abs(float(gate.detach().mean()) - 0.88) < 0.05
        gated.append(gate[:, None] * t)
    memory = norm(part.norm, torch.cat(gated, dim=1))
    assert torch.allclose(part(maps), memory, atol=1e-6)
    assert part.places.shape == (16 + 16 + 4, 2)


def test_the_papers_size():
    with torch.device("meta"):
        method = MMNet()
    parts = dict(method.detector.named_children())
    assert parts["collaboration"].places.shape == (576, 2)
    assert parts["backbone"].channels == [256, 512, 1024, 2048]
    assert parts["decoder"].token.weight.shape == (8, 256)
    # ResNet-50 without its classifier: 25,557,032 - 2,049,000.
    assert sum(p.numel() for p in parts["backbone"].parameters()) == 23_508_032


def test_one_scale_has_nothing_across_and_nothing_gated():
    method = make(scales=(5,), presence=False, backward=False)
    part = method.detector.collaboration
    assert len(part.across) == len(part.gates) == 0
    assert part.places.shape == (4, 2)
    assert method.detector.presence is None
    maps = method.detector.backbone(batch_of(1)[0].image[None])
    tokens = part.enter[0](maps[3]).flatten(2).mT + part.code + part.scale[0]
    assert torch.allclose(part([maps[3]]), norm(part.norm, part.within[0](tokens)), atol=1e-5)


# --- the decoder ----------------------------------------------------------------------------------------------
def test_strings_of_every_length():
    for n in range(6):
        sequence = torch.tensor([[*range(1, n + 1), *[0] * (5 - n)]])
        text = [START, *range(1, n + 1), END, *[PAD] * (5 - n)]
        given, target = strings(sequence)
        assert given[0].tolist() == [PAD if token == END else token for token in text[:6]]
        assert target[0].tolist() == text[1:]
        back = [*range(n, 0, -1), *[0] * (5 - n)]
        assert reversed_lists(sequence)[0].tolist() == back
        assert torch.equal(reversed_lists(reversed_lists(sequence)), sequence)


def test_cross_entropy_is_the_mean_over_what_is_no_padding():
    z = torch.randn(2, 6, 8, dtype=torch.float64)
    _, target = strings(torch.tensor([[3, 1, 0, 0, 0], [0, 0, 0, 0, 0]]))
    expected = [
        -math.log(math.exp(z[b, t, y]) / sum(math.exp(v) for v in z[b, t]))
        for b, t, y in ((0, 0, 3), (0, 1, 1), (0, 2, 6), (1, 0, 6))
    ]
    assert float(token_loss(z, target)) == pytest.approx(sum(expected) / 4)
    assert float(token_loss(z[:0], target[:0])) == 0


def test_presence_loss_asks_which_regions_there_are():
    r = torch.randn(2, 5, dtype=torch.float64)
    there = [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    p = 1 / (1 + torch.exp(-r))
    expected = [-math.log(p[b, k] if there[b][k] else 1 - p[b, k]) for b in range(2) for k in range(5)]
    assert float(set_loss(r, torch.tensor([[4, 1, 0, 0, 0], [0] * 5]))) == pytest.approx(sum(expected) / 10)


def test_the_prior_in_loops():
    torch.manual_seed(0)
    prior = GaussianPrior(16)
    for layer in (prior.offset, prior.sharpness):
        torch.nn.init.normal_(layer.weight)
    query, places = torch.randn(2, 3, 16), place_grid(2, 2)
    got = prior(query, places)
    assert got.shape == (2, 4, 3, 4)
    for b, h, t, s in product(range(2), range(4), range(3), range(4)):
        q = query[b, t]
        c = 8 * prior.reference(q).sigmoid() + prior.offset(q)[2 * h : 2 * h + 2]
        scale = prior.sharpness(q)[2 * h : 2 * h + 2]
        away = 8 * places[s] - c
        assert float(got[b, h, t, s]) == pytest.approx(-float((away**2 * scale**2).sum()) / 4, rel=1e-4, abs=1e-5)


def test_the_decoder_layer_adds_the_prior_and_sees_no_later_token():
    torch.manual_seed(0)
    decoder = SequenceDecoder(16, 24, 1, 0.0).eval()
    memory, places = torch.randn(1, 4, 16), place_grid(2, 2)
    given = torch.tensor([[0, 3, 1, 7, 7, 7]])
    layer = decoder.layers[0]
    x = decoder.token(given) + decoder.position.weight + decoder.direction[1]
    later = torch.full((6, 6), -torch.inf).triu(1).expand(1, 4, 6, 6)
    seen = norm(layer.norm_self, x)
    x = x + attention(layer.self_attention, seen, seen, later)
    query = norm(layer.norm_cross, x)
    x = x + attention(layer.cross_attention, query, memory, layer.prior(query, places))
    x = x + layer.feed(norm(layer.norm_feed, x))
    got = decoder(given, memory, places, backward=True)
    assert torch.allclose(got, decoder.head(norm(decoder.norm, x)), atol=1e-5)
    other = decoder(torch.tensor([[0, 3, 1, 4, 2, 5]]), memory, places, backward=True)
    assert torch.allclose(got[:, :3], other[:, :3], atol=1e-6)
    assert not torch.allclose(got[:, 3], other[:, 3])


def test_directions_share_all_weights_but_a_vector():
    method = make()
    read = method.detector(torch.rand(2, 3, 32, 32))
    given, _ = strings(torch.tensor([[3, 1, 0, 0, 0]] * 2))
    one, other = (method.detector.logits(read, given, backward=b) for b in (False, True))
    assert not torch.allclose(one, other)
    with torch.no_grad():
        method.detector.decoder.direction[1] = method.detector.decoder.direction[0]
    assert torch.equal(*(method.detector.logits(read, given, backward=b) for b in (False, True)))


def test_presence_is_added_to_regions_that_were_not_emitted_yet():
    method = make()
    with torch.no_grad():
        method.detector.balance.fill_(2.0)
    read = method.detector(torch.rand(1, 3, 32, 32))
    given, _ = strings(torch.tensor([[3, 1, 0, 0, 0]]))
    without = method.detector.logits(Read(read.maps, read.memory, None), given)
    added = method.detector.logits(read, given) - without
    r = read.presence[0].tolist()
    for t, emitted in enumerate(((), (3,), (3, 1), (3, 1), (3, 1), (3, 1))):
        expected = [0.0, *(0.0 if k in emitted else 2 * r[k - 1] for k in range(1, 6)), 0.0, 0.0]
        assert added[0, t].tolist() == pytest.approx(expected, abs=1e-5)
    assert unmentioned(given)[0, 2].tolist() == [False, True, False, True, True]


class Tables:
    """Logits by the tokens so far, in place of a decoder: (direction, prefix) -> logits; otherwise drawn once."""

    def __init__(self, count, seed=0, **fixed):
        self.count, self.known, self.generator = (
            count,
            dict(fixed.get("fixed", {})),
            torch.Generator().manual_seed(seed),
        )

    def __call__(self, read, given, *, backward=False):
        rows = []
        for b in range(len(given)):
            row = []
            for t in range(given.shape[1]):
                key = (int(read.memory[b, 0, 0]), backward, tuple(given[b, : t + 1].tolist()))
                if key not in self.known:
                    self.known[key] = torch.randn(8, generator=self.generator) * 2
                row.append(self.known[key])
            rows.append(torch.stack(row))
        return torch.stack(rows)


def stubbed(monkeypatch, count=5, seed=0, fixed=None):
    detector = make().detector
    monkeypatch.setattr(detector, "logits", Tables(count, seed, fixed=fixed or {}))
    memory = torch.arange(count).float()[:, None, None].expand(count, 1, 16)
    return detector, Read([], memory, None)


def alone(read, i):
    return Read([], read.memory[i : i + 1], None)


@pytest.mark.parametrize("seed", range(4))
def test_greedy_never_emits_start_or_padding_and_every_sample_ends_on_its_own(monkeypatch, seed):
    detector, read = stubbed(monkeypatch, 8, seed)
    for backward in (False, True):
        together = detector.greedy(read, backward=backward)
        for i in range(8):
            tokens, expected = [START], []
            while len(expected) < 5:
                z = detector.logits(alone(read, i), torch.tensor([tokens]), backward=backward)[0, -1]
                best = max(range(1, 7), key=lambda token, z=z: float(z[token]))
                if best == END:
                    break
                expected.append(best)
                tokens.append(best)
            assert together[i].tolist() == expected + [0] * (5 - len(expected))
            assert torch.equal(detector.greedy(alone(read, i), backward=backward)[0], together[i])


def test_log_probabilities_are_those_of_every_choice_with_the_end(monkeypatch):
    detector, read = stubbed(monkeypatch, 1)
    total = 0.0
    for n in range(3):
        for regions in product(range(1, 6), repeat=n):
            sequence = torch.tensor([[*regions, *[0] * (5 - n)]])
            expected, tokens = 0.0, [START]
            for token in (*reversed(regions), END):
                z = detector.logits(read, torch.tensor([tokens]), backward=True)[0, -1]
                expected += float(z[token] - z[1:7].logsumexp(0))
                tokens.append(token)
            got = float(detector.log_probability(read, sequence, backward=True))
            assert got == pytest.approx(expected, abs=1e-4)
            total += math.exp(got)
    assert 0 < total < 1
    full = torch.tensor([[1, 2, 3, 4, 5]])
    shorter = detector.log_probability(read, torch.tensor([[1, 2, 3, 4, 0]]))
    given, _ = strings(full)
    log_p = detector.logits(read, given)[0, :, 1:7].log_softmax(dim=1)
    assert float(detector.log_probability(read, full)) == pytest.approx(
        float(shorter - log_p[4, 5] + log_p[4, 4] + log_p[5, 5]), abs=1e-4
    )


def test_the_list_is_the_likeliest_for_both_directions_of_three_candidates(monkeypatch):
    chosen = set()
    for seed in range(30):
        detector, read = stubbed(monkeypatch, 1, seed)
        candidates = {
            "forward": detector.greedy(read),
            "backward": reversed_lists(detector.greedy(read, backward=True)),
            "empty": torch.zeros(1, 5, dtype=torch.int64),
        }
        both = {
            name: float(detector.log_probability(read, y)) + float(detector.log_probability(read, y, backward=True))
            for name, y in candidates.items()
        }
        best = max(both, key=both.get)
        assert torch.equal(detector.sequences(read), candidates[best])
        chosen.add(best)
    assert chosen == {"forward", "backward", "empty"}


def test_ties_go_to_the_forward_list(monkeypatch):
    flat = {}
    for backward, first in ((False, 1), (True, 2)):
        flat[0, backward, (0,)] = torch.tensor([0.0, 1.0, 1.0, 0, 0, 0, -9.0, 0]) + 1e-7 * F.one_hot(
            torch.tensor(first), 8
        )
        for token in (1, 2):
            flat[0, backward, (0, token)] = torch.tensor([0.0, 0, 0, 0, 0, 0, 9.0, 0])
            flat[0, backward, (0, token, 7)] = torch.zeros(8)
    detector, read = stubbed(monkeypatch, 1, fixed=flat)
    assert detector.greedy(read)[0, 0] == 1
    assert detector.greedy(read, backward=True)[0, 0] == 2
    assert detector.sequences(read)[0].tolist() == [1, 0, 0, 0, 0]


def test_the_score_is_the_probability_that_the_list_is_not_empty():
    method = make()
    image = torch.rand(3, 3, 32, 32)
    read = method.detector(image)
    empty = torch.zeros(3, 5, dtype=torch.int64)
    odds = []
    for backward in (False, True):
        p = method.detector.log_probability(read, empty, backward=backward).exp()
        odds.append(torch.log((1 - p) / p))
    assert torch.allclose(method.predict(Faces(image, torch.zeros(3))).score, (sum(odds) / 2).sigmoid(), atol=1e-6)
    single = make(backward=False)
    p = single.detector.log_probability(single.detector(image), empty).exp()
    assert torch.allclose(single.predict(Faces(image, torch.zeros(3))).score, 1 - p, atol=1e-6)


def test_lists_in_words():
    method = make()
    assert method.named([1, 2, 4, 0, 0]) == "nose > eye > lip"
    assert method.named([0] * 5) == "none"
    assert make(vocabulary="attributes").named([3, 0, 0, 0, 0]) == "beard"


# --- recovery -------------------------------------------------------------------------------------------------
def test_the_condition_is_a_mean_that_keeps_the_order_and_is_zero_for_no_edits():
    torch.manual_seed(0)
    condition = Condition(6)
    got = condition(torch.tensor([[4, 1, 0, 0, 0], [1, 4, 0, 0, 0], [0] * 5]))
    token, position = condition.token.weight, condition.position.weight
    parts = [token[4] + position[0], token[1] + position[1]]
    assert torch.allclose(got[0], sum(x / (1 + torch.exp(-x)) for x in parts) / 2, atol=1e-6)
    assert torch.equal(got[2], torch.zeros(6))
    assert not torch.allclose(got[0], got[1], atol=1e-2), "the same regions in another order"


def test_recovery_starts_from_the_input():
    method, batch = recovering(), collate(batch_of())
    read = method.detector(batch.image)
    made, mask = method.recovered(batch.image, read, batch.sequence)
    assert torch.equal(made, batch.image)
    assert float(mask[0].max()) == 0
    assert float(mask[1:].min()) > 0


def test_an_empty_list_gives_the_input_back_and_another_list_another_face():
    method, batch = recovering(), collate(batch_of())
    torch.nn.init.normal_(method.recovery.leave_residual.weight, std=0.1)
    for level in (method.recovery.enter, *method.recovery.levels):
        torch.nn.init.normal_(level.modulation.weight, std=0.5)
    read = method.detector(batch.image)
    made, _ = method.recovered(batch.image, read, batch.sequence)
    assert torch.equal(made[0], batch.image[0])
    assert not torch.allclose(made[1], batch.image[1])
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    other, _ = method.recovered(batch.image, read, torch.tensor([[5, 0, 0, 0, 0]] * 6))
    assert not torch.allclose(made[1], other[1])


def test_modulation_starts_at_group_norm_alone():
    method = recovering()
    level = method.recovery.enter
    x = torch.randn(2, 96, 2, 2)
    h = level.convolution(x).unflatten(1, (8, -1))
    flat = h.flatten(2)
    normed = (flat - flat.mean(2, keepdim=True)) / (flat.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normed = normed.reshape(2, -1, 2, 2)
    assert torch.allclose(level(x, torch.randn(2, 16)), normed * normed.sigmoid(), atol=1e-5)


def test_the_recovery_losses_are_the_equations():
    weights = Supervision()
    method, batch = recovering(supervision=weights), collate(batch_of())
    torch.nn.init.normal_(method.recovery.leave_residual.weight, std=0.1)
    method.use_embedder(lambda image: image.mean(dim=(2, 3)) - 0.3)
    step = list(method.steps(batch))[-1]
    losses = step.loss(*step.batches)
    logit, q = method.recovery(batch.image, method.detector.backbone(batch.image), batch.sequence)
    m = 1 / (1 + torch.exp(-logit))
    made = batch.image + m * q
    assert float(losses["pixel"]) == pytest.approx(10 * float((made - batch.original).abs().mean()), rel=1e-4)
    edited = ((batch.image - batch.original).abs().mean(1, keepdim=True) > 0.05).float()
    assert 0 < float(edited[1:].mean()) < 1
    assert float(edited[0].max()) == 0
    entropy = -(edited * m.log() + (1 - edited) * (1 - m).log()).mean()
    assert float(losses["mask"]) == pytest.approx(float(entropy), rel=1e-4)
    maps = zip(method.detector.backbone(made), method.detector.backbone(batch.original), strict=True)
    assert float(losses["perceptual"]) == pytest.approx(float(sum((a - b).abs().mean() for a, b in maps)), rel=1e-4)
    a, b = made.mean(dim=(2, 3)) - 0.3, batch.original.mean(dim=(2, 3)) - 0.3
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    assert float(losses["identity"]) == pytest.approx(0.5 * float((1 - cosine).mean()), rel=1e-3)
    assert float(losses["adversarial"]) == pytest.approx(-0.1 * float(method.rival(made)[0][-1].mean()), rel=1e-4)
    read = method.detector(made)
    start = torch.full((6, 1), START)
    ends = [method.detector.logits(read, start, backward=b)[:, 0].log_softmax(1)[:, END] for b in (False, True)]
    assert float(losses["cycle"]) == pytest.approx(-0.1 * float(sum(e.mean() for e in ends)), rel=1e-4)


def test_the_discriminators_hinge():
    real, fake = torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([[-2.0, 0.5, 1.0]])
    assert float(hinge([[real]], real=True)) == pytest.approx((0 + 0.5 + 2) / 3)
    assert float(hinge([[fake]], real=False)) == pytest.approx((0 + 1.5 + 2) / 3)


def test_the_detector_is_fixed_and_gradients_pass_through_it():
    method, batch = recovering(), collate(batch_of())
    method.train()
    assert not method.detector.training
    assert method.recovery.training
    torch.nn.init.normal_(method.recovery.leave_residual.weight, std=0.1)
    method.supervision = Supervision(pixel=1e-9, mask=0, perceptual=0, adversarial=0, cycle=1)
    before = copy.deepcopy(method.detector.state_dict())
    step = list(method.steps(batch))[-1]
    losses = step.loss(*step.batches)
    losses["cycle"].backward()
    assert float(method.recovery.leave_residual.weight.grad.abs().max()) > 0
    assert all(p.grad is None for p in method.detector.parameters())
    assert all(torch.equal(before[k], v) for k, v in method.detector.state_dict().items())


def test_helpers_of_the_recovery():
    a, b = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    b[0, 0, 0, 0], b[0, :, 1, 1] = 0.149, 0.051
    assert edited_mask(a, b).nonzero().tolist() == [[0, 0, 1, 1]]
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1, 1] = 1
    assert float(region_psnr(a, b, mask)) == pytest.approx(-20 * math.log10(0.051), rel=1e-5)
    assert float(region_psnr(a, b, 1 - mask)) == pytest.approx(-10 * math.log10(0.149**2 / 45), rel=1e-5)
    assert float(region_psnr(a, a, mask)) == 100
    assert float(region_psnr(a, b, 0 * mask)) == 100
    assert float(feature_distance([a, a + 1], [b, a])) == pytest.approx(float(b.mean()) + 1)
    assert float(identity_distances(torch.tensor([[1.0, 0]]), torch.tensor([[1.0, 1]]))) == pytest.approx(1 - 0.5**0.5)


# --- training -------------------------------------------------------------------------------------------------
def test_the_detection_losses_are_those_of_both_directions_and_the_presence():
    method, batch = make(), collate(batch_of())
    losses = method.losses(batch)
    read = method.detector(batch.image)
    expected = {"presence": 0.5 * set_loss(read.presence, batch.sequence)}
    for name, backward in (("forward", False), ("backward", True)):
        given, target = strings(reversed_lists(batch.sequence) if backward else batch.sequence)
        expected[name] = token_loss(method.detector.logits(read, given, backward=backward), target)
    assert {k: float(v) for k, v in losses.items()} == pytest.approx(
        {k: float(v) for k, v in expected.items()}, rel=1e-5
    )
    assert set(make(presence=False, backward=False).losses(batch)) == {"forward"}


def test_faces_without_lists_are_learnt_by_their_label():
    method = make()
    image = torch.rand(4, 3, 32, 32)
    label = torch.tensor([0, 1, 1, 0])
    score = method.predict(Faces(image, label)).score
    expected = -torch.where(label == 1, score, 1 - score).log().mean()
    losses = method.losses(Faces(image, label))
    assert set(losses) == {"edited"}
    assert float(losses["edited"]) == pytest.approx(float(expected), rel=1e-4)
    with pytest.raises(BadInput, match="labels are"):
        method.losses(Faces(image, label - 1))


def test_who_was_never_taught_lists_names_none(tmp_path):
    labels = Samples([Faces(torch.rand(3, 32, 32), i % 2, f"p{i}") for i in range(4)])
    labels.originals = False
    lists = Samples(batch_of(6))
    settings = Settings(batch_size=4, device="cpu")
    image = Faces(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
    method = make()
    fit(method, labels, schedule=Stages({"detect": 1}), settings=settings)
    assert method.eval().predict(image).columns["edits"] == [None, None]
    assert method.further_figures(lists) == {}, "lists that it cannot name are no figure of it"
    loaded = make()
    load_weights(loaded, method.save_pretrained(tmp_path / "labels"))
    assert loaded.predict(image).columns["edits"] == [None, None]
    fit(method, lists, schedule=Stages({"detect": 1}), settings=settings)
    fit(method, labels, schedule=Stages({"detect": 1}), settings=settings)
    load_weights(loaded, method.eval().save_pretrained(tmp_path / "lists"))
    for one in (method, loaded):
        assert all(isinstance(edits, str) for edits in one.predict(image).columns["edits"])
        assert "csm_plus" in one.further_figures(lists)


def test_weights_from_before_the_note_still_load():
    state = make().state_dict()
    del state["lists_taught"]
    method = make()
    method.load_state_dict(state)
    assert bool(method.lists_taught)
    assert "lists_taught" not in state
    with pytest.raises(RuntimeError, match="Missing key"):
        make().load_state_dict({})


def test_warmup_in_updates_goes_before_the_share():
    """The share is there by default; who gives a number of updates means it."""
    for warmup, updates, expected in (
        (0.0, 50, 1e-3 / 50),
        (0.25, 50, 1e-3 / 50),
        (0.25, 0, 1e-3 / 25),
        (0.0, 0, 1e-3),
    ):
        method = make(optimizer=Recipe(lr=1e-3, warmup_steps=updates), warmup=warmup)
        optimizer, _ = method.optimizers(Phase(name="detect", total_steps=100))["main"]
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected), (warmup, updates)


def test_the_backbone_learns_more_slowly_and_the_rate_rises_first():
    method = make(optimizer=Recipe(lr=1e-3), warmup=0.25, backbone_rate=0.1)
    optimizer, schedule = method.optimizers(Phase(name="detect", total_steps=8))["main"]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-4, 5e-5])
    sizes = [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups]
    assert sizes[1] == sum(p.numel() for p in method.detector.backbone.parameters())
    assert sum(sizes) == sum(p.numel() for p in method.parameters())
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


def test_stages_follow_from_the_data():
    with_originals = SimpleNamespace(train=lambda phase: SimpleNamespace(originals=True))
    without = SimpleNamespace(train=lambda phase: SimpleNamespace())
    assert make().phases(5, with_originals) == {"detect": 5, "recover": 2}
    assert make().phases(1, with_originals) == {"detect": 1, "recover": 1}
    assert make().phases(5, without) == {"detect": 5}


def test_weights_of_vgg_that_are_not_there_are_refused_before_any_training(tmp_path):
    with_originals = SimpleNamespace(train=lambda phase: SimpleNamespace(originals=True))
    without = SimpleNamespace(train=lambda phase: SimpleNamespace())
    missing = make(features=str(tmp_path / "vgg.pth"))
    with pytest.raises(BadInput, match=r"vgg\.pth"):
        missing.phases(5, with_originals)
    assert missing.phases(5, without) == {"detect": 5}


def test_recovery_without_originals_is_refused():
    samples = batch_of()
    method = recovering()
    batch = collate(samples)
    batch.original = None
    with pytest.raises(BadInput, match="faces before"):
        list(method.steps(batch))
    with pytest.raises(BadInput, match="not trained to recover"):
        make().recovered(batch.image, make().detector(batch.image), batch.sequence)


class Samples(list):
    seeded = False
    originals = True


def test_it_learns_what_it_is_shown_and_tells_how_well(tmp_path):
    data = Samples(batch_of(12))
    method = make(optimizer=Recipe(lr=3e-3), backbone_rate=1.0, warmup=0.0)
    fit(
        method,
        data,
        schedule=Stages({"detect": 60, "recover": 20}),
        settings=Settings(batch_size=12, device="cpu", clip=1.0),
    )
    method.eval()
    method.use_embedder(lambda image: image.flatten(1))
    figures = method.further_figures(data)
    assert 0 < figures["recovery_identity_nothing"].value < figures["recovery_identity"].value <= 1
    assert figures["csm_plus"].value > 0.9
    assert figures["recovery_psnr"].value > figures["recovery_psnr_nothing"].value
    assert figures["recovery_psnr"].units == 3
    table = method.validate(data)
    assert table["csm_plus"] == figures["csm_plus"].value
    assert table["recovery_psnr_nothing"] == pytest.approx(figures["recovery_psnr_nothing"].value)
    method.evidence = True
    verdict = method.predict(collate(batch_of()))
    assert verdict.columns["edits"][2] == "nose > hair"
    assert verdict.picture.shape == (6, 3, 32, 32)
    assert verdict.evidence.shape == (6, 1, 32, 32)
    assert (verdict.score > 0.5).tolist() == [False] + [True] * 5
    assert method.further_figures(Samples([Faces(torch.rand(3, 32, 32), 1, "p")])) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": (2,)}, "scales is"),
        ({"scales": (5, 4)}, "scales is"),
        ({"scales": ()}, "scales is"),
        ({"vocabulary": "parts"}, "vocabulary is 'parts'"),
        ({"width": 6}, "width is 6"),
        ({"hidden": 0}, "hidden is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"warmup": -0.1}, "warmup is -0.1"),
        ({"set_weight": -1.0}, "set_weight is -1.0"),
        ({"backbone_rate": float("inf")}, "backbone_rate is inf"),
        ({"recovery_width": 12}, "recovery_width is 12"),
        ({"image_size": 40}, "image_size is 40"),
        ({"network": Network("tiny_cnn")}, "no feature maps of four scales"),
        ({"network": Network("tiny_pyramid", normalise="backbone")}, "normalise"),
        ({"network": Network("tiny_pyramid", pretrained=True)}, "no weights to start from"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(BadInput, match=message):
        make(**changes)


def test_bad_supervision():
    with pytest.raises(BadInput, match=r"supervision\.mask is -1"):
        Supervision(mask=-1)
    with pytest.raises(BadInput, match="nothing is recovered"):
        Supervision(pixel=0, perceptual=0, adversarial=0)


class Breaks(Samples):
    """Fails when so many samples were asked for."""

    left = 10**9

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


@pytest.mark.parametrize("served", [20, 45], ids=["in detection", "in recovery"])
def test_a_run_that_broke_off_ends_with_the_bits_of_the_unbroken_one(tmp_path, served):
    schedule = Stages({"detect": 2, "recover": 2})
    settings = Settings(batch_size=4, device="cpu", checkpoint_every=1)
    unbroken, data = make(), Breaks(batch_of(12))
    fit(unbroken, data, schedule=schedule, settings=settings, out=tmp_path / "whole")
    data.left = served
    with pytest.raises(OSError, match="disk is gone"):
        fit(make(), data, schedule=schedule, settings=settings, out=tmp_path / "run")
    data.left = 10**9
    resumed = make()
    fit(resumed, data, schedule=schedule, settings=settings, out=tmp_path / "run", resume=True)
    ours, theirs = resumed.state_dict(), unbroken.state_dict()
    assert set(ours) == set(theirs)
    assert any(name.startswith("rival") for name in ours)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())

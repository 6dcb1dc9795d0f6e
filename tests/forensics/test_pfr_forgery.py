# SPDX-License-Identifier: Apache-2.0
"""PFR-Forgery against its equations: the two representations, the losses, and who holds what."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien import api
from mien.engine import PerTask, Phase, Rounds, Settings, Single, fit
from mien.engine.federation import is_personal
from mien.engine.method import build
from mien.engine.state import load_state
from mien.errors import BadInput
from mien.federated.plan import Federated
from mien.federated.roles import travelling
from mien.forensics.data import Faces
from mien.forensics.parts.representations import (
    Discriminator,
    Gate,
    Path,
    SharedPart,
    channel_statistics,
    map_channels,
    personal_representation,
    redundancy,
    shared_representation,
)
from mien.forensics.pfr_forgery import PFRForgery
from mien.forensics.scoring import score
from mien.nn.network import Network
from mien.optim.recipe import Recipe

PLAIN_SGD = Recipe("sgd", lr=0.05, momentum=0.0, weight_decay=0.0)


def make(seed=0, **changes):
    torch.manual_seed(seed)
    plain = {"network": Network("tiny_blocks"), "optimizer": Recipe("sgd", lr=0.05, momentum=0.5, weight_decay=0.0)}
    return PFRForgery(**{**plain, "image_size": 16, "ramp": 2, **changes})


class Noise(Dataset):
    seeded = False

    def __init__(self, seed=0, size=24):
        self.image = torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.image)

    def __getitem__(self, i):
        return Faces(self.image[i], i % 2, f"p{i // 2}", "real" if i % 2 == 0 else "noise")


def batch(size=6, seed=3):
    image = torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Faces(image, torch.arange(size) % 2, [""] * size, [""] * size, [""] * size, None, [""] * size)


def plan(**changes):
    return Settings(**{"batch_size": 8, "device": "cpu", **changes})


# --- the representations ---------------------------------------------------------------------------------------------


def maps(seed=0, channels=5):
    return torch.randn(3, channels, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_statistics_are_those_of_each_channel():
    x = maps()
    mean, deviation = channel_statistics(x)
    values = x[2, 3].flatten().tolist()
    mu = sum(values) / len(values)
    variance = sum((v - mu) ** 2 for v in values) / len(values)
    assert float(mean[2, 3]) == pytest.approx(mu, rel=1e-12)
    assert float(deviation[2, 3]) == pytest.approx(math.sqrt(variance + 1e-5), rel=1e-12)
    n = (x - mean[..., None, None]) / deviation[..., None, None]
    assert n.mean(dim=(2, 3)).abs().max() < 1e-12, "why H has a ReLU: the mean of n is 0"


def test_nothing_is_taken_at_a_0_and_everything_at_a_1():
    x, m, s = maps(), torch.randn(5, dtype=torch.float64), torch.rand(5, dtype=torch.float64) + 0.5
    zero, one = torch.zeros(3, 5, dtype=torch.float64), torch.ones(3, 5, dtype=torch.float64)
    assert torch.allclose(shared_representation(x, zero, m, s), x, atol=1e-12)
    common = shared_representation(x, one, m, s)
    mean, deviation = channel_statistics(common)
    assert torch.allclose(mean, m.expand(3, 5), atol=1e-12)
    assert torch.allclose(deviation, s.expand(3, 5), atol=1e-4)
    between = shared_representation(x, torch.full((3, 5), 0.25, dtype=torch.float64), m, s)
    assert torch.allclose(channel_statistics(between)[0], 0.75 * channel_statistics(x)[0] + 0.25 * m, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.7, 4), st.floats(-3, 3), st.integers(0, 99))
def test_a_clients_camera_is_gone_at_a_1(gain, offset, seed):
    """R_s(kX + b) = R_s(X) for gains k > 0 and offsets b of each channel, to the 1e-5 in s (maps of unit scale)."""
    x = maps(seed)
    one, m, s = torch.ones(3, 5).double(), torch.zeros(5).double(), torch.ones(5).double()
    k = gain * torch.linspace(0.8, 1.2, 5).double()[:, None, None]
    assert torch.allclose(
        shared_representation(k * x + offset, one, m, s), shared_representation(x, one, m, s), atol=1e-4
    )


def test_the_personal_representation_is_recalibrated_and_gets_the_residual_back():
    x = maps()
    generator = torch.Generator().manual_seed(1)
    a, g, t = (torch.rand(3, 5, dtype=torch.float64, generator=generator) for _ in range(3))
    m, s = torch.randn(5, dtype=torch.float64), torch.rand(5, dtype=torch.float64) + 0.5
    shared = shared_representation(x, a, m, s)
    assert torch.equal(personal_representation(x, shared, 0 * g, 0 * t), x), "g = t = 0"
    found = personal_representation(x, shared, g, t)
    mu, deviation = channel_statistics(x)
    for b, c, i, j in [(0, 0, 0, 0), (2, 4, 3, 5), (1, 2, 0, 4)]:
        n = (x[b, c, i, j] - mu[b, c]) / deviation[b, c]
        m_hat = (1 - a[b, c]) * mu[b, c] + a[b, c] * m[c]
        s_hat = (1 - a[b, c]) * deviation[b, c] + a[b, c] * s[c]
        residual = (deviation[b, c] - s_hat) * n + mu[b, c] - m_hat
        expected = (1 + g[b, c]) * x[b, c, i, j] + t[b, c] * residual
        assert float(found[b, c, i, j]) == pytest.approx(float(expected), abs=1e-12)


def test_the_parts_are_built_as_they_say():
    torch.manual_seed(0)
    gate = Gate(128)
    assert [tuple(p.shape) for p in gate.parameters()] == [(8, 256), (8,), (128, 8), (128,)]
    assert Gate(16)[0].out_features == 4, "at least 4"
    assert not gate[2].bias.any()
    path = Path(6).eval()
    x = torch.randn(2, 6, 3, 3)
    feature, logits = path(x)
    assert torch.allclose(feature, F.relu(path.h[1](path.h[0](x))).mean(dim=(2, 3)))
    assert torch.equal(logits, path.head(feature))
    part = SharedPart(Network("tiny_blocks"), 16)
    assert torch.allclose(part.deviation, torch.ones(64))
    assert not part.mean.any()
    image = torch.rand(2, 3, 16, 16)
    part.eval()
    x, shared, _, _ = part(image)
    a = part.a(torch.cat(channel_statistics(x), dim=1)).sigmoid()
    assert torch.allclose(shared, shared_representation(x, a, part.mean, part.deviation))
    assert abs(float(a.mean().detach()) - 0.5) < 0.2
    assert [type(m) for m in Discriminator(6)] == [nn.Linear, nn.LeakyReLU, nn.Linear]
    with torch.device("meta"):
        assert PFRForgery().shared.channels == 2048
    with pytest.raises(BadInput, match="2 x 2 are needed"):
        map_channels(Network("tiny_blocks").build(0, 8), 8)
    with pytest.raises(BadInput, match="no feature map"):
        make(network=Network("tiny_cnn"))


# --- losses ----------------------------------------------------------------------------------------------------------


def in_round(method, round_=0, total=10, data=None):
    phase = Phase(round=round_, client=0, total_steps=total)
    build(method, phase)
    method.begin_phase(phase, data)
    return method, method.optimizers(phase)


def test_the_losses_are_the_objective():
    method, _ = in_round(make(alpha=0.3, beta=0.7, gamma=0.9), round_=1)
    with torch.no_grad():
        for parameter in method.shared.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # away from what the server sent
    method.step.fill_(5)
    twin, shown = copy.deepcopy(method).requires_grad_(False), batch()
    found = method.losses(shown)
    x, shared, f_s, z_s = twin.shared(shown.image)
    f_p, z_p = twin.own(x, shared)
    assert list(found) == ["personal", "shared", "adversarial"]
    assert float(found["personal"].detach()) == pytest.approx(0.7 * float(F.cross_entropy(z_p, shown.label)), rel=1e-5)
    assert float(found["shared"].detach()) == pytest.approx(0.9 * float(F.cross_entropy(z_s, shown.label)), rel=1e-5)
    weight = 0.3 * (1 + 5 / 10) / 2
    adversarial = float(torch.log1p(torch.exp(-twin.discriminator(f_s))).mean())
    assert float(found["adversarial"].detach()) == pytest.approx(weight * adversarial, rel=1e-4)
    f_g = twin.sent_features(shown.image)
    l_d = (
        torch.log1p(torch.exp(-twin.discriminator(f_g))).mean() + torch.log1p(torch.exp(twin.discriminator(f_s))).mean()
    )
    assert float(method.discriminator_losses(shown)["discriminator"].detach()) == pytest.approx(float(l_d), rel=1e-4)
    assert f_p.shape == f_s.shape == (6, 64)


def test_the_servers_model_is_frozen_and_answers_in_eval_mode():
    method, _ = in_round(make())
    shown = batch()
    sent = copy.deepcopy(method.shared).eval()
    expected = sent(shown.image)[2]
    method.train()
    before = {name: value.clone() for name, value in method.shared.state_dict().items()}
    assert torch.allclose(method.sent_features(shown.image), expected, atol=1e-6)
    assert method.shared.training
    assert all(torch.equal(value, before[name]) for name, value in method.shared.state_dict().items())
    with torch.no_grad():
        method.shared.path.head.weight.add_(1.0)
        method.shared.mean.add_(1.0)
    assert torch.allclose(method.sent_features(shown.image), expected, atol=1e-6), "not the live weights"


def test_where_local_is_the_servers_model_the_discriminator_is_at_chance():
    method, _ = in_round(make(), round_=5)
    method.eval()
    with torch.no_grad():
        method.discriminator[2].weight.zero_()
        method.discriminator[2].bias.zero_()
    shown = batch()
    assert float(method.losses(shown)["adversarial"].detach()) == pytest.approx(0.1 * math.log(2), rel=1e-5)
    assert torch.allclose(*method._features[0], atol=1e-6), "whatever D is, it sees the same twice"
    assert float(method.discriminator_losses(shown)["discriminator"].detach()) == pytest.approx(
        2 * math.log(2), rel=1e-5
    )


def test_the_servers_figures_are_said_to_be_nobodys_own():
    method = make()
    assert method.remarks == ()
    method.stands_for(None)
    assert "clients/" in method.remarks[0]
    method.mode = "personal"
    assert method.remarks == ()
    fedavg = make(split="fedavg")
    fedavg.stands_for(None)
    assert fedavg.remarks == (), "one path, the same for all"


def test_without_leak_the_personal_loss_keeps_off_the_shared_statistics():
    for leak in (True, False):
        method = make(leak=leak, gamma=0.0, alpha=0.0)
        method.losses(batch())["personal"].backward()
        shared = method.shared
        for parameter in (shared.mean, shared.free_deviation, shared.a[0].weight):
            reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
            assert reached == leak
        assert next(shared.backbone.parameters()).grad.abs().sum() > 0


def test_how_far_statistics_are_pulled_is_logged(monkeypatch):
    method, seen = make(), {}
    monkeypatch.setattr(method, "log", lambda name, value: seen.update({name: float(value)}))
    method.losses(batch())
    x = method.shared.backbone.feature_map(batch().image)
    assert seen == {
        "a": pytest.approx(float(method.shared.a(torch.cat(channel_statistics(x), 1)).sigmoid().mean().detach()), 1e-3)
    }


def test_the_gradients_go_where_they_should():
    method, optimizers = in_round(make(), round_=5)
    method.losses(batch())["personal"].backward()
    for parameter in (method.shared.mean, method.shared.free_deviation, method.shared.a[0].weight):
        assert parameter.grad.abs().sum() > 0, "through R_s inside R_p"
    assert method.shared.path.head.weight.grad is None
    method.zero_grad(set_to_none=True)
    method.discriminator_losses(batch())["discriminator"].backward()
    assert all((p.grad is not None) == n.startswith("discriminator.") for n, p in method.named_parameters())
    ids = {name: {id(p) for group in o[0].param_groups for p in group["params"]} for name, o in optimizers.items()}
    assert ids["discriminator"] == {id(p) for p in method.discriminator.parameters()}
    assert ids["main"] | ids["discriminator"] == {id(p) for p in method.parameters()}
    assert not ids["main"] & ids["discriminator"]


def test_the_adversarys_weight_rises_over_the_first_rounds():
    method = make(alpha=0.5, ramp=4)
    found = []
    for round_ in range(6):
        in_round(method, round_, total=2)
        for _ in range(2):
            found.append(round(method.adversarial_weight, 6))
            method.after_step()
    assert found == [0.0, 0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5, 0.5, 0.5, 0.5]
    in_round(short := make(alpha=0.5, ramp=1), 0, total=4)
    short.step.fill_(2)
    assert short.adversarial_weight == pytest.approx(0.5 * 0.5 / 2), "at least two rounds"


def test_matching_and_redundancy_stand_in_for_the_adversary():
    shown = batch()
    method, optimizers = in_round(make(adversary="match"), round_=5)
    assert list(optimizers) == ["main"]
    with torch.no_grad():
        method.shared.path.h[0].weight.mul_(1.5)
    twin = copy.deepcopy(method).requires_grad_(False)
    expected = 0.1 * (twin.shared(shown.image)[2] - twin.sent_features(shown.image)).square().mean()
    assert float(method.losses(shown)["adversarial"].detach()) == pytest.approx(float(expected), rel=1e-5)

    torch.manual_seed(0)
    predictor = nn.Linear(4, 4).double()
    f_s, f_p = torch.randn(3, 4).double().requires_grad_(), torch.randn(3, 4).double().requires_grad_()
    loss = redundancy(f_s, f_p, predictor)
    guess = predictor(f_s)
    plain = (1 - torch.stack([guess[i] @ f_p[i] / (guess[i].norm() * f_p[i].norm()) for i in range(3)])).mean().item()
    assert float(loss.detach()) == pytest.approx(plain, rel=1e-9)
    loss.backward()
    forward = (1 - F.cosine_similarity(predictor(f_s), f_p, dim=1)).mean()
    grads = torch.autograd.grad(forward, [predictor.weight, f_s, f_p])
    assert torch.allclose(predictor.weight.grad, grads[0]), "the predictor learns to predict"
    assert torch.allclose(f_s.grad, -grads[1]), "the features learn to be unpredictable"
    assert torch.allclose(f_p.grad, -grads[2])
    assert "adversarial" in make(adversary="redundancy").losses(shown)


# --- who holds what --------------------------------------------------------------------------------------------------


def test_shared_and_personal_names():
    method = make()
    travels = set(travelling(method))
    assert travels == {n for n in method.state_dict() if n.startswith("shared.")} | {"step", "received", "server"}
    assert is_personal("own.path.head.weight", method.personal)
    assert is_personal("discriminator.0.weight", method.personal)
    assert make(split="fedavg").personal == ()
    fedper = make(split="fedper")
    assert not is_personal("shared.backbone.body.features.0.weight", fedper.personal)
    assert fedper.shared.path is None
    assert fedper.own.p is None
    norms = make(federated=Federated(norms="statistics")).personal
    assert "shared.backbone.body.features.1.running_mean" in norms
    assert "own.*" in norms


def test_personal_tensors_never_leave_and_shared_ones_are_the_weighted_mean(tmp_path):
    method, sizes = make(), (24, 40)
    data = PerTask([Noise(0, sizes[0]), Noise(1, sizes[1])], [Noise(2), Noise(3)])
    after = {}

    class Watched(PFRForgery):
        def end_phase(self, phase, data):
            super().end_phase(phase, data)
            after[phase.client] = {n: v.clone() for n, v in self.state_dict().items()}

    torch.manual_seed(0)
    watched = Watched(**{k: getattr(method, k) for k in method.config()})
    out = tmp_path / "run"
    fit(watched, data, schedule=Rounds(1, clients=2), settings=plan(), out=out)
    federation = load_state(out / "checkpoints" / "last.safetensors", "checkpoint")["federation"]
    for client in (0, 1):
        kept = federation["clients"][str(client)]
        assert set(kept) == {n for n in after[client] if is_personal(n, watched.personal)}
        assert all(torch.equal(value, after[client][name]) for name, value in kept.items()), "bit for bit"
    assert not torch.equal(federation["clients"]["0"]["own.path.head.weight"], after[1]["own.path.head.weight"])
    for name, value in federation["shared"].items():
        if name.startswith("shared.") and value.is_floating_point():
            mean = (24 * after[0][name].double() + 40 * after[1][name].double()) / 64
            assert torch.allclose(value.double(), mean, atol=1e-6), name
    opened = [api.load(out / "clients" / f"client{c}").eval() for c in (0, 1)]
    assert torch.equal(opened[0].shared.mean, opened[1].shared.mean)
    assert not torch.equal(opened[0].own.path.head.weight, opened[1].own.path.head.weight)
    assert len(opened[0].received) == 0, "the server's model is not kept twice"
    served, shown = api.load(out).eval(), batch()
    assert _answers_alone(served, shown), "nobody trained the mean of the heads"
    assert not _answers_alone(opened[0], shown)
    fit(served, Noise(4), settings=plan(max_steps=1))
    assert not _answers_alone(served.eval(), shown), "a client of its own now"


@torch.no_grad()
def _answers_alone(method, shown):
    """Whether the shared path answers without the personal one."""
    return torch.allclose(method.predict(shown).score, method.shared(shown.image)[3].softmax(1)[:, 1], atol=1e-6)


def test_one_client_without_an_adversary_is_centralised_training_bit_for_bit():
    seen = []

    class Recording(PFRForgery):
        def losses(self, batch):
            seen.append(batch)
            return super().losses(batch)

    first = make(alpha=0.0, optimizer=PLAIN_SGD)
    torch.manual_seed(0)
    federated = Recording(**{k: getattr(first, k) for k in first.config()})
    fit(federated, PerTask([Noise()]), schedule=Rounds(3, clients=1), settings=plan())
    central = make(alpha=0.0, optimizer=PLAIN_SGD).train()
    optimizer = torch.optim.SGD(central.parameters(), lr=0.05)
    for shown in seen:
        optimizer.zero_grad()
        sum(central.losses(shown).values()).backward()
        optimizer.step()
    assert len(seen) == 9
    for (name, ours), theirs in zip(federated.state_dict().items(), central.state_dict().values(), strict=True):
        assert name in ("step", "server") or torch.equal(ours, theirs), name


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    data, schedule = PerTask([Noise(0), Noise(1)]), Rounds(2, clients=2)
    whole = make()
    fit(whole, data, schedule=schedule, settings=plan(checkpoint_every=1))
    for kill in (2, 8):  # inside a client's phase, with the server's model and D in the checkpoint
        broken, left = make(), {"steps": kill}

        class Killed(PFRForgery):
            def after_step(self, left=left):
                super().after_step()
                left["steps"] -= 1
                if left["steps"] == 0:
                    raise KeyboardInterrupt

        broken.__class__ = Killed
        out = tmp_path / f"r{kill}"
        with pytest.raises(KeyboardInterrupt):
            fit(broken, data, schedule=schedule, settings=plan(checkpoint_every=1), out=out)
        again = make(7)
        again.__class__ = Killed
        left["steps"] = -1
        fit(again, data, schedule=schedule, settings=plan(checkpoint_every=1), out=out, resume=True)
        pairs = zip(whole.state_dict().items(), again.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for (_, a), b in pairs)


def test_the_personal_part_may_be_trained_first():
    method, _ = in_round(make(personal_first=0.5), round_=3, total=4)
    method.train()
    before = {name: value.clone() for name, value in method.shared.state_dict().items()}
    found = method.losses(batch())
    assert list(found) == ["personal"]
    found["personal"].backward()
    assert all((p.grad is not None) == n.startswith("own.") for n, p in method.named_parameters())
    assert all(torch.equal(v, before[n]) for n, v in method.shared.state_dict().items()), "batch norm, too"
    assert torch.isfinite(method.discriminator_losses(batch())["discriminator"])
    method.step.fill_(2)
    assert "shared" in method.losses(batch())


# --- answers and variants --------------------------------------------------------------------------------------------


def test_both_heads_answer_together_and_strangers_get_the_shared_path():
    method, shown = make().eval(), batch()
    with torch.no_grad():
        x, shared, _, z_s = method.shared(shown.image)
        _, z_p = method.own(x, shared)
        assert torch.allclose(method.predict(shown).score, ((z_p + z_s) / 2).softmax(1)[:, 1])
        method.mode = "shared"
        assert torch.allclose(method.predict(shown).score, z_s.softmax(1)[:, 1])
        for parameter in method.own.parameters():
            nn.init.constant_(parameter, float("nan"))
        assert torch.isfinite(method.predict(shown).score).all()
    figures = make().further_figures(Noise())
    stranger = make(mode="shared")
    from mien.metrics.binary import auc

    alone = score(stranger, Noise())
    assert figures["shared_auc"].value == pytest.approx(auc(alone.label, alone.score))
    assert make(split="fedper").further_figures(Noise()) == {}


def test_a_new_client_trains_its_own_part_on_the_shared_part_of_others():
    method = make(personal_first=1.0, federated=Federated("central"))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    fit(method, Noise(), schedule=Single(1), settings=plan())
    after = method.state_dict()
    assert all(torch.equal(after[n], v) for n, v in before.items() if n.startswith("shared."))
    assert not torch.equal(after["own.path.head.weight"], before["own.path.head.weight"])


def test_rivals_with_one_path_keep_no_copy_of_the_servers_model():
    assert len(in_round(make())[0].received)
    for split in ("fedper", "fedavg"):
        assert not len(in_round(make(split=split))[0].received)


def test_the_mix_of_the_heads_may_be_learned():
    method, shown = make(mix="learned", alpha=0.0), batch()
    losses = method.losses(shown)
    losses["mix"].backward()
    reached = [n for n, p in method.named_parameters() if p.grad is not None]
    assert reached == ["balance"], "the heads themselves are not moved by it"
    assert is_personal("balance", method.personal)
    with torch.no_grad():
        method.balance.fill_(math.log(3))
    z = method.mixed(torch.ones(1, 2), torch.zeros(1, 2))
    assert torch.allclose(z, torch.full((1, 2), 0.75))


@pytest.mark.parametrize(
    "changes",
    [{"split": "fedper"}, {"split": "fedavg"}, {"operations": "shared"}, {"operations": "none"}, {"adversary": "none"}],
)
def test_rivals_and_ablations_train(changes):
    method = make(**changes)
    fit(method, PerTask([Noise(0), Noise(1)]), schedule=Rounds(2, clients=2), settings=plan(max_steps=1))
    method.eval()
    with torch.no_grad():
        x, shared, _, _ = method.shared(batch().image)
        same = torch.equal(x, shared)
        assert same == (changes.get("operations") == "none" or "split" in changes)
        assert torch.equal(method.own.represent(x, shared), x) == ("split" in changes or "operations" in changes)
    assert method.discriminator is None or "operations" in changes
    assert ("shared" in method.losses(batch())) == ("split" not in changes)


def test_alone_and_pooled_there_is_no_servers_model():
    for federated in (Federated("local"), Federated("central")):
        method = make(federated=federated)
        fit(method, Noise(), schedule=Single(2), settings=plan())
        assert list(method.losses(batch())) == ["personal", "shared"]
        assert len(method.received) == 0


def test_evidence_is_a_map_of_the_features():
    method = make().eval()
    method.evidence = True
    shown = method.predict(batch())
    assert shown.evidence.shape == (6, 1, 16, 16)
    assert 0 <= float(shown.evidence.min()) <= float(shown.evidence.max()) <= 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"split": "fedprox"}, "split is 'fedprox': use fedpr, fedper, fedavg"),
        ({"operations": "all"}, "operations is 'all'"),
        ({"adversary": "gan"}, "adversary is 'gan'"),
        ({"mix": "max"}, "mix is 'max'"),
        ({"mode": "global"}, "mode is 'global'"),
        ({"score": "x"}, "score is 'x'"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"gamma": math.inf}, "gamma is inf"),
        ({"ramp": 0}, "ramp is 0"),
        ({"personal_first": 1.5}, "personal_first 1.5"),
        ({"split": "fedper", "mode": "shared"}, "it has one path"),
    ],
)
def test_bad_arguments_are_refused(changes, said):
    with pytest.raises(BadInput, match=said):
        make(**changes)


def test_a_rival_has_no_shared_path_to_answer_with():
    method = make(split="fedavg").eval()
    method.mode = "shared"
    with pytest.raises(BadInput, match="use auto or personal"):
        method.predict(batch())

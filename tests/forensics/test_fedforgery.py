# SPDX-License-Identifier: Apache-2.0
"""FedForgery against its equations."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien import api
from mien.engine import Fixed, PerTask, Phase, Rounds, Settings, Single, fit
from mien.engine.federation import average_states
from mien.engine.state import load_state
from mien.errors import BadInput
from mien.federated.plan import Federated
from mien.forensics.clients import clients_in, open_client_test, open_clients
from mien.forensics.data import Faces
from mien.forensics.detector import cross_entropy
from mien.forensics.fedforgery import FedForgery
from mien.forensics.parts.residual import (
    GaussianAutoencoder,
    VQAutoencoder,
    codebook_loss,
    kl_divergence,
    local_mean,
    nearest_code,
)
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.report.run import run_report
from mien.room import DataOptions


def make(seed=0, **changes):
    torch.manual_seed(seed)
    plain = {
        "network": Network("tiny_cnn"),
        "optimizer": Recipe("sgd", lr=0.05, momentum=0.5, weight_decay=0.0),
        "image_size": 16,
        "width": 8,
        "codes": 8,
    }
    return FedForgery(**{**plain, **changes})


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


# --- the networks --------------------------------------------------------------------------------------------


def test_sizes_are_the_papers():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        paper = FedForgery()
        assert count(paper.autoencoder) == 310_729
        assert sum(b.numel() for b in paper.autoencoder.buffers()) == 781
        assert count(paper.classifier) == 23_512_130
        assert count(VQAutoencoder(16, 32)) == 20_857
        x = torch.empty(2, 3, 296, 296)
        assert paper.autoencoder.encoder(x).shape == (2, 64, 74, 74)
        assert paper.autoencoder(x).image.shape == x.shape
    assert (paper.optimizer.kind, paper.optimizer.lr, paper.optimizer.momentum) == ("sgd", 0.01, 0.5)
    assert (paper.federated.count, paper.federated.local_epochs, paper.federated.patience) == (10, 10, 10)


def test_the_initialisation():
    torch.manual_seed(0)
    vq = VQAutoencoder(64, 128)
    convolutions = [m for m in vq.modules() if type(m) is nn.Conv2d]
    assert len(convolutions) == 10
    assert all(abs(float(m.weight.detach().std()) / 0.02 - 1) < 0.1 and not m.bias.any() for m in convolutions)
    assert all(m.bias.any() for m in vq.modules() if isinstance(m, nn.ConvTranspose2d)), "the library's default"
    norms = [m for m in vq.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert torch.allclose(norms[-1].weight, torch.full((64,), 1 / 40))
    assert norms[0].weight.eq(1).all()
    z = vq.encoder(torch.randn(8, 3, 32, 32))
    assert float(z.detach().std()) == pytest.approx(float(vq.codebook.detach().std()), rel=0.4), "one scale"


def test_the_nearest_code_is_found_position_by_position():
    torch.manual_seed(1)
    z, codebook = torch.randn(2, 5, 3, 4, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    code = nearest_code(z, codebook)
    for b in range(2):
        for row in range(3):
            for column in range(4):
                far = [float(((z[b, :, row, column] - codebook[:, i]) ** 2).sum()) for i in range(7)]
                assert int(code[b, row, column]) == far.index(min(far))


def test_a_codes_gradient_is_its_distance_to_the_mean_of_its_vectors():
    torch.manual_seed(2)
    z = torch.randn(3, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    codebook = nn.Parameter(torch.randn(4, 6, dtype=torch.float64))
    with torch.no_grad():
        codebook[:, 5] = 100.0  # nobody is near it
    code = nearest_code(z.detach(), codebook.detach())
    codebook_loss(codebook, z, code).backward()
    vectors = z.detach().movedim(1, -1)
    for i in range(6):
        mine = vectors[code == i]
        expected = codebook.detach()[:, i] - mine.mean(dim=0) if len(mine) else torch.zeros(4, dtype=torch.float64)
        assert torch.allclose(codebook.grad[:, i], expected), f"code {i} with {len(mine)} positions"
    assert z.grad is None, "the codebook's route must not move the encoder"
    assert int((code == 5).sum()) == 0


def test_the_decoders_gradient_goes_straight_through_and_leaves_the_codebook_alone():
    torch.manual_seed(0)
    vq = VQAutoencoder(8, 8)
    seen = {}
    vq.encoder.register_forward_hook(lambda m, i, out: out.retain_grad() or seen.update(z=out))
    vq.decoder.register_full_backward_hook(lambda m, given, out: seen.update(q=given[0]))
    vq(torch.randn(2, 3, 16, 16)).image.square().sum().backward()
    assert torch.equal(seen["z"].grad, seen["q"])
    assert seen["q"].abs().sum() > 0
    assert vq.codebook.grad is None or not vq.codebook.grad.any()
    for name, reaches in (("commitment", False), ("codebook", True)):
        vq.zero_grad(set_to_none=True)
        vq(torch.randn(2, 3, 16, 16)).losses[name].backward()
        assert (vq.codebook.grad is not None) == reaches
        assert (vq.encoder[0].weight.grad is not None) != reaches


def test_plain_sgd_moves_the_codebook_and_the_quantisation_error_stays_small():
    """With the mean over all entries the codebook would move a billionth of the way, and z_e would run away from it."""
    method = make(optimizer=Recipe("sgd", lr=0.05, momentum=0.5, weight_decay=0.0))
    first = method.autoencoder.codebook.detach().clone()
    fit(method, Noise(size=64), schedule=Single(8), settings=Settings(batch_size=16, device="cpu"))
    moved = (method.autoencoder.codebook.detach() - first).norm() / first.norm()
    method.eval()
    with torch.no_grad():
        x = method.normalised(batch(16).image)
        error = float(method.explain(x).losses["commitment"])
        spread = float(method.autoencoder.encoder(x).var())
    assert moved > 0.3
    assert error < spread
    assert spread < 4


def test_the_gaussian_form():
    mean, log_variance = torch.randn(4, 5), torch.randn(4, 5)
    expected = sum(
        -0.5 * (1 + v - m**2 - torch.exp(torch.tensor(v)).item())
        for m, v in zip(mean.flatten().tolist(), log_variance.flatten().tolist(), strict=True)
    ) / (4 * 3 * 5)
    assert float(kl_divergence(mean, log_variance)) == pytest.approx(expected, rel=1e-5)
    torch.manual_seed(0)
    gaussian = GaussianAutoencoder(8, 12, 16)
    x = torch.randn(2, 3, 16, 16)
    assert not torch.equal(gaussian(x).image, gaussian(x).image), "training draws z"
    gaussian.eval()
    assert torch.equal(gaussian(x).image, gaussian(x).image), "evaluation takes its mean"
    losses = make(extractor="gaussian", latent=12).losses(batch())
    assert list(losses) == ["cross_entropy", "reconstruction", "kl"]


def test_the_fixed_high_pass_is_a_loop_over_neighbourhoods():
    x = torch.rand(1, 3, 9, 9)
    mean = local_mean(x)
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    for row, column in [(0, 0), (4, 7), (8, 8)]:
        assert torch.allclose(
            mean[0, :, row, column], padded[0, :, row : row + 5, column : column + 5].mean(dim=(1, 2))
        )


# --- the objective -------------------------------------------------------------------------------------------


def test_the_losses_are_the_objective():
    weights = {"reconstruction": 0.7, "classification": 0.3, "codebook": 0.9, "commitment": 0.11}
    method, twin = make(**weights), make(**weights)
    given = batch()
    losses = method.losses(given)
    x = (given.image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    z = twin.autoencoder.encoder(x)
    quantised = twin.autoencoder.codebook.T[nearest_code(z, twin.autoencoder.codebook)].movedim(-1, 1)
    explained = twin.autoencoder.decoder(quantised)
    expected = {
        "cross_entropy": 0.3 * F.cross_entropy(twin.classifier(x - explained), given.label),
        "reconstruction": 0.7 * F.mse_loss(explained, x),
        "commitment": 0.11 * F.mse_loss(z, quantised),
    }
    for name, value in expected.items():
        assert float(losses[name].detach()) == pytest.approx(float(value.detach()), rel=1e-4), name
    assert list(losses) == ["cross_entropy", "reconstruction", "codebook", "commitment"]


def test_the_cross_entropy_trains_the_autoencoder_through_the_minus_sign():
    method = make()
    method.losses(batch())["cross_entropy"].backward()
    assert method.autoencoder.decoder[-1].weight.grad.abs().sum() > 0
    assert method.autoencoder.encoder[0].weight.grad.abs().sum() > 0
    x = method.normalised(batch().image)
    assert torch.allclose(method.residual(batch().image), x - method.explain(x).image, atol=1e-6)


def test_the_controls_learn_nothing_but_the_classifier():
    given = batch()
    for extractor in ("none", "high_pass"):
        method = make(extractor=extractor)
        x = method.normalised(given.image)
        seen = x if extractor == "none" else x - local_mean(x)
        losses = method.losses(given)
        assert list(losses) == ["cross_entropy"]
        method.classifier.eval()
        expected = cross_entropy(method.classifier(seen), given.label)
        assert torch.equal(method.losses(given)["cross_entropy"], expected)
        assert all(name.startswith("classifier.") for name, _ in method.named_parameters())


def test_the_curriculum_falls_by_thirds_of_the_rounds_and_survives_saving():
    method = make(curriculum=6, reconstruction=2.0)
    factors = []
    for round_ in range(8):
        method.build_phase(Phase(round=round_))
        method.begin_epoch(0, Noise())
        factors.append(method.reconstruction_weight)
    assert factors == [20.0, 20.0, 10.0, 10.0, 2.0, 2.0, 2.0, 2.0]
    other = make(curriculum=6)
    other.load_state_dict(method.state_dict())
    assert int(other.position) == 7
    method.build_phase(Phase())
    method.begin_epoch(3, Noise())
    assert method.reconstruction_weight == 10.0, "without rounds epochs count"


def test_validation_says_whether_the_codebook_collapsed():
    method = make()
    found = method.validate(Noise())
    assert {"auc", "balanced_accuracy", "reconstruction_mse", "codes_in_use"} == set(found)
    method.eval()
    with torch.no_grad():
        x = method.normalised(Noise().image)
        explained = method.explain(x)
        assert found["reconstruction_mse"] == pytest.approx(float(F.mse_loss(explained.image, x)), rel=1e-4)
        assert found["codes_in_use"] == len(explained.code.unique())
    with torch.no_grad():
        method.autoencoder.codebook[:] = 50.0
    assert method.validate(Noise())["codes_in_use"] == 1.0
    assert method.explanation(Noise()) != {}
    assert make(extractor="none").explanation(Noise()) == {}


# --- federated averaging -------------------------------------------------------------------------------------


def test_averaging_identical_clients_is_the_identity_and_weights_count():
    states = [make(seed).state_dict() for seed in (0, 1)]
    same = average_states([states[0]] * 3, [5, 1, 2])
    assert all(torch.equal(same[name], value) for name, value in states[0].items())
    mixed = average_states(states, [30, 10])
    name = "autoencoder.codebook"
    assert torch.allclose(mixed[name], 0.75 * states[0][name] + 0.25 * states[1][name])
    assert mixed["autoencoder.encoder.1.num_batches_tracked"].dtype == torch.int64


def test_one_client_is_centralised_sgd_with_fresh_momentum_every_round():
    settings, data = Settings(batch_size=8, device="cpu"), Noise()
    federated = make()
    fit(federated, PerTask([data]), schedule=Rounds(3, clients=1), settings=settings)
    central, seen = make(), []

    class Recording(FedForgery):
        def losses(self, batch):
            seen.append(batch)
            return super().losses(batch)

    torch.manual_seed(0)
    watched = Recording(**{k: getattr(central, k) for k in central.config()})
    fit(watched, PerTask([data]), schedule=Rounds(3, clients=1), settings=settings)
    central.train()
    for round_ in range(3):
        optimizer = torch.optim.SGD(central.parameters(), lr=0.05, momentum=0.5)
        for given in seen[3 * round_ : 3 * round_ + 3]:
            optimizer.zero_grad()
            sum(central.losses(given).values()).backward()
            optimizer.step()
    for (name, ours), theirs in zip(federated.state_dict().items(), central.state_dict().values(), strict=True):
        if name != "position":
            assert torch.allclose(ours, theirs, atol=1e-6), name


@pytest.mark.parametrize("norms", ["average", "statistics", "local"])
def test_the_batch_norm_policy_decides_what_stays_and_clients_get_models_of_their_own(norms, tmp_path):
    method = make(federated=Federated(norms=norms))
    data = PerTask([Noise(0), Noise(1, 40)], [Noise(2), Noise(3)])
    out = tmp_path / "run"
    fit(method, data, schedule=Rounds(2, clients=2), settings=Settings(batch_size=8, device="cpu"), out=out)
    kept = load_state(out / "checkpoints" / "last.safetensors", "checkpoint")["federation"]["clients"]
    names = set(kept["0"])
    assert all(("running" in n or "num_batches" in n) or norms == "local" for n in names)
    assert (len(names) > 0) == (norms != "average")
    assert any(n.endswith("running_mean") for n in names) == (norms != "average")
    assert (out / "clients" / "client1").exists() == (norms != "average")
    if norms == "average":
        return
    opened = [api.load(out / "clients" / f"client{c}") for c in (0, 1)]
    for name, value in opened[0].state_dict().items():
        mine = torch.equal(value, opened[1].state_dict()[name])
        assert mine == (name not in names) or "num_batches" in name, name
        if name in names and value.is_floating_point():
            mean = (value.double() + opened[1].state_dict()[name].double()) / 2
            assert torch.allclose(method.state_dict()[name].double(), mean, atol=1e-6)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    validated = [line["validation"] for line in lines if "validation" in line][-1]
    for c, held in enumerate((Noise(2), Noise(3))):
        own = opened[c].validate(held, batch_size=8)
        assert validated[f"client{c}/auc"] == pytest.approx(own["auc"]), "each client is measured with its own model"
        assert validated[f"client{c}/reconstruction_mse"] == pytest.approx(own["reconstruction_mse"], rel=1e-5)


def test_a_client_that_dies_in_mid_round_is_left_out_and_named(tmp_path, capsys):
    class Dying(Noise):
        seeded = True

        def __getitem__(self, i):
            if i == 5:
                raise OSError("the cable is out")
            return super().__getitem__(i)

    method = make()
    data = PerTask([Noise(0), Dying(1)])
    fit(method, data, schedule=Rounds(2, clients=2), settings=Settings(batch_size=8, device="cpu"), out=tmp_path / "r")
    alone = make()
    fit(alone, PerTask([Noise(0), Noise(1)]), schedule=Rounds(1, clients=1), settings=Settings(batch_size=8))
    history = load_state(tmp_path / "r" / "checkpoints" / "last.safetensors", "checkpoint")["cursor"]["history"]
    assert [outcome["failure"] for outcome in history] == [None, "OSError: the cable is out"] * 2
    said = capsys.readouterr()
    assert "client 1 is left out of round 0: OSError: the cable is out" in said.err + said.out
    assert all(torch.isfinite(p).all() for p in method.parameters())
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [(x["phase"], x["failure"]) for x in lines if "failure" in x] == [
        (f"round {i}, client 1", "OSError: the cable is out") for i in range(2)
    ]
    assert "the cable is out" in run_report(tmp_path / "r").read_text()


@pytest.mark.parametrize("client", [0, 1])
def test_a_file_that_cannot_be_read_ends_the_run_before_its_first_step_alone(client):
    """Readers say BadInput of a damaged file: a client's dead disk must not end the round of the others."""

    class Damaged(Noise):
        def __getitem__(self, i):
            raise BadInput("face.png cannot be read")

    method = make()
    data = PerTask([Damaged(i) if i == client else Noise(i) for i in range(2)])

    def train():
        fit(method, data, schedule=Rounds(1, clients=2), settings=Settings(batch_size=8, device="cpu"))

    if client == 0:
        with pytest.raises(BadInput, match="cannot be read"):
            train()
    else:
        train()
        assert all(torch.isfinite(p).all() for p in method.parameters())


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    data = PerTask([Noise(0), Noise(1)])
    schedule, settings = Rounds(2, clients=2), Settings(batch_size=8, device="cpu", checkpoint_every=1)
    whole = make(curriculum=2, federated=Federated(norms="local"))
    fit(whole, data, schedule=schedule, settings=settings)
    broken = make(curriculum=2, federated=Federated(norms="local"))
    steps = {"left": 8}

    def stop():
        steps["left"] -= 1
        if steps["left"] == 0:
            raise KeyboardInterrupt

    broken.after_step = stop
    with pytest.raises(KeyboardInterrupt):
        fit(broken, data, schedule=schedule, settings=settings, out=tmp_path / "r")
    again = make(7, curriculum=2, federated=Federated(norms="local"))
    fit(again, data, schedule=schedule, settings=settings, out=tmp_path / "r", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


# --- data ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two clients' folders, each with real and forged faces of four persons; no file twice."""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("clients"), torch.Generator().manual_seed(0)
    for client, kind in (("hospital", "swap"), ("bank", "blend")):
        for person in range(4):
            for folder in ("real", kind):
                for number in range(2):
                    path = root / client / folder / f"{client}{person}" / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pixels = torch.randint(0, 256, (16, 16, 3), generator=rng, dtype=torch.uint8)
                    Image.fromarray(pixels.numpy()).save(path)
    return root


OPTIONS = DataOptions("classes", crop="none", validation=0.25)


def test_a_folder_for_each_client(folders):
    data = open_clients(str(folders), 16, OPTIONS, Federated(partition="folder"))
    assert data.names == ["bank", "hospital"]
    assert clients_in(data) == 2
    for client, kind in enumerate(("blend", "swap")):
        train = data.train(Phase(client=client))
        assert {train[i].kind for i in range(len(train))} == {"real", kind}
    assert data.manifest()["clients"] == {"bank": 12, "hospital": 12}
    assert len(data.manifest()["groups"]) == 8
    assert set(data.validation(Phase())) == {"client0", "client1"}
    test = open_client_test(str(folders), 16, OPTIONS, Federated(partition="folder"))
    result = api.evaluate(make(federated=Federated(partition="folder")).eval(), test.dataset, device="cpu")
    assert list(result["clients"]) == ["bank", "hospital"]
    assert 0 <= result["clients"]["bank"]["auc"]["low"] <= result["clients"]["bank"]["auc"]["high"] <= 1
    assert len(result["items"]) == 32


def test_pooled_and_alone(folders):
    plan = Federated(partition="folder", regime="central")
    assert len(open_clients(str(folders), 16, OPTIONS, plan).train(Phase())) == 24
    plan = Federated(partition="folder", regime="local", alone=1)
    assert {r.kind for r in open_clients(str(folders), 16, OPTIONS, plan).train(Phase()).records} == {"real", "swap"}


@pytest.mark.parametrize(
    ("plan", "names"),
    [
        (Federated(), ["self-blend", "swap", "re-synthesis", "region-edit"]),
        (Federated(clients=2), ["self-blend+re-synthesis", "swap+region-edit"]),
        (Federated(partition="even", clients=3), ["client 0", "client 1", "client 2"]),
        (Federated(partition="labels", clients=2), ["client 0", "client 1"]),
    ],
)
def test_clients_made_from_people(monkeypatch, plan, names):
    from mien.forensics import opening

    monkeypatch.setattr(opening, "EMBEDDED_PEOPLE", (10, 2))
    monkeypatch.setattr(opening, "EMBEDDED_FACES", 2)
    data = open_clients("embedded", 16, DataOptions(validation=0.2), plan)
    assert data.names == names
    parts = [data.train(Phase(client=c)) for c in range(len(names))]
    samples = [[part[i] for i in range(len(part))] for part in parts]
    held = data.validation(Phase())
    held_groups = {g for part in (held.values() if isinstance(held, dict) else [held]) for g in part.groups}
    owners = [{s.group for s in own} for own in samples]
    assert not held_groups & set.union(*owners)
    if plan.partition == "kind":
        assert [{s.kind for s in own} - {"real"} for own in samples] == [set(name.split("+")) for name in names]
    if plan.partition != "labels":
        assert sum(map(len, owners)) == len(set.union(*owners)), "a person at two clients"
    assert all({s.label for s in own} == {0, 1} for own in samples)


def test_bad_input_is_one_line(folders, tmp_path):
    for changes, message in [
        ({"extractor": "x"}, "extractor is 'x'"),
        ({"image_size": 18}, "image_size is 18"),
        ({"codes": 0}, "codes is 0"),
        ({"curriculum": 0}, "curriculum is 0"),
        ({"commitment": -1.0}, "commitment is -1.0"),
        ({"commitment": float("inf")}, "commitment is inf"),
        ({"network": Network("tiny_cnn", normalise="backbone")}, "fedforgery normalises images itself"),
    ]:
        with pytest.raises(BadInput, match=message):
            make(**changes)
    (tmp_path / "none").mkdir()
    for source, message in [("embedded", "one per client"), (str(tmp_path / "none"), "no folder inside")]:
        with pytest.raises(BadInput, match=message):
            open_clients(source, 16, OPTIONS, Federated(partition="folder"))
    with pytest.raises(BadInput, match="does not say how many clients"):
        clients_in(Fixed(Noise()))
    copied = tmp_path / "copied"
    for client in ("a", "b"):
        for folder in ("real", "swap"):
            target = copied / client / folder / "p"
            target.mkdir(parents=True)
            file = next((folders / "hospital" / folder).rglob("*.png"))
            (target / file.name).write_bytes(file.read_bytes())
    with pytest.raises(BadInput, match="clients a and b hold the same file"):
        open_clients(str(copied), 16, DataOptions("classes", "none", 0.0), Federated(partition="folder"))

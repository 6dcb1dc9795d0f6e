# SPDX-License-Identifier: Apache-2.0
"""PFR-Forgery (FedPR): Federated Face Forgery Detection Learning with Personalized Representation.

Liu, Dang, Peng, Wang, Hu, Gao, 2024, arXiv 2406.11145.

Clients hold forgeries of different sources. One averaged detector is weak on each of them; alone, a client has few
faces. So every client splits its representation: a shared part is averaged by the server, a personal part stays at
home, and both answer together (`mien.forensics.parts.representations` has R_s and R_p).

    X = E(x);   f_s = GAP(H_s(R_s(X))),  f_p = GAP(H_p(R_p(X)));   logits = (C_p(f_p) + C_s(f_s)) / 2
    L = alpha L_adv + beta L_p + gamma L_s,   L_p = CE(C_p(f_p), y),   L_s = CE(C_s(f_s), y)
    L_adv = softplus(-D(f_s)),   L_D = softplus(-D(f_s^g)) + softplus(D(sg[f_s]))
    round: every client starts from theta_s = {E, A, M, S, H_s, C_s} and its own {P, Q, H_p, C_p}, makes its local
           epochs and returns theta_s,k;   theta_s <- sum_k n_k theta_s,k / sum_k n_k

D tells the client's shared features from f_s^g, those of the same images under the frozen model that the server sent:
the shared part is to carry no trace of its client. The gradient of L_p reaches E, M, S and A: that is how clients work
together (`leak=False` keeps it from M, S and A).

Differences from the paper
    * Its operations were not published; R_s, R_p, L_adv, who holds what, and the weights are inferred.
    * `adversary="match"` puts mean (f_s - sg[f_s^g])^2 in the place of L_adv, "redundancy" a prediction of f_p from f_s
      through a reversed gradient; both are simpler and to be compared with.
    * `split="fedper"` (one path, its head stays) and "fedavg" (one path, nothing stays) are the rivals; a client alone
      is `federated.regime="local"`. Without rounds there is no server's model, and so no L_adv.
    * D is made anew in every round. It learns after the model, from the features of the model's own step, so that batch
      norm sees every image once.
    * Batch norm is averaged like weights, unless `federated.norms` says otherwise.
    * Backbones start from random weights unless `network.pretrained` asks for those of ImageNet, from which the paper
      (inferred, too) starts. M starts at 0 and S at 1.
    * alpha rises over `ramp` rounds, 10 by default: a tenth of 100 rounds. It does not follow the number of rounds.

Example:
    >>> from mien.nn.network import Network
    >>> method = PFRForgery(network=Network("tiny_blocks"), image_size=32).eval()
    >>> method.predict(Faces(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))).score.shape
    torch.Size([2])
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.engine import Phase, Step
from mien.engine.evaluation import modes_kept
from mien.engine.method import Losses, Optimizers
from mien.errors import BadInput
from mien.federated.plan import Federated
from mien.forensics.data import Faces, Verdict
from mien.forensics.detector import Detector, ScoreForm, cross_entropy, forged_score
from mien.forensics.parts.representations import Discriminator, Operations, PersonalPart, SharedPart, redundancy
from mien.metrics.intervals import Interval
from mien.nn.gradcam import gradcam
from mien.nn.network import Network
from mien.optim.recipe import Recipe

Adversary = Literal["discriminator", "match", "redundancy", "none"]
Split = Literal["fedpr", "fedper", "fedavg"]
Mode = Literal["auto", "personal", "shared"]
CHOICES = {
    "split": ("fedpr", "fedper", "fedavg"),
    "operations": ("both", "shared", "none"),
    "adversary": ("discriminator", "match", "redundancy", "none"),
    "mix": ("mean", "learned"),
    "mode": ("auto", "personal", "shared"),
    "score": ("softmax", "two_sigmoid"),
}
ALONE = (
    "the shared path alone, as for somebody who is no client; a client's own model lies in clients/ of the run, and is "
    "evaluated by itself"
)
VALIDATED = ("auc", "balanced_accuracy")


class PFRForgery(Detector):
    """FedPR: detectors with a shared and a personal part, one for every client.

    Args:
        network: The backbone E, which must give a feature map (paper: ResNet-50, inferred).
        optimizer: Of the model, and another of its kind of D. Every client starts both anew in every round.
        image_size: Height and width in pixels of the images that it is given.
        split: "fedpr"; "fedper" and "fedavg" are rivals with one path, whose head stays at home or not.
        operations: Of fedpr: "both"; "shared" leaves R_p out, "none" R_s and R_p.
        alpha: Weight of L_adv.
        beta: Weight of L_p.
        gamma: Weight of L_s.
        adversary: "discriminator", or what takes the place of L_adv.
        leak: Whether the gradient of L_p reaches M, S and A, through R_s inside R_p.
        ramp: Rounds over which alpha rises from 0, step by step, at least 2; meant to be a tenth of all rounds.
        personal_first: Share of each local phase in which the personal part alone is trained, in [0, 1]. 1 is for a new
            client that starts from the weights of others: the shared part stays as it is.
        mix: "mean" of both heads' logits, or "learned": a scalar of each client weighs them.
        mode: How it answers: "personal", both heads, as a client's model does, or "shared", the shared path alone, for
            those who are no client; "auto" is the one that the weights are for.
        federated: Clients and rounds.
        score: How two logits become one score.
    """

    name = "pfr-forgery"
    modes = ("auto", "personal", "shared")
    dynamic_buffers = ("received",)
    step: Tensor
    received: Tensor
    server: Tensor
    discriminator: Discriminator | None
    predictor: nn.Module | None
    _features: deque[tuple[Tensor, Tensor]]

    def __init__(
        self,
        *,
        network: Network = Network("resnet50"),
        optimizer: Recipe = Recipe("sgd", lr=0.01, momentum=0.5, weight_decay=0.0),
        image_size: int = 224,
        split: Split = "fedpr",
        operations: Operations = "both",
        alpha: float = 0.1,
        beta: float = 1.0,
        gamma: float = 1.0,
        adversary: Adversary = "discriminator",
        leak: bool = True,
        ramp: int = 10,
        personal_first: float = 0.0,
        mix: Literal["mean", "learned"] = "mean",
        mode: Mode = "auto",
        federated: Federated = Federated(),
        score: ScoreForm = "softmax",
    ) -> None:
        super().__init__(image_size=image_size)
        self.network, self.optimizer, self.split, self.operations = network, optimizer, split, operations
        self.alpha, self.beta, self.gamma, self.adversary, self.ramp = alpha, beta, gamma, adversary, ramp
        self.leak, self.personal_first, self.mix, self.mode = leak, personal_first, mix, mode
        self.federated, self.score = federated, score
        _check(self)
        two = split == "fedpr"
        self.shared = SharedPart(network, image_size, path=two, restyle=operations != "none")
        channels = self.shared.channels
        self.own = PersonalPart(channels, restyle=two and operations == "both")
        self.balance = nn.Parameter(torch.zeros(())) if two and mix == "learned" else None
        self.discriminator = Discriminator(channels) if two and alpha and adversary == "discriminator" else None
        self.predictor = nn.Linear(channels, channels) if two and alpha and adversary == "redundancy" else None
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # in the phase
        self.register_buffer("received", torch.zeros(0))  # theta_s as the server sent it, while a client trains
        self.register_buffer("server", torch.tensor(False))  # whether the weights are the server's, not a client's
        self.__dict__["_features"] = deque(maxlen=64)

    # --- who holds what -------------------------------------------------------------------------------------------
    @property
    def personal(self) -> tuple[str, ...]:  # type: ignore[override]
        """What stays with a client."""
        own = () if self.split == "fedavg" else ("own.*", "balance", "discriminator.*", "predictor.*")
        return (*own, *self.federated.personal(self))

    # --- a client's local phase -----------------------------------------------------------------------------------
    def build_phase(self, phase: Phase) -> None:
        """Remember the round."""
        self.__dict__["round"] = phase.round

    def begin_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """Keep the model that the server sent, and make a new discriminator."""
        self.step.zero_()
        self.server.fill_(False)  # whoever trains is a client
        compared = self.split == "fedpr" and self.alpha and self.adversary in ("discriminator", "match")
        if phase.round is not None and compared:
            self.received = torch.cat([value.detach().flatten() for value in self._travelling().values()])
        if self.discriminator is not None:
            self.discriminator.reset()

    def end_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """Forget the model that the server sent."""
        self.received = self.received[:0].clone()

    def stands_for(self, client: int | None) -> None:
        """Note whose weights these are: nobody has trained the mean of the personal parts."""
        self.server.fill_(client is None)

    @property
    def shared_alone(self) -> bool:
        """Whether the shared path answers alone now."""
        return self.split == "fedpr" and (self.mode == "shared" or (self.mode == "auto" and bool(self.server)))

    def _travelling(self) -> dict[str, Tensor]:
        """The shared part without its counters."""
        return {name: value for name, value in self.shared.state_dict().items() if value.is_floating_point()}

    def after_step(self) -> None:
        """Count."""
        self.step += 1

    @property
    def adversarial_weight(self) -> float:
        """The weight of L_adv now: alpha, reached along a line over the first rounds."""
        round_: int | None = self.__dict__.get("round")
        if round_ is None:
            return self.alpha if self.adversary == "redundancy" else 0.0
        done = round_ + int(self.step) / max(self.__dict__.get("total_steps", 1), 1)
        return self.alpha * min(done / max(self.ramp, 2), 1.0)

    @property
    def personal_only(self) -> bool:
        """Whether only the personal part is trained now."""
        return int(self.step) < self.personal_first * self.__dict__.get("total_steps", 0)

    def optimizers(self, phase: Phase) -> Optimizers:
        """One optimiser over the model, and in rounds another over D."""
        self.__dict__["total_steps"] = phase.total_steps
        model = [p for n, p in self.named_parameters() if not n.startswith("discriminator.")]
        found: Optimizers = {"main": self.optimizer.build(model, phase.total_steps)}
        if self.discriminator is not None and phase.round is not None:
            found["discriminator"] = self.optimizer.build(self.discriminator.parameters(), phase.total_steps)
        return found

    def steps(self, batch: Faces) -> Iterator[Step]:
        """One step of the model, then one of D on the same images."""
        self._features.clear()
        yield Step("main", self.losses, batch)
        if self.discriminator is not None and len(self.received):
            yield Step("discriminator", self.discriminator_losses, batch)

    # --- losses ---------------------------------------------------------------------------------------------------
    def losses(self, batch: Faces) -> Losses:
        """The terms of L, weighted."""
        assert isinstance(batch.label, Tensor)
        label = batch.label
        if self.personal_only:
            with modes_kept(self.shared), torch.no_grad():
                self.shared.eval()
                x, shared, f_s, z_s = self.shared(batch.image)
        else:
            x, shared, f_s, z_s = self.shared(batch.image)
        if self.shared.openness is not None:
            self.log("a", self.shared.openness)  # near 0, R_s does nothing
        f_p, z_p = self.own(x, shared if self.leak else shared.detach())
        found = {"personal": self.beta * cross_entropy(z_p, label)}
        if z_s is None or f_s is None:
            return found
        if self.balance is not None:
            found["mix"] = cross_entropy(self.mixed(z_p.detach(), z_s.detach()), label)
        if self.personal_only:
            if (f_g := self.sent_features(batch.image)) is not None:
                self._features.append((f_s.detach(), f_g))
            return found
        found["shared"] = self.gamma * cross_entropy(z_s, label)
        if (adversarial := self.adversarial_loss(batch.image, f_s, f_p)) is not None:
            found["adversarial"] = self.adversarial_weight * adversarial
        return found

    def adversarial_loss(self, image: Tensor, f_s: Tensor, f_p: Tensor) -> Tensor | None:
        """L_adv, or what takes its place; None where there is nothing to compare with.

        Args:
            image: (B, 3, H, W) in [0, 1].
            f_s: Shared features of the local model, (B, C).
            f_p: Personal features, (B, C).
        """
        if self.predictor is not None:
            return redundancy(f_s, f_p, self.predictor)
        f_g = self.sent_features(image)
        if f_g is None:
            return None
        if self.adversary == "match":
            return (f_s - f_g).square().sum() / max(f_s.numel(), 1)
        assert self.discriminator is not None
        self._features.append((f_s.detach(), f_g))
        return F.softplus(-self.discriminator(f_s)).sum() / max(len(f_s), 1)

    @torch.no_grad()
    def sent_features(self, image: Tensor) -> Tensor | None:
        """f_s^g: shared features (B, C) of images under the model that the server sent, in eval mode; or None."""
        if not len(self.received):
            return None
        own = self._travelling()
        parts = self.received.split([value.numel() for value in own.values()])
        sent = {name: part.view_as(value) for (name, value), part in zip(own.items(), parts, strict=True)}
        with modes_kept(self.shared):
            self.shared.eval()
            return functional_call(self.shared, sent, (image,))[2]

    def discriminator_losses(self, batch: Faces) -> Losses:
        """L_D, on the features of the model's step."""
        assert self.discriminator is not None
        f_s, f_g = self._features.popleft()
        sent, local = F.softplus(-self.discriminator(f_g)), F.softplus(self.discriminator(f_s))
        return {"discriminator": (sent + local).sum() / max(len(f_s), 1)}

    # --- answers --------------------------------------------------------------------------------------------------
    def mixed(self, z_p: Tensor, z_s: Tensor) -> Tensor:
        """The logits of both heads together, (B, 2)."""
        share = 0.5 if self.balance is None else self.balance.sigmoid()
        return share * z_p + (1 - share) * z_s

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 2) of images (B, 3, H, W) in [0, 1], in the mode that is set."""
        x, shared, _, z_s = self.shared(image)
        if z_s is not None and self.shared_alone:
            return z_s
        _, z_p = self.own(x, shared)
        return z_p if z_s is None else self.mixed(z_p, z_s)

    def predict(self, batch: Faces) -> Verdict:
        """A score for every image; with `evidence`, the Grad-CAM map on X."""
        if self.mode == "shared" and self.split != "fedpr":
            raise BadInput(f"mode is 'shared' and split is {self.split!r}: it has one path, use auto or personal")
        if not self.evidence:
            return Verdict(forged_score(self(batch.image).float(), self.score))
        maps, logits = gradcam(self, self.shared.map, batch.image)
        return Verdict(forged_score(logits.float(), self.score), maps[:, None])

    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """AUC and balanced accuracy; few, since there are as many for every client."""
        found = super().validate(data, batch_size=batch_size)
        return {name: value for name, value in found.items() if name.removeprefix("video_") in VALIDATED}

    def further_figures(self, data: Dataset[Any], *, batch_size: int = 64, seed: int = 0) -> Mapping[str, Interval]:
        """The AUC of the shared path alone: what somebody who is no client would get."""
        from mien.forensics.scoring import score
        from mien.metrics.intervals import metric_interval

        if self.split != "fedpr":
            return {}
        before, self.mode = self.mode, "shared"
        try:
            scored = score(self, data, batch_size=batch_size)
        finally:
            self.mode = before
        return {"shared_auc": metric_interval("auc", scored.label, scored.score, scored.group, seed=seed)}

    @property
    def remarks(self) -> tuple[str, ...]:
        """Whose figures these are, where they are nobody's own."""
        return (ALONE,) if self.shared_alone else ()

    def config(self) -> dict[str, Any]:
        """The constructor's arguments. Weights to start from are left out: what is saved has its own."""
        config = super().config()
        config["network"] |= {"pretrained": False, "weights": None}
        return config


def _check(method: PFRForgery) -> None:
    """Raise BadInput for an argument outside its range."""
    for name, allowed in CHOICES.items():
        if getattr(method, name) not in allowed:
            raise BadInput(f"{name} is {getattr(method, name)!r}: use {', '.join(allowed)}")
    for name in ("alpha", "beta", "gamma"):
        if not 0 <= getattr(method, name) < math.inf:
            raise BadInput(f"{name} is {getattr(method, name)}: it must be a number, 0 or more")
    if method.ramp < 1 or not 0 <= method.personal_first <= 1:
        raise BadInput(f"ramp is {method.ramp}, personal_first {method.personal_first}: at least 1, and in [0, 1]")
    if method.mode == "shared" and method.split != "fedpr":
        raise BadInput(f"mode is 'shared' and split is {method.split!r}: it has one path, use auto or personal")

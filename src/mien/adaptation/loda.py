# SPDX-License-Identifier: Apache-2.0
"""Task-Driven Subspace Decomposition for Knowledge Sharing and Isolation in LoRA-based Continual Learning (LoDA).

He, Cheng, Wang, Zhu, Yang, Wang, Gao, ICML 2026, arXiv 2603.00191.

Tasks with new classes arrive one after the other; no image is kept. Learning each in the null space of the old ones
throws away what tasks share, and where tasks resemble each other that space is nearly inactive for the new one, too.
If only B of a low-rank update B A is trained, the energy ||A X^T||^2 = tr(A S A^T) of the inputs X says how much can be
learned through A. LoDA picks two subspaces by it, S_t the second moment of a layer's inputs in the new task (mean of
x x^T over all tokens), S_old the sum of those of past tasks:

    general    U_G = top r eigenvectors of S_old + S_t          much energy in old and new data
    isolated   max tr(U^T S_t U) / tr(U^T S_old U):  S_old = L L^T,  V = top r eigenvectors of L^-1 S_t L^-T,
               U_I = QR(L^-T V)
    forward    y = W x + b + g_G B_G A_G x + g_I B_I A_I x,     A = U^T / sqrt(3),  B = 0 at first

Only B_G, B_I and the head are trained; in the first task A_G, too, and there is no isolated branch. Training is
gradient-aligned (GAO): the classes of a batch are split at random into two groups; for (source, target) in both orders
the target's gradient is taken after a look ahead e_p = -rho g_p / ||g_p|| along the source's descent, and e is taken
back after the step; rho ~ U(0, rho_max) once per batch. This rewards classes whose gradients agree:
L(target) - rho <grad L(target), g / ||g||>. When a task is over, the general update is recalibrated in closed form,

    min over Lam of  ||g_G B_G Lam A_G X_old^T||^2 + gamma ||g_G B_G (Lam - I) A_G X_new^T||^2
    full       Lam = gamma Gn (Go + gamma Gn)^-1,  Go = A_G S_old A_G^T,  Gn = A_G S_t A_G^T
    diagonal   Lam_ii = 1 - go_i / (go_i + gamma gn_i),  the diagonals of Go and Gn

W <- W + g_G B_G Lam A_G + g_I B_I A_I, and nothing of LoRA remains.

Published settings (20 epochs a task, batches of 48, rank 32, of ImageNet-R in 20 tasks rank 64):
    CIFAR-100            the defaults
    CUB                  margin 0.1, alignment.temperature 0.2
    ImageNet-A           optimizer.lr 0.01, margin 0.15, alignment.temperature 0.2
    ImageNet-R           optimizer.lr 0.02, optimizer.weight_decay 0, rho_max 0.7, margin 0.1, alignment.temperature 0.2
    DomainNet            optimizer.lr 0.01, alignment.temperature 0.1

Differences from the paper
    * The paper derives the full Lam; the released code uses the diagonal one and collects S_t a second time after
      merging, so that S_old grows by two moments a task. Both are the defaults here; `recalibration="full"` with
      `stats_passes=1` (then gamma near 1.5) is the clean form.
    * `foundation` is ours: without published weights the network can first be trained on the first task's classes.
    * With one subspace only, the first task still trains the general branch, since there is nothing to isolate from.
    * The learning rate falls with every batch, not with every epoch.
    * Augmentation in the passes that collect S_t is drawn once per image: passes before and after training see the
      same crops.
    * Answers are s cos, not cos, so that their softmax is the probability that was trained; the order is the same.

Example:
    >>> from mien.nn.network import Network
    >>> method = LoDA(network=Network("tiny_vit"), image_size=32, rank=4, tasks=2)
    >>> method.sizes, sorted(method.widths)
    ((5, 5), ['blocks.0.attn.qkv', 'blocks.1.attn.qkv', 'blocks.2.attn.qkv'])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.adaptation.heads import Alignment
from mien.adaptation.learner import BACKBONE, RECIPE
from mien.adaptation.memory import Moments, collect
from mien.adaptation.sequential_lora import LAYERS, SequentialLoRA
from mien.classification.data import Augmentation, Labelled
from mien.engine import Optimizers, Phase
from mien.errors import BadInput
from mien.nn.network import Network
from mien.optim.closures import GradientAligned
from mien.optim.recipe import Recipe

Subspaces = Literal["both", "general", "isolated"]
Recalibration = Literal["diagonal", "full", "none"]


# --- subspaces ------------------------------------------------------------------------------------------------
def general_subspace(old: Tensor, new: Tensor, rank: int) -> Tensor:
    """U_G, (D, rank) with orthonormal columns, float64: the directions of most energy in both.

    Args:
        old: S_old, (D, D); zeros in the first task.
        new: S_t, (D, D).
        rank: r.
    """
    return _top(old.double().cpu() + new.double().cpu(), rank)


def isolated_subspace(old: Tensor, new: Tensor, rank: int) -> tuple[Tensor, float]:
    """U_I, (D, rank) with orthonormal columns, float64: much energy in the new task for little in the old ones.

    For rank 1 its ratio tr(U^T S_t U) / tr(U^T S_old U) is the largest there is. For more, the QR step keeps the span
    but the ratio is close to, and never above, the best one.

    Args:
        old: S_old, (D, D).
        new: S_t, (D, D).
        rank: r.

    Returns:
        U_I, and c, what had to be added to the diagonal of S_old for its Cholesky factor to exist (0 if nothing).
    """
    factor, added = _cholesky(old.double().cpu())
    half = torch.linalg.solve_triangular(factor, new.double().cpu(), upper=False)  # L^-1 S_t
    whitened = torch.linalg.solve_triangular(factor, half.T, upper=False)  # L^-1 S_t L^-T
    back = torch.linalg.solve_triangular(factor.T, _top(whitened, rank), upper=True)  # L^-T V
    return torch.linalg.qr(back)[0], added


def energy_ratio(basis: Tensor, old: Tensor, new: Tensor) -> float:
    """tr(U^T S_t U) / tr(U^T S_old U) of a basis U (D, r)."""
    basis, old, new = basis.double(), old.double().cpu(), new.double().cpu()
    return float((basis.T @ new @ basis).trace() / (basis.T @ old @ basis).trace())


def _top(symmetric: Tensor, rank: int) -> Tensor:
    """Eigenvectors with the largest eigenvalues first: of second moments they are the left singular vectors."""
    return torch.linalg.eigh((symmetric + symmetric.T) / 2)[1].flip(1)[:, :rank]


def _cholesky(moment: Tensor) -> tuple[Tensor, float]:
    """L with L L^T = moment + c I, and c: 0, or the sum of 1e-12, 1e-11, ... up to where L exists."""
    if not bool(torch.isfinite(moment).all()):
        raise BadInput("S_old has values that are not finite: the network's activations overflowed")
    added, step = 0.0, 1e-12
    eye = torch.eye(len(moment), dtype=moment.dtype)
    while True:
        factor, failed = torch.linalg.cholesky_ex(moment + added * eye)
        if not failed:
            return factor, added
        added, step = added + step, step * 10


# --- recalibration --------------------------------------------------------------------------------------------
def recalibration_matrix(A: Tensor, old: Tensor, new: Tensor, gamma: float, form: Recalibration = "full") -> Tensor:
    """Lam, (r, r) float64 on the CPU: what B_G is multiplied by from the right before it is merged.

    Args:
        A: A_G, (r, D).
        old: S_old, (D, D).
        new: S_t, (D, D), collected after training.
        gamma: Weight of keeping what was learned, > 0.
        form: "full", "diagonal" or "none" (the identity).
    """
    A = A.double().cpu()
    if form == "none":
        return torch.eye(len(A), dtype=A.dtype)
    Go, Gn = A @ old.double().cpu() @ A.T, A @ new.double().cpu() @ A.T
    if form == "diagonal":
        go, gn = Go.diagonal(), Gn.diagonal()
        return torch.diag(1 - go / (go + gamma * gn + 1e-12))
    # the transpose of (Go + gamma Gn)^-1 gamma Gn; a ridge of rounding size where A has directions without any energy
    total = Go + gamma * Gn
    ridge = 1e-12 * total.diagonal().mean().clamp(min=1e-12) * torch.eye(len(A), dtype=A.dtype)
    return torch.linalg.solve(total + ridge, gamma * Gn).T


class LoDA(SequentialLoRA):
    """LoDA: general and isolated subspaces, gradient-aligned steps, recalibrated merging.

    Args:
        network: The backbone; its features are the normalised class token of a transformer (timm, no classes).
        optimizer: How each task is trained; its schedule runs over the task.
        image_size: Height and width in pixels of the images that it is given.
        classes: Names of the classes in the order in which tasks take them; None for those of the training data, in
            an order drawn from the run's seed.
        tasks: Number of tasks, or the classes of each; None for 10, or fewer so that each has four classes.
        augment: How training images are varied: "resized" cuts out 5 to 100 %, resizes and mirrors; "shift_flip",
            "shift" (never mirrored) and "none" suit small images better.
        crop: Test images are resized to image_size / crop and their middle is cut out, in (0, 1]; None resizes the
            whole image to a square.
        scale: s of the CosFace loss, > 0.
        margin: m of the CosFace loss, >= 0.
        alignment: Classifier alignment after every task but the first (LoDA+CA); alignment.epochs 5 turns it on.
        foundation: Epochs for which the whole network is first trained, on the classes of the first task; for networks
            that start from nothing.
        layers: Patterns of the names of the linear layers that are adapted.
        rank: r of each branch.
        subspaces: Which branches there are.
        general_scale: g_G; halved with both branches.
        isolated_scale: g_I; halved with both branches.
        gao: Whether steps are gradient-aligned.
        rho_max: Largest look-ahead, >= 0.
        recalibration: Form of Lam.
        gamma: Weight of what the new task learned in the recalibration, > 0.
        stats_passes: 2 adds S_t to S_old before and after merging, 1 before only.
    """

    name = "loda"
    remembers: ClassVar[bool] = True
    isolation: Tensor
    """Of the present task's isolated subspaces: their mean energy ratio, and the largest c that S_old needed."""

    def __init__(
        self,
        *,
        network: Network = BACKBONE,
        optimizer: Recipe = RECIPE,
        image_size: int = 224,
        classes: Sequence[str] | None = None,
        tasks: int | Sequence[int] | None = None,
        augment: Augmentation = "resized",
        crop: float | None = 0.875,
        scale: float = 20.0,
        margin: float = 0.0,
        alignment: Alignment = Alignment(),
        foundation: int = 0,
        layers: Sequence[str] = LAYERS,
        rank: int = 32,
        subspaces: Subspaces = "both",
        general_scale: float = 0.5,
        isolated_scale: float = 1.0,
        gao: bool = True,
        rho_max: float = 0.3,
        recalibration: Recalibration = "diagonal",
        gamma: float = 3.0,
        stats_passes: int = 2,
    ) -> None:
        super().__init__(
            network=network,
            optimizer=optimizer,
            image_size=image_size,
            classes=classes,
            tasks=tasks,
            augment=augment,
            crop=crop,
            scale=scale,
            margin=margin,
            alignment=alignment,
            foundation=foundation,
            layers=layers,
            rank=rank,
        )
        for name, value, allowed in (
            ("subspaces", subspaces, ("both", "general", "isolated")),
            ("recalibration", recalibration, ("diagonal", "full", "none")),
            ("stats_passes", stats_passes, (1, 2)),
        ):
            if value not in allowed:
                raise BadInput(f"{name} is {value!r}: use one of {', '.join(map(str, allowed))}")
        if not gamma > 0 or not rho_max >= 0:
            raise BadInput(f"gamma is {gamma} and rho_max is {rho_max}: use gamma above 0 and rho_max of 0 or more")
        self.subspaces, self.general_scale, self.isolated_scale = subspaces, general_scale, isolated_scale
        self.gao, self.rho_max = gao, rho_max
        self.recalibration, self.gamma, self.stats_passes = recalibration, gamma, stats_passes
        self.register_buffer("isolation", torch.zeros(2))

    # --- branches ---------------------------------------------------------------------------------------------
    def branches(self) -> dict[str, float]:
        """The general and the isolated one; the first task has the general one only, at the same factor."""
        share = 0.5 if self.subspaces == "both" else 1.0
        scales = {"general": share * self.general_scale, "isolated": share * self.isolated_scale}
        if self.task == 0:
            return {"general": scales["general"]}
        return scales if self.subspaces == "both" else {self.subspaces: scales[self.subspaces]}

    def trains_down(self) -> bool:
        """In the first task only."""
        return self.task == 0

    def start_branches(self, data: Dataset[Any]) -> None:
        """A_G and A_I from the second moments of old and new inputs, with the weights of the task before."""
        new = collect(self, self.widths, data)
        ratios, ridges = [], []
        for name, layer in self.adapters().items():
            old = self.memory[name]
            if "general" in layer.branches:
                layer.branch("general").A.copy_(general_subspace(old, new[name], self.rank).T / math.sqrt(3))
            if "isolated" in layer.branches:
                basis, added = isolated_subspace(old, new[name], self.rank)
                layer.branch("isolated").A.copy_(basis.T / math.sqrt(3))
                ratios.append(energy_ratio(basis, old, new[name]))
                ridges.append(added)
        if ratios:
            self.isolation.copy_(torch.tensor([sum(ratios) / len(ratios), max(ridges)]))

    def after_step(self) -> None:
        """Log what is known of the isolated subspaces of the present task."""
        if any("isolated" in layer.branches for layer in self.adapters().values()):
            ratio, ridge = self.isolation
            self.log("isolated_energy_ratio", ratio)
            self.log("added_to_old_moments", ridge)

    # --- gradient-aligned steps -------------------------------------------------------------------------------
    def groups(self, batch: Labelled) -> tuple[Labelled, ...]:
        """With GAO the batch as two groups of samples, of half of its classes each, drawn alike on all ranks.

        A batch of one class stays whole: its update is a plain step.
        """
        assert isinstance(batch.label, Tensor)
        present = self.gather(batch.label).unique()
        if not self.gao or len(present) < 2:
            return (batch,)
        order = torch.randperm(len(present), generator=self.session.shared_generator()).to(present.device)
        first = torch.isin(batch.label, present[order[: len(present) // 2]])
        return tuple(Labelled(batch.image[rows], batch.label[rows]) for rows in (first, ~first))

    def optimizers(self, phase: Phase) -> Optimizers:
        """One optimiser; with GAO it looks ahead along the adapters, not the head."""
        if self.founding or not self.gao:
            return super().optimizers(phase)
        base = self.optimizer.optimizer(self.classifier.parameters())
        base.add_param_group({"params": list(self.heads[-1].parameters()), "perturb": False})
        seed = int(torch.randint(2**62, (), generator=self.session.shared_generator()))
        return {"main": self.optimizer.scheduled(GradientAligned(base, self.rho_max, seed), phase.total_steps)}

    # --- merging ----------------------------------------------------------------------------------------------
    def end_task(self, data: Dataset[Any]) -> None:
        """Recalibrate the general branch, merge, and remember the inputs."""
        new = collect(self, self.widths, data)  # with the adapters, before they are merged
        if self.task > 0:
            self.recalibrate(new)
        super().end_task(data)
        self.memory.add(new)
        if self.stats_passes == 2:
            self.memory.add(collect(self, self.widths, data))

    def recalibrate(self, new: Moments) -> None:
        """B_G <- B_G Lam in every layer; `new` are the S_t after training."""
        for name, layer in self.adapters().items():
            if "general" in layer.branches:
                branch = layer.branch("general")
                lam = recalibration_matrix(branch.A, self.memory[name], new[name], self.gamma, self.recalibration)
                branch.B.copy_(branch.B @ lam.to(branch.B))

# SPDX-License-Identifier: Apache-2.0
"""Optimisers that take closures: they ask for gradients at other points before they move.

`step` gets one closure per batch of the Step. Calling one leaves fresh gradients in `.grad` and gives the loss. All
ranks call closures equally often. They work with bf16; a loss scaler (fp16) is refused by the engine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mien.errors import BadInput

Closure = Callable[[], Tensor]


class ClosureOptimizer(Optimizer):
    """Base: shares parameter groups and state with the optimiser that makes the moves.

    Args:
        base: The optimiser that steps with the gradients found. Learning-rate schedules may be attached to either.
    """

    takes_closures = True

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base = base
        self.param_groups = base.param_groups
        self.state = base.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load into the base optimiser; groups and state stay shared."""
        self.base.load_state_dict(state_dict)
        self.param_groups = self.base.param_groups
        self.state = self.base.state

    def _with_gradient(self, perturbed_only: bool = False) -> list[Tensor]:
        return [
            p
            for group in self.param_groups
            if not perturbed_only or group.get("perturb", True)
            for p in group["params"]
            if p.grad is not None
        ]


class SharpnessAware(ClosureOptimizer):
    """Sharpness-aware minimisation: step with the gradient at w + rho * g / ||g||, g the gradient at w.

    One closure. Source: Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, 2021.

    Args:
        base: The optimiser that steps.
        rho: Radius of the ascent, >= 0.
    """

    def __init__(self, base: Optimizer, rho: float = 0.05) -> None:
        if rho < 0:
            raise BadInput(f"rho is {rho}: it must be 0 or more")
        super().__init__(base)
        self.rho = rho

    @torch.no_grad()
    def step(self, closures: Sequence[Closure]) -> Tensor:  # type: ignore[override]
        """Two gradients, one move. Gives the loss at w."""
        if len(closures) != 1:
            raise BadInput(f"sharpness-aware steps take one batch: the Step has {len(closures)}")
        loss = closures[0]()
        parameters = self._with_gradient()
        gradients = [p.grad for p in parameters]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # type: ignore[arg-type]
        kept = [p.clone() for p in parameters]
        torch._foreach_add_(parameters, torch._foreach_mul(gradients, self.rho / (norm + 1e-12)))  # type: ignore[arg-type]
        closures[0]()
        torch._foreach_copy_(parameters, kept)
        self.base.step()
        return loss


class AdversarialWeights(ClosureOptimizer):
    """Adversarial weight perturbation: step with the gradient at w + v, v_l = gamma ||w_l|| g_l / (||g_l|| + 1e-20).

    g is the gradient at w, so the loss rises along v; l runs over the tensors of more than one dimension, the others
    are not moved. One closure. Source: Wu et al., Adversarial Weight Perturbation Helps Robust Generalization, 2020,
    whose proxy (a copy that makes one ascending SGD step of any length) gives the same direction.

    Args:
        base: The optimiser that steps.
        gamma: Length of v_l relative to w_l, >= 0.
    """

    def __init__(self, base: Optimizer, gamma: float = 0.01) -> None:
        if gamma < 0:
            raise BadInput(f"gamma is {gamma}: it must be 0 or more")
        super().__init__(base)
        self.gamma = gamma

    @torch.no_grad()
    def step(self, closures: Sequence[Closure]) -> Tensor:  # type: ignore[override]
        """Two gradients, one move. Gives the loss at w."""
        if len(closures) != 1:
            raise BadInput(f"adversarial weight perturbation takes one batch: the Step has {len(closures)}")
        loss = closures[0]()
        weights = [p for p in self._with_gradient() if p.ndim > 1]
        kept = [w.clone() for w in weights]
        for w in weights:
            w.add_(w.grad * (self.gamma * w.norm() / (w.grad.norm() + 1e-20)))  # type: ignore[union-attr]
        closures[0]()
        torch._foreach_copy_(weights, kept)
        self.base.step()
        return loss


class GradientAligned(ClosureOptimizer):
    """Look ahead along the descent of one group of samples, then step with the gradient of the other; then swapped.

    For (source, target) in ((1, 2), (2, 1)): e_p = -rho * g_p / (||g_p|| + 1e-12) per tensor, g the source's gradient;
    the target's gradient is taken at w + e, the base optimiser steps there, and e is taken back. With one closure a
    plain step is made. Groups of parameters with `perturb=False` are stepped but not moved.
    Source: He et al., Task-Driven Subspace Decomposition (LoDA), arXiv 2603.00191.

    Args:
        base: The optimiser that steps, twice per update.
        rho_max: rho is drawn from U(0, rho_max) once per update.
        seed: rho follows from (seed, number of updates made), so ranks agree and a resumed run repeats it. A loaded
            state brings its own seed.
    """

    def __init__(self, base: Optimizer, rho_max: float = 0.3, seed: int = 0) -> None:
        if rho_max < 0:
            raise BadInput(f"rho_max is {rho_max}: it must be 0 or more")
        super().__init__(base)
        self.rho_max = rho_max
        # seed and count live in a group, since groups are what checkpoints hold
        self.param_groups[0].update(rho_seed=seed, updates=0)

    @torch.no_grad()
    def step(self, closures: Sequence[Closure]) -> Tensor:  # type: ignore[override]
        """Two look-ahead steps, or one plain step. Gives the first loss."""
        if len(closures) == 1:
            loss = closures[0]()
            self.base.step()
            return loss
        if len(closures) != 2:
            raise BadInput(f"gradient-aligned steps take one or two batches: the Step has {len(closures)}")
        group = self.param_groups[0]
        group["updates"] += 1
        rho = random.Random(f"{group['rho_seed']}/{group['updates']}").uniform(0, self.rho_max)
        loss = self._look_ahead(closures[0], closures[1], rho)
        self._look_ahead(closures[1], closures[0], rho)
        return loss

    def _look_ahead(self, source: Closure, target: Closure, rho: float) -> Tensor:
        loss = source()
        parameters = self._with_gradient(perturbed_only=True)
        gradients = [p.grad for p in parameters]
        norms = torch._foreach_norm(gradients)  # type: ignore[arg-type]
        moves = [g * (-rho / (n + 1e-12)) for g, n in zip(gradients, norms, strict=True)]  # type: ignore[operator]
        torch._foreach_add_(parameters, moves)
        target()
        self.base.step()
        torch._foreach_sub_(parameters, moves)
        return loss

# SPDX-License-Identifier: Apache-2.0
"""Attacks on classifiers: images within a budget that are answered wrongly.

An attack is a callable, `attack(model, image, label, generator=g)`, whose settings are a frozen dataclass. It takes any
function from images in [0, 1] to logits and gives images in [0, 1] within the budget; the model keeps its modes, batch
statistics and gradients.

    ball         budgets and their norms
    objectives   what an attack makes larger
    probe        the contract, and how a model is looked at without a trace
    pgd          FGSM, PGD
    apgd         APGD-CE, APGD-T
    square       the square attack, without gradients
    suite        the worst of several attacks; accuracy over budgets
"""

from mien.attacks.apgd import APGD
from mien.attacks.pgd import PGD, fgsm
from mien.attacks.probe import Attack, Model, attacking
from mien.attacks.square import Square
from mien.attacks.suite import WorstCase, limits, robustness_curve, standard_suite, worst_case

__all__ = [
    "APGD",
    "PGD",
    "Attack",
    "Model",
    "Square",
    "WorstCase",
    "attacking",
    "fgsm",
    "limits",
    "robustness_curve",
    "standard_suite",
    "worst_case",
]

# SPDX-License-Identifier: Apache-2.0
"""How anything is trained: methods, steps, schedules, one loop, exact resume, the run folder."""

from mien.engine.adaptation import Adaptation, adapted
from mien.engine.evaluation import evaluation_loader, predictions
from mien.engine.loop import fit
from mien.engine.method import Epoch, Losses, Method, Optimizers, Session, Step
from mien.engine.pretrained import load_weights, save_pretrained, saved_folder
from mien.engine.run import Run
from mien.engine.schedule import Outcome, Phase, Rounds, Schedule, Single, Stages, Tasks
from mien.engine.settings import Settings
from mien.engine.sources import Fixed, PerTask, TrainingData
from mien.engine.strategy import EMA, Strategy

__all__ = [
    "EMA",
    "Adaptation",
    "Epoch",
    "Fixed",
    "Losses",
    "Method",
    "Optimizers",
    "Outcome",
    "PerTask",
    "Phase",
    "Rounds",
    "Run",
    "Schedule",
    "Session",
    "Settings",
    "Single",
    "Stages",
    "Step",
    "Strategy",
    "Tasks",
    "TrainingData",
    "adapted",
    "evaluation_loader",
    "fit",
    "load_weights",
    "predictions",
    "save_pretrained",
    "saved_folder",
]

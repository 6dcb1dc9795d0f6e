# SPDX-License-Identifier: Apache-2.0
"""The arena: one protocol for all, cells that survive a kill, a page that says what the cells say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
import torch

from mien.cli import main
from mien.data.forge_pairs import KINDS
from mien.data.images import save_png
from mien.data.people import render_faces, sample_people
from mien.engine.run import commit
from mien.errors import BadInput
from mien.forensics.arena import data as arena_data
from mien.forensics.arena.data import CLEAN, CONDITIONS, Material, Perturbed, exam, material, training
from mien.forensics.arena.entrants import HALVES, Entrant, Plan, by_group, entrants, pieces_of
from mien.forensics.arena.page import SEEN, UNSEEN, columns, matrix, page
from mien.forensics.arena.run import arena, methods_named
from mien.forensics.fedforgery import FedForgery
from mien.forensics.plain import PlainDetector
from mien.forensics.scoring import Scored
from mien.nn.network import Network


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Six generated persons with four faces each, as a folder."""
    folder = tmp_path_factory.mktemp("faces") / "persons"
    identity = np.repeat(np.arange(6), 4)
    images, _ = render_faces(sample_people(6, seed=5), identity, seed=5, size=72, masks=False)
    for i, image in enumerate(torch.from_numpy(images)):
        (folder / f"p{identity[i]}").mkdir(parents=True, exist_ok=True)
        save_png(folder / f"p{identity[i]}" / f"{i}.png", image)
    return folder


@pytest.fixture(scope="module")
def few():
    """Two conditions beside the clean one."""
    monkeypatch = pytest.MonkeyPatch()
    chosen = {name: CONDITIONS[name] for name in (CLEAN, "jpeg 5", "noise 1")}
    for module in ("entrants", "data", "page"):
        if hasattr(__import__(f"mien.forensics.arena.{module}", fromlist=[""]), "CONDITIONS"):
            monkeypatch.setattr(f"mien.forensics.arena.{module}.CONDITIONS", chosen)
    for module in ("page", "data"):
        monkeypatch.setattr(f"mien.forensics.arena.{module}.PERTURBATIONS", ("jpeg", "noise"))
    yield
    monkeypatch.undo()


@pytest.fixture(scope="module")
def held(people, few, tmp_path_factory):
    """A small arena: result, its folder, and what was said."""
    folder, said = tmp_path_factory.mktemp("arena"), []
    result, *_ = arena(plan_of(people), folder, say=said.append)
    return result, folder, said


def plan_of(people, **changes):
    return replace(Plan(str(people), ("plain",), epochs=1, max_steps=2, train_faces=8, test_faces=8), **changes)


def detector():
    return PlainDetector(network=Network("tiny_cnn"), image_size=64)


def test_halves_hold_every_kind_once():
    assert sorted(kind for half in HALVES for kind in half) == sorted(KINDS)


def test_no_person_is_trained_and_tested_on(people):
    found = material(str(people), 100, 100, None, 0)
    assert not set(found.train.people) & set(found.test.people)
    assert len(set(found.train.people) | set(found.test.people)) == 6
    other = material(str(people), 100, 100, None, 1)
    assert set(other.test.people) != set(found.test.people) or not torch.equal(other.test.faces, found.test.faces)


def test_a_detector_is_trained_on_its_half_and_tested_on_all_kinds(people):
    found = material(str(people), 100, 100, None, 0)
    trained = training(detector(), found, HALVES[0], 0).train(None)
    assert set(trained.kinds) == {"real", *HALVES[0]}
    tested = exam(detector(), found, 0)
    assert set(tested.kinds) == {"real", *KINDS}
    assert set(tested.groups) == set(found.test.people)


def test_perturbed_faces_keep_everything_but_their_pixels(people):
    clean = exam(detector(), material(str(people), 8, 8, None, 0), 0)
    worse = Perturbed(clean, "noise", 3, seed=1)
    assert len(worse) == len(clean)
    a, b = clean[3], worse[3]
    assert (a.label, a.group, a.kind, a.unit) == (b.label, b.group, b.kind, b.unit)
    assert 0.02 < float((a.image - b.image).abs().mean()) < 0.1
    assert torch.equal(worse[3].image, b.image)


def test_frames_of_a_clip_get_the_same_noise():
    class Still(arena_data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return arena_data.Faces(torch.full((3, 3, 16, 16), 0.5), 0)

    made = Perturbed(Still(), "noise", 5)[0].image
    assert made.shape == (3, 3, 16, 16)
    assert torch.equal(made[0], made[2])
    assert float((made - 0.5).abs().max()) > 0.01


def test_a_killed_arena_goes_on_where_it_was_and_says_the_same(people, held):
    result, folder, said = held
    assert len(said) == 2 * (1 + 3), "one line for every cell: a training and three conditions, twice"
    pieces = pieces_of(plan_of(people), Entrant("plain", 1), folder / "arena-persons-rehearsal.pieces")
    before = pieces["jpeg 5"].read_text()
    pieces["jpeg 5"].unlink()
    again = []
    second, _, shown = arena(plan_of(people), folder, say=again.append)
    assert len(again) == 1
    assert "jpeg 5" in again[0]
    assert pieces["jpeg 5"].read_text() == before, "the weights were kept"
    assert second["detectors"] == result["detectors"]
    assert "rehearsal" in shown.read_text()


def test_a_kind_is_seen_in_one_half_and_unseen_in_the_other(held):
    result = held[0]
    table = matrix(result)
    assert table.shape == (1, len(columns(result)))
    assert np.isfinite(table).all()
    runs = result["detectors"]["plain"]["runs"]
    for (_, kind, perturbation, state), value in zip(columns(result), table[0], strict=True):
        some = [r for r in runs if not kind or (kind in r["trained on"]) == (state == SEEN)]
        if kind:
            assert value == some[0][CLEAN]["auc"][kind]["value"]
            continue
        condition = next(name for name in result["conditions"] if name.startswith(perturbation))
        aucs = [
            r[condition]["auc"][k]["value"]
            for r in runs
            for k in KINDS
            if (k in r["trained on"]) == (state == SEEN) and k not in result["confound"]["marked"]
        ]
        assert value == pytest.approx(np.mean(aucs))
    assert {(bool(kind), state) for _, kind, _, state in columns(result)} == {
        (of_kind, state) for of_kind in (True, False) for state in (SEEN, UNSEEN)
    }


def test_marked_kinds_are_left_out_of_means(held):
    result = held[0]
    free = {**result, "confound": {**result["confound"], "marked": []}}
    some = {**result, "confound": {**result["confound"], "marked": ["swap", "region-edit", "self-blend"]}}

    def jpeg(result):
        return matrix(result)[0, [perturbation for _, _, perturbation, _ in columns(result)].index("jpeg")]

    runs = result["detectors"]["plain"]["runs"]
    only = next(r for r in runs if "re-synthesis" in r["trained on"])["jpeg 5"]["auc"]["re-synthesis"]["value"]
    assert jpeg(some) == pytest.approx(only)
    assert jpeg(free) != pytest.approx(only)
    last = [(title.split("\n")[0], kind) for title, kind, *_ in columns(some)[-6:]]
    assert last == [(f"{kind} †", kind) for kind in ("self-blend", "swap", "region-edit")] * 2
    assert [kind for _, kind, *_ in columns(some) if kind][:2] == ["re-synthesis"] * 2
    text = page(some).html()
    heads = [re.findall(r"<th[^>]*>([^<]*)</th>", row) for row in re.findall(r"<thead>(.*?)</thead>", text)]
    assert ["detector", "re-synthesis", "self-blend †", "swap †", "region-edit †"] in heads
    assert "left out of every mean" in text
    assert "†" not in page(free).html()


def test_groups_are_compared_without_marked_kinds():
    """Forged by swap all score lowest, by the other kind highest: with both kinds the AUC is a half."""
    kinds = ["real", "swap", "region-edit"] * 4
    score = np.array([0.4, 0.1, 0.9] * 4)
    people = [f"p{i // 3}" for i in range(12)]
    scored = Scored(score, (np.array(kinds) != "real").astype(int), people, kinds, people)
    group_of = {"p0": "a", "p1": "a", "p2": "b", "p3": "b"}
    both, free = by_group(scored, group_of, ()), by_group(scored, group_of, ("swap",))
    assert [both["groups"][g]["auc"] for g in "ab"] == [0.5, 0.5]
    assert [free["groups"][g]["auc"] for g in "ab"] == [1.0, 1.0]
    assert free["groups"]["a"]["people"] == 2
    score[3 * 2 + 1] = 0.9  # one swap of a person of b is found
    assert both["fairness"]["DPD"] == 0
    assert by_group(scored, group_of, ())["fairness"]["DPD"] > 0
    assert by_group(scored, group_of, ("swap",))["fairness"]["DPD"] == 0


def test_an_outside_detector_is_tested_only(people, few, tmp_path):
    saved = detector().save_pretrained(tmp_path / "mine")
    plan = plan_of(people, methods=(), outside=(str(saved),))
    assert entrants(plan) == [Entrant(str(saved), None)]
    result, _, shown = arena(plan, tmp_path / "out", say=lambda line: None)
    (name,) = result["detectors"]
    assert "outside" in name
    assert not list((tmp_path / "out").glob("*.pieces/*train*"))
    assert str(tmp_path) not in shown.read_text()


def test_an_outside_detector_that_has_seen_a_test_person_is_refused(people, few, tmp_path):
    saved = detector().save_pretrained(tmp_path / "mine")
    person = material(str(people), 8, 8, None, 0).test.people[0]
    (saved / "manifest.json").write_text(json.dumps({"groups": [person], "files": [], "description": "leaked"}))
    with pytest.raises(BadInput, match=person):
        arena(plan_of(people, methods=(), outside=(str(saved),)), tmp_path / "out", say=lambda line: None)


def test_pieces_of_replaced_weights_are_refused(people, few, tmp_path):
    saved = detector().save_pretrained(tmp_path / "mine")
    plan = plan_of(people, methods=(), outside=(str(saved),))
    arena(plan, tmp_path / "out", say=lambda line: None)
    detector().save_pretrained(saved)
    with pytest.raises(BadInput, match="other weights"):
        arena(plan, tmp_path / "out", say=lambda line: None)
    for piece in (tmp_path / "out").glob("*.pieces/mine.*"):
        piece.unlink()
    arena(plan, tmp_path / "out", say=lambda line: None)


@pytest.mark.parametrize("names", [("a/best", "b/best"), ("x-1", "x 1")])
def test_outside_detectors_of_one_name_are_refused(people, names, tmp_path):
    folders = tuple(str(detector().save_pretrained(tmp_path / name)) for name in names)
    with pytest.raises(BadInput, match="different names"):
        arena(plan_of(people, methods=(), outside=folders), tmp_path / "out", say=lambda line: None)


def raced(people, folder, race):
    """The same faces as those of 24 persons of their own, whose race is `race(number)`."""
    folder.mkdir(exist_ok=True)
    rows = ["file,race"]
    for i, path in enumerate(sorted(people.rglob("*.png"))):
        (folder / f"{i}.png").write_bytes(path.read_bytes())
        rows.append(f"{i}.png,{race(i)}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def table(people, tmp_path_factory):
    """24 persons of two races."""
    return raced(people, tmp_path_factory.mktemp("table"), lambda i: i % 2)


@pytest.mark.parametrize("sees", ["faces", "clips", "edits"])
def test_where_groups_are_compared_a_swaps_donor_is_of_the_same_group(table, made_forgeries, sees):
    looker = type("Looker", (PlainDetector,), {"sees": sees, "frames": 2})(network=Network("tiny_cnn"), image_size=32)
    found = material(str(table), 100, 100, "race", 0)
    exam(looker, found, 0)
    training(looker, found, HALVES[1], 0)
    federated = FedForgery(network=Network("tiny_cnn"), image_size=32)
    training(federated, found, HALVES[1], 0)
    with_swaps = [pairs for pairs in made_forgeries if "swap" in pairs.kinds]
    assert len(with_swaps) == 3, "the test, the training, and the client of swaps"
    for pairs in with_swaps:
        races = [found.group_of[name] for name in pairs.identities]
        assert len(set(races)) == 2
        assert [races[donor] for donor in pairs.donors] == races
    assert material(str(table), 100, 100, None, 0).test.donors is None


def test_fairfd_prunes_where_groups_are_compared(table, few, tmp_path):
    plan = plan_of(table, methods=("fairfd",), group_by="race", train_faces=100)
    result, _, shown = arena(plan, tmp_path / "out", say=lambda line: None)
    counts = [run["train"]["pruned_weights"] for run in result["detectors"]["fairfd"]["runs"]]
    assert min(counts) > 0
    assert f"pruned {counts[0]} and {counts[1]} weights, by race" in shown.read_text()
    result, _, shown = arena(replace(plan, group_by=None), tmp_path / "without", say=lambda line: None)
    assert [run["train"]["pruned_weights"] for run in result["detectors"]["fairfd"]["runs"]] == [0, 0]
    assert "fairfd pruned nothing" in shown.read_text()


def test_groups_of_too_few_persons_are_left_out(people, tmp_path):
    """Of 24 persons 11 are of one race, 11 of another, and 2 of a third."""
    found = material(str(raced(people, tmp_path, lambda i: "c" if i > 21 else "ab"[i % 2])), 100, 100, "race", 0)
    assert set(found.train.donors) == set(found.test.donors) == {"a", "b"}
    assert found.train.column == "race"
    assert "race c left out" in found.about
    with pytest.raises(BadInput, match="two groups must have them"):
        material(str(raced(people, tmp_path / "two", lambda i: "c" if i > 21 else "a")), 100, 100, "race", 0)


def test_a_client_in_which_a_group_has_one_person_swaps_with_anybody(table, made_forgeries):
    found = material(str(table), 100, 100, "race", 0)
    of = found.train.donors
    some = found.train.part([*[i for i, race in enumerate(of) if race == "0"][:3], of.index("1")])
    assert some.people_of() == {"0": 3, "1": 1}
    training(FedForgery(network=Network("tiny_cnn"), image_size=32), replace(found, train=some), ("swap",), 0)
    assert len(set(np.array(made_forgeries[-1].identities)[made_forgeries[-1].donors])) > 1


def test_groups_are_compared(table, few, monkeypatch, tmp_path):
    plan = plan_of(table, group_by="race", train_faces=100)
    result, _, shown = arena(plan, tmp_path / "out", say=lambda line: None)
    cell = result["detectors"]["plain"]["runs"][0][CLEAN]
    assert set(cell["groups"]) == {"0", "1"}
    assert 0 <= cell["fairness"]["AADPD"] <= 1
    assert "By race" in shown.read_text()
    kept = sorted(set(KINDS) - {"swap"})
    for marked in (["swap"], list(KINDS)):
        check = {**result["confound"], "marked": marked}
        monkeypatch.setattr(Material, "checked", lambda self, seed, check=check, **_: replace(self, confound=check))
        with pytest.raises(BadInput, match="another arena"):
            arena(plan, tmp_path / "out", say=lambda line: None)
        some, _, shown = arena(plan, tmp_path / f"without {len(marked)}", say=lambda line: None)
        other = some["detectors"]["plain"]["runs"][0][CLEAN]
        if marked == ["swap"]:
            assert other["auc"] == cell["auc"]
            assert other["groups"] != cell["groups"], f"they are of {kept} alone"
            assert "over the kinds that are not marked" in shown.read_text()
        else:
            assert "groups" not in other
            assert "nothing is left to compare" in shown.read_text()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["reid"], "has no arena"),
        (["forensic"], "forensics"),
        (["forensics", "--methods", "plian"], "plain"),
        (["forensics", "--data", "nowhere"], "does not exist"),
        (["forensics", "--with", "nowhere"], "no folder"),
        (["forensics", "--group-by", "race"], "race"),
    ],
)
def test_bad_input_is_one_line(arguments, wanted, capsys, tmp_path):
    assert main(["arena", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert wanted in error
    assert "\n" not in error


def test_a_broken_piece_is_named(people, few, tmp_path):
    arena(plan_of(people), tmp_path, say=lambda line: None)
    piece = pieces_of(plan_of(people), Entrant("plain", 1), tmp_path / "arena-persons-rehearsal.pieces")[CLEAN]
    piece.write_text("{")
    with pytest.raises(BadInput, match=piece.name):
        arena(plan_of(people), tmp_path, say=lambda line: None)
    piece.unlink()
    arena(plan_of(people), tmp_path, say=lambda line: None)


def test_pieces_of_another_plan_are_refused(people, held):
    with pytest.raises(BadInput, match="another arena"):
        arena(plan_of(people, seed=1), held[1], say=lambda line: None)


def test_all_trainable_detectors_take_part():
    assert {"plain", "acmf", "fedforgery"} <= set(methods_named(None))


def test_the_json_is_plain(people, held):
    found = json.loads((held[1] / "arena-persons-rehearsal.json").read_text())
    assert found["rehearsal"] is True
    assert found["protocol"]["data"] == people.name
    assert set(found["conditions"]) == {"jpeg 5", "noise 1"}


def test_the_json_says_what_was_run_and_how_long_it_took(people, few, tmp_path):
    result, *_ = arena(plan_of(people, seed=3), tmp_path, say=lambda line: None)
    took = result["took"]
    assert (took["jobs"], took["cells_made"], took["cells"]) == (1, 8, 8)
    start, end = (datetime.fromisoformat(took[name]) for name in ("start", "end"))
    assert 0 < took["seconds"] <= (end - start).total_seconds() + 1
    assert result["command"] == (
        "mien arena forensics --data persons --methods plain --epochs 1 --train-faces 8 --test-faces 8 --seed 3 "
        "--max-steps 2"
    )
    assert result["commit"] == commit()
    assert "torch" in result["versions"]["packages"]
    again, _, shown = arena(plan_of(people, seed=3), tmp_path, say=lambda line: None)
    assert again["took"]["cells_made"] == 0
    old = {key: value for key, value in again.items() if key not in ("took", "command", "commit")}
    assert again["command"] in shown.read_text()
    assert "cells made" not in page(old).html(), "results without it can be shown, too"

# SPDX-License-Identifier: Apache-2.0
"""What `mien compare` says of two evaluations: names as they were reported, and no more than groups can tell."""

from __future__ import annotations

import json

import pytest

from mien.cli import main


def evaluation(folder, shift, groups, primary="auc"):
    """Real and forged items of each group; forged ones score higher by `shift`."""
    items = [
        {"id": f"{g}-{y}", "group": f"g{g}", "label": y, "score": 0.3 + (0.01 * g + shift) * y}
        for g in range(groups)
        for y in (0, 1)
    ]
    folder.mkdir()
    metrics = {name: {"value": 0.5} for name in ("brier", "video_brier", "auc", "video_auc")}
    (folder / "evaluation.json").write_text(json.dumps({"items": items, "primary": primary, "metrics": metrics}))
    return str(folder)


@pytest.mark.parametrize(("primary", "prefix"), [("auc", ""), ("video_auc", "video_")])
def test_metrics_are_called_as_they_were_reported(tmp_path, capsys, primary, prefix):
    runs = [evaluation(tmp_path / name, shift, 8, primary) for name, shift in (("a", 0.1), ("b", 0.4))]
    assert main(["compare", *runs]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert {line.split()[0] for line in lines} == {f"{prefix}auc", f"{prefix}brier"}
    assert main(["compare", *runs, "--metric", f"{prefix}brier"]) == 0
    assert "the second is better" in capsys.readouterr().out
    assert main(["compare", *runs, "--metric", "video_brier" if not prefix else "brier"]) == 2
    assert f"{prefix}brier" in capsys.readouterr().err


def test_few_groups_give_no_verdict(tmp_path, capsys):
    runs = [evaluation(tmp_path / name, shift, 4) for name, shift in (("a", 0.1), ("b", 0.4))]
    assert main(["compare", *runs, "--metric", "brier"]) == 0
    out = capsys.readouterr().out
    assert "p 0.12" in out
    assert "too few groups to tell" in out


def test_a_negative_seed_is_one_line(tmp_path, capsys):
    runs = [evaluation(tmp_path / name, 0.1, 3) for name in "ab"]
    assert main(["compare", *runs, "--seed", "-1"]) == 2
    assert "'-1' is not a whole number of at least 0" in capsys.readouterr().err

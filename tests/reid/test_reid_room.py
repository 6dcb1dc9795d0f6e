# SPDX-License-Identifier: Apache-2.0
"""The room end to end, as users meet it: train, evaluate and predict from the command line and from Python."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import mien
from mien.cli import main
from mien.data.pedestrians import photograph_pedestrians, sample_pedestrians
from mien.errors import BadInput
from mien.reid.data import Augmentation, PersonImages, load_crop
from mien.reid.ncplr import NCPLR
from mien.reid.ranked import Found, RankedList, nearest_valid, ranked_lists, shown_queries
from mien.reid.readers import generated, read

TINY = ["--method.image_size=[32,16]", "--method.contrast.iterations", "3", "--method.clustering.k1", "8"]


def write_persons(root, people, pictures=2, cameras=(1, 2), seed=0):
    """A folder for each person with CAMERA_NUMBER.png."""
    everybody = sample_pedestrians(max(people) + 1, seed)
    for person in people:
        for camera in cameras:
            crops = photograph_pedestrians(
                everybody, [person] * pictures, [camera] * pictures, seed=100 * person + camera, height=32, width=16
            )
            for number, crop in enumerate(crops):
                path = root / f"{person:03d}" / f"{camera:02d}_{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((crop.transpose(1, 2, 0) * 255).astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two folders of different people, and a run on the first."""
    folder = tmp_path_factory.mktemp("world")
    write_persons(folder / "a", range(14), pictures=3)
    write_persons(folder / "b", range(20, 26))
    run = ["train", "ncplr", "--data", str(folder / "a"), "--preset", "small", "--max-steps", "4"]
    assert main([*run, "--out", str(folder / "run"), *TINY]) == 0
    return folder


def test_a_run_records_what_it_saw(world):
    manifest = json.loads((world / "run/manifest.json").read_text())
    assert manifest["groups"] == [f"{i:03d}" for i in range(14)]
    assert len(manifest["files"]) == 84
    assert "14 persons in a" in manifest["description"]
    config = json.loads((world / "run/config.json").read_text())
    assert config["method_config"]["max_clusters"] == 42, "room for a cluster of every two crops"
    lines = [json.loads(line) for line in (world / "run/metrics.jsonl").read_text().splitlines()]
    validation = next(line["validation"] for line in lines if "validation" in line)
    assert set(validation) == {"mAP", "rank-1", "rank-5", "rank-10", "mINP"}
    logged = {name for line in lines for name in line.get("logged", {})}
    assert {"clusters", "clustered", "neighbours", "with_neighbours"} <= logged


def test_evaluation_on_other_people(world, tmp_path, capsys):
    assert main(["evaluate", str(world / "run"), "--data", str(world / "b"), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("mAP ")
    assert "95 % bootstrap over 6 persons" in printed.err
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(found["metrics"]) == {"mAP", "rank-1", "rank-5", "rank-10", "mINP"}
    assert found["pictures"] == ["ranked-lists.png", "cmc.png"]
    assert all((tmp_path / name).stat().st_size > 2000 for name in found["pictures"])
    mean = np.mean([item["values"]["mAP"] for item in found["items"]])
    assert found["metrics"]["mAP"]["value"] == pytest.approx(mean)
    assert {item["group"] for item in found["items"]} == {f"{i:03d}" for i in range(20, 26)}


def test_the_evaluation_is_a_plain_ranking_of_the_features(world):
    method = mien.load(world / "run")
    data = PersonImages(read(str(world / "b"), "test"), method.image_size)
    with torch.no_grad():
        f = method.predict(mien_batch(data)).feature.double().numpy()
    assert np.allclose(np.linalg.norm(f, axis=1), 1, atol=1e-6)
    precision = []
    for i in range(len(data)):
        order = [
            j for j in np.argsort(-(f @ f[i]), kind="stable")
            if not (data.identity[j] == data.identity[i] and data.camera[j] == data.camera[i])
        ]  # fmt: skip
        hits = [rank for rank, j in enumerate(order, 1) if data.identity[j] == data.identity[i]]
        precision.append(np.mean([k / rank for k, rank in enumerate(hits, 1)]))
    result = mien.evaluate(method, str(world / "b"), device="cpu")
    assert result["metrics"]["mAP"]["value"] == pytest.approx(np.mean(precision), abs=1e-6)


def mien_batch(data):
    from mien.data.batch import collate

    return collate([data[i] for i in range(len(data))])


def test_data_that_were_trained_on_are_refused(world, capsys):
    assert main(["evaluate", str(world / "run"), "--data", str(world / "a")]) == 2
    assert "was trained on 84 of 84 test files" in capsys.readouterr().err


def test_predictions_among_themselves(world, tmp_path):
    files = sorted(map(str, (world / "b/020").glob("*.png")))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert main(["predict", str(world / "run"), *files, str(broken), "--out", str(tmp_path / "out")]) == 1
    with (tmp_path / "out/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [*files, str(broken)]
    assert rows[-1]["error"]
    for row in rows[:-1]:
        assert row["nearest"] in files
        assert row["nearest"] != row["path"]
        assert row["second"] not in (row["path"], row["nearest"])
        assert 1 >= float(row["similarity"]) >= float(row["second_similarity"]) >= -1
    assert len(list((tmp_path / "out").glob("ranked-*.png"))) == len(files)


def test_predictions_against_known_persons(world):
    photo = world / "b/021/01_0.png"
    answers = mien.predict(world / "run", str(photo), source=str(world / "b"), device="cpu")
    (row,) = list(answers)
    assert row.values["person"] == "021"
    assert row.values["similarity"] == pytest.approx(1.0, abs=1e-5)
    assert row.values["nearest"] == str(photo)
    assert row.values["second_person"] not in ("021", None)
    assert any("not that they show the same person" in note for note in answers.notes)


def test_what_cannot_be_answered_is_one_line(world, capsys):
    run, photo = str(world / "run"), str(world / "b/021/01_0.png")
    for arguments, message in [
        (["predict", run, photo], "one picture has nothing to be compared with"),
        (["predict", run, photo, photo, "--mode", "fast"], "ranking has neither"),
        (["predict", run, photo, "--source", str(world / "nowhere")], "does not exist"),
        (["evaluate", run, "--data", str(world / "b"), "--mode", "x"], "has none of them"),
        (["evaluate", run, "--data", str(world / "b"), "--kind", "market1501"], "unpack Market-1501-v15.09.15.zip"),
        (["evaluate", run, "--data", str(world / "b"), "--kind", "market"], "did you mean 'market1501'"),
        (["evaluate", run, "--data", "nowhere", "--kind", "msmt17"], "nowhere does not exist: unpack MSMT17_V1"),
        (["train", "ncplr", "--data", "nowhere", "--kind", "veri776"], "nowhere does not exist: unpack VeRi.zip"),
        (["train", "ncplr", "--data", "nowhere"], "nowhere does not exist: give a folder, or 'embedded'"),
        (["train", "ncplr", "--data", str(world / "a"), "--method.rho", "2"], "rho is 2.0: it must lie in [0, 1)"),
        (["train", "ncplr", "--data", str(world / "b/020")], "lies in no person's folder"),
    ]:
        assert main(arguments) == 2, arguments
        errors = capsys.readouterr().err.strip().splitlines()
        assert message in errors[-1]
        assert "Traceback" not in "".join(errors)


def test_clusters_that_vanish_are_one_line(world, capsys, tmp_path):
    run = ["train", "cluster-contrast", "--data", str(world / "a"), "--preset", "small", "--out", str(tmp_path / "run")]
    assert main([*run, *TINY, "--method.clustering.eps", "0.001"]) == 2
    assert "all 78 crops are outliers with clustering.eps 0.001" in capsys.readouterr().err


def test_the_baseline_and_a_data_set_from_python():
    config = {"image_size": [32, 16], "contrast": {"iterations": 2}, "clustering": {"k1": 8}}
    method = mien.train("cluster-contrast", "embedded", preset="small", config=config, epochs=1, device="cpu")
    test = PersonImages(generated("test"), (32, 16))
    result = mien.evaluate(method, test, device="cpu", max_steps=2)
    assert 0 < result["metrics"]["mAP"]["value"] <= 1
    assert any("only the first 64 of 240 crops" in note for note in result["notes"])
    with pytest.raises(BadInput, match="PersonImages"):
        mien.evaluate(method, [1, 2], device="cpu")


# --- parts of it ----------------------------------------------------------------------------------------------------
def test_augmentation_keeps_shape_and_range_and_does_what_it_is_told():
    image = torch.rand(3, 24, 12, generator=torch.Generator().manual_seed(0))
    original = image.clone()
    torch.manual_seed(0)
    for _ in range(50):
        varied = Augmentation(padding=3)(image)
        assert varied.shape == image.shape
        assert float(varied.min()) >= 0
        assert float(varied.max()) <= 1
    assert torch.equal(image, original), "the crop itself is left as it is"
    assert torch.equal(Augmentation(0, 0, 0)(image), image)
    assert torch.equal(Augmentation(1, 0, 0)(image), image.flip(-1))
    erased = [Augmentation(0, 0, 1)(image) for _ in range(200)]
    shares = [float((e != image).any(0).float().mean()) for e in erased]
    assert min(shares) > 0.01
    assert max(shares) <= 0.42
    assert 0.15 < np.mean(shares) < 0.25
    grey = torch.tensor([0.485, 0.456, 0.406])
    changed = (erased[0] != image).any(0)
    assert torch.allclose(erased[0][:, changed], grey[:, None].expand(-1, int(changed.sum())))
    for changes in ({"flip": 1.5}, {"erasing": -1.0}, {"padding": -1}):
        with pytest.raises(BadInput, match=f"augment.{next(iter(changes))} is"):
            Augmentation(**changes)


def test_crops_are_stretched_alike_from_files_arrays_and_tensors(tmp_path):
    waves = np.sin(np.arange(40)[:, None, None] / 5 + np.arange(17)[None, :, None] / 3 + np.arange(3))
    pixels = (127.5 + 120 * waves).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    one, two = load_crop(tmp_path / "x.png", (32, 16)), load_crop(tensor, (32, 16))
    three = load_crop(tensor.float() / 255, (32, 16))
    assert torch.equal(one, two)
    assert (one - three).abs().max() < 0.01
    expected = np.asarray(Image.fromarray(pixels).resize((16, 32), Image.Resampling.BICUBIC), np.float64) / 255
    assert np.abs(one.numpy().transpose(1, 2, 0) - expected).max() < 1.5 / 255


def test_samples_do_not_depend_on_augmentation_when_plain():
    data = PersonImages(generated("train").subset([0, 1, 13]), (32, 16), Augmentation())
    assert data.seeded
    assert not data.plain().seeded
    assert torch.equal(data.plain()[1].image, data.plain()[1].image)
    sample = data[2]
    assert (sample.identity, sample.index, sample.group) == (1, 2, "generated-0-001")


def test_ranked_lists_leave_out_the_own_camera_and_mark_right_and_wrong():
    similarity = np.array([0.9, 0.8, 0.7, 0.6])
    order = nearest_valid(similarity, (1, 5), np.array([1, 2, 1, 3]), np.array([5, 5, 6, 6]), 2)
    assert order.tolist() == [1, 2]
    crop = torch.rand(3, 32, 16)
    rows = [RankedList(Found(crop, "query"), [Found(crop, "0.9", True), Found(crop, "0.8", False)])]
    drawn = ranked_lists([*rows, RankedList(Found(crop), [Found(crop, "0.5", True)])])
    words = [axes.get_xlabel() for axes in drawn.axes]
    assert words == ["", "right", "wrong", "", "right", ""]
    with pytest.raises(BadInput, match="no ranked lists"):
        ranked_lists([])


def test_shown_queries_run_from_best_to_worst():
    from mien.metrics.retrieval import Retrieval

    precision = np.array([0.2, np.nan, 0.9, 0.5, 0.7])
    found = Retrieval(precision, precision, np.array([3, -1, 0, 1, 0]))
    assert shown_queries(found, 3).tolist() == [2, 4, 0] or shown_queries(found, 3).tolist() == [2, 3, 0]
    assert shown_queries(found, 9).tolist() == [2, 4, 3, 0]


def test_the_card_and_the_scope_say_what_it_cannot_do():
    card = NCPLR(network=mien.create("ncplr").network.__class__("tiny_blocks"), image_size=(32, 16)).card()
    assert "not evidence" in card
    assert "other cameras" in card

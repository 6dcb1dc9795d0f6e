# SPDX-License-Identifier: Apache-2.0
"""`mien audit`: a trained detector, a torch module and an ONNX file on tables of faces; pruning; what is refused."""

from __future__ import annotations

import csv
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import mien
from mien.cli import main
from mien.errors import BadInput
from mien.forensics.audit.foreign import HANDFUL, ModuleDetector, OnnxDetector, Reading
from mien.forensics.audit.groups import Grouped, open_grouped
from mien.forensics.audit.run import judge
from mien.forensics.data import Faces, Verdict
from mien.forensics.fairfd import FairFD
from mien.forensics.plain import PlainDetector
from mien.forensics.scoring import Scored, score
from mien.nn.network import Network
from mien.room import DataOptions


def faces(n, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        shade = rng.integers(40, 200, 3)
        noise = rng.integers(0, 40, (32, 32, 3))
        yield Image.fromarray((shade + noise).astype(np.uint8))


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """Twenty faces in a zip, ten of each race: forgeries must be made from them."""
    folder = tmp_path_factory.mktemp("people")
    with (
        (folder / "labels.csv").open("w", newline="") as stream,
        zipfile.ZipFile(folder / "images.zip", "w") as archive,
    ):
        table = csv.writer(stream)
        table.writerow(["file", "age", "race"])
        for i, face in enumerate(faces(20)):
            with archive.open(f"{i}.png", "w") as member:
                face.save(member, "PNG")
            table.writerow([f"{i}.png", 20 + i, i % 2])
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Bright and dark images of two races: a detector that looks at brightness is biased for certain."""
    folder = tmp_path_factory.mktemp("labelled")
    shades = {("a", "real"): 40, ("a", "swap"): 220, ("b", "real"): 40, ("b", "swap"): 60}
    with (folder / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "label", "kind", "race"])
        for (race, kind), shade in shades.items():
            for i in range(6):
                name = f"{race}-{kind}-{i}.png"
                Image.new("RGB", (32, 32), (shade + i, shade, shade)).save(folder / name)
                table.writerow([name, "real" if kind == "real" else "fake", kind, race])
    return folder


class Brightness(nn.Module):
    """Logits of real and forged from the mean pixel: forged above a half."""

    def forward(self, x):
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(mean), 20 * (mean - 0.5)], dim=1)


def trained(tmp_path, data="embedded"):
    torch.manual_seed(0)
    return PlainDetector(network=Network("tiny_cnn"), image_size=32).save_pretrained(tmp_path / "saved")


def test_a_module_that_looks_at_brightness_alone(labelled, tmp_path):
    found = mien.audit(Brightness(), labelled, tmp_path / "out", image_size=32)
    assert found["kinds"] == ["real", "swap"]
    assert found["groups"] == ["a", "b"]
    assert found["matrix"] == [[1.0, 1.0], [1.0, 0.0]], "forgeries of b are dark and missed"
    values = {name: metric["value"] for name, metric in found["fairness"].items()}
    assert values["DPD"] == 0.5
    assert values["AADEO"] == 1.0
    assert values["URDEO"] == pytest.approx(1 / 1.5)
    assert found["accuracy"]["value"] == 0.75
    assert found["group_by"] == "race"
    assert found["small_groups"] == ["a", "b"]
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["matrix"] == found["matrix"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert "Never rank detectors by fairness alone" in page


def test_other_data_and_other_thresholds_give_other_numbers(labelled):
    strict = mien.audit(Brightness(), labelled, image_size=32, threshold=0.003)
    assert strict["matrix"] == [[1.0, 1.0], [1.0, 1.0]]
    lazy = mien.audit(Brightness(), labelled, image_size=32, threshold=0.99999)
    assert lazy["matrix"][1] == [0.0, 0.0]
    assert lazy["weak_rows"] == ["swap"]


def test_forgeries_are_made_from_a_table_of_faces_in_a_zip(unlabelled, tmp_path, capsys):
    saved = trained(tmp_path)
    assert main(["audit", str(saved), "--data", str(unlabelled), "--group-by", "race", "--max-steps", "50"]) == 0
    shown = capsys.readouterr()
    assert "accuracy by race" in shown.out
    assert "AADPD" not in shown.out, "families are columns on the terminal"
    assert "not recorded" in shown.err
    found = json.loads((saved / "audit" / "audit.json").read_text())
    assert found["kinds"] == ["real", "re-synthesis", "region-edit", "self-blend", "swap"]
    assert found["counts"] == [[10, 10]] * 5
    assert (saved / "audit" / "report.html").is_file()
    few = mien.audit(saved, unlabelled, group_by="race", per_group=4)
    assert few["counts"] == [[4, 4]] * 5


@pytest.mark.parametrize("sees", ["faces", "clips", "edits"])
def test_a_swaps_donor_is_of_the_same_group(unlabelled, made_forgeries, sees):
    """Else a group with few faces is swapped with the others, and is told by that."""
    kind = type("Looker", (PlainDetector,), {"sees": sees, "frames": 2})
    found = open_grouped(str(unlabelled), kind(network=Network("tiny_cnn"), image_size=32), DataOptions())
    (pairs,) = made_forgeries
    races = [found.group_of[name] for name in pairs.identities]
    assert len(set(races)) == 2
    assert [races[donor] for donor in pairs.donors] == races


def test_embedded_people_are_grouped_by_skin_tone(tmp_path):
    found = mien.audit(trained(tmp_path), "embedded", max_steps=4)
    assert found["group_by"] == "skin"
    assert set(found["groups"]) == {"light", "medium", "dark"}
    assert any("a trial: 256 of" in note for note in found["notes"])


def test_what_the_detector_was_trained_on_is_refused(unlabelled, tmp_path):
    run = mien.train(
        "fairfd", unlabelled, tmp_path / "run", preset="small", max_steps=2, batch_size=8, config={"image_size": 32}
    )
    assert int(run.zeroed) > 0, "the table's races were calibrated on"
    with pytest.raises(BadInput, match=r"was trained on 20 of 20 test files: .* \(the first "):
        mien.audit(tmp_path / "run", unlabelled)


def test_pruning_keeps_persons_apart_and_remembers_them(unlabelled, tmp_path):
    saved = trained(tmp_path)
    found = mien.audit(saved, unlabelled, tmp_path / "out", prune_to=tmp_path / "pruned", rho=0.05, calibration=0.4)
    assert sum(map(sum, found["counts"])) == 5 * 12
    pruned = mien.load(tmp_path / "pruned")
    before = mien.load(saved)
    gone = {
        n: int((w == 0).sum()) for n, w in pruned.state_dict().items() if not torch.equal(w, before.state_dict()[n])
    }
    assert gone == {f"{name}.weight": count for name, count in found["pruned"]["zeroed"].items()}
    assert sum(gone.values()) > 500
    assert "After pruning" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(BadInput, match="was trained on 8 of 20 test files"):
        mien.audit(tmp_path / "pruned", unlabelled)
    with pytest.raises(BadInput, match="is there already"):
        mien.audit(saved, unlabelled, prune_to=tmp_path / "pruned")
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is a file: give a folder"):
        mien.audit(saved, unlabelled, tmp_path / "file", prune_to=tmp_path / "second")
    assert not (tmp_path / "second").exists(), "nothing is half written"


def people_table(folder, persons, images=("real", "swap")):
    """A table of persons of each race, with an image of every kind of each."""
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "label", "kind", "person", "race"])
        for race, count in persons.items():
            for i in range(count):
                for kind in images:
                    name = f"{race}{i}-{kind}.png"
                    Image.new("RGB", (32, 32), (40 + i, 60, 80)).save(folder / name)
                    table.writerow([name, int(kind != "real"), kind, f"{race}{i}", race])
    return str(folder)


def test_a_group_too_small_to_be_kept_apart_is_left_out_with_a_note(tmp_path):
    source = people_table(tmp_path / "d", {"a": 8, "b": 8, "c": 2})
    detector = PlainDetector(network=Network("tiny_cnn"), image_size=32)
    found = open_grouped(source, detector, DataOptions(), calibration=0.3)
    assert found.notes == ("groups of fewer than four persons were left out: c",)
    for part in (found.data, found.calibration):
        assert {dict(record.attributes)["race"] for record in part.records} == {"a", "b"}
    assert not any(name.startswith("c") for name in (*found.group_of, *found.manifest["groups"]))
    whole = open_grouped(source, detector, DataOptions())
    assert {dict(record.attributes)["race"] for record in whole.data.records} == {"a", "b", "c"}
    assert whole.notes == ()


@pytest.mark.parametrize("kinds", [("real", "swap"), ("",)])
def test_a_group_that_would_be_missing_in_one_part_is_refused(tmp_path, kinds):
    """With labels and without: of each race some must be kept apart, and some must be left."""
    source = people_table(tmp_path / "d", {"a": 20, "b": 4, "c": 20}, kinds)
    if kinds == ("",):
        table = tmp_path / "d" / "labels.csv"
        table.write_text("\n".join(",".join(row.split(",")[::4]) for row in table.read_text().split()))
    detector = PlainDetector(network=Network("tiny_cnn"), image_size=32)
    with pytest.raises(BadInput, match="no real image of b is kept apart to calibrate on, only of a, c"):
        open_grouped(source, detector, DataOptions(), calibration=0.05)
    with pytest.raises(BadInput, match=r"share to calibrate on is 0.95: nobody of b is left to audit"):
        open_grouped(source, detector, DataOptions(), calibration=0.95)
    with pytest.raises(BadInput, match="makes 1 groups of four persons or more"):
        open_grouped(people_table(tmp_path / "e", {"a": 6, "b": 3}), detector, DataOptions(), calibration=0.3)


def test_where_each_image_is_a_person_reals_of_each_group_are_kept_apart(labelled):
    """Drawn by race alone, a race may be kept apart by its forgeries only."""
    detector = PlainDetector(network=Network("tiny_cnn"), image_size=32)
    for seed in range(8):
        found = open_grouped(str(labelled), detector, DataOptions(seed=seed), calibration=0.2)
        assert {dict(record.attributes)["race"] for record in found.calibration.records} == {"a", "b"}


@pytest.mark.parametrize(("label", "kind"), [(1, "real"), (0, "swap")])
def test_a_label_that_contradicts_its_kind_is_not_judged(label, kind):
    scored = Scored(np.array([0.1, 0.9]), np.array([0, label]), ["p", "q"], ["real", kind], ["1.png", "2.png"])
    with pytest.raises(BadInput, match=f"2.png has label {label} and kind '{kind}'"):
        judge(scored, Grouped([], None, "race", {"p": "a", "q": "b"}, {}, None), 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--group-by", "rce"], "unknown column 'rce': did you mean 'race'"),
        (["--threshold", "1.5"], "threshold is 1.5"),
        (["--rho", "2"], "rho is 2.0"),
        (["--per-group", "2"], "per_group is 2"),
        (["--pixels", "words"], "pixel scale is 'words'"),
        (["--group_byy", "race"], "unknown option"),
        (["--image-size", "64"], "image size is 64: this plain takes 32 pixels"),
        (["--data", "nowhere"], "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line(unlabelled, tmp_path, capsys, options, message):
    saved = trained(tmp_path)
    assert main(["audit", str(saved), "--data", str(unlabelled), "--max-steps", "1", *options]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not (saved / "audit").exists()


def test_data_that_say_nothing_about_people_are_refused(tmp_path):
    for person in "ab":
        (tmp_path / "d" / person).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "d" / person / "1.png")
    with pytest.raises(BadInput, match=r"does not say who is seen: an audit needs a labels\.csv"):
        mien.audit(trained(tmp_path), tmp_path / "d")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"file;race\na.png;x\n", r"labels\.csv: the first line must name one column of images .* it holds file;race"),
        (b"file,race\na.png,\xff\n", r"labels\.csv: cannot be read as a UTF-8 table"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(tmp_path, table, message):
    folder = tmp_path / "d"
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    (folder / "labels.csv").write_bytes(table)
    with pytest.raises(BadInput, match=message):
        mien.audit(trained(tmp_path), folder)


# --- from elsewhere -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reading", "output", "expected"),
    [
        (Reading(), [[0.0, 2.0]], torch.tensor([2.0]).sigmoid()),
        (Reading(forged="0"), [[0.0, 2.0]], torch.tensor([-2.0]).sigmoid()),
        (Reading(forged="not:2"), [[1.0, 1.0, 1.0]], torch.tensor([2 / 3])),
        (Reading(values="probabilities"), [[0.3, 0.7]], torch.tensor([0.7])),
        (Reading(), [2.0], torch.tensor([2.0]).sigmoid()),
        (Reading(forged="low"), [[2.0]], torch.tensor([-2.0]).sigmoid()),
        (Reading(forged="low", values="probabilities"), [0.9], torch.tensor([0.1])),
    ],
)
def test_outputs_are_read_as_they_are_meant(reading, output, expected):
    torch.testing.assert_close(reading.score(torch.tensor(output), 1), expected)


@pytest.mark.parametrize(
    ("reading", "output", "message"),
    [
        (Reading(values="probabilities"), [[-3.0, 2.0]], "use logits"),
        (Reading(forged="2"), [[0.0, 1.5]], "has outputs 0 to 1"),
        (Reading(forged="high"), [[0.0, 1.5]], "give a class"),
        (Reading(forged="1"), [1.5], "use high or low"),
        (Reading(), [[[1.0]]], r"gives \(1, 1, 1\) for 1 images: outputs of \(B, classes\) or \(B,\) are needed"),
        (Reading(), [[0.0, 1.5]] * 2, r"gives \(2, 2\) for 1 images"),
    ],
)
def test_outputs_that_contradict_what_was_said_are_refused(reading, output, message):
    with pytest.raises(BadInput, match=message):
        reading.score(torch.tensor(output), 1)


class Squeezing(nn.Module):
    """One logit, or two, from the mean pixel; all axes of length 1 are lost, of the batch, too."""

    def __init__(self, outputs, squeeze=True):
        super().__init__()
        self.gain, self.squeeze = torch.tensor([[0.0, 8.0]])[:, -outputs:], squeeze

    def forward(self, x):
        output = x.mean(dim=(1, 2, 3))[:, None] * self.gain
        return output.squeeze() if self.squeeze else output


def grey(n):
    """Faces of different greys, real and forged by turns."""
    return [Faces(torch.full((3, 16, 16), i / n), i % 2, f"p{i}", ("real", "swap")[i % 2]) for i in range(n)]


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_module_that_squeezes_its_outputs_is_scored_in_a_batch_of_one(outputs):
    """33 images in batches of 32 leave one alone; so do batches of one."""
    whole, last, single = (
        score(ModuleDetector(Squeezing(outputs, squeeze), image_size=16), grey(33), batch_size=size).score
        for squeeze, size in ((False, 33), (True, 32), (True, 1))
    )
    np.testing.assert_allclose(last, whole)
    np.testing.assert_allclose(single, whole)


class Constant(nn.Module):
    """The same outputs for every image, but for the last one."""

    def __init__(self, most, last):
        super().__init__()
        self.most, self.last = torch.tensor(most), torch.tensor(last)

    def forward(self, x):
        return torch.where((x.mean(dim=(1, 2, 3)) > 0.9)[:, None], self.last, self.most)


def test_one_image_whose_logits_sum_to_one_does_not_make_them_probabilities():
    detector = ModuleDetector(Constant([-1.0, 3.0], [0.3, 0.7004]), image_size=16)
    found = score(detector, grey(11), batch_size=10).score
    assert found[-1] == pytest.approx(1 / (1 + np.exp(0.3 - 0.7004)))
    assert len(score(ModuleDetector(Constant([0.3, 0.7004], [-1.0, 3.0]), image_size=16), grey(11)).score) == 11


@pytest.mark.parametrize("size", [1, 5, 64])
def test_outputs_that_all_sum_to_one_are_refused_whatever_the_size_of_batches(size):
    probabilities = ModuleDetector(Constant([0.3, 0.7], [1.0, 0.0]), image_size=16)
    with pytest.raises(BadInput, match="they are probabilities"):
        score(probabilities, grey(HANDFUL), batch_size=size)
    said = Reading(values="probabilities")
    assert score(ModuleDetector(probabilities.module, image_size=16, reading=said), grey(9)).score[0] == pytest.approx(
        0.7
    )


def test_scores_that_are_not_one_for_each_image_are_refused():
    class Short(PlainDetector):
        def predict(self, batch):
            return Verdict(super().predict(batch).score[1:])

    with pytest.raises(BadInput, match=r"gives scores \(3,\) for 4 images"):
        score(Short(network=Network("tiny_cnn"), image_size=16), grey(4))


@pytest.mark.parametrize(
    ("scale", "expected"), [("unit", 0.25), ("symmetric", -0.5), ("bytes", 63.75), ("imagenet", (0.25 - 0.485) / 0.229)]
)
def test_pixels_are_scaled(scale, expected):
    image = torch.full((2, 3, 4, 4), 0.25)
    assert float(Reading(scale=scale).scaled(image)[0, 0, 0, 0]) == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [{"forged": "left"}, {"values": "odds"}, {"scale": "x"}])
def test_readings_that_there_are_not(wrong):
    with pytest.raises(BadInput, match="use"):
        Reading(**wrong)


def onnx_file(path, *, shape=("b", 3, 16, 16), last="", kind=1):
    """A graph by hand: the mean over the image, 8 times it for class 1, and maybe an operation at the end."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    axes = helper.make_tensor("axes", onnx.TensorProto.INT64, [3], [1, 2, 3])
    gain = helper.make_tensor("gain", onnx.TensorProto.FLOAT, [1, 2], [0.0, 8.0])
    nodes = [helper.make_node("Cast", ["image"], ["x"], to=1)]
    nodes += [helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0)]
    nodes += [helper.make_node("Unsqueeze", ["mean", "one"], ["column"])]
    nodes += [helper.make_node("Mul", ["column", "gain"], ["logits" if last else "out"])]
    nodes += [helper.make_node(last, ["logits"], ["out"])] if last else []
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [shape[0], 2])],
        [axes, gain, helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("shape", [("b", 3, 16, 16), (2, 3, 16, 16), ("b", 16, 16, 3), (1, 3, 16, 16)])
@pytest.mark.parametrize("last", ["", "Softmax"])
def test_an_onnx_file_scores_as_its_graph_says(tmp_path, shape, last):
    method = OnnxDetector(onnx_file(tmp_path / "n.onnx", shape=shape, last=last))
    assert method.image_size == 16
    images = torch.rand(5, 3, 16, 16)
    expected = (8 * images.mean(dim=(1, 2, 3))).sigmoid()
    torch.testing.assert_close(method.predict(Faces(images, torch.zeros(5))).score, expected, atol=1e-5, rtol=1e-5)
    assert len(method.predict(Faces(images[:0], torch.zeros(0))).score) == 0


@pytest.mark.parametrize("batch", ["b", 1, 2])
@pytest.mark.parametrize("size", [32, 1])
def test_an_onnx_file_that_squeezes_its_outputs_is_scored_like_any_other(tmp_path, batch, size):
    shape = (batch, 3, 16, 16)
    plain, squeezed = (
        score(OnnxDetector(onnx_file(tmp_path / f"{last}.onnx", shape=shape, last=last)), grey(33), batch_size=size)
        for last in ("", "Squeeze")
    )
    np.testing.assert_allclose(squeezed.score, plain.score)
    assert len(set(squeezed.score.tolist())) == 33


def test_an_onnx_file_that_fails_on_a_batch_is_one_line(tmp_path):
    class Failing:
        def run(self, *_):
            raise RuntimeError("[ONNXRuntimeError] : 6 : the input shape cannot be reshaped\nmore")

    method = OnnxDetector(onnx_file(tmp_path / "n.onnx"))
    method._session = Failing()
    with pytest.raises(BadInput, match=r"n.onnx cannot be run on \(3, 3, 16, 16\) \(.* cannot be reshaped\)$"):
        score(method, grey(3))


def test_an_onnx_file_of_bytes_and_an_open_size(tmp_path):
    file = onnx_file(tmp_path / "n.onnx", shape=("b", "h", "w", 3), kind=2)
    with pytest.raises(BadInput, match="leaves the size of its input open"):
        OnnxDetector(file)
    method = OnnxDetector(file, image_size=8, reading=Reading(scale="bytes"))
    image = torch.full((1, 3, 8, 8), 1 / 255)
    torch.testing.assert_close(method.predict(Faces(image, torch.zeros(1))).score, torch.tensor([8.0]).sigmoid())


def test_onnx_files_that_cannot_be_used(tmp_path, labelled):
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07nothing")
    with pytest.raises(BadInput, match="cannot be run as an ONNX network") as caught:
        mien.audit(tmp_path / "broken.onnx", labelled)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="does not exist"):
        OnnxDetector(tmp_path / "missing.onnx")
    file = onnx_file(tmp_path / "n.onnx")
    with pytest.raises(BadInput, match="fixed to 16 pixels"):
        OnnxDetector(file, image_size=32)
    with pytest.raises(BadInput, match="no output 'probs'"):
        OnnxDetector(file, output="probs")
    with pytest.raises(BadInput, match="has shape"):
        OnnxDetector(onnx_file(tmp_path / "w.onnx", shape=("b", 3, 16, 24)))
    with pytest.raises(BadInput, match="cannot be pruned"):
        mien.audit(file, labelled, prune_to=tmp_path / "p")


def test_an_onnx_file_and_the_module_it_stands_for_agree(tmp_path, labelled):
    class Twin(nn.Module):
        def forward(self, x):
            return x.mean(dim=(1, 2, 3))[:, None] * torch.tensor([[0.0, 8.0]])

    options = {"threshold": 0.8}
    file = mien.audit(onnx_file(tmp_path / "n.onnx"), labelled, **options)
    module = mien.audit(Twin(), labelled, image_size=16, **options)
    assert file["matrix"] == module["matrix"] == [[1.0, 1.0], [1.0, 1.0]]
    assert file["auc"] == module["auc"]


def test_a_module_needs_a_size_and_cannot_be_saved(labelled, tmp_path):
    with pytest.raises(BadInput, match="give image_size"):
        mien.audit(Brightness(), labelled)
    with pytest.raises(BadInput, match="cannot be saved here"):
        mien.audit(nn.Conv2d(3, 2, 32), labelled, image_size=32, prune_to=tmp_path / "p")
    assert isinstance(FairFD(network=Network("tiny_cnn"), image_size=16), FairFD)
    assert ModuleDetector(Brightness(), image_size=16).config() == {"image_size": 16}

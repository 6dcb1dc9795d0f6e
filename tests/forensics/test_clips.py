# SPDX-License-Identifier: Apache-2.0
"""Clips of folders of frames and of video files: the frames that were meant, one augmentation, whole user paths."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from mien import api
from mien.cli import main
from mien.data.detection import FoundFace
from mien.data.folders import Record
from mien.data.images import load_tensor, save_png
from mien.errors import BadInput
from mien.forensics.clips.sampling import StretchedClips, UniformClips
from mien.forensics.clips.stills import camera
from mien.forensics.clips.videos import ClipDetector, VideoClips, footage
from mien.forensics.data import Verdict
from mien.forensics.fcan_dct import FCANDCT
from mien.forensics.opening import generated_people
from mien.forensics.parts.pruning import calibrate
from mien.nn.network import Network

SIZE, LENGTH = 32, 12


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Three videos of each class as folders of frames; frame i of video v is grey, its level says which it is."""
    root = tmp_path_factory.mktemp("frames")
    for label in ("real", "fake"):
        for v in range(3):
            for i in range(LENGTH):
                save_png(root / label / f"v{v}" / f"{i}.png", torch.full((3, SIZE, SIZE), (20 * i + 5 * v) / 255))
    return root


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Filmed generated people as folders of frames, and as video files where PyAV is there."""
    root = tmp_path_factory.mktemp("filmed")
    stills, _ = generated_people(range(60, 66), 1, size=64)
    for number, still in enumerate(stills):
        clip = camera((still.float() / 255).expand(16, -1, -1, -1), number, 64)
        label = "real" if number % 2 else "fake"
        for i, frame in enumerate(clip):
            save_png(root / "frames" / label / f"v{number}" / f"{i:02d}.png", frame)
        _write(root / "files" / label / f"v{number}.mp4", clip)
    return root


def _write(path, clip):
    try:
        import av
    except ImportError:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = clip.shape[-1], clip.shape[-2], "yuv420p"
        for frame in clip:
            array = (frame.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def records(root):
    found = []
    for label, name in enumerate(("real", "fake")):
        for place in sorted((root / name).iterdir()):
            paths = sorted(place.iterdir(), key=lambda p: int(p.stem))
            found += [Record(p, label, place.name, name, i, f"{name}/{place.name}") for i, p in enumerate(paths)]
    return found


def levels(clip):
    """The number of the frame that each frame of a clip is."""
    return ((clip[:, 0, 0, 0] * 255).round().int() // 20).tolist()


def test_testing_takes_the_frames_of_the_plan(frames):
    sampling = UniformClips(3, 2)
    data = VideoClips(footage(records(frames)), sampling, SIZE)
    assert len(data) == 6 * 2
    for index in range(len(data)):
        sample = data[index]
        assert sample.image.shape == (3, 3, SIZE, SIZE)
        assert levels(sample.image) == sampling.testing(LENGTH)[index % 2]
    assert data[0].unit == data[1].unit == "real/v0"
    assert (data[0].label, data[11].label, data[11].kind) == (0, 1, "fake")
    assert data.manifest("x")["groups"] == ["v0", "v1", "v2"]


def test_training_draws_under_the_seed(frames):
    data = VideoClips(footage(records(frames)), UniformClips(3, 2), SIZE, training=True)
    assert len(data) == 6
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        first = data[0].image
        torch.manual_seed(seed)
        assert torch.equal(first, data[0].image)
        seen.add(tuple(levels(first)))
    assert len(seen) > 2
    assert all(b - a == 2 for clip in seen for a, b in pairwise(clip))


def test_one_augmentation_for_a_whole_clip(frames):
    """A clip of equal frames stays one: whatever is drawn, flip and perturbation, is drawn once."""
    still = torch.rand(3, SIZE, SIZE)
    save_png(frames.parent / "still.png", still)
    path = frames.parent / "still.png"
    copies = [Record(path, label, "g", "k", i, f"v{label}") for label in (0, 1) for i in range(4)]
    data = VideoClips(footage(copies), UniformClips(4, 1), SIZE, training=True, perturbed=1.0)
    plain = load_tensor(path, SIZE)
    mirrored = changed = 0
    for seed in range(12):
        torch.manual_seed(seed)
        clip = data[0].image
        assert all(torch.equal(clip[0], frame) for frame in clip[1:])
        near = min((clip[0] - plain).abs().mean(), (clip[0] - plain.flip(-1)).abs().mean())
        mirrored += int((clip[0] - plain).abs().mean() > near)
        changed += int(near > 1e-5)
    assert 0 < mirrored < 12
    assert changed == 12


def test_a_share_of_the_clips_is_balanced_and_new_in_every_pass(frames):
    data = VideoClips(footage(records(frames)), StretchedClips(2), SIZE, training=True, share=0.2)
    full = VideoClips(footage(records(frames)), StretchedClips(2), SIZE, training=True)
    assert (len(full), len(data)) == (36, 8)
    assert [data[i].label for i in range(8)] == [0] * 4 + [1] * 4
    assert sum(map(len, data.slots)) == 36


class FramesMean(ClipDetector):
    """The least that has a convolution and scores clips."""

    def __init__(self):
        super().__init__(image_size=SIZE, sampling=UniformClips(3, 2))
        self.layer = nn.Conv3d(3, 2, 1)

    def predict(self, batch):
        return Verdict(self.layer(batch.image.transpose(1, 2)).mean(dim=(1, 2, 3, 4)).sigmoid())


def test_clips_made_for_training_are_calibrated_on_as_they_are_tested(frames):
    known = [replace(record, attributes=(("race", record.group),)) for record in records(frames)]
    training = VideoClips(footage(known), UniformClips(3, 2), SIZE, training=True)
    testing = VideoClips(footage(known), UniformClips(3, 2), SIZE)
    found, expected = (calibrate(FramesMean().eval(), data, "race") for data in (training, testing))
    assert found.counts == expected.counts == {"v0": 2, "v1": 2, "v2": 2}, "both clips of each real video"
    still = training.still()
    assert not still.seeded
    assert all(torch.equal(still[i].image, testing[i].image) for i in range(len(testing)))
    assert training.training, "the clips themselves go on as they were"
    with pytest.raises(BadInput, match="a Subset of clips made for training"):
        calibrate(FramesMean().eval(), torch.utils.data.Subset(training, [0, 1, 2]), "race")


def test_stills_are_set_in_motion(frames):
    alone = [Record(frames / "real" / "v0" / "3.png", 0, "a"), Record(frames / "fake" / "v0" / "3.png", 1, "b")]
    data = VideoClips(footage(alone), StretchedClips(5), SIZE)
    assert data[0].image.shape == (5, 3, SIZE, SIZE)


def test_short_and_mixed_videos_are_one_line(frames):
    with pytest.raises(BadInput, match="12 frames, clips need at least 14"):
        VideoClips(footage(records(frames)), StretchedClips(14), SIZE)
    mixed = [Record(frames / "a.mp4", 0, "g", video="v"), Record(frames / "b.png", 0, "g", frame=1, video="v")]
    with pytest.raises(BadInput, match="one video file, or images"):
        footage(mixed)
    with pytest.raises(BadInput, match="share is 0"):
        VideoClips(footage(records(frames)), UniformClips(2), SIZE, share=0.0)


@pytest.mark.parametrize("kind", ["frames", "files"])
def test_train_evaluate_and_predict(faces, kind, tmp_path, capsys):
    if kind == "files":
        pytest.importorskip("av", reason="needs the extra 'video'")
    data, run = faces / kind, tmp_path / "run"
    options = ["--preset", "small", "--crop", "none", "--max-steps", "2", "--validation", "0.34"]
    assert main(["train", "fcan-dct", "--data", str(data), "--out", str(run), *options]) == 0
    if kind == "frames":
        result = api.evaluate(run, "embedded", max_steps=6)
        assert 0 <= result["metrics"]["auc"]["value"] <= 1
    place = data / "real" / ("v1.mp4" if kind == "files" else "v1")
    out = tmp_path / "out"
    assert main(["predict", str(run), str(place), "--crop", "none", "--out", str(out)]) == 0
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert [row["path"].removeprefix(str(place)) for row in rows] == [", frames 0-7", ", frames 8-15", ""]
    assert [row["frames"] for row in rows] == ["8", "8", "16"]
    (out / "evidence-00007-old.png").write_bytes(b"of an earlier prediction")
    assert main(["predict", str(run), str(place), "--crop", "none", "--out", str(out)]) == 0
    scores = [float(row["score"]) for row in rows]
    assert scores[2] == pytest.approx(sum(scores[:2]) / 2, abs=2e-6)  # the mean of probabilities
    assert len(list(out.glob("*.png"))) == 2
    capsys.readouterr()


@pytest.mark.parametrize("detector", ["images", "clips"])
def test_video_files_are_answered_for_and_broken_ones_named(faces, tmp_path, detector):
    pytest.importorskip("av", reason="needs the extra 'video'")
    name = "acmf" if detector == "images" else "fcan-dct"
    config = {"network": Network("tiny_cnn" if detector == "images" else "tiny_blocks"), "image_size": 32}
    method = api.create(name, **config)
    good = faces / "files" / "real" / "v1.mp4"
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(good.read_bytes()[:700])
    answers = api.predict(method, [cut, good, faces / "frames" / "real" / "v1"], crop="none", every=4, batch_size=3)
    rows = list(answers)
    assert rows[0].path == str(cut)
    assert "damaged" in rows[0].error
    mine = [row for row in rows if row.path.startswith(str(good))]
    tails = [row.path.removeprefix(str(good)) for row in mine]
    expected = ["0", "4", "8", "12"] if detector == "images" else ["0-7", "8-15"]
    assert [tail.split()[-1] for tail in tails[:-1]] == expected
    assert tails[-1] == ""
    assert mine[-1].values["frames"] == (4 if detector == "images" else 16)
    assert len(rows) == len(answers)
    short = api.predict(method, [good, good.parent], crop="none", every=4, batch_size=2, max_steps=1)
    assert len(list(short)) == len(short)
    assert any("left out" in note for note in short.notes)
    with pytest.raises(BadInput, match="every is 0"):
        api.predict(method, good, every=0)


class BrightFaces:
    """Finds a face in the middle of every bright image, and none in a dark one."""

    def __call__(self, image):
        points = ((12.0, 12.0), (20.0, 12.0), (16.0, 16.0), (16.0, 21.0), (8.0, 14.0), (24.0, 14.0))
        return [FoundFace((6.0, 6.0, 26.0, 26.0), points, 0.9)] if float(image.mean()) > 0.5 else []


@pytest.fixture
def gap(tmp_path, monkeypatch):
    """A video of each class: 8 frames with a face, 8 empty ones, 8 with a face."""
    monkeypatch.setattr("mien.data.faces.FaceFinder", BrightFaces)
    for label in ("real", "fake"):
        for i in range(24):
            level = 0.2 if 8 <= i < 16 else 0.6 + 0.01 * i
            save_png(tmp_path / label / "v" / f"{i:02d}.png", torch.full((3, SIZE, SIZE), level))
    return tmp_path


def test_a_clip_without_a_face_is_a_row_of_its_own_and_the_others_count(gap):
    """With batches of one clip and of all clips."""
    method = api.create("fcan-dct", network=Network("tiny_blocks"), image_size=32, frames=8)
    place = gap / "real" / "v"
    for batch_size in (8, 64):
        answers = api.predict(method, place, crop="auto", batch_size=batch_size)
        rows = list(answers)
        tails = [row.path.removeprefix(str(place)) for row in rows]
        assert tails == [", frames 0-7", ", frames 8-15", ", frames 16-23", ""]
        assert [row.error for row in rows] == [None, "no face found", None, None]
        scores = [rows[i].values["score"] for i in (0, 2)]
        assert rows[3].values["score"] == pytest.approx(sum(scores) / 2, abs=2e-6)
        assert rows[3].values["frames"] == 16
        assert len(answers) == 4


def test_a_clip_without_a_face_is_named_in_training_and_in_testing(gap, monkeypatch):
    data = VideoClips(footage(records(gap)), UniformClips(8, 3), SIZE, crop="auto")
    assert data[0].image.shape == data[2].image.shape == (8, 3, SIZE, SIZE)
    with pytest.raises(BadInput, match=r"real/v, frames 8-15: no face found: leave it out, or crop faces"):
        data[1]
    training = VideoClips(footage(records(gap)), UniformClips(8, 3), SIZE, crop="auto", training=True)
    monkeypatch.setattr(UniformClips, "training", lambda self, length: list(range(8, 16)))
    with pytest.raises(BadInput, match=r"fake/v, frames 8-15: no face found"):
        training[1]
    alone = VideoClips(footage([Record(gap / "real" / "v" / "08.png", 0, "a")]), UniformClips(8), SIZE, crop="auto")
    with pytest.raises(BadInput, match=r"real/v/08\.png: no face found"):
        alone[0]


def test_frames_of_a_video_are_scored_as_the_pictures_they_are(faces):
    """Through a lossless file: scores of the frames are those of the network on the same pixels."""
    av = pytest.importorskip("av", reason="needs the extra 'video'")
    from mien.data.video import read_frames

    path = faces / "lossless.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "bgr0"
        for i in range(16):
            image = load_tensor(faces / "frames" / "real" / "v3" / f"{i:02d}.png")
            array = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    method = api.create("acmf", network=Network("tiny_cnn"), image_size=64).eval()
    kept = [frame.float() / 255 for _, frame in read_frames(path)]
    assert torch.equal(kept[5], load_tensor(faces / "frames" / "real" / "v3" / "05.png"))
    by_video = [row.values["score"] for row in api.predict(method, path, crop="none", every=5)]
    by_image = [row.values["score"] for row in api.predict(method, kept[::5], crop="none")]
    assert by_video[:-1] == pytest.approx(by_image, abs=2e-6)


def test_clips_of_another_length_are_refused():
    method = FCANDCT(network=Network("tiny_blocks"), image_size=32, frames=4)
    with pytest.raises(BadInput, match=r"fcan-dct needs \(B, 4, 3, H, W\)"):
        method.clip(torch.zeros(1, 5, 3, 32, 32))

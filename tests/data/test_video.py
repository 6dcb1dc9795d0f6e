# SPDX-License-Identifier: Apache-2.0
"""Videos: the frames that were asked for and no others, the same as by decoding everything; damage is one line."""

from __future__ import annotations

import builtins
import struct
import threading

import numpy as np
import pytest
import torch

from mien.data import video as reading
from mien.data.video import is_video_file, probe, read_clips, read_frames
from mien.errors import BadInput, MissingExtra

av = pytest.importorskip("av", reason="needs the extra 'video'")

HEIGHT, WIDTH, COUNT = 48, 64, 50
CASES = {
    "h264.mp4": ("libx264", "yuv420p", {"bf": "2", "g": "12", "crf": "18"}),
    "open.mp4": ("libx264", "yuv420p", {"bf": "2", "g": "8", "x264-params": "open-gop=1:scenecut=0:bframes=3"}),
    "mpeg4.mkv": ("mpeg4", "yuv420p", {"bf": "2", "g": "10"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"g": "10"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "16", "deadline": "realtime", "cpu-used": "8"}),
    "jpeg.mov": ("mjpeg", "yuvj420p", {}),
}


def picture(index):
    """A frame that says which one it is: brightness rises, a bar moves."""
    image = np.full((HEIGHT, WIDTH, 3), 40 + 3 * index, dtype=np.uint8)
    image[:, index : index + 6] = (250, 30, 30)
    image[4:9, 10:50] = (20, 220, 60)
    return image


def write(path, codec="libx264", pixels="yuv420p", options=None, count=COUNT, draw=picture):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.options = options or {}
        for i in range(count):
            for packet in stream.encode(av.VideoFrame.from_ndarray(draw(i), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {name: write(folder / name, *how) for name, how in CASES.items() if how[0] in av.codecs_available}


@pytest.fixture(params=CASES)
def file(request, files):
    if request.param not in files:
        pytest.skip(f"this PyAV has no encoder for {request.param}")
    return files[request.param]


def everything(path):
    """By the library alone: every frame in the order in which it comes."""
    with av.open(str(path)) as container:
        return [torch.from_numpy(f.to_ndarray(format="rgb24")).permute(2, 0, 1) for f in container.decode(video=0)]


def test_all_frames_are_those_of_the_library(file):
    video = probe(file)
    assert (video.frames, video.rate) == (COUNT, 25.0)
    plain = everything(file)
    found = list(read_frames(video))
    assert [index for index, _ in found] == list(range(COUNT))
    for (_, frame), expected in zip(found, plain, strict=True):
        assert frame.dtype == torch.uint8
        assert int((frame.int() - expected.int()).abs().max()) <= 1


@pytest.mark.parametrize(
    "indices", [[0], [COUNT - 1], [7], [3, 4, 30, 31, 47], range(0, COUNT, 5), range(2, COUNT, 24), [11, 12, 13], []]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_chosen_frames_are_the_same_bit_for_bit(file, indices, threads):
    whole = dict(read_frames(file, threads=1))
    found = list(read_frames(file, indices, threads=threads))
    assert [index for index, _ in found] == list(indices)
    assert all(torch.equal(frame, whole[index]) for index, frame in found)


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("size", [None, 16])
def test_threads_with_a_decoder_each_give_the_same_frames_in_order(file, threads, size):
    one, several = (list(read_frames(file, threads=count, size=size)) for count in (1, threads))
    assert [index for index, _ in several] == list(range(COUNT))
    assert all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(several, one, strict=True))


def test_who_stops_early_leaves_no_thread_behind(files):
    before = threading.active_count()
    frames = read_frames(files["h264.mp4"], threads=3)
    assert next(frames)[0] == 0
    assert threading.active_count() == before + 3
    frames.close()
    assert threading.active_count() == before


def test_frames_say_which_they_are(files):
    """Brightness rises by 3 a frame, so neighbours cannot be mistaken for one another."""
    for index, frame in read_frames(files["h264.mp4"], [5, 6, 20, 49]):
        assert abs(float(frame[:, 20:, 0:4].float().mean()) - (40 + 3 * index)) < 1.5 or index < 4


def test_few_frames_cost_fewer_decoded_ones(files, monkeypatch):
    decoded = []
    original = reading._frames

    def counted(*arguments):
        for frame in original(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(reading, "_frames", counted)
    list(read_frames(files["h264.mp4"], [40]))
    assert len(decoded) < 15  # its group of 12, not all 50
    decoded.clear()
    list(read_frames(files["h264.mp4"], range(0, COUNT, 5)))
    assert len(decoded) < COUNT  # two pictures of three are referred to by no other


def test_resizing_is_antialiased(tmp_path):
    """Grain finer than the result is averaged; a resize that picked pixels would be off by 25 levels and more."""

    def grain(index):
        levels = np.random.default_rng(index).integers(60, 200, (HEIGHT, WIDTH, 1), dtype=np.uint8)
        return np.repeat(levels, 3, axis=2)

    path = write(tmp_path / "grain.mov", "mjpeg", "yuvj420p", {"q:v": "2"}, 2, grain)
    for (_, small), (_, full) in zip(read_frames(path, size=16), read_frames(path), strict=True):
        expected = torch.nn.functional.interpolate(full[None].float(), size=(16, 16), mode="bilinear", antialias=True)
        assert small.shape == (3, 16, 16)
        assert float((small - expected[0]).abs().mean()) < 3


def test_clips_come_whole_in_one_pass(files):
    whole = dict(read_frames(files["h264.mp4"]))
    clips = [[0, 10, 20, 30], [2, 3, 4, 5], [5, 5, 6, 6], [40, 41, 42, 43]]
    found = dict(read_clips(files["h264.mp4"], clips))
    assert list(found) == [1, 2, 0, 3]  # by their last frame
    for number, clip in enumerate(clips):
        assert torch.equal(found[number], torch.stack([whole[i] for i in clip]))
    with pytest.raises(BadInput, match="clip 1 has no frames"):
        list(read_clips(files["h264.mp4"], [[1], []]))


def test_a_file_that_says_how_it_is_turned_comes_upright(tmp_path):
    path = write(tmp_path / "phone.mp4", count=3)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # version and flags, times, id, duration, layer, volume; then the matrix
    matrix = (0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)  # shown a quarter turn clockwise
    data[place : place + 36] = struct.pack(">9i", *matrix)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data)
    for (_, plain), (_, upright) in zip(read_frames(path), read_frames(turned), strict=True):
        assert upright.shape == (3, WIDTH, HEIGHT)
        assert torch.equal(torch.rot90(plain, -1, (1, 2)), upright)


def test_bad_indices(files):
    for indices, message in (([3, 3], "must rise"), ([5, 2], "must rise"), ([-1], "frame -1"), ([COUNT], "frame 50")):
        with pytest.raises(BadInput, match=message):
            read_frames(files["h264.mp4"], indices)
    with pytest.raises(BadInput, match="size is 0"):
        read_frames(files["h264.mp4"], size=0)


def test_files_that_are_no_videos(tmp_path, files):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video at all" * 100)
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    (tmp_path / "other.gif").write_bytes(b"GIF89a")
    for name, message in (
        ("empty.mp4", "the file is empty"),
        ("text.mp4", "damaged, or not a video"),
        ("list.mp4", "damaged, or not a video"),
        ("missing.mp4", "no such file"),
        ("other.gif", "not a video file of a known kind"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            probe(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


@pytest.mark.parametrize("name", ["mpeg4.mkv", "h264.mp4", "mpeg4.avi"])
def test_truncated_files_are_refused_or_hold_what_they_say(tmp_path, files, name):
    data = files[name].read_bytes()
    for share in (0.2, 0.5, 0.9):
        path = tmp_path / name
        path.write_bytes(data[: int(len(data) * share)])
        try:
            video = probe(path)
            frames = list(read_frames(video))
        except BadInput as error:
            lines = str(error).splitlines()
        else:
            lines = ["read"]
            assert len(frames) == video.frames < COUNT
        assert len(lines) == 1


def test_damage_in_the_middle_is_one_line(tmp_path, files):
    data = bytearray(files["h264.mp4"].read_bytes())
    start = data.index(b"mdat") + 400
    rng = np.random.default_rng(0)
    data[start : start + 1500] = rng.integers(0, 256, 1500, dtype=np.uint8).tobytes()
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with pytest.raises(BadInput, match="damaged") as caught:
        list(read_frames(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_title_in_another_encoding_does_not_matter(tmp_path, suffix):
    path = tmp_path / f"titled{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "ABCD"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for packet in [*stream.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")), *stream.encode(None)]:
            container.mux(packet)
    content = path.read_bytes()
    assert b"ABCD" in content
    path.write_bytes(content.replace(b"ABCD", b"Caf\xe9"))  # Latin-1
    assert len(list(read_frames(path))) == 1


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(BadInput, match="no video in this file"):
        probe(path)


def test_names_of_videos():
    assert is_video_file("x/A.MKV")
    assert not is_video_file("x/._a.mkv")
    assert not is_video_file("x/a.png")


def test_without_the_extra_one_line_names_it(monkeypatch, files):
    original = builtins.__import__

    def missing(name, *rest):
        if name == "av":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtra, match=r"mien\[video\]"):
        probe(files["h264.mp4"])

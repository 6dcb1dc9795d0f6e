# SPDX-License-Identifier: Apache-2.0
"""MesoNet against a forward pass in plain numpy, and its weight files against what a hostile one might hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mien.cli import main
from mien.data.keras_weights import read_keras_weights
from mien.errors import BadInput
from mien.forensics.mesonet import Meso4, MesoInception4, MesoNet, load_keras

h5py = pytest.importorskip("h5py")

NORM = ("gamma", "beta", "moving_mean", "moving_variance")
WIDTHS = {"meso4": (8, 8, 16, 16), "mesoinception4": (11, 12, 16, 16)}


def keras_layers(variant, seed=0):
    """Random weights in Keras's layouts and under its names, numbered from 5 on as in a second model of a session."""
    rng = np.random.default_rng(seed)
    if variant == "meso4":
        shapes = [(3, 3, 3, 8), (5, 5, 8, 8), (5, 5, 8, 16), (5, 5, 16, 16)]
    else:
        shapes = []
        for channels, (a, b, c, d) in ((3, (1, 4, 4, 2)), (11, (2, 4, 4, 2))):
            shapes.append((1, 1, channels, a))
            for width in (b, c, d):
                shapes += [(1, 1, channels, width), (3, 3, width, width)]
        shapes += [(5, 5, 12, 16), (5, 5, 16, 16)]
    layers = {}
    for i, shape in enumerate(shapes, start=5):
        kernel = rng.normal(0, 1 / np.sqrt(np.prod(shape[:3])), shape)
        layers[f"conv2d_{i}"] = {"kernel": kernel, "bias": rng.normal(0, 0.2, shape[3])}
    for i, width in enumerate(WIDTHS[variant], start=5):
        layers[f"batch_normalization_{i}"] = {
            "gamma": rng.uniform(0.5, 1.5, width),
            "beta": rng.normal(0, 0.3, width),
            "moving_mean": rng.normal(0, 0.3, width),
            "moving_variance": rng.uniform(0.1, 2, width),
        }
    layers["dense_9"] = {"kernel": rng.normal(0, 0.05, (1024, 16)), "bias": rng.normal(0, 0.1, 16)}
    layers["dense_10"] = {"kernel": rng.normal(0, 0.5, (16, 1)), "bias": rng.normal(0, 0.1, 1)}
    layers["flatten_2"] = {}
    return layers


def write(path, layers, root=None):
    with h5py.File(path, "w") as file:
        top = file.create_group(root) if root else file
        for layer, arrays in layers.items():
            group = top.create_group(layer)
            for name, values in arrays.items():
                group.create_dataset(f"{layer}/{name}:0", data=np.asarray(values, dtype=np.float32))
    return path


# --- an independent forward pass: channels last, as in the files, with plain sums --------------------------------
def convolve(x, kernel, bias, dilation=1):
    k = kernel.shape[0]
    reach = dilation * (k // 2)
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)))
    height, width = x.shape[:2]
    out = np.zeros((height, width, kernel.shape[3])) + bias
    for i in range(k):
        for j in range(k):
            out += padded[i * dilation : i * dilation + height, j * dilation : j * dilation + width] @ kernel[i, j]
    return np.maximum(out, 0)


def pool(x, n):
    height, width, channels = x.shape
    return x.reshape(height // n, n, width // n, n, channels).max(axis=(1, 3))


def plain_forward(variant, layers, image):
    def weights(kind):
        chosen = [name for name in layers if name.startswith(kind)]
        return [layers[name] for name in sorted(chosen, key=lambda name: int(name.rpartition("_")[2]))]

    convolutions, x = iter(weights("conv2d")), image

    def step(x, dilation=1):
        w = next(convolutions)
        return convolve(x, w["kernel"], w["bias"], dilation)

    for block, norm in enumerate(weights("batch_normalization")):
        if variant == "mesoinception4" and block < 2:
            x = np.concatenate([step(x), *(step(step(x), d) for d in (1, 2, 3))], axis=2)
        else:
            x = step(x)
        scale = norm["gamma"] / np.sqrt(norm["moving_variance"] + 1e-3)
        x = pool((x - norm["moving_mean"]) * scale + norm["beta"], 4 if block == 3 else 2)
    first, last = weights("dense")
    x = x.reshape(-1) @ first["kernel"] + first["bias"]
    x = np.where(x > 0, x, 0.1 * x) @ last["kernel"] + last["bias"]
    return 1 / (1 + np.exp(-x[0]))


@pytest.mark.parametrize("variant", WIDTHS)
@pytest.mark.parametrize("root", [None, "model_weights"])
def test_a_weights_file_gives_the_probabilities_of_a_plain_forward_pass(tmp_path, variant, root):
    layers = keras_layers(variant)
    method = load_keras(write(tmp_path / "w.h5", layers, root))
    assert method.variant == variant
    assert not method.training
    image = np.random.default_rng(1).random((2, 256, 256, 3))
    real = [plain_forward(variant, layers, one) for one in image]
    batch = torch.tensor(image, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = method.classifier(batch)
    odds = np.log(real) - np.log1p(-np.array(real))
    assert abs(odds[0] - odds[1]) > 1e-3, "the images are told apart"
    np.testing.assert_allclose(logits[:, 0].numpy(), odds, rtol=1e-4, atol=1e-4)
    assert (logits[:, 1] == 0).all()


def test_the_papers_numbers_of_weights():
    for cls, count in ((Meso4, 27_977), (MesoInception4, 28_615)):
        assert sum(p.numel() for p in cls().parameters()) == count


def test_other_sizes_and_wrong_settings():
    assert MesoNet(image_size=64).classifier(torch.rand(2, 3, 64, 64)).shape == (2, 2)
    with pytest.raises(BadInput, match="multiple of 32"):
        MesoNet(image_size=100)
    with pytest.raises(BadInput, match="variant is 'meso5'"):
        MesoNet(variant="meso5")


def test_an_imported_folder_answers_as_the_file_does(tmp_path, capsys):
    file = write(tmp_path / "w.h5", keras_layers("meso4"))
    out = tmp_path / "saved"
    assert main(["import", "mesonet", str(file), "--out", str(out)]) == 0
    assert "not recorded here" in json.loads((out / "manifest.json").read_text())["description"]
    import mien

    assert all(torch.equal(v, load_keras(file).state_dict()[k]) for k, v in mien.load(out).state_dict().items())
    assert main(["import", "mesonet", str(file), "--out", str(out)]) == 2
    assert main(["import", "mesonett", str(file), "--out", str(tmp_path / "b")]) == 2
    assert "did you mean 'mesonet'" in capsys.readouterr().err


# --- files that are not what they should be -----------------------------------------------------------------------
def changed(**changes):
    layers = keras_layers("meso4")
    for name, arrays in changes.items():
        layers[name] = arrays
    return layers


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (changed(conv2d_9={"kernel": np.zeros((1, 1, 16, 16)), "bias": np.zeros(16)}), "5 convolutions"),
        (changed(dense_9={"kernel": np.zeros((1024, 16))}), "holds kernel: kernel, bias are needed"),
        (changed(dense_9={"kernel": np.zeros((512, 16)), "bias": np.zeros(16)}), r"shape \(512, 16\) does not fit"),
        (changed(conv2d_5={"kernel": np.zeros((3, 3, 3, 7)), "bias": np.zeros(7)}), "conv2d_5, kernel"),
        (changed(conv2d_5={"kernel": np.full((3, 3, 3, 8), np.nan), "bias": np.zeros(8)}), "NaN or infinity"),
        (
            changed(batch_normalization_5=dict.fromkeys(NORM, -np.ones(8))),
            "a variance is below 0",
        ),
    ],
)
def test_files_of_another_network_are_refused(tmp_path, layers, message):
    with pytest.raises(BadInput, match=message) as caught:
        load_keras(write(tmp_path / "w.h5", layers))
    assert "\n" not in str(caught.value)


def soft(file):
    file["a"] = h5py.SoftLink("/b")


def external(file):
    file["a"] = h5py.ExternalLink("other.h5", "/b")


def inner_soft(file):
    file.create_group("a")["x"] = h5py.SoftLink("/b")


def outside(file):
    file.create_dataset("a/x", shape=(4,), dtype="f4", external=[("/etc/passwd", 0, 16)])


def virtual(file):
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5", "b", shape=(4,))
    file.create_virtual_dataset("a/x", layout)


def text(file):
    file.create_dataset("a/x", data=["import os"], dtype=h5py.string_dtype())


def integers(file):
    file.create_dataset("a/x", data=np.arange(3))


def huge(file):
    file.create_dataset("a/x", shape=(1 << 40,), dtype="f4", chunks=(1 << 20,), compression="gzip")


def foreign_filter(file):
    file.create_dataset("a/x", data=np.zeros((8, 8), "f4"), chunks=(8, 8), compression="lzf")


def deep(file):
    file.create_group("/".join("a" * 30))


def cycle(file):
    group = file.create_group("a")
    group["again"] = group


def bare(file):
    file.create_dataset("a", data=np.zeros(3, "f4"))


def twice(file):
    file.create_dataset("a/b/x", data=np.zeros(3, "f4"))
    file.create_dataset("a/c/x", data=np.zeros(3, "f4"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (soft, "SoftLink: only ordinary links"),
        (external, "ExternalLink: only ordinary links"),
        (inner_soft, "SoftLink: only ordinary links"),
        (outside, "lies outside the file"),
        (virtual, "lies outside the file"),
        (text, "floats of 16, 32 or 64 bits"),
        (integers, "floats of 16, 32 or 64 bits"),
        (huge, "more than 268,435,456 values"),
        (foreign_filter, "a filter that is not read"),
        (deep, "inside each other"),
        (cycle, "inside each other"),
        (bare, "is an array, not a layer"),
        (twice, "has two arrays x"),
    ],
)
def test_what_is_not_safe_to_read_is_not_read(tmp_path, make, message):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        make(file)
    with pytest.raises(BadInput, match=message) as caught:
        read_keras_weights(tmp_path / "w.h5")
    assert "\n" not in str(caught.value)


def test_no_hdf5_damaged_and_missing_files(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"\x80\x04pickle")
    with pytest.raises(BadInput, match="not an HDF5 file"):
        read_keras_weights(tmp_path / "a.h5")
    with pytest.raises(BadInput, match="does not exist"):
        read_keras_weights(tmp_path / "b.h5")
    whole = write(tmp_path / "c.h5", keras_layers("meso4")).read_bytes()
    (tmp_path / "d.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="cannot be read as HDF5"):
        read_keras_weights(tmp_path / "d.h5")


def test_descriptions_in_attributes_are_never_looked_at(tmp_path):
    file = write(tmp_path / "w.h5", {"dense_1": {"kernel": np.ones((2, 1)), "bias": np.zeros(1)}})
    with h5py.File(file, "a") as opened:
        opened.attrs["model_config"] = '{"class_name": "Lambda", "config": {"function": "boom"}}'
    found = read_keras_weights(file)
    assert {name: sorted(arrays) for name, arrays in found.items()} == {"dense_1": ["bias", "kernel"]}
    assert found["dense_1"]["kernel"].dtype == np.float32

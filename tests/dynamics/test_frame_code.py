from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from drawn_sequences import SIZE, code_config, drawn
from torch import Tensor, nn

from kpagent.dynamics.configuration import CodeConfig
from kpagent.dynamics.frame_code import FrameCode, KeypointCode, PerceptionCode, VectorCode, new_frame_code
from kpagent.dynamics.networks import squared_kernels
from kpagent.errors import UsageError
from kpagent.perception.detector import KeypointDetector
from kpagent.perception.methods import new_detector


def raw_maps(code: KeypointCode, images: Tensor) -> np.ndarray:
    """What the last convolution of the detector gives, before any nonlinearity."""
    with torch.no_grad():
        return code.regressor(code.reader(images)).double().numpy()


def centre(index: int, size: int) -> float:
    return (2 * index + 1) / size - 1


def slow_mean(maps: np.ndarray) -> np.ndarray:
    """Eq. S1 to S3 of (K, M, M) raw maps: (K, 3)."""
    maps = np.log1p(np.exp(maps)) + 1e-6
    size = maps.shape[-1]
    triplets = np.zeros((len(maps), 3))
    for k, one in enumerate(maps):
        for v, u in np.ndindex(one.shape):
            triplets[k] += np.array([centre(u, size), centre(v, size), 0]) * one[v, u] / one.sum()
            triplets[k, 2] += (one[v, u] - 1e-6) / size**2
    return triplets


def slow_softmax(maps: np.ndarray, sharpness: float) -> np.ndarray:
    size = maps.shape[-1]
    triplets = np.zeros((len(maps), 3))
    for k, one in enumerate(maps):
        total = np.exp(sharpness * one).sum()
        for v, u in np.ndindex(one.shape):
            triplets[k, :2] += np.array([centre(u, size), centre(v, size)]) * math.exp(sharpness * one[v, u]) / total
        triplets[k, 2] = 1 / (1 + math.exp(-one.max()))
    return triplets


@pytest.mark.parametrize("location", ["mean", "softmax"])
def test_keypoints_are_read_off_maps(location: Any) -> None:
    code = KeypointCode(code_config(location=location, sharpness=2.0))
    images = code.to_images(drawn(1, 4))[0]
    found = code.read(images)
    assert found.shape == (4, 9)
    assert found.dtype == torch.float32
    for index, maps in enumerate(raw_maps(code, images)):
        expected = slow_mean(maps) if location == "mean" else slow_softmax(maps, 2.0)
        np.testing.assert_allclose(found[index].detach(), expected.ravel(), rtol=1e-4, atol=1e-5)


def test_keypoints_are_painted_as_gaussians_of_their_scale() -> None:
    code = KeypointCode(code_config(blob_std=1.5))
    triplets = np.random.default_rng(0).uniform(-1, 1, (2, 3, 3))
    found = code.maps(torch.from_numpy(triplets.reshape(2, 9)).float())
    assert found.shape == (2, 3, 8, 8)
    for n, k, row, column in np.ndindex(*found.shape):
        # Eq. S4 counts in cells of the map, from 1.
        x, y = ((place + 1) * 8 / 2 + 0.5 for place in triplets[n, k, :2])
        squared = (column + 1 - x) ** 2 + (row + 1 - y) ** 2
        expected = triplets[n, k, 2] * math.exp(-squared / (2 * 1.5**2))
        assert found[n, k, row, column].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", ["keypoints", "vector"])
def test_a_frame_is_painted_from_its_maps_those_of_the_first_and_the_looks_of_the_first(kind: Any) -> None:
    code = new_frame_code(code_config(kind=kind))
    images = code.to_images(drawn(2, 3))
    codes = torch.randn(2, 3, 9)
    painted = code.paint(images[:, 0], codes[:, 0], codes)
    assert painted.shape == images.shape
    for b in range(2):
        for t in range(3):
            inputs = [code.maps(codes[b : b + 1, t]), code.maps(codes[b : b + 1, 0]), code.appearance(images[b : b + 1, 0])]
            expected = images[b, 0] + code.painter(torch.cat(inputs, dim=1))[0]
            torch.testing.assert_close(painted[b, t], expected)


def test_a_painter_that_paints_nothing_leaves_the_first_frame() -> None:
    code = new_frame_code(code_config())
    for value in list(code.painter.parameters())[-2:]:
        nn.init.zeros_(value)
    images = code.to_images(drawn(2, 3))
    painted = code.paint(images[:, 0], torch.randn(2, 9), torch.randn(2, 5, 9))
    assert torch.equal(painted, images[:, :1].expand(-1, 5, -1, -1, -1))


def test_the_appearance_is_not_read_by_the_detectors_network() -> None:
    code = new_frame_code(code_config())
    assert isinstance(code, KeypointCode)
    assert [tuple(value.shape) for value in code.reader.state_dict().values()] == [
        tuple(value.shape) for value in code.appearance.state_dict().values()
    ]
    assert not set(code.reader.parameters()) & set(code.appearance.parameters())


def slow_losses(code: FrameCode, frames: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Each loss, unweighted, from loops over sequences, frames and keypoints (Eq. 5, section 4.1)."""
    count, length = frames.shape[:2]
    images = torch.from_numpy(frames).permute(0, 1, 4, 2, 3).float() / 255
    codes = np.empty((count, length, 3, 3))
    losses = dict.fromkeys(("image", "separation", "sparsity", "supervision"), 0.0)
    with torch.no_grad():
        for b, t in np.ndindex(count, length):
            codes[b, t] = code.read(images[b, t][None])[0].view(3, 3).double().numpy()
        for b in range(count):
            own = torch.from_numpy(codes[b].reshape(length, 9)).float()
            for t in range(1, length):
                painted = code.paint(images[b, :1], own[:1], own[None, t : t + 1])[0, 0]
                squares = (painted.double().numpy() - images[b, t].double().numpy()) ** 2
                losses["image"] += 0.5 * squares.sum() / (count * (length - 1))
    for b in range(count):
        paths = codes[b, :, :, :2] - codes[b, :, :, :2].mean(axis=0)
        for k in range(3):
            for other in set(range(3)) - {k}:
                distance = ((paths[:, k] - paths[:, other]) ** 2).sum() / length
                losses["separation"] += math.exp(-distance / (2 * code.config.separation_std**2)) / (6 * count)
        for t in range(length):
            losses["sparsity"] += np.abs(codes[b, t, :, 2]).sum() / (count * length)
            known = ~np.isnan(truth[b, t])
            squares = (codes[b, t, : truth.shape[2], :2] - truth[b, t]) ** 2
            losses["supervision"] += squares[known].sum() / (count * length)
    kernels = [value for value in code.parameters() if value.ndim == 4]
    losses["weight_decay"] = sum(float(value.detach().double().square().sum()) for value in kernels)
    return losses


def test_the_loss_is_the_weighted_sum_of_the_papers() -> None:
    weights = {"separation": 0.3, "sparsity": 0.7, "weight_decay": 1e-3, "supervision": 2.0}
    code = new_frame_code(code_config(separation_std=0.005, **weights))
    frames = drawn(2, 4)
    truth = np.random.default_rng(0).uniform(-1, 1, (2, 4, 2, 2))
    truth[0, 1, 1] = np.nan
    truth[1, :, 0] = np.nan
    loss, metrics, codes = code.loss_and_codes({"frames": frames, "truth": truth.astype(np.float32)})
    expected = {name: weights.get(name, 1) * value for name, value in slow_losses(code, frames, truth).items()}
    assert expected["separation"] > 1e-3
    for name, value in expected.items():
        assert metrics[name].item() == pytest.approx(value, rel=1e-3), name
    assert loss.item() == pytest.approx(sum(expected.values()), rel=1e-4)
    assert metrics["l2"].item() == pytest.approx(2 * expected["image"] / (3 * SIZE**2), rel=1e-4)
    assert codes.shape == (2, 4, 9)
    assert not codes.requires_grad
    assert not any(value.requires_grad for value in metrics.values())
    assert code.loss({"frames": frames, "truth": truth.astype(np.float32)})[0].item() == loss.item()


def test_what_weighs_nothing_is_left_out() -> None:
    code = new_frame_code(code_config(separation=0, sparsity=0, weight_decay=0))
    loss, metrics = code.loss({"frames": drawn(2, 3)})
    assert set(metrics) == {"image", "l2"}
    assert loss.item() == metrics["image"].item()


def test_unknown_truth_gives_no_gradient() -> None:
    code = new_frame_code(code_config(supervision=1.0))
    truth = np.full((1, 3, 2, 2), np.nan, np.float32)
    loss, metrics = code.loss({"frames": drawn(1, 3), "truth": truth})
    loss.backward()
    assert metrics["supervision"].item() == 0
    assert all(value.grad is None or bool(value.grad.isfinite().all()) for value in code.parameters())


def test_every_parameter_learns() -> None:
    for kind in ("keypoints", "vector"):
        code = new_frame_code(code_config(kind=kind))
        code.loss({"frames": drawn(2, 3)})[0].backward()
        for name, value in code.named_parameters():
            assert value.grad is not None, name
            assert value.grad.any(), name


def test_more_true_points_than_keypoints_are_refused() -> None:
    code = new_frame_code(code_config(num_keypoints=1, supervision=1.0))
    with pytest.raises(UsageError, match="supervision by 2 points needs as many keypoints; got 1"):
        code.loss({"frames": drawn(1, 3), "truth": np.zeros((1, 3, 2, 2), np.float32)})


def test_a_vector_has_as_many_numbers_and_no_losses_of_keypoints() -> None:
    code = new_frame_code(code_config(kind="vector"))
    assert isinstance(code, VectorCode)
    images = code.to_images(drawn(1, 4))[0]
    assert code.read(images).shape == (4, 9)
    assert code.extra_losses(torch.zeros(1, 2, 9)) == {}
    torch.testing.assert_close(code.read(images), code.narrow(code.reader(images).flatten(1)))


def test_frames_of_any_size_become_images() -> None:
    code = new_frame_code(code_config())
    frames = drawn(2, 3, size=32)
    images = code.to_images(frames)
    assert images.shape == (2, 3, 3, SIZE, SIZE)
    # Areas are averaged, and rounded to bytes.
    means = frames[1, 2].reshape(SIZE, 2, SIZE, 2, 3).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(images[1, 2].permute(1, 2, 0), means, atol=0.51 / 255)
    assert torch.equal(code.to_images(torch.from_numpy(frames)), images)


def transporter() -> KeypointDetector:
    return new_detector("transporter", 4, image_size=32, filters=(6, 8), strides=(1, 2))


def perception_config(**changes: Any) -> CodeConfig:
    given: dict[str, Any] = {"num_keypoints": 4, "kind": "perception", "image_size": 32, "filters": (4, 6)}
    return CodeConfig(**(given | changes))


def test_a_perception_model_gives_the_code_and_learns_nothing() -> None:
    perception = transporter()
    before = {name: value.clone() for name, value in perception.state_dict().items()}
    frames = drawn(2, 4, size=32)
    code = PerceptionCode(perception_config(), perception)
    loss, metrics, codes = code.train().loss_and_codes({"frames": frames})
    assert set(metrics) == {"image", "weight_decay", "l2"}
    found = perception.encode(frames.reshape(-1, 32, 32, 3))
    triplets = codes.unflatten(-1, (-1, 3)).flatten(0, 1)
    assert torch.equal(triplets[..., :2], found.xy)
    assert torch.equal(triplets[..., 2], found.presence)
    loss.backward()
    assert all(value.grad is None for value in perception.parameters())
    assert all(value.grad is not None for value in (*code.painter.parameters(), *code.appearance.parameters()))
    # Batch statistics too stay as they are.
    assert all(torch.equal(value, before[name]) for name, value in perception.state_dict().items())


def test_weight_decay_counts_what_is_learned() -> None:
    code = PerceptionCode(perception_config(), transporter())
    kernels = [part.weight for whole in (code.painter, code.appearance) for part in whole if isinstance(part, nn.Conv2d)]
    expected = sum(float((kernel.detach().double().numpy() ** 2).sum()) for kernel in kernels)
    assert float(squared_kernels(code).detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("wrong", [{"num_keypoints": 3}, {"image_size": 64}])
def test_a_perception_model_of_another_size_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is .* make them equal"):
        new_frame_code(perception_config(**wrong), transporter())


def test_a_code_of_kind_perception_needs_a_model_and_no_other_takes_one() -> None:
    for config, model in ((perception_config(), None), (perception_config(kind="keypoints"), transporter())):
        with pytest.raises(UsageError, match="kind perception"):
            new_frame_code(config, model)

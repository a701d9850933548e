from __future__ import annotations

import numpy as np
import pytest
import torch
from turning_dots import CODES, FRAMES, SIZE, drawn, turning

from kpagent.subgoals.codecs import SURE, FrameCodec, PlainCodec, new_codec
from kpagent.subgoals.configuration import CodecConfig

CPU = torch.device("cpu")


def test_frames_are_embedded_and_painted_one_by_one() -> None:
    torch.manual_seed(0)
    codec = new_codec(FRAMES)
    assert isinstance(codec, FrameCodec)
    frames = drawn(turning(2, 3)[0])
    observed = codec.observe(frames, CPU)
    assert observed.shape == (2, 3, 3, SIZE, SIZE)
    codes = codec.encode(observed)
    assert codes.shape == (2, 3, 6)
    assert codes.abs().max() < 1
    made = codec.decode(codes)
    assert made.shape == (2, 3, 3 * SIZE * SIZE)
    alone = codec.encode(observed[1:, 2:])
    torch.testing.assert_close(alone[0, 0], codes[1, 2])
    torch.testing.assert_close(codec.decode(alone)[0, 0], made[1, 2])
    assert codec.pixels(made).shape == (2, 3, SIZE, SIZE, 3)
    assert codec.observe(np.zeros((1, 2, 20, 30, 3), np.uint8), CPU).shape == (1, 2, 3, SIZE, SIZE)


def test_the_error_of_images_is_binary_cross_entropy_of_the_right_pixels() -> None:
    codec = FrameCodec(FRAMES)
    frames = np.random.default_rng(0).integers(0, 256, (1, 1, SIZE, SIZE, 3)).astype(np.uint8)
    made = torch.rand(1, 1, SIZE * SIZE * 3, generator=torch.Generator().manual_seed(0))
    seen = frames[0, 0].reshape(-1) / 255
    sure = made[0, 0].double().numpy() * (1 - 2 * SURE) + SURE
    expected = -(seen * np.log(sure) + (1 - seen) * np.log(1 - sure)).mean()
    assert codec.error(made, codec.observe(frames, CPU)).item() == pytest.approx(expected, rel=1e-5)
    # What is painted as it was seen comes back.
    same = torch.from_numpy(frames.reshape(1, 1, -1).astype(np.float32) / 255)
    np.testing.assert_array_equal(codec.pixels(same), frames)


def test_wrong_pixels_that_are_sure_have_a_gradient() -> None:
    codec = FrameCodec(FRAMES)
    made = torch.zeros(1, 1, SIZE * SIZE * 3, requires_grad=True)
    codec.error(made, torch.ones(1, 1, 3, SIZE, SIZE)).sum().backward()
    assert made.grad is not None
    assert (made.grad < 0).all()


def test_the_decoder_has_as_many_layers_as_the_encoder() -> None:
    for config, layers in ((CodecConfig(), 3), (CodecConfig(image_size=64, filters=(16, 32, 64, 128)), 4)):
        codec = FrameCodec(config)
        kinds = [type(part).__name__ for part in codec.modules()]
        assert (kinds.count("Conv2d"), kinds.count("ConvTranspose2d")) == (layers, layers)


def test_frames_are_learned_by_heart() -> None:
    torch.manual_seed(0)
    codec = FrameCodec(CodecConfig(size=16, image_size=SIZE, filters=(8, 16), brightness=0.1))
    observed = codec.observe(drawn(turning(4, 8)[0]), CPU)
    mean = observed.mean(dim=(0, 1)).permute(1, 2, 0).flatten().expand(4, 8, -1)
    assert codec.decode(torch.zeros(1, 16)).mean().item() == pytest.approx(0.1, abs=0.03)
    optimiser = torch.optim.Adam(codec.parameters(), 3e-3)
    least = codec.error(observed.permute(0, 1, 3, 4, 2).flatten(2), observed).mean().item()
    for _ in range(150):
        loss = codec.error(codec.decode(codec.encode(observed)), observed).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # Soft dots have an entropy that no painting can go below; what is above it is nearly gone.
    assert loss.item() - least < 0.1 * (codec.error(mean, observed).mean().item() - least)


def test_codes_are_taken_as_they_are() -> None:
    codec = new_codec(CODES)
    assert isinstance(codec, PlainCodec)
    codes = codec.observe(np.arange(12.0).reshape(2, 3, 2), CPU)
    assert codes.dtype == torch.float32
    assert codec.encode(codes) is codec.decode(codes) is codes
    assert codec.error(codes + torch.tensor([1.0, 2.0]), codes).tolist() == [[5.0] * 3] * 2
    assert torch.equal(codec.onward(codes, codes), 2 * codes)
    assert not list(codec.parameters())


def test_other_shapes_and_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"codes must be \(B, L, 2\)"):
        new_codec(CODES).observe(np.zeros((2, 3, 4)), CPU)
    with pytest.raises(ValueError, match=r"frames must be \(B, L, H, W, 3\)"):
        new_codec(FRAMES).observe(np.zeros((3, 8, 8, 3), np.uint8), CPU)
    with pytest.raises(TypeError, match="uint8"):
        new_codec(FRAMES).observe(np.zeros((1, 3, 8, 8, 3), np.float32), CPU)
    with pytest.raises(ValueError, match="the batch needs codes; it has frames"):
        new_codec(CODES).of_batch({"frames": 0}, CPU)


def test_codes_go_straight_between_keyframes_if_nothing_is_added() -> None:
    codec = new_codec(CODES)
    first, last = torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([[4.0, 1.0], [1.0, 4.0]])
    offsets = torch.tensor([[0, 0, 0, 1.0], [0, 0.5, 0, 0.5]])
    way = codec.between(first, last, offsets, torch.zeros(2, 5, 2))
    assert way[0, :, 0].tolist() == [1, 2, 3, 4, 4]
    # An offset of 2 or 4 is 3 in the mean.
    assert way[1, :, 1].tolist() == [2, 3, 4, 4, 4]
    assert way[0, :, 1].tolist() == way[1, :, 0].tolist() == [1] * 5
    change = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(codec.between(first, last, offsets, change), way + change)
    assert torch.equal(FrameCodec(FRAMES).between(first, last, offsets, change), change.tanh())

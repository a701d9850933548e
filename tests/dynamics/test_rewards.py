"""Rewards from states: the states themselves, the head, its learning, its files and what is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kpagent.collect.sequence_making import FrameSequence, Provenance, write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.dynamics.reward_errors import RewardErrors, reward_errors
from kpagent.dynamics.reward_learning import (
    CHECKPOINT,
    MODEL,
    RewardLearningConfig,
    StateBatches,
    learn_rewards,
    new_predictor,
)
from kpagent.dynamics.reward_states import RewardStates, StatesConfig
from kpagent.dynamics.rewards import RewardConfig, RewardHead, RewardPredictor, dynamics_digest, state_size, to_states
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.envs.control_sequences import ControlSequences, RecordingConfig
from kpagent.errors import UsageError
from kpagent.files import load_tensors, save_tensors
from kpagent.training import learning_rate, train

TASKS = ("dm_control/cartpole-balance-v0", "dm_control/cheetah-run-v0")
STATES = StatesConfig(length=8, observed=3, imagined=4, futures=2)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    path = tmp_path_factory.mktemp("recorded") / "control.h5"
    with contextlib.closing(ControlSequences(TASKS, RecordingConfig(sequences=10, length=8, before=20))) as source:
        write_sequences(path, source)
    return Sequences(path)


def small_model(actions: int = 6, kind: Any = "keypoints", **changes: Any) -> StructVRNN:
    torch.manual_seed(1)
    config = StructVRNNConfig.fast(3, actions)
    dynamics = replace(config.dynamics, **{"rnn_units": 10, "latent": 4} | changes)
    model = StructVRNN(StructVRNNConfig(replace(config.code, filters=(8, 8), kind=kind), dynamics)).eval()
    with torch.no_grad():
        # The random start says next to nothing of the actions.
        for parameter in model.dynamics.parameters():
            parameter.mul_(3)
    return model


@pytest.fixture(scope="module")
def model() -> StructVRNN:
    return small_model()


@pytest.fixture(scope="module")
def states(recorded: Sequences, model: StructVRNN) -> RewardStates:
    encoded = RewardStates(recorded, model, STATES)
    assert list(encoded.encode())[-1] == len(encoded) == 20
    return encoded


# States


@pytest.mark.parametrize("stochastic", [True, False])
def test_beliefs_of_all_steps_are_those_of_each(stochastic: bool) -> None:
    model = small_model(stochastic=stochastic).dynamics
    codes, actions = torch.randn(2, 6, 9), torch.randn(2, 9, 6)
    each = model.observe_each(codes, actions, seed=4)
    for stop in range(1, 7):
        belief, _ = model.observe(codes[:, :stop], actions, seed=4)
        for name in ("hidden", "code", "latent"):
            torch.testing.assert_close(getattr(each, name)[:, stop - 1], getattr(belief, name))
    belief, _ = model.observe(codes, actions)
    futures = model.imagine_each(belief, 3, samples=2, actions=actions[:, 5:8], seed=7)
    assert futures.hidden.shape == (2, 2, 3, 10)
    torch.testing.assert_close(futures.code, model.imagine(belief, 3, samples=2, actions=actions[:, 5:8], seed=7))
    if not stochastic:
        # What is imagined step by step from where it was.
        torch.testing.assert_close(
            model.imagine_each(belief, 1, actions=actions[:, 5:6]).hidden[:, 0, 0], futures.hidden[:, 0, 0]
        )


def test_states_are_those_of_a_slow_loop(recorded: Sequences, model: StructVRNN, states: RewardStates) -> None:
    windows = recorded.ordered(8, 20)
    assert states.domains == ("cartpole-balance", "cheetah-run")
    np.testing.assert_array_equal(states.labels, windows["labels"])
    for row in (0, 7):
        frames, actions = windows["frames"][row : row + 1], windows["actions"][row : row + 1]
        for frame in range(1, 8):
            # All that is held after this frame: it, those before it, and the actions that were taken on those before it.
            belief, _ = model.observe(frames[:, : frame + 1], actions[:, :frame])
            expected = to_states(belief)[0].numpy()
            np.testing.assert_allclose(states.observed[row, frame - 1], expected, rtol=2e-3, atol=2e-3)
            # The reward that came with it followed the action before it.
            assert states.rewards[row, frame - 1] == windows["rewards"][row, frame - 1]
    # Futures of a batch are drawn together.
    belief, _ = model.observe(windows["frames"][:, :3], windows["actions"][:, :2])
    futures = model.imagine(belief, 4, samples=2, actions=windows["actions"][:, 2:6], seed=0)
    codes = states.imagined[..., 10 : 10 + 9]
    np.testing.assert_allclose(codes, futures.numpy(), rtol=2e-3, atol=2e-3)
    assert states.foretold == slice(2, 6)
    # What is imagined hangs on the actions.
    other = model.imagine(belief, 4, samples=2, actions=-windows["actions"][:, 2:6], seed=0)
    assert (other - futures).abs().max() > 0.01


def test_data_that_do_not_fit_are_refused(recorded: Sequences, model: StructVRNN, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"takes actions of 2 numbers, and .*control.h5 has actions of 6 numbers"):
        RewardStates(recorded, small_model(actions=2), STATES)
    with pytest.raises(UsageError, match="windows of 9 frames need a sequence of at least 9"):
        RewardStates(recorded, model, replace(STATES, length=9))

    class Plain:
        provenance = Provenance("env", "nothing", {}, label_names=("long", "short"))
        count = 4
        rewards = False

        def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
            for unit in range(start, stop):
                length = 8 if unit % 2 == 0 else 5
                rewards = np.ones(length, np.float32) if self.rewards else None
                yield FrameSequence(
                    np.zeros((length, 64, 64, 3), np.uint8), np.zeros((length, 6), np.float32), rewards, label=unit % 2
                )

    plain = Plain()
    write_sequences(tmp_path / "without.h5", plain)
    with pytest.raises(UsageError, match=r"without.h5 has no rewards: record some with kpagent rewards record"):
        RewardStates(Sequences(tmp_path / "without.h5"), model, STATES)
    plain.rewards = True
    write_sequences(tmp_path / "with.h5", plain)
    with pytest.raises(UsageError, match=r"no sequence of short with 8 frames"):
        RewardStates(Sequences(tmp_path / "with.h5"), model, STATES)


# The head


def test_the_head_is_the_papers() -> None:
    torch.manual_seed(0)
    head = RewardHead(5, 4).double()
    of = {name: value.detach().numpy() for name, value in head.state_dict().items()}
    states = np.random.default_rng(0).normal(size=(6, 5))

    def gru(name: str, inputs: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        given, kept = (
            of[f"{name}.weight_{way}_l0"] @ vector + of[f"{name}.bias_{way}_l0"]
            for way, vector in (("ih", inputs), ("hh", hidden))
        )
        reset, update = (1 / (1 + np.exp(-(given[at : at + 4] + kept[at : at + 4]))) for at in (0, 4))
        return (1 - update) * np.tanh(given[8:] + reset * kept[8:]) + update * hidden

    first = second = np.zeros(4)
    expected = []
    for state in states:
        first = gru("first", np.maximum(of["widen.weight"] @ state + of["widen.bias"], 0), first)
        second = gru("second", np.maximum(first, 0), second)
        expected.append((of["narrow.weight"] @ np.maximum(second, 0) + of["narrow.bias"])[0])
    found, memory = head(torch.from_numpy(states)[None])
    np.testing.assert_allclose(found[0].detach().numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(memory[:, 0].detach().numpy(), [first, second], atol=1e-12)


def test_the_loss_is_what_predictions_miss(states: RewardStates) -> None:
    predictor = new_predictor(shape_of(states), states, seed=3)
    for number in range(2):
        rewards = states.rewards[states.labels == number]
        assert float(predictor.reward_mean[number]) == pytest.approx(rewards.mean(), rel=1e-5)
        assert float(predictor.reward_scale[number]) == pytest.approx(rewards.std(), rel=1e-4)
    rows = [states.of(number)[:5] for number in range(2)]
    batch: dict[str, Any] = {
        "observed": np.stack([states.observed[some] for some in rows]),
        "imagined": np.stack([states.imagined[some, 1] for some in rows]),
        "rewards": np.stack([states.rewards[some] for some in rows]),
        "before": 2,
    }
    loss, metrics = predictor.loss(batch)
    expected, parts = 0.0, {"observed": 0.0, "imagined": 0.0}
    for number, name in enumerate(states.domains):
        scale = float(predictor.reward_scale[number])
        seen = torch.from_numpy(batch["observed"][number])
        # In one go, where the loss goes on from what is remembered.
        guess, _ = predictor.predict(name, seen)
        missed = np.square((guess.numpy() - batch["rewards"][number]) / scale).mean()
        continued = torch.cat([seen[:, :2], torch.from_numpy(batch["imagined"][number])], dim=1)
        guess, _ = predictor.predict(name, continued)
        foretold = np.square((guess.numpy()[:, 2:] - batch["rewards"][number][:, 2:6]) / scale).mean()
        expected += missed + foretold
        parts["observed"] += missed / 2
        parts["imagined"] += foretold / 2
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(parts, rel=1e-4)
    with pytest.raises(UsageError, match="there are rewards of cartpole-balance, cheetah-run, not of hopper"):
        predictor.predict("hopper", seen)
    with pytest.raises(ValueError, match="states must be"):
        predictor.predict(states.domains[0], seen[..., 1:])


def shape_of(states: RewardStates, **changes: Any) -> RewardConfig:
    base = RewardConfig(states.domains, state_size(states.model), dynamics_digest(states.model), 8)
    return replace(base, **changes)


# Errors


def test_errors_are_shares_of_those_of_the_mean(states: RewardStates) -> None:
    predictor = new_predictor(shape_of(states), states, seed=3)
    found = reward_errors(predictor, states)
    for number, name in enumerate(states.domains):
        rows = states.of(number)
        came, mean = states.rewards[rows], float(predictor.reward_mean[number])
        guess, _ = predictor.predict(name, torch.from_numpy(states.observed[rows]))
        guesses = np.zeros((len(rows), 4))
        for future in range(2):
            whole = np.concatenate([states.observed[rows, :2], states.imagined[rows, future]], axis=1)
            guesses += predictor.predict(name, torch.from_numpy(whole))[0].numpy()[:, 2:] / 2
        missed, foretold = np.square(guess.numpy() - came), np.square(guesses - came[:, 2:6])
        null = np.square(came - mean)
        errors = found[name]
        np.testing.assert_allclose(errors.observed, missed.mean(axis=0), rtol=1e-3)
        np.testing.assert_allclose(errors.imagined, foretold.mean(axis=0), rtol=1e-3)
        assert errors.observed_share == pytest.approx(missed.sum() / null.sum(), rel=1e-3)
        assert errors.imagined_share == pytest.approx(foretold.sum() / null[:, 2:6].sum(), rel=1e-3)
        curves = errors.curves()
        np.testing.assert_allclose(curves["imagined"], foretold.mean(axis=0) / null[:, 2:6].mean(axis=0), rtol=1e-3)
        assert len(curves["observed"]) == 7
        assert RewardErrors.of(json.loads(json.dumps(errors.plain()))) == errors
    # A head that says nothing says the mean.
    for head in predictor.heads:
        for parameter in head.parameters():
            torch.nn.init.zeros_(parameter)
    for errors in reward_errors(predictor, states).values():
        assert errors.observed_share == pytest.approx(1, rel=1e-3)
        assert errors.imagined_share == pytest.approx(1, rel=1e-3)


def test_rewards_that_never_change_are_refused(recorded: Sequences, model: StructVRNN) -> None:
    states = RewardStates(recorded, model, STATES)
    list(states.encode())
    states.rewards[states.labels == 1] = 0.25
    predictor = new_predictor(shape_of(states), states, seed=0)
    with pytest.raises(UsageError, match=r"all rewards of cheetah-run in .* are the same: record more sequences"):
        reward_errors(predictor, states)
    with pytest.raises(UsageError, match="holds cartpole-balance, cheetah-run, and there are rewards of pendulum"):
        reward_errors(RewardPredictor(shape_of(states, domains=("pendulum",))), states)


# Learning


def known(states: RewardStates, seed: int) -> RewardStates:
    """States drawn at random, and rewards that are what one of their numbers was a frame ago, times a thousandth."""
    generator = np.random.default_rng(seed)
    count = 200
    states.labels = np.arange(count) % 2
    states.observed = generator.normal(size=(count, *states.observed.shape[1:])).astype(np.float16)
    states.imagined = states.observed[:, None, states.foretold].repeat(2, axis=1)
    states.rewards = np.zeros((count, 7), np.float32)
    states.rewards[:, 1:] = states.observed[:, :-1, 0] * 1e-3
    return states


def test_what_can_be_known_is_learned(recorded: Sequences, model: StructVRNN) -> None:
    seen, unseen = (known(RewardStates(recorded, model, STATES), seed) for seed in (0, 1))
    predictor = new_predictor(shape_of(seen, units=32), seen, seed=0)
    config = replace(RewardLearningConfig.of(120).training, learning_rate=1e-2)
    for _ in train(predictor, StateBatches(seen, config), config):
        pass
    for errors in reward_errors(predictor, unseen).values():
        # Without memory, 1 is the least.
        assert errors.observed_share < 0.3
        assert errors.imagined_share < 0.3


CONFIG = replace(RewardLearningConfig.of(6, 2, states=STATES, units=8), evaluate_every=4)


def test_a_run_that_is_taken_up_ends_like_one_that_ran_through(
    recorded: Sequences, model: StructVRNN, tmp_path: Path
) -> None:
    reports = list(learn_rewards(model, recorded, CONFIG, tmp_path / "whole", provenance={"trained_on": "play"}))
    assert [(one.stage, one.step, one.steps) for one in reports[:2]] == [("encoding", 16, 16), ("held out", 4, 4)]
    assert [one.step for one in reports if one.errors is not None] == [4, 6]
    run = learn_rewards(model, recorded, CONFIG, tmp_path / "cut")
    for report in run:
        if report.step == 3 and report.stage == "learning":
            break
    run.close()  # type: ignore[attr-defined]
    assert (tmp_path / "cut" / CHECKPOINT).exists()
    assert not (tmp_path / "cut" / MODEL).exists()
    with pytest.raises(UsageError, match="holds a run already"):
        learn_rewards(model, recorded, CONFIG, tmp_path / "cut")
    other = replace(CONFIG, training=replace(CONFIG.training, steps=7))
    with pytest.raises(UsageError, match=r"has learning.training.steps 6, not 7"):
        learn_rewards(model, recorded, other, tmp_path / "cut", resume=True)
    with pytest.raises(UsageError, match=r"has provenance.dynamics.digest"):
        learn_rewards(small_model(samples=2, latent=3), recorded, CONFIG, tmp_path / "cut", resume=True)
    taken_up = list(learn_rewards(model, recorded, CONFIG, tmp_path / "cut", resume=True))
    assert [one.step for one in taken_up if one.stage == "learning"] == [4, 5, 6]
    (whole, about), (cut, _) = (load_tensors(tmp_path / name / MODEL) for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert list(learn_rewards(model, recorded, CONFIG, tmp_path / "cut", resume=True)) == []
    provenance = about["provenance"]
    assert provenance["trained_on"] == "play"
    assert provenance["data"]["digest"] == recorded.digest
    assert provenance["dynamics"]["digest"] == about["config"]["dynamics"] == dynamics_digest(model)
    assert provenance["held_out"].keys() == {"cartpole-balance", "cheetah-run"}
    assert list((tmp_path / "whole" / "logs").glob("events*"))


def test_the_learning_rate_falls_to_a_tenth() -> None:
    training = RewardLearningConfig.of(1000).training
    rates = [learning_rate(training, step) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4)
    assert len({round(rate, 8) for rate in rates}) == 5


# Files


def test_a_file_holds_all_of_it(states: RewardStates, tmp_path: Path) -> None:
    predictor = new_predictor(shape_of(states), states, seed=5)
    predictor.provenance = {"seed": 5}
    predictor.save(tmp_path / "rewards.safetensors")
    loaded = RewardPredictor.load(tmp_path / "rewards.safetensors")
    assert (loaded.config, loaded.provenance) == (predictor.config, {"seed": 5})
    some = torch.from_numpy(states.observed[:3])
    for name in states.domains:
        assert torch.equal(loaded.predict(name, some)[0], predictor.predict(name, some)[0])
    states.model.save(tmp_path / "model.safetensors")
    again = StructVRNN.load(tmp_path / "model.safetensors")
    loaded.require_dynamics(again)
    with torch.no_grad():
        again.dynamics.gru.bias_hh[0] += 1e-6
    with pytest.raises(UsageError, match="learned from another dynamics model"):
        loaded.require_dynamics(again)
    with pytest.raises(UsageError, match=r"holds a 'struct_vrnn', not a rewards"):
        RewardPredictor.load(tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="no weights file"):
        RewardPredictor.load(tmp_path / "nothing.safetensors")


@pytest.fixture(scope="module")
def packed() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    predictor = RewardPredictor(RewardConfig(("a", "b"), 3, "0", 2))
    config = {"domains": ["a", "b"], "inputs": 3, "dynamics": "0", "units": 2}
    return dict(predictor.state_dict()), {"format": 1, "model": "rewards", "config": config, "provenance": {}}


broken = st.one_of(
    st.none(), st.booleans(), st.floats(allow_nan=False), st.text(max_size=3), st.integers(-5, 10**9), st.lists(st.text())
)


@given(st.sampled_from(["domains", "inputs", "units", "dynamics", "other"]), broken)
def test_headers_that_do_not_fit_get_one_line(
    packed: tuple[dict[str, torch.Tensor], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, name: str, value: Any
) -> None:
    tensors, header = packed
    config = header["config"]
    if config.get(name) == value or (name == "dynamics" and isinstance(value, str)):
        return
    if name == "domains" and isinstance(value, list) and len(set(value)) == len(value) == 2 and all(value):
        return
    path = tmp_path_factory.mktemp("broken") / "rewards.safetensors"
    save_tensors(path, tensors, header | {"config": config | {name: value}})
    with pytest.raises(UsageError) as refused:
        RewardPredictor.load(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observed": 1}, "observed must be at least 2; got 1"),
        ({"imagined": 0}, "imagined must be at least 1; got 0"),
        ({"futures": 0}, "futures must be at least 1; got 0"),
        ({"length": 17}, r"length must be at least observed \+ imagined; got 17"),
        ({"length": 20.0}, "length must be a whole number"),
    ],
)
def test_broken_states_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StatesConfig(**changes)

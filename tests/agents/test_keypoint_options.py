"""Options in place of actions: on real environments, through every way that Gymnasium and Stable-Baselines3 use them."""

from __future__ import annotations

import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from kpagent import KeypointObservation, KeypointOptions, Transporter, TransporterConfig
from kpagent.agents.option_agent import OptionAgent
from kpagent.agents.option_network import OptionNetwork, OptionNetworkConfig
from kpagent.envs.making import make_env
from kpagent.errors import UsageError
from kpagent.frames import resize

K, T, SIZE = 3, 5, 36
GAME = "ALE/Breakout-v5"
SMALL = OptionNetworkConfig(image_size=SIZE, filters=(4, 4, 4), embedding=16, hidden=8)


def an_agent(actions: int = 4, seed: int = 0) -> OptionAgent:
    """Untrained, but with Q-values that depend on what it sees and saw."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = OptionNetwork(K, actions, SMALL)
        for parameter in network.parameters():
            parameter.data.mul_(4)
    return OptionAgent(network, T, {"env": GAME})


def preferring(actions: int) -> OptionAgent:
    """Whatever it sees, the option (k, j) prefers the action 4k + j, and keypoint 1 is the most controllable."""
    agent = an_agent(actions)
    with torch.no_grad():
        agent.network.head.weight.zero_()
        values = torch.zeros(K, 4, actions)
        for option in range(4 * K):
            values[option // 4, option % 4, option % actions] = 2.0 if option // 4 == 1 else 1.0
        agent.network.head.bias.copy_(values.flatten())
    return agent


class Diary(gym.Env[np.ndarray, Any]):
    """Writes down what is played; a life is lost at some steps, and the episode ends at one."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(self, *, end: int = 1000, truncated: bool = False, losses: tuple[int, ...] = (), start: int = 0) -> None:
        self.action_space = gym.spaces.Discrete(4 * K, start=start)
        self.observation_space = gym.spaces.Box(0, 255, (40, 40, 3), np.uint8)
        self.end, self.cut, self.losses = end, truncated, losses
        self.played: list[int] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.played = []
        return self.frame(), {"lives": 3}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.played.append(int(action))
        count = len(self.played)
        over = count == self.end
        lives = 3 - sum(loss <= count for loss in self.losses)
        return self.frame(), float(count), over and not self.cut, over and self.cut, {"lives": lives, "count": count}

    def frame(self) -> np.ndarray:
        return np.full((40, 40, 3), 20 * (len(self.played) % 12), np.uint8)


def test_a_step_plays_the_greedy_actions_of_its_option_and_adds_up_their_rewards() -> None:
    env = KeypointOptions(diary := Diary(), preferring(4 * K))
    _, info = env.reset()
    assert info == {"lives": 3, "controllable": 1}
    assert env.action_space == gym.spaces.MultiDiscrete([K, 4])
    for number, (keypoint, direction) in enumerate([(0, 0), (2, 3), (1, 2)]):
        observation, reward, terminated, truncated, info = env.step(np.array([keypoint, direction]))
        assert diary.played[number * T :] == [4 * keypoint + direction] * T
        assert reward == sum(range(number * T + 1, number * T + T + 1))
        assert (terminated, truncated) == (False, False)
        assert info == {"lives": 3, "count": number * T + T, "interactions": T, "controllable": 1}
        np.testing.assert_array_equal(observation, diary.frame())


@pytest.mark.parametrize("start", [0, 7])
def test_flat_actions_are_the_same_options_by_number(start: int) -> None:
    env = KeypointOptions(diary := Diary(start=start), preferring(4 * K), flat=True)
    assert env.action_space == gym.spaces.Discrete(4 * K)
    env.reset()
    for option in range(4 * K):
        env.step(np.int64(option))
        assert diary.played[-T:] == [start + option] * T


@pytest.mark.parametrize("truncated", [False, True])
def test_an_option_ends_with_its_episode(truncated: bool) -> None:
    env = KeypointOptions(Diary(end=T + 2, truncated=truncated), preferring(4 * K))
    env.reset()
    assert env.step([0, 1])[2:4] == (False, False)
    _, reward, *ends, info = env.step([0, 1])
    assert (reward, info["interactions"]) == (T + 1 + T + 2, 2)
    assert ends == [not truncated, truncated]
    env.reset()
    assert env.step([0, 1])[4]["interactions"] == T


def test_an_option_ends_with_a_life_and_the_episode_goes_on() -> None:
    env = KeypointOptions(Diary(losses=(3,)), preferring(4 * K))
    env.reset()
    _, _, terminated, truncated, info = env.step([0, 1])
    assert (terminated, truncated, info["interactions"], info["lives"]) == (False, False, 3, 2)
    assert env.step([0, 1])[4]["interactions"] == T


def test_options_in_a_real_game_are_those_of_a_plain_loop() -> None:
    agent, env, game = an_agent(), KeypointOptions(make_env(GAME), an_agent()), make_env(GAME)
    generator = np.random.default_rng(0)
    frame, info = game.reset(seed=4)
    np.testing.assert_array_equal(env.reset(seed=4)[0], frame)
    state, first, lives, lost_lives, played_actions = None, True, info["lives"], 0, set()
    values, state = agent.values(resize(frame[None], SIZE), np.array([first]), state)
    over, steps = False, 0
    while not over:
        keypoint, direction = generator.integers(K), generator.integers(4)
        score, played = 0.0, 0
        while True:
            action = int(values[0, keypoint, direction].numpy().argmax())
            played_actions.add(action)
            frame, reward, terminated, truncated, info = game.step(action)
            score, played = score + float(reward), played + 1
            first, lives = info["lives"] < lives, info["lives"]
            lost_lives += first
            values, state = agent.values(resize(frame[None], SIZE), np.array([first]), state)
            if terminated or truncated or first or played == T:
                break
        observation, *rest = env.step(np.array([keypoint, direction]))
        gap = (values[0].numpy().max(axis=-1) - values[0].numpy().min(axis=-1)).mean(axis=-1)
        about = info | {"interactions": played, "controllable": gap.argmax()}
        assert rest == [score, terminated, truncated, about]
        np.testing.assert_array_equal(observation, frame)
        assert env.controllable() == gap.argmax()
        steps += 1
        over = terminated or truncated or steps == 200
    # Without FIRE there would be no ball, and no life to lose.
    assert len(played_actions) > 1
    assert lost_lives > 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    Transporter(TransporterConfig(num_keypoints=2, image_size=32)).save(path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agents") / "agent.safetensors"
    an_agent().save(path)
    return path


def ram_after(env: gym.Env[Any, Any]) -> np.ndarray:
    """Of the emulator, when some options have been played."""
    env.reset(seed=1)
    for option in [(0, 0), (2, 1), (1, 3), (0, 2)]:
        env.step(np.array(option))
    ram: np.ndarray = env.unwrapped.ale.getRAM()  # type: ignore[attr-defined]
    return ram


def test_the_agent_sees_the_same_frame_wherever_keypoints_are(weights: Path, file: Path) -> None:
    expected = ram_after(KeypointOptions(make_env(GAME), file))
    inside = KeypointOptions(KeypointObservation(make_env(GAME), weights), file)
    outside = KeypointObservation(KeypointOptions(make_env(GAME), file), weights)
    flattened = KeypointOptions(gym.wrappers.FlattenObservation(KeypointObservation(make_env(GAME), weights)), file)
    rendered = KeypointOptions(make_env(GAME, obs_type="ram"), file)
    for env in (inside, outside, flattened, rendered):
        np.testing.assert_array_equal(ram_after(env), expected)
    assert set(inside.reset()[0]) == set(outside.reset()[0]) == {"xy", "presence", "features"}
    assert rendered.reset()[0].shape == (128,)
    assert (ram_after(KeypointOptions(make_env(GAME), an_agent(seed=1))) != expected).any()


# That it is a wrapper, that features have no bounds and that a Dict holds matrices are remarks, not faults.
@pytest.mark.filterwarnings(
    "ignore:.*different from the unwrapped version",
    "ignore:.*infinity. This is probably too",
    "ignore:.*unconventional shape",
)
@pytest.mark.parametrize("flat", [False, True])
def test_checkers_of_gymnasium_and_stable_baselines_pass(weights: Path, file: Path, flat: bool) -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    check_env(KeypointOptions(make_env(GAME), file, flat=flat), skip_render_check=True)
    if flat:
        check_env(KeypointOptions(make_env(GAME, obs_type="ram"), file, flat=flat), skip_render_check=True)
    else:
        check_env(KeypointObservation(KeypointOptions(make_env(GAME), file), weights), skip_render_check=True)
    sb3_check_env(KeypointOptions(KeypointObservation(make_env(GAME), weights), file, flat=flat))


def test_an_env_is_made_again_from_its_spec(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    env = KeypointOptions(make_env(GAME), file.name, flat=True, device="cpu")
    assert env.spec is not None
    text = env.spec.to_json()
    monkeypatch.chdir("/")
    again = gym.make(gym.envs.registration.EnvSpec.from_json(text))
    assert isinstance(again, KeypointOptions)
    assert again.action_space == env.action_space
    for played in (env, again):
        played.reset(seed=3)
    for option in (0, 5, 11):
        for one, other in zip(env.step(option), again.step(option), strict=True):
            np.testing.assert_array_equal(one, other)
    handed_over = KeypointOptions(make_env(GAME), an_agent())
    assert handed_over.spec is not None
    assert gym.make(handed_over.spec).get_wrapper_attr("agent") is handed_over.agent


def test_it_travels_into_worker_processes(file: Path) -> None:
    maker = partial(_options, file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of every fork beside threads
        workers = AsyncVectorEnv([maker] * 2, context="fork")
    here = SyncVectorEnv([maker] * 2)
    try:
        np.testing.assert_array_equal(workers.reset(seed=2)[0], here.reset(seed=2)[0])
        for _ in range(2):
            actions = np.array([[0, 1], [2, 3]])
            seen, expected = workers.step(actions), here.step(actions)
            np.testing.assert_array_equal(seen[0], expected[0])
            assert seen[4]["interactions"].tolist() == expected[4]["interactions"].tolist()
        assert workers.call("controllable") == here.call("controllable")
    finally:
        workers.close()
        here.close()


def _options(agent: Any) -> gym.Env[Any, Any]:
    return KeypointOptions(make_env(GAME), agent)


def test_a_maker_with_an_agent_pickles(file: Path) -> None:
    maker = cloudpickle.loads(cloudpickle.dumps(partial(_options, an_agent())))
    np.testing.assert_array_equal(ram_after(maker()), ram_after(_options(file)))


def test_two_envs_share_an_agent_without_sharing_its_memory() -> None:
    agent = an_agent()
    alone = ram_after(KeypointOptions(make_env(GAME), agent))
    one, other = KeypointOptions(make_env(GAME), agent), KeypointOptions(make_env(GAME), agent)
    one.reset(seed=1)
    other.reset(seed=8)
    for option in [(0, 0), (2, 1), (1, 3), (0, 2)]:
        one.step(option)
        other.step((1, 1))
    np.testing.assert_array_equal(one.unwrapped.ale.getRAM(), alone)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: KeypointOptions(make_env("ALE/Pong-v5"), an_agent()),
            f"the agent's options choose among 4 actions, and ALE/Pong-v5 has 6; it learned {GAME}",
        ),
        (lambda: KeypointOptions(gym.make("CartPole-v1"), an_agent(2)), "CartPole-v1 shows no frames"),
        (lambda: KeypointOptions(gym.make("Pendulum-v1"), an_agent()), "numbered actions, and Pendulum-v1 has Box"),
        (lambda: KeypointOptions(make_env(GAME), "none.safetensors"), "no agent file at none.safetensors"),
        (lambda: KeypointOptions(make_env(GAME), 7), "must be an OptionAgent or the path of its file, not int"),  # type: ignore[arg-type]
        (lambda: KeypointOptions(Diary(), an_agent(12), device="abacus"), "no device 'abacus'"),
        (lambda: KeypointOptions(Diary(), an_agent(12)).step([0, 0]), "there is no frame before the first reset"),
        (lambda: KeypointOptions(Diary(), an_agent(12)).controllable(), "there is no frame before the first reset"),
        (lambda: KeypointOptions(Diary(), an_agent(12)).step([K, 0]), "an option must be in MultiDiscrete([3 4]), not"),
        (lambda: KeypointOptions(Diary(), an_agent(12), flat=True).step(12), "an option must be in Discrete(12), not 12"),
    ],
)
def test_a_mistake_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        make()
    assert "\n" not in str(caught.value)

"""The actor of options on real games, against what the players themselves showed and were told."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from scipy.stats import chisquare
from torch import Tensor

from kpagent.agents.intrinsic import most_controllable
from kpagent.agents.option_actor import Experience, OptionActor
from kpagent.agents.option_network import OptionNetwork, OptionNetworkConfig
from kpagent.collect.frame_replay import FRAME, FrameReplay
from kpagent.envs.atari import make_atari_vector
from kpagent.envs.vec_env import GymnasiumVecEnv
from kpagent.perception.transporter import Transporter, TransporterConfig

MONTEZUMA = "ALE/MontezumaRevenge-v5"
SIZE, KEYPOINTS, COMMITMENT = 84, 3, 20
CONFIG = OptionNetworkConfig(image_size=SIZE, filters=(4, 4, 4), embedding=16, hidden=8)


class WatchedPlayers(GymnasiumVecEnv):
    """Players that note what passes between them and whoever plays.

    Attributes:
        shown: T + 1 batches of frames, (N, 84, 84, 3).
        actions: T batches.
        rewards: T batches.
        lives: T + 1 batches; where a game is over, those of the new one.
        over: T batches, whether a game was over.
    """

    def __init__(self, env: Any) -> None:
        super().__init__(env, life_loss=True)
        self.shown: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.rewards: list[np.ndarray] = []
        self.lives: list[list[int]] = []
        self.over: list[list[bool]] = []

    def reset(self) -> Any:
        observations = super().reset()
        self.shown.append(np.array(observations)[:, 0])
        self.lives.append([info["lives"] for info in self.reset_infos])
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self.actions.append(np.array(actions))
        super().step_async(actions)

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = super().step_wait()
        self.shown.append(np.array(observations)[:, 0])
        self.rewards.append(rewards)
        self.over.append(["episode" in info for info in infos])
        now = [self.reset_infos[n] if over else infos[n] for n, over in enumerate(self.over[-1])]
        self.lives.append([info["lives"] for info in now])
        return observations, rewards, dones, infos


def some_players(num_envs: int = 2, env_id: str = MONTEZUMA, seed: int = 0, **settings: Any) -> WatchedPlayers:
    shape = {"img_height": SIZE, "img_width": SIZE, "autoreset_mode": AutoresetMode.SAME_STEP}
    players = WatchedPlayers(make_atari_vector(env_id, num_envs, **shape | settings))
    players.seed(seed)
    return players


def a_network(actions: int = 18, seed: int = 0) -> OptionNetwork:
    torch.manual_seed(seed)
    net = OptionNetwork(KEYPOINTS, actions, CONFIG)
    with torch.no_grad():
        # Far enough from each other that preferred actions differ between options and from frame to frame.
        net.head.weight.mul_(10)
        next(net.convolutions.parameters()).mul_(3)
    return net


def an_actor(players: WatchedPlayers, seed: int = 0, **arguments: Any) -> OptionActor:
    return OptionActor(players, a_network(int(players.action_space.n)), COMMITMENT, seed, **arguments)  # type: ignore[attr-defined]


def decompressed(experience: Experience) -> np.ndarray:
    rows = [[np.frombuffer(zlib.decompress(frame), np.uint8) for frame in row] for row in experience.frames]
    return np.array(rows).reshape(*experience.action.shape, SIZE, SIZE, 3)


def assert_same(one: Experience, other: Experience) -> None:
    assert one.frames == other.frames
    assert one.returns == other.returns
    assert set(one.state) == set(other.state)
    for name, part in one.state.items():
        np.testing.assert_array_equal(part, other.state[name])
    for name in ("option", "action", "ended"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


Played = tuple[WatchedPlayers, OptionActor, Experience]


@pytest.fixture(scope="module")
def played() -> Iterator[Played]:
    """Long enough that lives are lost; in two parts, as an actor plays."""
    players = some_players(noop_max=0)
    actor = an_actor(players)
    actor.epsilon[:] = (0.0, 0.6)
    parts = [actor.play(interactions) for interactions in (3, 300)]
    rows: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ("option", "action", "ended")
    }
    state = {name: np.concatenate([part.state[name] for part in parts]) for name in parts[0].state}
    whole = replace(parts[1], frames=parts[0].frames + parts[1].frames, state=state, **rows)
    yield players, actor, whole
    players.close()


def test_frames_are_those_that_were_shown_and_acted_on(played: Played) -> None:
    players, _, experience = played
    assert experience.interactions == 2 * 303
    np.testing.assert_array_equal(decompressed(experience), np.stack(players.shown[:-1]))
    np.testing.assert_array_equal(experience.action, np.stack(players.actions))
    # They are no black frames, and not all the same.
    assert len({frame for row in experience.frames for frame in row}) > 100


def test_a_trajectory_ends_where_a_life_is_lost_and_nowhere_else(played: Played) -> None:
    players, _, experience = played
    lives = np.array(players.lives)
    lost = lives[1:] < lives[:-1]
    assert not np.any(players.over)
    np.testing.assert_array_equal(experience.ended, lost)
    assert lost.sum() >= 3


def test_options_are_kept_for_twenty_interactions_or_to_the_end_of_a_life(played: Played) -> None:
    _, _, experience = played
    assert experience.option.shape == (303, 2, 2)
    for env in range(2):
        begin = 0
        for row in range(303):
            if row and (experience.ended[row - 1, env] or row - begin == COMMITMENT):
                begin = row
            assert (experience.option[row, env] == experience.option[begin, env]).all()
    assert len(np.unique(experience.option.reshape(-1, 2), axis=0)) > 8


def values_of(net: OptionNetwork, experience: Experience, state: dict[str, Tensor], first: np.ndarray) -> Tensor:
    """(N, T, K, 4, A), from the whole segment at once."""
    frames = torch.as_tensor(decompressed(experience)).transpose(0, 1)
    with torch.no_grad():
        values: Tensor = net(frames, torch.as_tensor(first.T.copy()), state)[0]
    return values


def begun(experience: Experience) -> np.ndarray:
    """(T, N), where a trajectory begins."""
    return np.concatenate([np.ones((1, experience.ended.shape[1]), bool), experience.ended[:-1]])


def test_actions_are_those_that_the_followed_q_function_likes_best_but_for_epsilon(played: Played) -> None:
    _, actor, experience = played
    values = values_of(actor.network, experience, actor.network.initial_state(2), begun(experience))
    shares = []
    for env in range(2):
        regrets = []
        for row in range(303):
            keypoint, direction = experience.option[row, env]
            own = values[env, row, keypoint, direction]
            regrets.append(float(own.max() - own[experience.action[row, env]]))
        shares.append(np.mean(np.array(regrets) < 1e-4))
    # A random action is the preferred one, too, every eighteenth time.
    assert shares[0] == 1
    assert abs(shares[1] - (0.4 + 0.6 / 18)) < 0.1
    assert len(np.unique(experience.action[:, 0])) > 3


def test_states_are_those_before_the_frames_and_zero_where_a_life_begins(played: Played) -> None:
    _, actor, experience = played
    first = begun(experience)
    for part in experience.state.values():
        assert part.dtype == np.float16
        assert part.shape == (303, 2, CONFIG.hidden)
        assert not part[first].any()
        assert part[~first].any(axis=-1).all()
    whole = values_of(actor.network, experience, actor.network.initial_state(2), first)
    for row in (1, 2, 3, 100, 299):
        later = replace(experience, frames=experience.frames[row:], action=experience.action[row:])
        state = {name: torch.as_tensor(part[row]).float() for name, part in experience.state.items()}
        torch.testing.assert_close(
            values_of(actor.network, later, state, first[row:])[:, 0], whole[:, row], atol=0.02, rtol=0
        )


def test_what_was_experienced_comes_out_of_a_replay(played: Played) -> None:
    _, actor, experience = played
    replay = FrameReplay(2 * 303, 2, SIZE, actor.network.state_shapes, {"option": ((2,), np.int64)})
    experience.store(replay)
    assert len(replay) == experience.interactions
    segments = replay.sample(30, 21, 0, np.random.default_rng(0))
    kept = {
        "frame": (decompressed(experience), segments.observation[FRAME]),
        "option": (experience.option, segments.observation["option"]),
        "action": (experience.action, segments.action),
        "ended": (experience.ended, segments.terminated),
        "first": (begun(experience), segments.first),
    }

    def fits(row: int, env: int, sample: int) -> bool:
        """Whether a sample is what happened from a row on, to the end of the life or of what is kept."""
        ends = np.flatnonzero(experience.ended[row:, env])
        count = min(21, 303 - row, int(ends[0]) + 1 if len(ends) else 303)
        same_state = all((part[row, env] == segments.state[name][sample]).all() for name, part in experience.state.items())
        pairs = ((ours[row : row + count, env], theirs[sample, :count]) for ours, theirs in kept.values())
        return same_state and segments.valid[sample].sum() == count and all((a == b).all() for a, b in pairs)

    lengths = segments.valid.sum(axis=1)
    assert (lengths < 21).any()
    assert (lengths == 21).any()
    for sample in range(30):
        assert any(fits(row, env, sample) for row, env in np.ndindex(303, 2))
    assert not segments.reward.any()


def test_at_random_all_actions_are_as_likely_and_a_summary_has_no_frames() -> None:
    players = some_players(8)
    experience = an_actor(players).play(60, random=True)
    players.close()
    assert chisquare(np.bincount(experience.action.ravel(), minlength=18)).pvalue > 0.01
    summary = experience.summary()
    assert summary.frames == []
    assert summary.state == {}
    assert summary.interactions == experience.interactions == 480
    np.testing.assert_array_equal(summary.action, experience.action)


def test_one_seed_gives_one_experience_however_it_is_cut_into_rounds() -> None:
    def outcome(seed: int, *rounds: int) -> list[Experience]:
        players = some_players()
        actor = an_actor(players, seed)
        experiences = [actor.play(interactions) for interactions in rounds]
        players.close()
        return experiences

    one, same, other = outcome(0, 12, 12), outcome(0, 12, 12), outcome(1, 12, 12)
    for ours, theirs in zip(one, same, strict=True):
        assert_same(ours, theirs)
    whole = outcome(0, 24)[0]
    assert one[0].frames + one[1].frames == whole.frames
    np.testing.assert_array_equal(np.concatenate([part.action for part in one]), whole.action)
    assert (np.concatenate([part.option for part in other]) != whole.option).any()


def test_each_copy_has_an_epsilon_of_its_own_by_the_seed() -> None:
    players = some_players(4)
    one, same, other = (an_actor(players, seed).epsilon for seed in (0, 0, 1))
    players.close()
    assert (one == same).all()
    assert (one != other).all()
    assert len(set(one.tolist())) == 4
    assert ((one >= 1e-4) & (one <= 0.4)).all()


def test_scores_of_games_that_end_are_the_sums_of_their_rewards() -> None:
    players = some_players(3, "ALE/Pong-v5", max_num_frames_per_episode=600)
    experience = an_actor(players).play(320, random=True)
    players.close()
    sums, scores = np.zeros(3), []
    for rewards, over in zip(players.rewards, players.over, strict=True):
        sums += rewards
        scores.extend(sums[over].tolist())
        sums[over] = 0
    assert len(scores) == 6
    assert min(scores) < 0
    assert experience.returns == scores
    np.testing.assert_array_equal(experience.ended, np.array(players.over))


def travelled(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Weights as they come out of an object store."""
    arrays = {name: part.numpy().copy() for name, part in state.items()}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def test_newer_weights_are_played_with_from_then_on() -> None:
    players = some_players()
    actor, newer = an_actor(players), a_network(seed=5)
    actor.epsilon[:] = 0
    actor.play(5)
    actor.take({"network": travelled(newer.state_dict())})
    state = {name: part.clone() for name, part in actor._state.items()}
    experience = actor.play(6)
    players.close()
    first = np.zeros((6, 2), bool)
    values = values_of(newer, experience, state, first)
    for row, env in np.ndindex(6, 2):
        keypoint, direction = experience.option[row, env]
        own = values[env, row, keypoint, direction]
        assert own.max() - own[experience.action[row, env]] < 1e-4


def test_where_the_most_controllable_keypoint_is_is_looked_up_now_and_then() -> None:
    perception = Transporter(TransporterConfig(num_keypoints=KEYPOINTS, image_size=SIZE, filters=(4, 6), strides=(2, 2)))
    players = some_players()
    actor = an_actor(players, perception=perception.eval(), watch_every=3)
    newer = travelled(perception.state_dict() | {"keynet.1.weight": torch.randn(KEYPOINTS, 6, 1, 1)})
    actor.take({"network": travelled(actor.network.state_dict()), "perception": newer})
    experience = actor.play(8)
    players.close()
    values = values_of(actor.network, experience, actor.network.initial_state(2), begun(experience))
    reference = Transporter(perception.config).eval()
    reference.load_state_dict({name: torch.tensor(array) for name, array in newer.items()})
    rows = [0, 3, 6]
    best = most_controllable(values)[:, rows].T.numpy()
    np.testing.assert_array_equal(experience.controlled, best.ravel())
    xy = np.stack([reference.encode(players.shown[row], features=False).xy.numpy() for row in rows])
    wanted = np.take_along_axis(xy, best[..., None, None], axis=2)
    np.testing.assert_allclose(experience.places, wanted.reshape(-1, 2), atol=1e-6)


def test_without_perception_nothing_is_looked_up() -> None:
    players = some_players(1)
    experience = an_actor(players).play(2)
    players.close()
    assert experience.controlled.shape == (0,)
    assert experience.places.shape == (0, 2)

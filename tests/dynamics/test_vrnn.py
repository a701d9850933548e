from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from drawn_sequences import dynamics_config
from torch import Tensor

from kpagent.dynamics import vrnn
from kpagent.dynamics.configuration import DynamicsConfig, StructVRNNConfig
from kpagent.dynamics.vrnn import VRNN

SIZE = 4
LENGTH = 5


@dataclass
class Result:
    loss: float
    observed: float
    predicted: float
    kl: float


class SlowVRNN:
    """Eq. 1 to 8 and S6 to S9 in NumPy, one sequence, step and sample at a time, after the parameters of a `VRNN`."""

    def __init__(self, model: VRNN) -> None:
        self.config = model.config
        self.latent = model.config.latent if model.config.stochastic else 0
        self.of = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}

    def dense(self, name: str, inputs: np.ndarray) -> np.ndarray:
        return self.of[f"{name}.weight"] @ inputs + self.of[f"{name}.bias"]

    def gaussian(self, name: str, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        both = self.dense(f"{name}.2", np.maximum(self.dense(f"{name}.0", inputs), 0))
        return both[: self.latent], np.log1p(np.exp(both[self.latent :])) + 1e-4

    def prior(self, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.gaussian("prior", hidden)

    def posterior(self, code: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.gaussian("posterior", np.concatenate([code, hidden]))

    def decode(self, latent: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        return self.dense("decode_out", np.maximum(self.dense("decode_in", np.concatenate([latent, hidden])), 0))

    def advance(self, hidden: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
        """A gated recurrent unit (Cho et al. 2014)."""
        given = self.of["gru.weight_ih"] @ np.concatenate(inputs) + self.of["gru.bias_ih"]
        kept = self.of["gru.weight_hh"] @ hidden + self.of["gru.bias_hh"]
        units = len(hidden)
        reset, update = (1 / (1 + np.exp(-(given[at : at + units] + kept[at : at + units]))) for at in (0, units))
        new = np.tanh(given[2 * units :] + reset * kept[2 * units :])
        return (1 - update) * new + update * hidden

    def loss(self, codes: np.ndarray, actions: np.ndarray | None, progress: float, seed: int) -> Result:
        config, count = self.config, len(codes)
        length = config.observed + config.predicted
        draws = generator(seed)
        coins = torch.rand(length, generator=draws).double().numpy()
        noise = [torch.randn(count, config.samples, self.latent, generator=draws).double().numpy() for _ in range(length)]
        own_observed = config.own_observed if config.stochastic else 0
        result = Result(0.0, 0.0, 0.0, 0.0)
        for b in range(count):
            hidden = np.zeros(config.rnn_units)
            latent = np.zeros(self.latent)
            fed = codes[b, 0]
            for t in range(length):
                observed = t < config.observed
                if t > 0:
                    action = [] if actions is None else [actions[b, t - 1]]
                    hidden = self.advance(hidden, fed, latent, *action)
                if config.stochastic:
                    prior_mean, prior_std = self.prior(hidden)
                    mean, std = self.posterior(codes[b, t], hidden) if observed else (prior_mean, prior_std)
                    candidates = [mean + std * noise[t][b, i] for i in range(config.samples)]
                    errors = [0.5 * ((self.decode(z, hidden) - codes[b, t]) ** 2).sum() for z in candidates]
                    latent = candidates[int(np.argmin(errors))]
                    if observed:
                        ratio = (std / prior_std) ** 2
                        away = ((mean - prior_mean) / prior_std) ** 2
                        result.kl += 0.5 * (ratio + away - 1 - np.log(ratio)).sum() / count
                decoded = self.decode(latent, hidden)
                error = 0.5 * ((decoded - codes[b, t]) ** 2).sum() / count
                if not observed:
                    result.predicted += error
                elif t > 0 or config.stochastic:
                    result.observed += error
                share = own_observed if observed else config.own_predicted
                fed = decoded if coins[t] < share * progress else codes[b, t]
        annealed = config.kl_scale * min(1.0, progress / config.kl_anneal) if config.kl_anneal else config.kl_scale
        result.loss = result.observed + result.predicted + annealed * result.kl
        return result


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def lively(config: DynamicsConfig, size: int = SIZE) -> VRNN:
    """A model whose parameters are large enough for everything to matter."""
    model = VRNN(config, size)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(2)
    return model


def batch(count: int = 3, actions: int = 0, **others: Any) -> dict[str, Any]:
    draws = np.random.default_rng(1)
    codes = torch.from_numpy(draws.normal(size=(count, LENGTH, SIZE))).float()
    found: dict[str, Any] = {"codes": codes, "progress": 1.0, "seed": 0} | others
    if actions:
        found["actions"] = draws.normal(size=(count, LENGTH, actions)).astype(np.float32)
    return found


FORMS: dict[str, dict[str, Any]] = {
    "plain": {"samples": 1},
    "best of four": {"samples": 4},
    "actions": {"samples": 4, "actions": 2},
    "deterministic": {"stochastic": False},
    "deterministic with actions": {"stochastic": False, "actions": 2},
    "without annealing": {"samples": 2, "kl_anneal": 0.0, "kl_scale": 0.5},
}


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_the_papers(form: str, progress: float) -> None:
    config = dynamics_config(**FORMS[form])
    model = lively(config)
    for seed in range(3):
        given = batch(actions=config.actions, progress=progress, seed=seed)
        loss, metrics = model.loss(given)
        expected = SlowVRNN(model).loss(given["codes"].double().numpy(), given.get("actions"), progress, seed)
        assert loss.item() == pytest.approx(expected.loss, rel=1e-4)
        assert metrics["observed"].item() == pytest.approx(expected.observed, rel=1e-4)
        assert metrics["predicted"].item() == pytest.approx(expected.predicted, rel=1e-4)
        assert ("kl" in metrics) == config.stochastic
        if config.stochastic:
            assert metrics["kl"].item() == pytest.approx(expected.kl, rel=1e-4)
        assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("form", ["plain", "best of four", "actions", "deterministic"])
def test_the_gradient_is_that_of_the_winner(form: str) -> None:
    config = dynamics_config(**FORMS[form])
    model = lively(config)
    given = batch(actions=config.actions, progress=0.6, seed=1)
    model.loss(given)[0].backward()
    gradient = {name: value.grad for name, value in model.named_parameters()}
    draws = np.random.default_rng(0)
    for name in gradient:
        slow = SlowVRNN(model)
        start = slow.of[name]
        direction = draws.normal(size=start.shape)
        sides = []
        for step in (1e-6, -1e-6):
            slow.of[name] = start + step * direction
            sides.append(slow.loss(given["codes"].double().numpy(), given.get("actions"), 0.6, 1).loss)
        found = gradient[name]
        assert found is not None, name
        expected = (sides[0] - sides[1]) / 2e-6
        assert (found.numpy() * direction).sum() == pytest.approx(expected, rel=2e-3, abs=1e-4), name


def gaussian_model(gain: float, std: float) -> VRNN:
    """z ~ N(0, 1), x | z ~ N(z, 1), and the belief q(z | x) = N(gain x, std²)."""
    config = DynamicsConfig(
        observed=2,
        predicted=1,
        samples=1,
        latent=1,
        kl_scale=1.0,
        kl_anneal=0.0,
        prior_units=1,
        posterior_units=2,
        rnn_units=1,
    )
    model = VRNN(config, size=1)

    def raw(std: float) -> float:
        return math.log(math.expm1(std - 1e-4))

    parameters = {name: value.zero_() for name, value in model.state_dict().items()}
    # The difference of two rectifiers is the identity.
    for name, values in {
        "prior.2.bias": [0, raw(1.0)],
        "posterior.0.weight": [[1, 0], [-1, 0]],
        "posterior.2.weight": [[gain, -gain], [0, 0]],
        "posterior.2.bias": [0, raw(std)],
        "decode_in.weight": [[1, 0], [-1, 0]],
        "decode_out.weight": [[1, -1]],
    }.items():
        parameters[name].copy_(torch.tensor(values))
    return model


def bound(model: VRNN, x: float) -> float:
    """Of the log-evidence of one x, from the loss of two observed steps and a foretold one of many sequences alike."""
    codes = torch.full((100_000, 3, 1), x)
    with torch.no_grad():
        loss, metrics = model.loss({"codes": codes, "progress": 1.0, "seed": 0})
    assert metrics["predicted"].item() == pytest.approx(0.5 * (x**2 + 1), abs=0.02 * (1 + x**2))
    return -(loss - metrics["predicted"]).item() / 2 - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("x", [0.0, 1.0, -2.5])
def test_the_bound_is_tight_at_the_true_belief(x: float) -> None:
    evidence = -0.5 * math.log(2 * math.pi * 2) - x**2 / 4
    assert bound(gaussian_model(0.5, 0.5**0.5), x) == pytest.approx(evidence, abs=0.02)


@pytest.mark.parametrize(("gain", "std"), [(0.5, 0.3), (0.9, 0.5**0.5), (0.0, 1.0), (0.2, 1.5)])
def test_the_bound_falls_short_by_the_divergence_from_the_true_belief(gain: float, std: float) -> None:
    x = 1.5
    evidence = -0.5 * math.log(2 * math.pi * 2) - x**2 / 4
    short = 0.5 * (2 * std**2 + 2 * (gain * x - x / 2) ** 2 - 1 - math.log(2 * std**2))
    assert short > 0.01
    assert bound(gaussian_model(gain, std), x) == pytest.approx(evidence - short, abs=0.02 * (1 + std**2))


def test_more_samples_err_less() -> None:
    model = lively(dynamics_config())
    errors = []
    for samples in (1, 2, 5, 20, 50):
        trial = VRNN(dynamics_config(samples=samples), SIZE)
        trial.load_state_dict(model.state_dict())
        parts = [trial.loss(batch(16, progress=0.0, seed=seed))[1] for seed in range(20)]
        errors.append(sum((part["observed"] + part["predicted"]).item() for part in parts))
    assert errors == sorted(errors, reverse=True)


def test_equal_samples_are_as_good_as_one() -> None:
    models = [VRNN(dynamics_config(samples=samples), SIZE) for samples in (1, 6)]
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        parameters = model.state_dict()
        for belief in ("prior", "posterior"):
            parameters[f"{belief}.2.weight"][model.latent :].zero_()
            parameters[f"{belief}.2.bias"][model.latent :].fill_(-30)
    one, six = (model.loss(batch())[0].item() for model in models)
    assert one == pytest.approx(six, rel=1e-3)


def test_samples_are_decoded_as_one_by_one() -> None:
    model = lively(dynamics_config())
    latents, hidden = torch.randn(2, 7, model.latent), torch.randn(2, 6)
    expected = torch.stack([model._decode(latents[:, i], hidden) for i in range(7)], dim=1)
    torch.testing.assert_close(model._decode_samples(latents, hidden), expected)


def fed_to_gru(model: VRNN, given: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """The codes that went into the GRU in a loss, and those that were decoded."""
    fed: list[Tensor] = []
    decoded: list[Tensor] = []
    hooks = [
        model.gru.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0][:, :SIZE].detach())),
        model.decode_out.register_forward_hook(
            lambda _, __, out: decoded.append(out.detach()) if out.ndim == 2 and out.requires_grad else None
        ),
    ]
    model.loss(given)
    for hook in hooks:
        hook.remove()
    return fed, decoded


def test_at_first_the_recurrence_is_fed_what_was_seen() -> None:
    model, given = lively(dynamics_config(own_predicted=1.0)), batch(progress=0.0)
    fed, _ = fed_to_gru(model, given)
    assert torch.equal(torch.stack(fed, dim=1), given["codes"][:, :-1])


def test_in_the_end_the_recurrence_is_fed_what_was_decoded() -> None:
    fed, decoded = fed_to_gru(lively(dynamics_config(own_predicted=1.0)), batch(progress=1.0))
    assert len(decoded) == LENGTH
    for one, other in zip(fed, decoded[:-1], strict=True):
        assert torch.equal(one, other)


def test_without_a_latent_belief_observed_steps_feed_what_was_seen() -> None:
    model, given = lively(dynamics_config(stochastic=False, own_predicted=1.0)), batch(progress=1.0)
    fed, decoded = fed_to_gru(model, given)
    assert torch.equal(torch.stack(fed[:3], dim=1), given["codes"][:, :3])
    assert torch.equal(fed[3], decoded[3])


def test_shares_of_own_inputs_grow_with_progress() -> None:
    model = lively(dynamics_config(own_observed=0.8, own_predicted=0.4))
    own = np.zeros(LENGTH - 1)
    for seed in range(150):
        given = batch(1, progress=0.5, seed=seed)
        fed, _ = fed_to_gru(model, given)
        own += [not torch.equal(one, given["codes"][:, t]) for t, one in enumerate(fed)]
    # Three standard deviations of a share of 150.
    np.testing.assert_allclose(own / 150, [0.4, 0.4, 0.4, 0.2], atol=0.12)


def test_a_batch_shares_its_coins() -> None:
    model = lively(dynamics_config(own_observed=0.5))
    for seed in range(10):
        given = batch(8, progress=1.0, seed=seed)
        fed, _ = fed_to_gru(model, given)
        for t, one in enumerate(fed):
            assert torch.equal(one, given["codes"][:, t]) or not (one == given["codes"][:, t]).any()


def test_one_seed_gives_one_loss() -> None:
    model = lively(dynamics_config())
    first, again, other = (model.loss(batch(seed=seed))[0].item() for seed in (3, 3, 4))
    assert first == again != other


def test_other_lengths_are_refused() -> None:
    model = VRNN(dynamics_config(predicted=3), SIZE)
    with pytest.raises(ValueError, match=r"codes must be of 3 \+ 3 frames, not 5"):
        model.loss(batch())


def test_actions_are_wanted_where_the_model_has_them() -> None:
    with_actions, without = VRNN(dynamics_config(actions=2), SIZE), VRNN(dynamics_config(), SIZE)
    codes = batch()["codes"]
    belief, _ = without.observe(codes)
    for actions in (None, torch.zeros(3, LENGTH, 3)):
        with pytest.raises(ValueError, match="wants actions of 2 numbers"):
            with_actions.loss(batch() | {"actions": actions})
        with pytest.raises(ValueError, match="wants actions of 2 numbers"):
            with_actions.observe(codes, actions)
        with pytest.raises(ValueError, match="wants actions of 2 numbers"):
            with_actions.imagine(belief, 2, actions=actions)
    with pytest.raises(ValueError, match="has no actions"):
        without.observe(codes, torch.zeros(3, LENGTH, 2))
    with pytest.raises(ValueError, match="has no actions"):
        without.imagine(belief, 2, actions=torch.zeros(3, 2, 2))
    # A batch may bring what a model has no use for.
    assert without.loss(batch(actions=2))[0].item() == without.loss(batch())[0].item()


@pytest.mark.parametrize(
    ("form", "seed"), [("plain", None), ("plain", 5), ("actions", None), ("actions", 5), ("deterministic", None)]
)
def test_what_is_observed_and_imagined_is_the_papers(form: str, seed: int | None) -> None:
    config = dynamics_config(**FORMS[form])
    model = lively(config)
    slow = SlowVRNN(model)
    given = batch(2, config.actions)
    codes, actions = given["codes"], torch.as_tensor(given["actions"]) if config.actions else None
    later = torch.randn(2, 4, config.actions) if config.actions else None
    belief, decoded = model.observe(codes, actions, seed=seed)
    futures = model.imagine(belief, 4, samples=3, actions=later, seed=9)
    assert decoded.shape == codes.shape
    assert futures.shape == (2, 3, 4, SIZE)
    assert (belief.hidden.shape, belief.code.shape, belief.latent.shape) == ((2, 6), (2, SIZE), (2, model.latent))
    seen = None if seed is None else generator(seed)
    seen_noise = [torch.zeros(2, 3) if seen is None else torch.randn(2, 3, generator=seen) for _ in range(LENGTH)]
    drawn = generator(9)
    noise = [torch.randn(6, 3, generator=drawn).view(2, 3, 3).double().numpy() for _ in range(4)]
    for b in range(2):
        hidden, latent, fed = np.zeros(6), np.zeros(model.latent), codes[b, 0].double().numpy()
        for t in range(LENGTH):
            if t > 0:
                hidden = slow.advance(
                    hidden, fed, latent, *([] if actions is None else [actions[b, t - 1].double().numpy()])
                )
            fed = codes[b, t].double().numpy()
            if config.stochastic:
                mean, std = slow.posterior(fed, hidden)
                latent = mean + std * seen_noise[t][b].double().numpy()
                fed = slow.decode(latent, hidden)
            np.testing.assert_allclose(decoded[b, t], slow.decode(latent, hidden), rtol=1e-3, atol=1e-5)
        for sample in range(3):
            hidden_then, latent_then, fed_then = hidden, latent, fed
            for t in range(4):
                action = [] if later is None else [later[b, t].double().numpy()]
                hidden_then = slow.advance(hidden_then, fed_then, latent_then, *action)
                if config.stochastic:
                    mean, std = slow.prior(hidden_then)
                    latent_then = mean + std * noise[t][b, sample]
                fed_then = slow.decode(latent_then, hidden_then)
                np.testing.assert_allclose(futures[b, sample, t], fed_then, rtol=1e-3, atol=1e-5)


def test_one_seed_gives_one_future() -> None:
    model = lively(dynamics_config())
    belief, decoded = model.observe(batch()["codes"], seed=1)
    assert torch.equal(decoded, model.observe(batch()["codes"], seed=1)[1])
    assert not torch.equal(decoded, model.observe(batch()["codes"], seed=2)[1])
    first, again, other = (model.imagine(belief, 3, samples=4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.isclose(first[:, 0], first[:, 1]).any()


def test_sequences_do_not_depend_on_others_in_their_batch() -> None:
    model, codes = lively(dynamics_config(stochastic=False)), batch(4)["codes"]
    variational = lively(dynamics_config())
    torch.testing.assert_close(variational.observe(codes)[1][2:3], variational.observe(codes[2:3])[1])
    alone, together = model.observe(codes[2:3])[0], model.observe(codes)[0]
    torch.testing.assert_close(model.imagine(together, 5)[2:3], model.imagine(alone, 5))


def test_sequences_alike_have_futures_of_their_own() -> None:
    model = lively(dynamics_config())
    belief, _ = model.observe(batch(1)["codes"].repeat(2, 1, 1))
    futures = model.imagine(belief, 3, samples=2)
    assert not torch.isclose(futures[0], futures[1]).any()


def test_a_deterministic_model_has_one_future() -> None:
    model = lively(dynamics_config(stochastic=False))
    belief, _ = model.observe(batch()["codes"])
    futures = model.imagine(belief, 4, samples=3)
    torch.testing.assert_close(futures, futures[:, :1].expand_as(futures))
    assert belief.latent.shape == (3, 0)


def test_many_samples_are_those_of_a_repeated_belief() -> None:
    model = lively(dynamics_config(actions=2))
    given = batch(2, 2)
    belief, _ = model.observe(given["codes"], torch.from_numpy(given["actions"]))
    actions = torch.randn(2, 4, 2)
    together = model.imagine(belief, 4, samples=3, actions=actions)
    apart = model.imagine(belief.repeat(3), 4, actions=actions.repeat_interleave(3, dim=0))
    assert torch.equal(together, apart.view(2, 3, 4, SIZE))
    own = model.imagine(belief, 4, samples=3, actions=actions[:, None].repeat(1, 3, 1, 1))
    assert torch.equal(together, own)


def test_the_quick_step_is_the_gated_unit() -> None:
    model = lively(dynamics_config(actions=2))
    hidden, code, latent, action = (torch.randn(7, size) for size in (6, SIZE, 3, 2))
    with torch.no_grad():
        quick = model._advance_quickly(model.gru.weight_hh, hidden, code, latent, action)
        torch.testing.assert_close(quick, model._advance(hidden, code, latent, action))


def test_many_futures_are_those_of_few_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(dynamics_config())
    belief, _ = model.observe(batch(2)["codes"])
    exact = model.imagine(belief, 20, samples=40, seed=3)
    monkeypatch.setattr(vrnn, "MANY", 80)
    monkeypatch.setattr(vrnn, "prefers_bf16", lambda device: True)
    quick = model.imagine(belief, 20, samples=40, seed=3)
    spread = (exact - exact.mean(dim=1, keepdim=True)).norm(dim=-1).mean()
    strayed = (quick - exact).norm(dim=-1).mean()
    assert 0 < strayed < 0.02 * spread
    monkeypatch.setattr(vrnn, "MANY", 81)
    assert torch.equal(model.imagine(belief, 20, samples=40, seed=3), exact)


def test_each_future_takes_its_own_actions() -> None:
    model = lively(dynamics_config(stochastic=False, actions=2))
    given = batch(2, 2)
    belief, _ = model.observe(given["codes"], torch.from_numpy(given["actions"]))
    actions = torch.randn(2, 3, 4, 2)
    futures = model.imagine(belief, 4, samples=3, actions=actions)
    for sample in range(3):
        torch.testing.assert_close(futures[:, sample], model.imagine(belief, 4, actions=actions[:, sample])[:, 0])


@pytest.mark.parametrize("stochastic", [True, False])
def test_an_action_on_a_frame_changes_the_next_and_none_before(stochastic: bool) -> None:
    model = lively(dynamics_config(stochastic=stochastic, actions=2))
    given = batch(2, 2)
    codes, past = given["codes"], torch.from_numpy(given["actions"])
    later = torch.randn(2, 4, 2)
    belief, decoded = model.observe(codes, past)
    futures = model.imagine(belief, 4, actions=later)
    for changed in range(4):
        actions = later.clone()
        actions[:, changed] += 1
        other = model.imagine(belief, 4, actions=actions)
        assert torch.equal(other[:, :, :changed], futures[:, :, :changed])
        assert not torch.isclose(other[:, :, changed], futures[:, :, changed]).all()
    for changed in range(LENGTH):
        actions = past.clone()
        actions[:, changed] += 1
        other = model.observe(codes, actions)[1]
        assert torch.equal(other[:, : changed + 1], decoded[:, : changed + 1])
        if changed + 1 < LENGTH:
            assert not torch.isclose(other[:, changed + 1], decoded[:, changed + 1]).all()
    # The action on the last frame is no part of what was observed.
    assert torch.equal(model.observe(codes, past[:, :-1])[1], decoded)


def test_the_last_action_of_a_sequence_is_not_learned_from() -> None:
    model = lively(dynamics_config(actions=2))
    given = batch(actions=2)
    losses = []
    for changed in (None, LENGTH - 1, LENGTH - 2):
        actions = given["actions"].copy()
        if changed is not None:
            actions[:, changed] += 1
        losses.append(model.loss(given | {"actions": actions})[0].item())
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("preset", "actions", "expected"),
    [
        # GRU: 3 gates × 512 × (inputs + 512 hidden + 2 biases); inputs are 3K, z and actions.
        # Prior: 512 to its units, to twice z. Posterior: 3K + 512 to 128, to twice z. Decoder: z + 512 to 128, to 3K.
        (
            "basketball",
            0,
            3 * 512 * (36 + 16 + 514) + (513 * 16 + 17 * 32) + (549 * 128 + 129 * 32) + (529 * 128 + 129 * 36),
        ),
        ("human36m", 0, 3 * 512 * (144 + 16 + 514) + (513 * 4 + 5 * 32) + (657 * 128 + 129 * 32) + (529 * 128 + 129 * 144)),
        (
            "dmcs",
            6,
            3 * 512 * (192 + 128 + 6 + 514) + (513 * 16 + 17 * 256) + (705 * 128 + 129 * 256) + (641 * 128 + 129 * 192),
        ),
    ],
)
def test_the_dynamics_have_as_many_parameters_as_table_s1_says(preset: str, actions: int, expected: int) -> None:
    config = StructVRNNConfig.dmcs(actions) if actions else getattr(StructVRNNConfig, preset)()
    with torch.device("meta"):
        model = VRNN(config.dynamics, config.code.size)
    assert sum(value.numel() for value in model.parameters()) == expected


def test_bfloat16_gives_nearly_the_same_loss() -> None:
    model = lively(dynamics_config(samples=1))
    exact, parts = model.loss(batch())
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_parts = model.loss(batch())
    rough.backward()
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
    assert rough_parts["kl"].item() == pytest.approx(parts["kl"].item(), rel=0.05)
    assert all(value.grad is not None and bool(value.grad.isfinite().all()) for value in model.parameters())


def fork(samples: int) -> Tensor:
    """Ends (400,) of futures of a point that rests and then goes left or right to 0.9, after learning from many."""
    config = DynamicsConfig(
        observed=2, predicted=3, samples=samples, latent=2, prior_units=8, posterior_units=32, rnn_units=32
    )
    torch.manual_seed(0)
    model = VRNN(config, size=1)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    draws = np.random.default_rng(0)
    path = np.array([0, 0, 0.3, 0.6, 0.9], np.float32)
    for step in range(200):
        sides = draws.choice([-1, 1], 32).astype(np.float32)
        loss, _ = model.loss({"codes": (sides[:, None] * path)[..., None], "progress": step / 200, "seed": step})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    belief, _ = model.observe(torch.zeros(1, 2, 1))
    return model.imagine(belief, 3, samples=400)[0, :, -1, 0]


def test_the_best_of_many_samples_learn_that_the_future_forks() -> None:
    ends, alone = fork(10), fork(1)
    for side in (-0.9, 0.9):
        assert ((ends - side).abs() < 0.3).float().mean() > 0.1
        assert ((alone - side).abs() < 0.3).float().mean() < 0.02

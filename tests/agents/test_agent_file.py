from __future__ import annotations

import base64
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from safetensors.torch import save_file
from stable_baselines3 import DQN
from torch import Tensor, nn

from kpagent.agents.agent_file import FORMAT, load_agent, save_agent
from kpagent.errors import UsageError
from kpagent.files import HEADER, load_tensors, save_tensors
from kpagent.perception import zoo

ABOUT: dict[str, Any] = {"algorithm": "KeyQN", "actions": 6, "network": {"bins": 16, "value_range": [-10.0, 10.0]}}


class Touch:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def trained() -> tuple[nn.Linear, torch.optim.AdamW]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def write(path: Path, **changes: Any) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    model, optimizer = trained()
    tensors = {
        "q_net": dict(model.state_dict()),
        "replay": {"observation.xy": torch.rand(2, 0, 3), "acted": torch.ones(2).bool()},
    }
    save_agent(path, ABOUT | changes, tensors, optimizer.state_dict())
    return tensors, optimizer.state_dict()


def one_line(error: pytest.ExceptionInfo[UsageError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as error:
        load_agent(path, "KeyQN")
    return one_line(error)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    tensors, optimizer = write(tmp_path / "a.safetensors")
    about, found, found_optimizer = load_agent(tmp_path / "a.safetensors", "KeyQN")
    assert about == ABOUT | {"agent": FORMAT}
    assert {group: set(values) for group, values in found.items()} == {
        group: set(values) for group, values in tensors.items()
    }
    for group, values in tensors.items():
        for name, value in values.items():
            assert torch.equal(found[group][name], value)
            assert found[group][name].dtype == value.dtype
    model, again = trained()
    again.load_state_dict(found_optimizer)
    after = again.state_dict()
    # JSON makes lists of tuples, which are no other values.
    assert json.dumps(after["param_groups"], sort_keys=True) == json.dumps(optimizer["param_groups"], sort_keys=True)
    for index, slots in optimizer["state"].items():
        for name, value in slots.items():
            assert torch.equal(after["state"][index][name], value)
    assert len(list(model.parameters())) == len(after["state"])


def test_an_optimizer_that_has_done_nothing_is_kept_too(tmp_path: Path) -> None:
    fresh = torch.optim.AdamW(nn.Linear(2, 2).parameters()).state_dict()
    save_agent(tmp_path / "a.safetensors", ABOUT, {}, fresh)
    _, tensors, optimizer = load_agent(tmp_path / "a.safetensors", "KeyQN")
    assert (tensors, optimizer["state"]) == ({}, {})
    torch.optim.AdamW(nn.Linear(2, 2).parameters()).load_state_dict(optimizer)


def test_the_suffix_may_be_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors")
    assert load_agent(str(tmp_path / "a"), "KeyQN")[0]["actions"] == 6


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "a.safetensors") == f"no agent file at {tmp_path / 'a.safetensors'}"
    assert refused(tmp_path) == f"no agent file at {tmp_path}"


@pytest.mark.parametrize("kept", [0, 4, 100, 900, -1])
def test_a_truncated_file(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.safetensors"
    write(path)
    path.write_bytes(path.read_bytes()[:kept])
    assert str(path) in refused(path)


def test_a_file_in_which_one_bit_of_a_tensor_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert refused(path) == f"{path} was altered after it was written: its digest does not match"


def test_a_file_whose_description_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path)
    content = path.read_bytes()
    changed = content.replace(b'\\"actions\\": 6', b'\\"actions\\": 7')
    assert changed != content
    path.write_bytes(changed)
    assert "altered" in refused(path)


def test_a_file_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path)
    tensors, header = load_tensors(path)
    save_tensors(path, tensors, header | {"agent": FORMAT + 1})
    assert refused(path) == f"{path} is an agent of format {FORMAT + 1}; this version of kpagent reads format {FORMAT}"


def test_an_agent_of_another_algorithm(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, algorithm="OptionsAgent")
    assert refused(path) == f"{path} is an agent of OptionsAgent, not of KeyQN"


def test_weights_of_perception_are_no_agent() -> None:
    path = zoo.find("pong")
    assert refused(path) == f"{path} holds no agent; KeyQN.save or kpagent train writes them"


def test_safetensors_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    assert str(path) in refused(path)
    save_file({"weight": torch.zeros(2)}, path, metadata={HEADER: "[1, 2]"})
    assert str(path) in refused(path)


@pytest.mark.parametrize("missing", ["optimizer", "algorithm", "agent"])
def test_an_agent_whose_description_lacks_a_part_though_its_seal_is_whole(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "a.safetensors"
    write(path)
    tensors, header = load_tensors(path)
    del header[missing]
    save_tensors(path, tensors, header)
    assert str(path) in refused(path)


def test_slots_of_an_optimizer_that_belong_to_no_parameter(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path)
    tensors, header = load_tensors(path)
    save_tensors(path, tensors | {"optimizer/first/step": torch.zeros(1)}, header)
    assert str(path) in refused(path)


def test_an_agent_of_stable_baselines_is_refused_and_the_code_in_it_does_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "agent.zip"
    agent = DQN("MlpPolicy", gym.make("CartPole-v1"), buffer_size=10, policy_kwargs={"net_arch": [4]}, device="cpu")
    agent.save(path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    data = json.loads(members["data"])
    data["lr_schedule"] = {":type:": "function", ":serialized:": base64.b64encode(pickle.dumps(Touch(marker))).decode()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (members | {"data": json.dumps(data).encode()}).items():
            file.writestr(name, content)
    assert str(path) in refused(path)
    renamed = path.rename(tmp_path / "agent.safetensors")
    assert str(renamed) in refused(renamed)
    assert not marker.exists()
    DQN.load(renamed.rename(path), device="cpu")
    assert marker.exists(), "the file of this test would have done nothing in any case"


@pytest.mark.parametrize("write_pickle", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_pickle_is_refused_and_does_not_run(tmp_path: Path, write_pickle: Any) -> None:
    marker, path = tmp_path / "marker", tmp_path / "a.safetensors"
    with path.open("wb") as file:
        write_pickle(Touch(marker), file)
    assert str(path) in refused(path)
    assert not marker.exists()
    with path.open("rb") as file:
        if write_pickle is torch.save:
            torch.load(file, weights_only=False)
        else:
            pickle.load(file)  # noqa: S301 (its own)
    assert marker.exists()


def test_a_whole_agent_is_read_without_the_means_to_unpickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write(path)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was unpickled")

    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")]:
        monkeypatch.setattr(module, name, refuse)
    load_agent(path, "KeyQN")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as error:
        write(tmp_path / "file" / "a.safetensors")
    assert one_line(error).startswith("cannot write")

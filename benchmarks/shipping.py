"""Put trained weights into the zoo, with their tracking figures: `python -m kpagent.benchmarks.shipping GAME WEIGHTS`.

It measures them on held-out play, writes the figures and the command that trains them again into their header, and a
picture for docs/zoo.md, whose table is made from the headers: `python -m kpagent.benchmarks.tables docs/zoo.md`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from kpagent.benchmarks.games import GAMES, find_game
from kpagent.benchmarks.tracked_play import record_play
from kpagent.benchmarks.tracking import LENGTHS, Track, Tracking, encode
from kpagent.benchmarks.tracking_pictures import draw_track
from kpagent.drawing import add_caption, contact_sheet, draw_keypoints, write_png
from kpagent.errors import UsageError
from kpagent.perception.detector import KeypointDetector
from kpagent.perception.zoo import SHIPPED, load

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "images" / "zoo"


def ship(name: str, weights: Path) -> Path:
    """Measure weights and put what inference needs of them into the zoo.

    Args:
        name: of the game, and of the weights in the zoo.
        weights: as `kpagent pretrain` or `kpagent bench tracking` wrote them.

    Returns:
        The file in the zoo.

    Raises:
        UsageError: no ground truth for the game, no such weights, or weights of another environment.
    """
    game, model = find_game(name), load(weights, "cpu")
    if model.provenance.get("env") != game.env:
        raise UsageError(f"{weights} holds keypoints of {model.provenance.get('env')}, not of {game.env}")
    protocol = Tracking()
    play = list(record_play(game.env, protocol.episodes, protocol.length, protocol.seed))
    track = Track.of(model, play, game.epsilon, LENGTHS)
    figures = {figure: value for figure, (value, _) in track.figures().items()}
    model.provenance |= {
        "command": training_command(name, game.env, model),
        "tracking": figures
        | {"epsilon": game.epsilon, "episodes": protocol.episodes, "length": protocol.length, "seed": protocol.seed},
    }
    path = SHIPPED / f"{name}.safetensors"
    model.save(path, inference_only=True)
    draw_track(PICTURES / f"{name}.png", play, model, frames=4)
    draw_zoo(PICTURES.parent / "zoo.png")
    return path


def draw_zoo(path: Path, *, length: int = 200, trail: int = 8) -> None:
    """A moment of random play in each of the zoo's Atari games, with the keypoints and where they came from.

    Args:
        path: PNG to write.
        length: interactions, among which the moment is the last one that shows most objects.
        trail: interactions after which a trail has faded.
    """
    drawn = []
    for name, game in GAMES.items():
        if game.env.startswith("ALE/") and (SHIPPED / f"{name}.safetensors").exists():
            (stretch,) = record_play(game.env, 1, length, Tracking().seed)
            seen = np.isfinite(stretch.objects).all(axis=-1).sum(axis=1)[trail:]
            moment = trail + int(np.flatnonzero(seen == seen.max())[-1])
            shown = stretch.frames[moment - trail : moment + 1]
            xy = encode(load(name, "cpu"), shown)
            drawn.append(add_caption(draw_keypoints(shown[-1], xy[-1], trails=xy[:-1], scale=2), name))
    write_png(path, contact_sheet(drawn, columns=3))


def training_command(name: str, env: str, model: KeypointDetector) -> str:
    """The command that collects the same frame pairs and trains the same weights.

    Args:
        name: of the weights, for the paths in it.
        env: id of the environment.
        model: with the provenance that pretraining wrote.
    """
    settings, pairs = model.provenance["pretraining"], model.provenance["pairs"]["config"]
    training = settings["training"]
    flags = {"env": env, "keypoints": model.num_keypoints}
    if settings.get("spare"):
        flags["spare"] = settings["spare"]
    flags |= {"steps": training["steps"], "seed": training["seed"]}
    flags |= {flag: settings[flag] for flag, usual in (("balance", 0.5), ("mix", 0.0)) if settings.get(flag, usual) != usual}
    collecting = {"capacity": pairs["capacity"], "interactions": pairs["interactions"]}
    if pairs["trajectory_length"] != 100:
        collecting["trajectory-length"] = pairs["trajectory_length"]
    before = []
    if pairs["seed"] == training["seed"]:
        flags |= collecting
    else:
        flags["pairs"] = f"runs/{name}_pairs.h5"
        collecting = {"env": env, "seed": pairs["seed"]} | collecting
        before = ["kpagent bench pairs", *_flags(collecting), f"--save {flags['pairs']}", "&&"]
    switches = ["--difference"] if model.config.difference else []
    return " ".join([*before, "kpagent pretrain", *_flags(flags), *switches, f"--out runs/{name}"])


def _flags(values: dict[str, Any]) -> list[str]:
    return [f"--{flag} {value}" for flag, value in values.items()]


if __name__ == "__main__":
    print(f"wrote {ship(sys.argv[1], Path(sys.argv[2]))}")

"""The package as others meet it: imported, built, installed away from its checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

import kpagent

ROOT = Path(__file__).parents[1]
LINKED = ("envs", "agents", "benchmarks")
HEAVY = ("ale_py", "dm_control", "matplotlib", "mujoco", "ray", "stable_baselines3", "tensorboard")


def python(code: str, *arguments: str, cwd: Path, path: Path | None = None) -> str:
    """What `code` prints in a fresh interpreter in `cwd`, with `path` searched before what is installed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-c", code, *arguments]
    finished = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build a wheel or an sdist from a source tree, with the build backend that pyproject.toml names."""
    folder.mkdir(exist_ok=True)
    code = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
    return folder / python(code, f"build_{kind}", str(folder), cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is built from, since building leaves files behind."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    for name in ("kpagent", *LINKED):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files and nothing else, as an installation leaves them."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return folder


def test_importing_adds_little_to_torch_and_gymnasium(tmp_path: Path) -> None:
    code = f"""
import sys, time, torch, gymnasium
start = time.process_time()  # which does not count what else the machine does
import kpagent
print(time.process_time() - start)
dir(kpagent)
print(*(name for name in {HEAVY} if name in sys.modules), "then")
kpagent.Transporter, kpagent.TransporterConfig, kpagent.Keypoints, kpagent.UsageError, kpagent.load
print(time.process_time() - start)
print(*(name for name in {HEAVY} if name in sys.modules), "then")
"""
    seconds, after_import, more_seconds, after_use = python(code, cwd=tmp_path).splitlines()
    assert float(seconds) < 1
    assert float(more_seconds) < 1
    assert (after_import, after_use) == ("then", "then")


def test_importing_alone_brings_in_nothing(tmp_path: Path) -> None:
    assert python("import kpagent, sys; print('torch' in sys.modules)", cwd=tmp_path) == "False\n"


def test_every_public_name_is_there() -> None:
    assert set(kpagent.__all__) <= set(dir(kpagent))
    for name in kpagent.__all__:
        assert getattr(kpagent, name).__name__ == name
        assert getattr(kpagent, name).__doc__
    with pytest.raises(AttributeError, match="module 'kpagent' has no attribute 'Keypoint'"):
        kpagent.__getattr__("Keypoint")


@pytest.mark.parametrize("name", LINKED)
def test_the_bare_names_of_linked_folders_are_refused(name: str) -> None:
    found = python(f"try: import {name}\nexcept ImportError as error: print(error)", cwd=ROOT)
    assert found == f"import kpagent.{name}, not {name}\n"


@pytest.mark.parametrize("name", LINKED)
def test_linked_folders_are_relative_links(name: str) -> None:
    assert os.readlink(ROOT / "kpagent" / name) == f"../{name}"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names} == {"kpagent", f"kpagent-{kpagent.__version__}.dist-info"}
    source = {path for path in (ROOT / "kpagent").rglob("*.py") if "__pycache__" not in path.parts}
    for folder in LINKED:
        source |= {ROOT / "kpagent" / folder / path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*.py")}
    source |= {*(ROOT / "kpagent/weights").rglob("*.safetensors"), *(ROOT / "kpagent/dynamics").glob("*.html")}
    source |= {ROOT / "kpagent/py.typed"}
    carried = {name for name in names if name.startswith("kpagent/")}
    assert carried == {path.relative_to(ROOT).as_posix() for path in source}


def test_the_wheel_made_from_the_sdist_is_the_same(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", checkout, tmp_path / "sdist")) as archive:
        assert not any(member.issym() or member.islnk() for member in archive.getmembers())
        # Python 3.11.0 to 3.11.3 have no filters, and 3.14 will not go without one.
        if hasattr(tarfile, "data_filter"):
            archive.extractall(tmp_path, filter="data")
        else:
            archive.extractall(tmp_path)
    (unpacked,) = tmp_path.glob("kpagent-*")
    again = build("wheel", unpacked, tmp_path / "wheel")
    contents = []
    for path in (wheel, again):
        with zipfile.ZipFile(path) as file:
            contents.append({name: file.read(name) for name in file.namelist() if name.startswith("kpagent/")})
    assert contents[0] == contents[1]


def test_the_installed_wheel_works_away_from_the_checkout(site: Path, tmp_path: Path) -> None:
    code = """
import json, sys
import numpy as np
import kpagent, kpagent.agents, kpagent.benchmarks, kpagent.envs
model = kpagent.Transporter(kpagent.TransporterConfig(num_keypoints=3, image_size=32))
model.save("weights.safetensors", inference_only=True)
keypoints = kpagent.Transporter.load("weights.safetensors").encode(np.zeros((2, 210, 160, 3), np.uint8))
assert kpagent.KeypointObservation.__module__.startswith("kpagent.envs")
files = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "kpagent"]
print(json.dumps({"files": files, "shape": keypoints.xy.shape}))
"""
    found = json.loads(python(code, cwd=tmp_path, path=site))
    assert found["shape"] == [2, 3, 2]
    assert all(Path(file).is_relative_to(site) for file in found["files"])


def shipped() -> list[str]:
    return sorted(path.stem for path in (ROOT / "kpagent/weights").glob("*.safetensors"))


@pytest.fixture(scope="module")
def encoded(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keypoints of one batch of frames by all shipped weights of the installed wheel, from one process."""
    folder = tmp_path_factory.mktemp("encoded")
    code = """
import sys
import numpy as np
import kpagent
frames = np.random.default_rng(0).integers(0, 256, (2, 210, 160, 3), dtype=np.uint8)
for name in sys.argv[1:]:
    np.save(f"{name}.npy", kpagent.load(name).encode(frames).numpy().xy)
"""
    python(code, *shipped(), cwd=folder, path=site)
    return folder


@pytest.mark.parametrize("name", shipped())
def test_shipped_weights_load_from_the_installed_wheel(encoded: Path, name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 210, 160, 3), dtype=np.uint8)
    here = kpagent.load(name).encode(frames).numpy().xy
    np.testing.assert_allclose(np.load(encoded / f"{name}.npy"), here, atol=1e-3)


def test_the_command_is_installed(site: Path) -> None:
    (metadata,) = site.glob("kpagent-*.dist-info")
    assert "kpagent = kpagent.cli:main" in (metadata / "entry_points.txt").read_text()


def test_every_dependency_is_pinned_exactly_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    # Without a local part, so that every build of a version will do.
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+(post\d+|rc\d+)?", pin) for pin in pins)
    pinned = [pin.split("==")[0] for pin in pins]
    assert pinned == sorted(set(pinned))
    wanted = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[\[<>=!~ ]", requirement)[0] for requirements in wanted for requirement in requirements}
    assert names - {"kpagent"} <= set(pinned)

"""Fetch the packages that a bare GPU machine lacks, as wheels for its Python; the session installs them offline there.

    python -m benchmarks wheels [--python 3.12] [--folder benchmarks/gpu/carried/wheels]

The machine has PyTorch, transformers and what they need, and no network. The versions are those of constraints.txt. The
folder is ignored by git and is copied along. `install_missing` takes from it only what the machine lacks, and makes the
checkout importable with the entry points of its plugins; both go into a folder of their own.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path

from benchmarks.common import ROOT

FOLDER = ROOT / "benchmarks" / "gpu" / "carried" / "wheels"
# requirements of fwk that come neither with PyTorch nor with transformers, and what they need in turn
PACKAGES = (
    *("omegaconf", "PyYAML", "pluggy", "sentencepiece", "safetensors"),
    *("rich", "markdown-it-py", "mdurl", "Pygments"),
)
# pip matches each of these names exactly
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
METADATA = (  # PEP 517; reads setup.cfg and setup.py, and builds nothing
    "import sys; from setuptools import build_meta; "
    "build_meta.prepare_metadata_for_build_wheel(sys.argv[1])"
)


def fetch(folder: Path, python: str) -> None:
    """Download the wheels for a version of Python on Linux, x86-64. Ends the program where pip fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
        *("--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python),
        *(word for name in PLATFORMS for word in ("--platform", name)),
        *("--constraint", str(ROOT / "constraints.txt"), "--dest", str(folder), *PACKAGES),
    ]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def missing_wheels(folder: Path) -> list[Path]:
    """Return the wheels in a folder whose package this Python lacks."""
    missing = []
    for wheel in sorted(folder.glob("*.whl")):
        try:
            metadata.version(wheel.name.split("-")[0].replace("_", "-"))
        except metadata.PackageNotFoundError:
            missing.append(wheel)
    return missing


def is_installed() -> bool:
    """Return whether this checkout's packages can be imported, with the entry points of its plugins."""
    spec = util.find_spec("fwk_plugins")
    places = list(spec.submodule_search_locations or ()) if spec else []
    here = [Path(place).resolve() for place in places] == [ROOT / "plugins"]
    return here and bool(metadata.entry_points(group="fwk.plugins"))


def provide_project(site: Path) -> None:
    """Make `fwk` and `fwk_plugins` importable from a folder, as this checkout has them at any time."""
    for name, folder in (("fwk", "fwk"), ("fwk_plugins", "plugins")):
        link = site / name
        if not link.is_symlink():
            link.symlink_to(ROOT / folder, target_is_directory=True)
    if list(site.glob("fwk-*.dist-info")):
        return
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # the call expects no other packages beside its output
        command = [sys.executable, "-c", METADATA, folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(
                f"The entry points of the plugins cannot be made:\n{done.stderr[-2000:]}"
            )
        for made in Path(folder).glob("fwk-*.dist-info"):
            shutil.move(made, site)


def install_missing(site: Path, wheels: Path = FOLDER) -> list[str]:
    """Install what this Python lacks into the folder `site`; return the names. Nothing is fetched.

    The folder must come first in PYTHONPATH of every process that uses it.
    """
    site.mkdir(parents=True, exist_ok=True)
    installed = [wheel.name for wheel in missing_wheels(wheels)]
    if installed:
        command = [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"),
            *("--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade"),
            *("--target", str(site), *(str(wheels / name) for name in installed)),
        ]
        subprocess.run(command, check=True)
    if not is_installed():
        provide_project(site)
        installed.append("fwk (this checkout)")
    return installed


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument(
        "--python", default="3.12", metavar="X.Y", help="version of the machine's Python"
    )
    chosen = parser.parse_args(arguments)
    fetch(chosen.folder, chosen.python)
    wheels = sorted(chosen.folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels) / 1e6
    print(f"{chosen.folder}: {len(wheels)} wheels, {size:.1f} MB")

"""Commands that tests run in processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from fwk.files.private import private_folder


def torchrun(*arguments: str, ranks: int, **kwargs) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **kwargs.pop("env", {})}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=env, **kwargs)


# where the index of components is cached outside of tests; making it takes seconds
_INDEXES = private_folder("index")


def cache_with_index(folder: Path) -> str:
    """Make a cache folder that is empty but for the index of components, and return its path.

    Processes that a test starts would each make the index again otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if _INDEXES is not None and _INDEXES.is_dir():
        (folder / _INDEXES.name).mkdir(mode=0o700, exist_ok=True)
        for index in _INDEXES.glob("*.json"):
            with suppress(FileNotFoundError):  # another process replaced it by a newer one
                shutil.copy2(index, folder / _INDEXES.name)
    return str(folder)

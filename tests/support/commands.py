"""Commands that tests run in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys


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

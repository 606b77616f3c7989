"""The process that trains one run that another run needs. `fwk.runs.children` starts it; it is no command for users."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import cast

from fwk.cli.common import run_command
from fwk.components.trust import trusting
from fwk.contracts.json_files import parse_json
from fwk.contracts.plain import PlainDict


def main() -> int:
    """Do what the line on standard input says. Return the exit status of `fwk-train`."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):  # the process that started this one was killed meanwhile
        return 1
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()
    request = cast(PlainDict, parse_json(line))

    def body(_: Sequence[str]) -> int:
        from fwk.runs.needed import train_one

        with trusting(request["trust"]):
            return train_one(request)

    return run_command("fwk-train", body, None)


def _end_with_parent() -> None:
    """Ask this process to save and stop when the one that started it is gone."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())

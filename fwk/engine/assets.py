"""What networks keep in RUN/tokenizer (`Encoder.assets`), so that a run depends on no other files of the user."""

from __future__ import annotations

from pathlib import Path
from typing import cast
from urllib.parse import quote

from torch import nn

from fwk.contracts.encoder import Encoder
from fwk.contracts.json_files import read_bytes
from fwk.errors import CheckpointError
from fwk.files import write_atomically


def _prefix(network: str) -> str:
    """Return the beginning of the names of a network's files; that of no network begins with that of another."""
    return f"network.{quote(network, safe='').replace('.', '%2E')}."


def write_assets(networks: nn.ModuleDict, folder: Path) -> None:
    """Write the assets of every network to a folder."""
    for name, network in networks.items():
        for file, content in cast(Encoder, network).assets().items():
            write_atomically(folder / f"{_prefix(name)}{file}", content)


def read_assets(folder: Path, network: str) -> dict[str, bytes]:
    """Return the assets of a network by file name. Raises CheckpointError for a file that cannot be read."""
    prefix = _prefix(network)
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    assets = {}
    for path in paths:
        if path.name.startswith(prefix):
            try:
                assets[path.name.removeprefix(prefix)] = read_bytes(path)
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from None
    return assets

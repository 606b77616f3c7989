"""Folders of models: one on this machine, or a repository of the Hugging Face hub, named `hub:NAME`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fwk.contracts.option_paths import HUB
from fwk.errors import ConfigError, did_you_mean
from fwk.files import user_path

# what is fetched of a repository: no pickle, no code
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json", *TOKENIZER_FILES)


def model_folder(place: str, key: str, files: Sequence[str] = FILES) -> Path:
    """Return the folder of a model. A repository of the hub is fetched where the cache lacks it.

    place: a folder, or `hub:NAME`. key: of the option, for errors. files: patterns of what is fetched. Raises
    ConfigError where there is no such folder or repository.
    """
    if place.startswith(HUB):
        return _fetched(place.removeprefix(HUB), key, files)
    folder = user_path(place)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ConfigError(key, f"{folder} is a file; expected a folder with config.json")
    names = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
    raise ConfigError(
        key,
        f"there is no folder {folder}{did_you_mean(folder.name, names, everything_up_to=0)}; a repository of the "
        f"Hugging Face hub is named {HUB}NAME",
    )


def _fetched(name: str, key: str, files: Sequence[str]) -> Path:
    """Return the folder of a repository in the cache of the hub's library."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise ConfigError(
            key, f"{HUB}{name} needs the package 'huggingface_hub'; pip install 'fwk[hf]'"
        ) from None
    patterns = list(files)
    try:
        try:
            cached = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        except LocalEntryNotFoundError:
            cached = None
        if cached is not None and _is_complete(cached, files):
            return cached
        return Path(snapshot_download(name, allow_patterns=patterns))
    except HFValidationError:
        raise ConfigError(
            key, f"'{name}' is no name of a repository; expected {HUB}OWNER/NAME or {HUB}NAME"
        ) from None
    except (
        Exception
    ) as error:  # of the network, of the disk, and of the hub: no such repository, no access
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(key, f"{HUB}{name} cannot be fetched ({reason})") from None


def _is_complete(folder: Path, files: Sequence[str]) -> bool:
    """Return whether the cache has what is wanted of a repository: other programs may have fetched other files."""
    needed = [pattern for pattern in ("config.json", "model*.safetensors") if pattern in files]
    tokenizers = [any(folder.glob(pattern)) for pattern in TOKENIZER_FILES]
    if not needed:
        return any(tokenizers)
    return all(any(folder.glob(pattern)) for pattern in needed)

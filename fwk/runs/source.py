"""Sources of weights that a run starts from: runs, checkpoints, copies of weights, and folders of Hugging Face.

A source is data: its weights under the names of a module, the options of its networks, and its tokenizer. The options
and the config of a run are read as everywhere, so a run that needs code of a user directory needs the user's word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from fwk.components.registry import registry
from fwk.components.user_dirs import PREFIX
from fwk.config.run_config import RunConfig
from fwk.config.spec import Component
from fwk.contracts.encoder import Encoder
from fwk.contracts.heads import HeadOutputs
from fwk.contracts.option_paths import HUB
from fwk.contracts.options import Plain
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.data.hub import model_folder
from fwk.data.tokenizers import Tokenizer
from fwk.engine.build import network_specs
from fwk.engine.loaded import Loaded
from fwk.engine.parts import MAIN
from fwk.engine.saving.state import model_tensors
from fwk.errors import ConfigError, UntrustedCode, UserError, did_you_mean
from fwk.files import user_path
from fwk.hf.importing import ReadModel, read_model
from fwk.runs.loaded import load


@dataclass(frozen=True)
class SourcePart:
    """A criterion or a learned noiser of a source, with its own weights."""

    roles: tuple[str, ...]  # of its head
    head_path: str  # what the names of its head's weights begin with
    outputs: HeadOutputs  # of its head
    options: PlainMapping  # of the criterion or noiser, as far as they are known
    tensors: Mapping[str, Tensor]  # by name within the part


@dataclass(frozen=True)
class Source:
    """Weights to start from."""

    place: str  # for messages
    networks: Mapping[str, PlainDict]  # by name: the model's name and options
    tensors: Mapping[str, Tensor]  # by name in a module, tied ones under each of their names
    names: Sequence[str]  # of the tensors, tied ones once
    parts: Mapping[str, SourcePart]  # by label or view, trained ones only
    left_behind: Sequence[str]  # names of weights in the source that fwk does not know
    tokenizer: Tokenizer | None
    tokenizer_path: Path | None
    user_dirs: tuple[str, ...]  # that its networks come from
    assets: Path | None  # what its networks keep (`Encoder.assets`)

    def network(self, name: str) -> str:
        """Return the network of the source for a network `name`: the one of the same name, else the main one."""
        return name if name in self.networks else MAIN

    def part_for(self, name: str, roles: Sequence[str], learned: bool = False) -> str | None:
        """Return the part whose head a part `name` of a run takes: of the same name, or the only one of its roles.

        learned: whether it is a learned noiser. None: there is no such part.
        """
        if name in self.parts:
            return name
        alike = [other for other, part in self.parts.items() if set(roles) & set(part.roles)]
        if not learned:
            # the head of a learned noiser reads a network of its own, such as the generator beside a discriminator
            alike = [other for other in alike if not self.is_learned(other)]
        return alike[0] if len(alike) == 1 else None

    def is_learned(self, part: str) -> bool:
        """Return whether a part is a learned noiser."""
        return any(tensor.startswith(f"learned.{part}.") for tensor in self.tensors)

    @property
    def fingerprint(self) -> str:
        """The sha256 of its weights and its tokenizer."""
        hashed = hashlib.sha256()
        for name in sorted(self.names):
            value = self.tensors[name].detach().cpu().contiguous()
            hashed.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            hashed.update(memoryview(value.view(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
        hashed.update(json.dumps(self.tokenizer and self.tokenizer.fingerprint).encode())
        return hashed.hexdigest()


def open_source(place: str, key: str, user_dirs: tuple[str, ...] = ()) -> Source:
    """Return the source at a path or of a name on the hub.

    key: the config's key that names it. user_dirs: of the run that starts from it, used instead of the source's where
    there are any. Raises ConfigError at the key where it cannot be read, and UntrustedCode.
    """
    try:
        path = _find(place, key)
        if (path / "config.json").is_file() and not (path / "checkpoints").is_dir():
            return _of_folder(read_model(path), place, path)
        return _of_run(load(path, user_dirs), place)
    except UntrustedCode:
        raise
    except UserError as error:
        if isinstance(error, ConfigError) and error.key == key:
            raise
        raise ConfigError(key, str(error)) from error


def _of_run(loaded: Loaded, place: str) -> Source:
    module, config = loaded.module, loaded.config
    specs = network_specs(config, config.views_by_name)
    components = {MAIN: config.model} | {name: spec.component for name, spec in specs.items()}
    tensors = {n: v.detach() for n, v in module.state_dict().items() if n != "anchor"}
    parts = {
        name: SourcePart(
            roles=part.component.roles,
            head_path=part.component.head_path,
            outputs=part.component.head_outputs(),
            options=_options_of(config, name),
            tensors=_below(tensors, f"{part.path}."),
        )
        for name, part in module.parts.items()
        if name not in loaded.untrained
    }
    tokenizer = loaded.tokenizer if isinstance(loaded.tokenizer, Tokenizer) else None
    own = any(_is_user_code(component) for component in components.values())
    return Source(
        place=place,
        networks={
            name: {
                "name": component.name,
                **component.values,
                **_encoder_options(loaded, name),
            }
            for name, component in components.items()
        },
        tensors=tensors,
        names=list(model_tensors(module)),
        parts=parts,
        left_behind=(),
        tokenizer=tokenizer,
        tokenizer_path=None if tokenizer is None else loaded.folder.parent.parent / "tokenizer",
        user_dirs=config.user_dirs if own else (),
        assets=loaded.folder.parent.parent / "tokenizer",
    )


def _options_of(config: RunConfig, part: str) -> PlainMapping:
    return config.criterion[part].component.values if part in config.criterion else {}


def _encoder_options(loaded: Loaded, name: str) -> dict[str, Plain]:
    return cast(Encoder, loaded.module.networks[name]).options_of_task()


def _is_user_code(component: Component) -> bool:
    return registry.get(component.kind, component.name).module.startswith(PREFIX)


def _of_folder(read: ReadModel, place: str, path: Path) -> Source:
    tensors = {
        f"networks.{MAIN}.{name.removeprefix('encoder.')}": value
        for name, value in read.tensors.items()
        if name.startswith("encoder.")
    }
    parts = {}
    if read.role is not None:
        head = {name: value for name, value in read.tensors.items() if name.startswith("head.")}
        tensors |= {f"criteria.{read.role}.{name}": value for name, value in head.items()}
        outputs = HeadOutputs() if read.head is None else read.head.outputs
        options = {} if read.head is None else read.head.form_options
        parts[read.role] = SourcePart((read.role,), "head", outputs, options, head)
    return Source(
        place=place,
        networks={MAIN: {"name": "bert", **read.options}},
        tensors=tensors,
        names=list(tensors),
        parts=parts,
        left_behind=read.left_behind,
        tokenizer=read.tokenizer,
        tokenizer_path=path,
        user_dirs=(),
        assets=None,
    )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, under the rest of their names."""
    return {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}


def _find(place: str, key: str) -> Path:
    """Return the folder of a source, fetched from the hub where it is named so. Raises ConfigError without one."""
    path = model_folder(place, key) if place.startswith(HUB) else user_path(place)
    files = [path / name for name in ("manifest.json", "config.json")]
    if (path / "checkpoints").is_dir() or any(file.is_file() for file in files):
        return path
    if path.exists():
        raise ConfigError(
            key,
            f"{path} is neither a run, nor a checkpoint, nor a folder of Hugging Face (it has no checkpoints/, "
            "manifest.json or config.json)",
        )
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ConfigError(
        key,
        f"there is no run, checkpoint or folder at {path} (a repository of the Hugging Face hub is named {HUB}NAME)"
        f"{did_you_mean(path.name, names, everything_up_to=0)}",
    )

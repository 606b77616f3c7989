"""A checkpoint opened for use: its model, tokenizer and config (`fwk.load`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pluggy import PluginManager

from fwk.components.discovery import load_plugins
from fwk.config.resolve import read as read_config
from fwk.config.run_config import RunConfig
from fwk.contracts.encoder import Encoder
from fwk.engine.build import build_module
from fwk.engine.predict import predict_texts
from fwk.engine.saving import checkpoint
from fwk.engine.saving.state import load_model_tensors, model_tensors, write_weights
from fwk.errors import CheckpointError, PluginError, UnknownName, UserError

LOADED_TOGETHER = 16  # batches of raw texts among which those of like lengths are looked for


KEPT_STATE = (
    "update",
    "skipped",
    "tokens",
    "sequences",
    "seconds",
    "phase",
    "fingerprint",
)  # of a run's state, in a copy of its weights


COPY_ORIGIN = "a trained run"  # where the weights of a copy are from


@dataclass(frozen=True)
class Loaded:
    """What `fwk.load` returns. module: every network, head and learned noiser in evaluation mode; model: the main
    encoder. tokenizer: None for tasks without one. task: without its data. state: how far the run had come."""

    folder: Path
    config: RunConfig
    module: torch.nn.Module
    tokenizer: Any
    update: int
    task: Any
    state: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def model(self) -> Encoder:
        return self.module.networks["main"]

    def predict(self, texts: Iterable[str | Sequence[str]], batch: int = 64) -> list[Any]:
        """What the criteria say of raw texts (or of lists of words), each as the task words it; `batch` texts at a time, and
        fewer where they are long. UserError where the task reads no raw text, or no criterion predicts; DataError names a text that
        cannot be read."""
        if isinstance(texts, str):
            raise UserError(f"predict: expected a list of texts, got one text ({texts[:40]!r})")
        if not isinstance(texts, Iterable):
            raise UserError(f"predict: expected a list of texts, got {texts!r}")
        if batch < 1:
            raise UserError(f"predict: batch is {batch}, expected at least 1")
        texts, found = list(texts), []
        for start in range(0, max(len(texts), 1), LOADED_TOGETHER * batch):
            some = texts[start : start + LOADED_TOGETHER * batch]
            found += predict_texts(
                self.module,
                self.task,
                some,
                [f"texts[{n}]" for n in range(start, start + len(some))],
                batch,
            )
        return found

    def save(self, folder: str | Path) -> None:
        """Writes what `load` reads (config, tokenizer, weights) as a run's folder with nothing to go on training from, for
        whoever takes a model along. CheckpointError where another run lies there, which would be lost."""
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"{folder} is not a folder; choose another place for the copy")
        for there in checkpoint.list_checkpoints(folder):
            if not checkpoint.holds_weights_only(there):
                raise CheckpointError(
                    f"{folder} holds a run, whose checkpoint {there.name} can be gone on from; choose another folder for the copy"
                )
        (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
        self.task.save_assets(folder / "tokenizer")
        write_weights(folder, model_tensors(self.module), self.config, COPY_ORIGIN, **self.state)


def _opened(
    path: str | Path, user_dirs: Sequence[str], average: bool, overrides: Sequence[str] = ()
) -> tuple[Path, dict[str, dict[str, torch.Tensor]], dict[str, Any], RunConfig, PluginManager]:
    """A run's newest whole checkpoint, or the one named: where it is, its tensors and state, the run's config, its plugins."""
    found = checkpoint.find_checkpoint(Path(path))
    tensors, state = checkpoint.read_checkpoint(found)
    try:
        config = read_config(found.parent.parent / "config.yaml", user_dirs, overrides)
    except (UnknownName, PluginError) as error:
        raise CheckpointError(
            f"{found} cannot be used here: {error}{checkpoint.describe_requirements(state)}"
        ) from error
    if average and "average" not in tensors:
        raise CheckpointError(
            f"{found} holds no moving average of the weights; "
            f"{f'it is a copy of one set of weights ({origin})' if (origin := state.get('imported')) else 'it was trained with train.ema=0'}"
        )
    return found, tensors, state, config, load_plugins(config.user_dirs)


def load(path: str | Path, user_dirs: tuple[str, ...] = (), average: bool | None = None) -> Loaded:
    """A checkpoint, or a run (its newest whole checkpoint) -> model, tokenizer and config, on the CPU. average: take
    the moving average of the weights (train.ema); None: where the run was evaluated with it (train.evaluate_average)."""
    found, tensors, state, config, _ = _opened(path, user_dirs, bool(average))
    if average is None:  # a copy that `Loaded.save` wrote holds the chosen weights alone
        average = config.train.evaluate_average and "average" in tensors
    task = config.task.cls.without_data(config.task.config, config.seed, found.parent.parent)
    module = build_module(config, task)
    checkpoint.require_finite(found, tensors["model"], module)
    load_model_tensors(
        module, {**tensors["model"], **(tensors["average"] if average else {})}, found
    )
    module.eval()
    module.encoding.averages = tensors.get("average")  # for views that are encoded with it
    return Loaded(
        found,
        config,
        module,
        getattr(task, "tokenizer", None),
        state["update"],
        task,
        {key: state[key] for key in KEPT_STATE if key in state},
    )

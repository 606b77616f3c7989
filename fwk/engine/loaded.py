"""A trained model in use: its module, tokenizer and config (what `fwk.load` returns)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from torch import Tensor

from fwk.config.run_config import RunConfig
from fwk.contracts.encoder import Encoder
from fwk.contracts.plain import PlainMapping
from fwk.contracts.task import RawText, Task
from fwk.engine.assets import write_assets
from fwk.engine.encode_texts import encode_texts
from fwk.engine.module import ObjectiveModule
from fwk.engine.predict import predict_texts
from fwk.engine.saving import checkpoint
from fwk.engine.saving.state import model_tensors, write_weights
from fwk.errors import CheckpointError, ConfigError, UserError, did_you_mean
from fwk.files import user_path
from fwk.files.kinds import COPY
from fwk.files.outputs import AtomicFolder
from fwk.nn.pooling import Pooling

BATCHES_PER_CALL = 16  # raw texts are sorted by length among this many batches
COPY_ORIGIN = "a trained run"  # the `imported` entry of a copy's state


@dataclass(frozen=True)
class Loaded:
    """What `fwk.load` returns."""

    folder: Path  # of the checkpoint
    config: RunConfig
    module: ObjectiveModule  # every network, head and learned noiser, in evaluation mode
    tokenizer: Any  # of the task; None for tasks without one
    update: int  # updates done
    task: Task  # without its data
    state: PlainMapping = field(default_factory=dict, repr=False)  # the counters of the run
    untrained: tuple[str, ...] = ()  # criteria and learned views that hold their initial weights

    @property
    def model(self) -> Encoder:
        """The main encoder."""
        return cast(Encoder, self.module.networks["main"])

    def require_trained(self, name: str, key: str, remedy: str = "train it first") -> None:
        """Raise ConfigError at `key` where the criterion or learned view `name` was never trained."""
        if name in self.untrained:
            raise ConfigError(
                key,
                f"'{name}' of {self.folder} was never trained, so what it computes is noise; {remedy}",
            )

    def predict(self, texts: Iterable[RawText], batch: int = 64) -> list[Any]:
        """Return the criteria's predictions for raw texts, in the form that the task gives them.

        A text is what the task reads: one text, a list of words or of texts, or texts by name. One that the task reads
        in windows has the prediction of all of them, as in an evaluation.

        batch: texts at a time; fewer where they are long. Raises UserError where the task reads no raw text or no
        criterion predicts, and DataError, which names the text, where one cannot be read.
        """
        if isinstance(texts, str):
            raise UserError(f"predict: expected a list of texts, got one text ({texts[:40]!r})")
        if not isinstance(texts, Iterable):
            raise UserError(f"predict: expected a list of texts, got {texts!r}")
        if batch < 1:
            raise UserError(f"predict: batch is {batch}, expected at least 1")
        texts, predictions = list(texts), []
        size = BATCHES_PER_CALL * batch
        for start in range(0, max(len(texts), 1), size):
            part = texts[start : start + size]
            names = [f"texts[{number}]" for number in range(start, start + len(part))]
            predictions += predict_texts(self.module, self.task, part, names, batch)
        return predictions

    def encode(
        self,
        texts: Iterable[str],
        pooling: Pooling = "mean",
        layer: int | None = None,
        batch: int = 64,
    ) -> Tensor:
        """Return the vectors of raw texts, [N, D] in fp32 on the CPU.

        pooling: mean over positions, cls, max, last, or pooler. layer: pool this layer instead of the last one, 0 for
        the embedding. batch: texts at a time; fewer where they are long. Raises UserError for a model that reads no
        text, and ConfigError for a layer or pooler that it lacks.
        """
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise UserError(f"encode: expected a list of texts, got {texts!r:.60}")
        if self.tokenizer is None or type(self.task).framed is Task.framed:
            raise UserError("encode: this model reads no raw text")
        if pooling not in get_args(Pooling):
            known = get_args(Pooling)
            raise UserError(
                f"encode: unknown pooling {pooling!r}{did_you_mean(str(pooling), known)}"
            )
        state = None
        if layer is not None:
            state = f"layer_{layer}" if layer else "embedding"
        texts = list(texts)
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"encode: texts[{number}] is {text!r:.60}, expected text")
        return encode_texts(self.module, self.task, self.tokenizer, texts, pooling, state, batch)

    def save(self, folder: str | Path) -> None:
        """Write config, tokenizer and weights as a folder that `fwk.load` reads and training cannot resume from.

        An earlier copy in the folder is replaced; files beside it stay. Raises CheckpointError where the folder holds
        anything else.
        """
        place = user_path(folder).resolve()
        _check_place_of_copy(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        with AtomicFolder(place, overwrite=True, kind=COPY) as copy:
            (copy / "tokenizer").mkdir()
            self.task.save_assets(copy / "tokenizer")
            write_assets(self.module.networks, copy / "tokenizer")
            write_weights(copy, model_tensors(self.module), self.config, COPY_ORIGIN, **self.state)


def _check_place_of_copy(folder: Path) -> None:
    """Raise CheckpointError where a folder holds anything but a copy of weights."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; choose another place for the copy")
    for path in checkpoint.list_checkpoints(folder):
        if not checkpoint.holds_weights_only(path):
            raise CheckpointError(
                f"{folder} holds a run that can resume from {path.name}; choose another folder for the copy"
            )
    if folder.is_dir() and any(folder.iterdir()) and not COPY.holds(folder):
        raise CheckpointError(
            f"{folder} is not empty, and is no copy of weights; choose another folder for the copy"
        )

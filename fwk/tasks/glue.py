"""The nine tasks of GLUE (Wang et al. 2018), and its diagnostic set, from their original files.

    fwk-train --task glue --criterion classification task.set=mrpc task.data=GLUE model.from=...

MNLI validates on its matched and its mismatched development set, as two sources. Metrics are those that GLUE names for
the task. `fwk-evaluate --split test --predictions FOLDER/MRPC.tsv` writes the layout of a submission.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.options import option
from fwk.contracts.task import Predictions
from fwk.data.examples.bad_rows import read_all
from fwk.data.examples.encoding import TextSpec
from fwk.data.examples.labels import LabelSpace
from fwk.data.examples.measuring import decided, measure, over_windows
from fwk.data.examples.metrics import installed
from fwk.data.examples.options import LabelledOptions
from fwk.data.examples.task import LabelledTask, Records
from fwk.data.labelled import Labelled
from fwk.data.layouts.glue import GlueFiles, GlueTask, glue_task, open_glue, submission
from fwk.errors import DataError
from fwk.files import write_atomically

Set = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "ax"]
LABEL = "label"
# split of the task -> source -> split of the files
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("dev", "dev_matched", "dev_mismatched"),
    "test": ("test", "test_matched", "test_mismatched"),
}
METRICS: Mapping[str, tuple[str, ...]] = {
    "cola": ("matthews",),
    "mrpc": ("accuracy", "f1"),
    "qqp": ("accuracy", "f1"),
    "stsb": ("pearson", "spearman"),
}


@register("task", "glue")
class Glue(LabelledTask["Glue.Config"]):
    """One task of GLUE."""

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelledOptions):
        data: str = option(doc="folder of GLUE, or of one of its tasks", paths=())
        set: Set = option(doc="the task of GLUE")
        double_pairs: bool = option(
            False,
            "train on the sentences of MRPC and STS-B in both orders (ELECTRA and BAM do, in their code)",
        )

    @property
    def glue(self) -> GlueTask:
        """The task of GLUE."""
        return glue_task(self.config.set)

    @cached_property
    def files(self) -> GlueFiles:
        """The files that were found."""
        return open_glue(self.config.set, self.config.data)

    def find_splits(self) -> tuple[str, ...]:
        found = self.files.files
        return tuple(
            split for split, names in SPLITS.items() if any(name in found for name in names)
        )

    def read(self, split: str) -> Records:
        names = [name for name in SPLITS[split] if name in self.files.files]
        if not names:
            raise DataError(
                f"GLUE's {self.config.set} has no file of the split '{split}'; it has {', '.join(self.files.files)}"
            )
        records = {}
        for name in names:
            key = f"task.data ({self.files.file(name)})"
            source = name.partition("_")[2] or self.config.set
            records[source] = read_all(
                lambda on_bad, name=name: self.files.read(name, on_bad),  # type: ignore[misc]
                key,
                self.config.skip_malformed,
            )
        if split == "train" and self.config.double_pairs:
            return {name: list(_doubled(source)) for name, source in records.items()}
        return records

    def describe_texts(self, records: Sequence[Labelled]) -> tuple[TextSpec, ...]:
        return tuple(TextSpec(name) for name in self.glue.texts)

    def describe_labels(self, records: Sequence[Labelled]) -> tuple[LabelSpace, ...]:
        kind = "class" if self.glue.classes else "number"
        return (LabelSpace(LABEL, kind, self.glue.classes),)

    def metrics_of_predictions(self, split: str, predictions: Predictions) -> dict[str, float]:
        usual = METRICS.get(self.config.set, ("accuracy",))
        names = self.config.metrics or installed(usual) or ("accuracy",)
        return measure(self._encoded[split], self.spaces, predictions, names)

    def check_predictions(self, split: str, targets: Mapping[str, Path]) -> None:
        others = {name: path for name, path in targets.items() if path.suffix != ".tsv"}
        super().check_predictions(split, others)

    def write_predictions(
        self, split: str, source: str, predictions: Mapping[str, Mapping[int, Tensor]], path: Path
    ) -> None:
        """Write the layout of a submission to a file *.tsv, and a table to any other."""
        if path.suffix != ".tsv" or LABEL not in predictions:
            super().write_predictions(split, source, predictions, path)
            return
        space, keys = self.spaces[LABEL], self._encoded[split][source].keys
        rows = []
        merged = over_windows(self._encoded[split][source], predictions[LABEL])
        for number, values in sorted(merged.items()):
            value = decided(values, space)
            answer = space.values[int(value)] if space.kind == "class" else float(value)
            rows.append((keys[number], answer))
        write_atomically(path, submission(self.glue, rows).encode())


def _doubled(records: Sequence[Labelled]) -> Iterator[Labelled]:
    """Yield each record of two texts, and the same with its texts exchanged."""
    for record in records:
        yield record
        if len(record.texts) == 2:
            (first, a), (second, b) = record.texts.items()
            yield replace(record, key=f"{record.key} exchanged", texts={first: b, second: a})

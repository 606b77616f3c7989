"""The head for a task in a folder of `transformers`: the options of its criterion, and the task that it belongs to.

The folder says what the labels are, but not which texts the model reads: those are named by the user, or have the usual
names (`TEXTS`). Other names of columns are given later, as `task.texts=[text=review]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fwk.contracts.heads import HeadOutputs
from fwk.contracts.json_files import fitted
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.data.examples.assets import Assets
from fwk.data.examples.encoding import TextSpec
from fwk.data.examples.labels import LabelSpace
from fwk.errors import ConfigError, DataError
from fwk.hf.families import (
    BERT,
    MULTIPLE_CHOICE,
    PROBLEMS,
    QUESTION_ANSWERING,
    Architecture,
)
from fwk.nn.pooling import form_of

TASK_ROLES = (*PROBLEMS, MULTIPLE_CHOICE, QUESTION_ANSWERING)
LABEL, CHOICES, SOURCE = "label", "choices", "examples"
TEXTS = {MULTIPLE_CHOICE: ("context",), QUESTION_ANSWERING: ("question", "context")}
KINDS = {
    "sequence_classification": "class",
    "multilabel_classification": "classes",
    "sequence_regression": "number",
    MULTIPLE_CHOICE: "choice",
    QUESTION_ANSWERING: "span",
}
NO_DATA = "training-data-unknown.tsv"  # what `task.data` names where the examples were never here
_TYPES = {
    "id2label?": "dict[str, str]",
    "problem_type?": "str | None",
    "classifier_dropout?": "float | None",
    "hidden_dropout_prob?": "float",
    "summary_last_dropout?": "float",
    "summary_activation?": "str | None",
    "summary_type?": "str",
    "summary_use_proj?": "bool",
}


@dataclass(frozen=True)
class TaskHead:
    """A head for a task."""

    options: PlainDict  # of the criterion
    has_dense: bool  # whether it has a dense layer of its own before the output
    kind: str  # of the label
    values: tuple[str, ...]  # of the label

    @property
    def outputs(self) -> HeadOutputs:
        """What its outputs mean."""
        if not self.options:  # of answers
            return HeadOutputs()
        form = form_of(self.form_options["pooling"], self.form_options["hidden"])
        return HeadOutputs(names=self.values, form=form)

    @property
    def form_options(self) -> PlainDict:
        """Options of the criterion that determine the form of the head."""
        return {"pooling": "cls", "hidden": "none", **self.options} if self.options else {}


def with_problem(architecture: Architecture, config: PlainMapping, file: Path) -> Architecture:
    """Return the architecture with the role that config.json states, where several roles share the class."""
    if architecture.role not in PROBLEMS:
        return architecture
    entries = fitted(dict(config), _TYPES, file)
    names = entries.get("id2label")
    problem = entries.get("problem_type")
    if problem is None:  # as the library decides it from the number of labels
        single = names is not None and len(names) == 1
        problem = PROBLEMS["sequence_regression" if single else "sequence_classification"]
    for role, name in PROBLEMS.items():
        if name == problem:
            return Architecture(architecture.family, role)
    raise DataError(
        f"{file}: problem_type is {problem!r}; expected one of {', '.join(PROBLEMS.values())}"
    )


def read_task_head(
    architecture: Architecture, config: PlainMapping, tensors: Mapping[str, Tensor], file: Path
) -> TaskHead | None:
    """Return the head for a task; None where the class has another head or none.

    tensors: under the names of `transformers`. Raises DataError and ConfigError for what does not fit.
    """
    role = architecture.role
    if role not in TASK_ROLES:
        return None
    entries = fitted(dict(config), _TYPES, file)
    if role == QUESTION_ANSWERING:
        return TaskHead({}, False, KINDS[role], ())
    bias = f"{architecture.head.modules['output']}.bias"
    if bias not in tensors:
        raise DataError(f"the weights lack {bias}, which a {architecture.class_name} has")
    options, has_dense = _head_options(architecture, entries)
    kind = KINDS[role]
    values = () if role == MULTIPLE_CHOICE else _label_names(entries, len(tensors[bias]), file)
    if role == "sequence_regression":
        kind = "number" if len(values) == 1 else "numbers"
    return TaskHead(options, has_dense, kind, values)


def _head_options(architecture: Architecture, entries: PlainMapping) -> tuple[PlainDict, bool]:
    """Return the options of the criterion, and whether its head has a dense layer before the output."""
    dropout = entries.get("classifier_dropout")
    if dropout is None:
        dropout = entries.get("hidden_dropout_prob", 0.1)
    if architecture.family == BERT:
        return {"pooling": "pooler", "dropout": dropout}, False
    if architecture.role in PROBLEMS:
        return {"hidden": "gelu", "dropout": dropout}, True
    dropout = entries.get("summary_last_dropout", 0.1)
    if (summary := entries.get("summary_type", "first")) != "first":
        raise ConfigError("summary_type", f"'{summary}' is not supported; expected 'first'")
    activation = entries.get("summary_activation", "gelu") or "none"
    has_dense = bool(entries.get("summary_use_proj", True))
    if activation not in (("gelu", "tanh") if has_dense else ("none",)):
        raise ConfigError(
            "summary_activation",
            f"'{activation}' with summary_use_proj={has_dense} is not supported; expected gelu or tanh with it",
        )
    return {"hidden": activation, "dropout": dropout}, has_dense


def _label_names(entries: PlainMapping, outputs: int, file: Path) -> tuple[str, ...]:
    """Return the names of the outputs. Raises DataError where there are more or fewer."""
    names = entries.get("id2label")
    if names is None:
        return tuple(f"LABEL_{number}" for number in range(outputs))
    if set(names) != {str(number) for number in range(outputs)}:
        raise DataError(f"{file}: id2label names {len(names)} labels, and the head has {outputs}")
    values = tuple(names[str(number)] for number in range(outputs))
    if len(set(values)) < outputs:
        raise DataError(f"{file}: id2label gives two labels the same name")
    return values


# -- the task --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImportedTask:
    """The task of an imported head: labelled examples without any example."""

    role: str
    head: TaskHead
    texts: Sequence[str]  # in the order of a sequence

    def config(self, run: Path, length: int) -> PlainDict:
        """Return the task's entry of a config. length: tokens that the model reads."""
        task: PlainDict = {
            "name": "examples",
            "data": str(run / NO_DATA),
            "texts": list(self.texts),
            "label": LABEL,
            "kind": self.head.kind,
            "length": min(max(length, 8), 65536),
            "tokenizer": str(run / "tokenizer"),
        }
        if self.head.kind in ("class", "classes"):
            task["classes"] = list(self.head.values)
        if self.role == MULTIPLE_CHOICE:
            task["choices"] = [CHOICES]
        return task

    def assets(self, fingerprint: str) -> Assets:
        """Return what a run with this task keeps beside its tokenizer."""
        spans = self.texts[-1] if self.head.kind == "span" else ""
        texts = [TextSpec(name, has_spans=name == spans) for name in self.texts]
        if self.role == MULTIPLE_CHOICE:
            texts.append(TextSpec(CHOICES, is_list=True))
        values = () if self.head.kind == "number" else self.head.values
        label = LabelSpace(LABEL, self.head.kind, values, spans)
        return Assets(tuple(texts), (label,), {SOURCE: 1}, (SOURCE,), fingerprint)


def imported_task(role: str, head: TaskHead, texts: Sequence[str]) -> ImportedTask:
    """Return the task of a head. texts: their names; none for the usual ones. Raises ConfigError for wrong names."""
    texts = tuple(texts) or TEXTS.get(role, ("text",))
    most = {MULTIPLE_CHOICE: 1, QUESTION_ANSWERING: 2}.get(role, 2)
    named = len(set(texts)) == len(texts) and all(texts) and CHOICES not in texts
    if not named or len(texts) > most or (role == QUESTION_ANSWERING and len(texts) < most):
        expected = "the text before the choices" if most == 1 else "one or two texts of a sequence"
        expected = "question and passage" if role == QUESTION_ANSWERING else expected
        raise ConfigError("--texts", f"names {', '.join(texts)}; expected {expected}")
    return ImportedTask(role, head, texts)

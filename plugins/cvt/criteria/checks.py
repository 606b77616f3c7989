"""What a run may not ask of taggers and parsers, each as a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fwk import BuildContext
from fwk.errors import ConfigError

if TYPE_CHECKING:
    from fwk_plugins.cvt.criteria.cross_view import CrossView


def check_modules(config: CrossView.Config) -> None:
    """ConfigError where auxiliary modules are to learn and there are none."""
    if not config.modules and (config.students == "auxiliary" or config.auxiliary_labels):
        does = (
            "imitate the primary one (students: auxiliary)"
            if config.students == "auxiliary"
            else "learn from labels (auxiliary_labels)"
        )
        raise ConfigError(
            "modules",
            f"is empty, and auxiliary modules are to {does}; name some of {', '.join(config.known)}, or train "
            "without (students: none, auxiliary_labels: false)",
        )


def check_states(build: BuildContext, modules: Mapping[str, Sequence[str]]) -> None:
    """ConfigError for the first module whose states the encoder does not have, or has with the whole sentence in them, so that there is
    nothing the module must do without. modules: the states that each one reads."""
    there = build.encoder.state_names()
    for module, states in modules.items():
        for state in states:
            if state not in there:
                raise ConfigError(
                    f"criterion.{build.name}.modules",
                    f"the module '{module}' reads the state '{state}', which "
                    f"{type(build.encoder).__name__} does not have; take the model 'cnn_bilstm', modules that read the "
                    "features alone ([full]), or none at all (students: none, auxiliary_labels: false)",
                )
            if getattr(build.encoder, "unrestricted", False):
                raise ConfigError(
                    f"criterion.{build.name}.modules",
                    f"the module '{module}' is to see a part of the sentence, and its state "
                    f"'{state}' has read all of it in the mixed layers of task.pretrained; take modules that see everything "
                    "([full]), none at all (students: none, auxiliary_labels: false), or no task.pretrained",
                )


def check_kind(label: str, labels: Mapping[str, Sequence[str]], key: str, tree: bool) -> None:
    """ConfigError where a tree is to be predicted as tags, or tags as a tree. key: of the criterion."""
    trees = [
        name.removesuffix("_head")
        for name in labels
        if name.endswith("_head") and f"{name.removesuffix('_head')}_relation" in labels
    ]
    if tree and label in labels:
        raise ConfigError(
            f"{key}.label",
            f"'{label}' is one value for each word, which 'cvt_tagging' predicts; expected a tree: "
            f"{', '.join(trees) or 'the task has none'}",
        )
    if not tree and label in trees:
        others = [
            name
            for name, values in labels.items()
            if values and name.rpartition("_")[0] not in trees
        ]
        raise ConfigError(
            f"{key}.label",
            f"'{label}' is a tree, which 'cvt_parsing' predicts; expected one value for each word: "
            f"{', '.join(others) or 'the task has none'}",
        )
    if not tree and label in labels and not labels[label]:
        raise ConfigError(
            f"{key}.label", f"'{label}' has no fixed values that a tagger could choose from"
        )

"""Checks of what a config asks of taggers and parsers. Each error names the key and the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fwk import BuildContext, Encoder
from fwk.errors import ConfigError
from fwk_plugins.cvt.criteria.cross_view import CrossView


def check_modules(config: CrossView.Config) -> None:
    """Raise ConfigError where auxiliary modules must learn and there are none."""
    imitate = config.students == "auxiliary"
    if config.modules or not (imitate or config.auxiliary_labels):
        return
    purpose = (
        "imitate the primary one (students: auxiliary)"
        if imitate
        else "learn from labels (auxiliary_labels)"
    )
    raise ConfigError(
        "modules",
        f"is empty, but auxiliary modules are to {purpose}; name some of {', '.join(config.module_names)}, or "
        "train without (students: none, auxiliary_labels: false)",
    )


def check_states(build: BuildContext, modules: Mapping[str, Sequence[str]]) -> None:
    """Raise ConfigError for the first module that cannot work on this encoder. modules: the states that each one reads.

    A state may be missing; or it may contain the whole sentence, so that nothing is hidden from the module.
    """
    key, encoder = f"criterion.{build.name}.modules", build.require_encoder()
    for module, states in modules.items():
        for state in states:
            if state not in encoder.state_names():
                raise ConfigError(
                    key,
                    f"the module '{module}' reads the state '{state}', which {type(encoder).__name__} does not "
                    "have; choose the model 'cnn_bilstm', modules that read only the features ([full]), or none "
                    "(students: none, auxiliary_labels: false)",
                )
            if reads_everything(encoder):
                raise ConfigError(
                    key,
                    f"the module '{module}' is to see a part of the sentence, but its state '{state}' has read all "
                    "of it in the mixed layers of task.pretrained; choose modules that see everything ([full]), none "
                    "(students: none, auxiliary_labels: false), or no task.pretrained",
                )


def reads_everything(encoder: Encoder[Any]) -> bool:
    """Return whether every state of an encoder depends on the whole sentence."""
    return getattr(encoder, "unrestricted", False)  # other encoders do not know this attribute


def check_kind(label: str, labels: Mapping[str, Sequence[str]], key: str, tree: bool) -> None:
    """Raise ConfigError where a tree is to be predicted as tags, or tags as a tree. key: of the criterion."""
    heads = [name.removesuffix("_head") for name in labels if name.endswith("_head")]
    trees = [name for name in heads if f"{name}_relation" in labels]
    if tree and label in labels:
        raise ConfigError(
            f"{key}.label",
            f"'{label}' is one value per word, which 'cvt_tagging' predicts; expected a tree: "
            f"{', '.join(trees) or 'the task has none'}",
        )
    if not tree and label in trees:
        per_word = [
            name
            for name, values in labels.items()
            if values and name.rpartition("_")[0] not in trees
        ]
        raise ConfigError(
            f"{key}.label",
            f"'{label}' is a tree, which 'cvt_parsing' predicts; expected one value per word: "
            f"{', '.join(per_word) or 'the task has none'}",
        )
    if not tree and label in labels and not labels[label]:
        raise ConfigError(
            f"{key}.label", f"'{label}' has no fixed values that a tagger could choose from"
        )

"""The model card of an exported folder."""

from __future__ import annotations

from collections.abc import Mapping

from fwk.config.identity import to_yaml
from fwk.config.user_paths import with_names_of_files
from fwk.contracts.plain import PlainMapping
from fwk.engine.loaded import Loaded
from fwk.engine.saving.checkpoint import read_state

MOST_VALUES = 20  # of a label that the card lists

TEMPLATE = """\
---
library_name: {library}
tags: [fwk]
---

# {class_name} trained with fwk

{content}
{task}
Update {update:,}, {tokens:,} tokens. Data fingerprint `{fingerprint}`.

```python
{example}
```

## Metrics

{metrics}

## Compared with fwk

{differences}

## Configuration

```yaml
{config}
```
"""

EXAMPLE = """\
from transformers import AutoTokenizer, {class_name}

model = {class_name}.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")"""
EXAMPLE_OF_VECTORS = """\
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("FOLDER").encode(["a text", "another one"])"""


def model_card(
    loaded: Loaded,
    head: str | None,
    class_name: str,
    differences: Mapping[str, float],
    pooling: str | None = None,
) -> str:
    """Return the card: objective, length of training, metrics, config, and how to load the model.

    `head`: the criterion or view whose head was exported; None for an encoder without one. `pooling`: of an encoder of
    sentence vectors.
    """
    example = EXAMPLE if pooling is None else EXAMPLE_OF_VECTORS
    state = read_state(loaded.folder)
    return TEMPLATE.format(
        class_name=class_name,
        library="transformers" if pooling is None else "sentence-transformers",
        example=example.format(class_name=class_name),
        content=_content(loaded, head, pooling),
        task=_task(loaded),
        update=state["update"],
        tokens=state.get("tokens", 0),
        fingerprint=state.get("fingerprint", "unknown"),
        metrics=_metrics(state.get("last_metrics") or {}),
        differences="\n".join(
            f"- {quantity}: largest difference {value:.1e}"
            for quantity, value in differences.items()
        ),
        config=to_yaml(with_names_of_files(loaded.config)).rstrip(),
    )


def _content(loaded: Loaded, head: str | None, pooling: str | None) -> str:
    criteria = loaded.config.criterion.items()
    objectives = ", ".join(f"{label} ({spec.component.name})" for label, spec in criteria)
    if pooling is not None:
        return f"Objective: {objectives}; the vector of a text is the pooling `{pooling}` of its tokens."
    if head is None:
        return "An encoder without a head."
    return f"Objective: {objectives}; the head is that of `{head}`."


def _task(loaded: Loaded) -> str:
    """Return the task, its texts and its labels, in a sentence each."""
    task, kinds = loaded.task, loaded.task.label_kinds()
    lines = [f"Task: {loaded.config.task.name}."]
    if texts := task.text_names():
        lines.append(f"Texts: {', '.join(texts)}.")
    for name, values in task.labels().items():
        kind = f" ({kinds[name]})" if name in kinds else ""
        shown = ", ".join(values[:MOST_VALUES]) + (", ..." if len(values) > MOST_VALUES else "")
        lines.append(f"Label `{name}`{kind}{f': {shown}' if shown else ''}.")
    return " ".join(lines)


def _metrics(metrics: Mapping[str, PlainMapping]) -> str:
    lines = [
        f"- {split}/{name}: {value:.6g}"
        for split, values in metrics.items()
        for name, value in values.items()
    ]
    return "\n".join(lines) or "none recorded"

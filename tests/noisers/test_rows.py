"""The noiser that keeps a part of the batch's rows."""

from __future__ import annotations

import pytest
import torch

from fwk import BuildContext, Key, View
from fwk.errors import ConfigError
from fwk.noisers.rows import Rows

B, T, K = 6, 5, 2
BUILD = BuildContext(
    name="some", sources=("news", "books", "web"), labels={"topic": ("a", "b"), "tags": ("x",)}
)
SOURCE = torch.tensor([0, 1, 2, 1, 0, 2])
TOPIC = torch.tensor([0, -1, 1, 1, -1, -1])


def view(**changes) -> View:
    rows = torch.arange(B)
    by_position = rows[:, None] * 10 + torch.arange(T)  # [B, T]
    return View(
        **{
            **{
                "name": "batch",
                "draws": rows + 100,
                "inputs": {"tokens": by_position, "segments": by_position % 2},
                "mask": by_position >= 0,
                "special": by_position % 10 == 0,
                "labels": {
                    "topic": TOPIC,
                    "tags": torch.where(torch.arange(T) == 2, TOPIC[:, None], -1),
                },
                "source": SOURCE,
                "target": by_position + 1,
                "positions": by_position[:, :K] % 10,
                "valid": by_position[:, :K] > 0,
                "changed": by_position > 20,
                "log_q": by_position / 7,
                "alignment": by_position % 10,
                "embedding_change": by_position[..., None].expand(B, T, 3) * 0.1,
                "extra": {"rewards": rows},
            },
            **changes,
        }
    )


def kept(source: View, **options) -> View:
    return Rows(Rows.Config(**options), BUILD).apply(source, Key(1, "some", source.draws))


@pytest.mark.parametrize(
    "options, rows",
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"sources": ("books",)}, [1, 3]),
        ({"sources": ("web", "news")}, [0, 2, 4, 5]),
        ({"label": "topic"}, [0, 2, 3]),
        ({"label": "topic", "unlabelled": True}, [1, 4, 5]),
        ({"label": "tags"}, [0, 2, 3]),
        ({"sources": ("books",), "label": "topic", "unlabelled": True}, [1]),
        ({"sources": ("news",), "label": "topic"}, [0]),
    ],
    ids=str,
)
def test_every_tensor_of_the_view_keeps_the_same_rows(options, rows):
    source = view()
    part = kept(source, **options)
    assert part.draws.tolist() == [100 + row for row in rows] and len(part) == len(rows)
    for name in (
        "mask",
        "special",
        "source",
        "target",
        "positions",
        "valid",
        "changed",
        "log_q",
        "alignment",
        "embedding_change",
    ):
        assert torch.equal(getattr(part, name), getattr(source, name)[rows]), name
    for whole, some in ((source.inputs, part.inputs), (source.labels, part.labels)):
        assert whole.keys() == some.keys() and all(
            torch.equal(some[n], whole[n][rows]) for n in whole
        )
    assert not part.extra and part.encoded is None and len(source) == B


def test_there_may_be_no_such_row():
    part = kept(view(source=torch.zeros(B, dtype=torch.int64)), sources=("web",), label="topic")
    assert len(part) == 0 and part.tokens.shape == (0, T) and part.positions.shape == (0, K)
    again = kept(part, label="topic")
    assert len(again) == 0


def test_wrong_names_are_refused_with_the_nearest():
    with pytest.raises(
        ConfigError, match="views.some.sources: the task has no source 'new'.*'news'"
    ):
        Rows(Rows.Config(sources=("new",)), BUILD)
    with pytest.raises(
        ConfigError, match="views.some.label: the task has no label 'topics'.*'topic'"
    ):
        Rows(Rows.Config(label="topics"), BUILD)
    with pytest.raises(ValueError, match="set 'label'"):
        Rows.Config(unlabelled=True)
    with pytest.raises(ConfigError, match="does not say which sources"):
        kept(view(source=None), sources=("news",))
    unknown = Rows(
        Rows.Config(sources=("news",)), BuildContext(name="some")
    )  # a model used without its data
    with pytest.raises(ConfigError, match="does not say which sources"):
        unknown.apply(view(), Key(1, "some", view().draws))

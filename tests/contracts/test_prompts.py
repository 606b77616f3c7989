"""Prompts are rendered as a person would write them down, and lose tokens of texts alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fwk.contracts.prompts import Piece, Prompt
from fwk.contracts.texts import Demonstrations, Frame, NamedText, Texts
from fwk.contracts.views import Batch, View
from fwk.errors import ConfigError

CLS, SEP, PAD, MASK = 1, 2, 0, 3
ASKED = (Piece(text="a"), Piece(ids=(40, 41)), Piece(ids=(MASK,), is_mask=True), Piece(ids=(42,)))


def shown(slot: int, word: int) -> tuple[Piece, ...]:
    return (Piece(text="a", slot=slot), Piece(ids=(40, 41)), Piece(ids=(word,)), Piece(ids=(42,)))


def text(*elements: list[int]) -> NamedText:
    return NamedText.of([[np.array(ids, np.int32)] for ids in elements], is_list=False)


def render(
    prompt: Prompt,
    field: NamedText,
    demonstrations: Demonstrations | None = None,
    answers: list[int] | None = None,
    **frame: object,
) -> View:
    around = {"before": (CLS,), "between": (SEP,), "after": (SEP,), "pad": PAD, "length": 99}
    texts = Texts(
        fields={"a": field},
        frame=Frame(**{**around, "special": (PAD, CLS, SEP, MASK), **frame}),
        prompts={"prompt": prompt},
        demonstrations=demonstrations,
        answers=None if answers is None else np.array(answers),
    )
    batch = Batch(inputs={}, draws=torch.arange(len(field.sizes)), texts=texts)
    return texts.rendered(batch, ["prompt"])


def rows(view: View) -> list[list[int]]:
    return [row[mask].tolist() for row, mask in zip(view.tokens, view.mask)]


def test_the_mask_is_the_chosen_position_and_the_word_its_target() -> None:
    view = render(Prompt((ASKED,)), text([10], [11, 12]), answers=[60, -1])
    assert rows(view) == [[CLS, 10, 40, 41, MASK, 42, SEP], [CLS, 11, 12, 40, 41, MASK, 42, SEP]]
    assert view.positions.tolist() == [[4], [5]] and bool(view.valid.all())
    assert view.at_positions(view.tokens).flatten().tolist() == [MASK, MASK]
    assert view.at_positions(view.target).flatten().tolist() == [60, MASK]
    assert view.changed.nonzero().tolist() == [[0, 4]]
    assert "segments" not in view.inputs


def test_demonstrations_follow_as_segments_of_their_own() -> None:
    prompt = Prompt((ASKED, shown(0, 60), shown(1, 61)))
    drawn = Demonstrations([{"a": text([20], [21])}, {"a": text([22, 23], [24])}], sets=None)
    view = render(prompt, text([10], [11]), drawn)
    assert rows(view) == [
        [
            *(CLS, 10, 40, 41, MASK, 42, SEP),
            *(20, 40, 41, 60, 42, SEP),
            22,
            23,
            40,
            41,
            61,
            42,
            SEP,
        ],
        [*(CLS, 11, 40, 41, MASK, 42, SEP), *(21, 40, 41, 60, 42, SEP), 24, 40, 41, 61, 42, SEP],
    ]
    assert view.inputs["segments"][0].tolist() == [0] * 7 + [1] * 13
    assert view.positions.tolist() == [[4], [4]]


def test_fixed_sets_give_every_example_a_row_each() -> None:
    fixed = Demonstrations([{"a": text([20], [21], [22])}], sets=3)
    view = render(Prompt((ASKED, shown(0, 60))), text([10], [11]), fixed)
    assert view.draws.tolist() == [0, 0, 0, 1, 1, 1]
    assert [row[1] for row in rows(view)] == [10, 10, 10, 11, 11, 11]
    assert [row[7] for row in rows(view)] == [20, 21, 22, 20, 21, 22]


@pytest.mark.parametrize("truncate", ["longest_first", "a", "another"])
def test_only_texts_are_cut_the_longest_first(truncate: str) -> None:
    fixed = Demonstrations([{"a": text(list(range(20, 30)))}], sets=1)
    prompt = Prompt((ASKED, shown(0, 60)))
    view = render(prompt, text([10, 11, 12, 13]), fixed, length=17, truncate=truncate)
    assert rows(view) == [
        [*(CLS, 10, 11, 12, 40, 41, MASK, 42, SEP), *(20, 21, 22, 40, 41, 60, 42, SEP)]
    ]
    assert view.positions.tolist() == [[6]]


def test_a_prompt_is_a_whole_sequence() -> None:
    view = Texts(
        fields={"a": text([10])},
        frame=Frame(before=(CLS,), between=(SEP,), after=(SEP,), pad=PAD, special=(), length=9),
        prompts={"prompt": Prompt((ASKED,))},
    )
    batch = Batch(inputs={}, draws=torch.arange(1), texts=view)
    with pytest.raises(ConfigError, match="'prompt' is a template of whole sequences"):
        view.rendered(batch, ["prompt", "a"])

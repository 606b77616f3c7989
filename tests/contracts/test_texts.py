"""Named texts are rendered as a person would write the sequences down."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fwk.contracts.texts import Frame, NamedText, Span, Texts, longest_first, tokens_label
from fwk.contracts.views import Batch
from fwk.errors import ConfigError

CLS, SEP, PAD = 1, 2, 0
FRAME = Frame(
    before=(CLS,), between=(SEP,), after=(SEP,), pad=PAD, special=(PAD, CLS, SEP), length=12
)


def text(*elements: list[int] | list[list[int]], is_list: bool = False) -> NamedText:
    """Return a named text: by example the ids, or the lists of ids of its elements."""
    by_example = [element if is_list else [element] for element in elements]
    return NamedText.of([[np.array(part, np.int32) for part in row] for row in by_example], is_list)


def batch(texts: Texts, examples: int, **labels: torch.Tensor) -> Batch:
    return Batch(inputs={}, draws=torch.arange(5, 5 + examples), texts=texts, labels=labels)


def rows(view) -> list[list[int]]:
    return [row[mask].tolist() for row, mask in zip(view.tokens, view.mask)]


def test_two_texts_are_one_sequence_with_segments() -> None:
    texts = Texts(fields={"a": text([10, 11], [12]), "b": text([20], [21, 22, 23])}, frame=FRAME)
    view = texts.rendered(batch(texts, 2), ["a", "b"])
    assert rows(view) == [[CLS, 10, 11, SEP, 20, SEP], [CLS, 12, SEP, 21, 22, 23, SEP]]
    assert view.inputs["segments"].tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1]]
    assert view.special[0].tolist() == [True, False, False, True, False, True, True]
    assert rows(texts.rendered(batch(texts, 2), ["b"])) == [[CLS, 20, SEP], [CLS, 21, 22, 23, SEP]]
    assert "segments" not in texts.rendered(batch(texts, 2), ["b"]).inputs


def test_a_list_gives_a_row_per_element_with_the_draw_of_its_example() -> None:
    choices = text([[30], [31, 32]], [[33], [34], [35]], is_list=True)
    texts = Texts(fields={"a": text([10], [11, 12]), "choices": choices}, frame=FRAME)
    view = texts.rendered(batch(texts, 2, label=torch.tensor([1, 2])), ["a", "choices"])
    assert view.draws.tolist() == [5, 5, 6, 6, 6]
    assert view.labels["label"].tolist() == [1, 1, 2, 2, 2]
    assert rows(view)[:3] == [
        [CLS, 10, SEP, 30, SEP],
        [CLS, 10, SEP, 31, 32, SEP],
        [CLS, 11, 12, SEP, 33, SEP],
    ]


def test_spans_become_positions_of_the_sequence() -> None:
    fields = {"q": text([10, 11], [12]), "p": text(list(range(20, 30)), [40, 41])}

    def with_answers(*answers: list[int]) -> Texts:
        spans = {"answer": Span("p", torch.tensor(answers))}
        return Texts(fields=fields, frame=FRAME, spans=spans)

    texts = with_answers([1, 3], [-1, -1])
    view = texts.rendered(batch(texts, 2), ["q", "p"])
    start, end = view.labels["answer"][0].tolist()
    assert view.tokens[0, start : end + 1].tolist() == [21, 22, 23]
    assert view.labels["answer"][1].tolist() == [-1, -1]
    # 12 positions hold 7 tokens of the passage
    texts = with_answers([6, 7], [0, 0])
    cut = texts.rendered(batch(texts, 2), ["q", "p"])
    assert cut.labels["answer"][0].tolist() == [-1, -1]
    tokens = cut.labels[tokens_label("answer")]
    assert tokens[0].tolist() == [-1, -1, -1, -1, 0, 1, 2, 3, 4, 5, 6, -1]
    without = texts.rendered(batch(texts, 2), ["q"])
    assert without.labels["answer"].tolist() == [[-1, -1], [-1, -1]]


def by_hand(sizes: list[int], room: int) -> list[int]:
    """Take one token after another from the longest; of equal ones from the one that was shorter, then the first."""
    left = list(sizes)
    while sum(left) > max(room, 0):
        longest = max(left)
        number = min(
            (n for n, size in enumerate(left) if size == longest), key=lambda n: (sizes[n], n)
        )
        left[number] -= 1
    return left


def test_the_longest_text_is_cut_first() -> None:
    generator = np.random.default_rng(1)
    for fields in (1, 2, 3, 4):
        for room in (0, 1, 5, 7, 12):
            sizes = generator.integers(0, 9, (fields, 40))
            expected = [by_hand(column.tolist(), room) for column in sizes.T]
            assert longest_first(sizes, room).T.tolist() == expected


def test_a_named_text_is_cut_before_the_others() -> None:
    frame = Frame(**{**vars(FRAME), "truncate": "p"})
    fields = {"q": text([10, 11, 12, 13, 14, 15]), "p": text(list(range(20, 29)))}
    view = Texts(fields=fields, frame=frame).rendered(
        batch(Texts(fields=fields, frame=frame), 1), ["q", "p"]
    )
    assert rows(view) == [[CLS, 10, 11, 12, 13, 14, 15, SEP, 20, 21, 22, SEP]]


def test_unknown_texts_and_two_lists_are_refused() -> None:
    lists = {name: text([[30], [31]], is_list=True) for name in ("x", "y")}
    texts = Texts(fields={"passage": text([10]), **lists}, frame=FRAME)
    with pytest.raises(ConfigError, match="no text 'pasage'. Did you mean 'passage'"):
        texts.rendered(batch(texts, 1), ["pasage"])
    with pytest.raises(ConfigError, match="x and y are both lists"):
        texts.rendered(batch(texts, 1), ["x", "y"])

"""Writers of annotated sentences, in the forms that the official scorers read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from fwk.errors import ConfigError, DataError, did_you_mean
from fwk_plugins.cvt.corpora.readers import CONLLU, Sentence, ends_sentence, split_fields


def write_conllu(sentences: Iterable[Sentence], out: TextIO) -> None:
    """Write CoNLL-U, with _ for every unknown value.

    Multiword tokens precede their words, because scorers align files by the characters of the tokens.
    """
    for sentence in sentences:
        columns: dict[str, Sequence[object]] = {
            "id": range(1, len(sentence.words) + 1),
            **sentence.columns,
            "form": sentence.words,
        }
        if sentence.heads is not None:
            columns["head"] = sentence.heads
        unknown = ("_",) * len(sentence.words)
        token_lines = {
            first: "\t".join([f"{first}-{last}", form, *["_"] * (len(CONLLU) - 2)])
            for first, last, form in sentence.joined
        }
        values = [columns.get(name, unknown) for name in CONLLU]
        _write_sentence(sentence, values, "\t", out, token_lines)


def write_columns(
    sentences: Iterable[Sentence], columns: Sequence[str], out: TextIO, separator: str = " "
) -> None:
    """Write one word per line and a blank line after each sentence.

    conlleval reads the word first, and gold and predicted tags last. Raises ConfigError for a column that a sentence
    does not have.
    """
    for sentence in sentences:
        values: dict[str, Sequence[object]] = {**sentence.columns, "word": sentence.words}
        if sentence.heads is not None:
            values["head"] = sentence.heads
        for name in columns:
            if name not in values:
                raise ConfigError(
                    "columns",
                    f"the sentence at {sentence.place} has no column '{name}'{did_you_mean(name, values)}",
                )
        _write_sentence(sentence, [values[name] for name in columns], separator, out, {})


def _write_sentence(
    sentence: Sentence,
    columns: Sequence[Sequence[object]],
    separator: str,
    out: TextIO,
    token_lines: Mapping[int, str],
) -> None:
    """Write the rows of one sentence. token_lines: lines that precede a word, by the number of the word."""
    lines = []
    for word, row in enumerate(zip(*columns, strict=True), start=1):
        values = [str(value) for value in row]
        line = separator.join(values)
        if not _reads_back(line, values, separator):
            raise DataError(
                f"{sentence.place}: word {word}, {values}, cannot be written in columns separated by {separator!r}"
            )
        if word in token_lines:
            lines.append(f"{token_lines[word]}\n")
        lines.append(f"{line}\n")
    out.write("".join(lines) + "\n")


def _reads_back(line: str, values: list[str], separator: str) -> bool:
    """Return whether a reader would see these values in the line."""
    fields = split_fields(line, None if separator == " " else separator)
    one_line = "\n" not in line and not line.endswith("\r")
    return fields == values and one_line and not ends_sentence(line)

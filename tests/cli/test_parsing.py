"""The errors of a command line: one sentence each, with the flag, what was expected and the remedy."""

from __future__ import annotations

import pytest

from fwk.cli.parsing import Append, Parser, StoreOnce, number, one_of, whole_number
from fwk.errors import UserError


def parser(words: str = "") -> Parser:
    p = Parser("fwk-x", words=words)
    p.add_argument("model", metavar="RUN")
    p.add_argument("--name", action=StoreOnce, metavar="NAME")
    p.add_argument("--dir", action=Append, default=[], metavar="DIR")
    p.add_argument("--count", type=whole_number(1, 1000), metavar="N")
    p.add_argument("--share", type=number("a share below 1", lambda x: 0 <= x < 1), metavar="X")
    p.add_argument("--kind", type=one_of("auto", "text"), metavar="KIND")
    p.add_argument("--quiet", action="store_true")
    files = p.add_mutually_exclusive_group()
    files.add_argument("--text", nargs="+", metavar="FILE")
    files.add_argument("--pairs", nargs="+", metavar="FILE")
    return p


def test_flags_stand_anywhere_and_other_words_are_collected():
    arguments = parser("overrides").parse(
        ["run", "a=1", "--count", "3", "b=2", "--dir=x", "--dir", "y"]
    )
    assert (arguments.model, arguments.count, arguments.dir) == ("run", 3, ["x", "y"])
    assert arguments.overrides == ["a=1", "b=2"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Missing: RUN. See 'fwk-x --help'"),
        (["run", "word"], "Unexpected argument 'word'. See 'fwk-x --help'"),
        (["run", "--nmae", "x"], "Unknown flag '--nmae'. Did you mean '--name'?"),
        (["run", "-z"], "Unknown flag '-z'. See 'fwk-x --help'"),
        (["run", "--name"], "--name needs a value: --name NAME"),
        (["run", "--name="], "--name needs a value: --name NAME"),
        (["run", "--name", "--quiet"], "--name needs a value: --name NAME"),
        (["run", "--name", "a", "--name", "b"], "--name is given twice, as 'a' and 'b'"),
        (["run", "--dir", ""], "--dir needs a value: --dir DIR"),
        (["run", "--text"], "--text needs a value: --text FILE"),
        (["run", "--quiet=yes"], "--quiet takes no value, got 'yes'"),
        (["run", "--count", "0"], "--count: expected a whole number from 1 to 1,000, got 0"),
        (["run", "--count", "x"], "--count: expected a whole number from 1 to 1,000, got 'x'"),
        (["run", "--share", "1"], "--share: expected a share below 1, got '1'"),
        (["run", "--share", "nan"], "--share: expected a share below 1, got 'nan'"),
        (
            ["run", "--kind", "tet"],
            "--kind: 'tet' is not a possible value. Did you mean 'text'? Available: auto, text",
        ),
        (
            ["run", "--text", "a", "--pairs", "b"],
            "--pairs is not allowed with argument --text; give one of them",
        ),
    ],
)
def test_a_wrong_command_line_is_one_sentence(argv, message):
    with pytest.raises(UserError) as caught:
        parser().parse(argv)
    assert str(caught.value) == message

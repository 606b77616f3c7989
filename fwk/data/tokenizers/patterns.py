"""Regular expressions in a `tokenizer.json`, tried in another process before they are used in this one.

The library matches by backtracking: an expression such as `(a+)+$` needs time that doubles with each character, and
nothing in Python can interrupt a call of the library. It gives up after ten million steps at one position, and then
panics. An expression that is not among those in wide use is therefore tried on short strings that are built of its own
characters, under a limit on processor time. The trial changes no token: it refuses a file, or leaves it as it is.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache

from fwk.contracts.json_files import parse_json
from fwk.errors import DataError

SECONDS = 10  # of processor time for all expressions of a file; a harmless one takes about 0.1
BYTES = 4 << 30  # of address space: repetitions of repetitions are unrolled when they are compiled
MOST_UNITS = 40  # strings that are repeated
_STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_IN_WIDE_USE = frozenset(
    {
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
        rf"{_ENGLISH}|\p{{N}}{{1,3}}{_REST}",  # cl100k, Llama 3
        rf"{_ENGLISH}|\p{{N}}{_REST}",  # Qwen 2
        r"\p{N}{1,3}",
        " {2,}",  # ours and of transformers, for sentencepiece models
        r"\s+",
    }
)

# what stands for a class such as \s, \d or \p{L}
_COMMON = ("a", "A", " ", "\n", "1", "!", "'", "_", "é", "中", "\u0301")
_UNEXPECTED = "\0\n\0"
_SHORT, _LONG = (
    40,
    2000,
)  # repetitions; the second makes cubic time exceed the limit, and quadratic time not

_TRIAL = """
import sys
sys.path[:] = sys.argv[3:]
import json, resource, time
from tokenizers import Regex, normalizers
trials = json.loads(sys.stdin.read())
seconds, size = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_AS, (size, size))
seconds += int(time.process_time()) + 1
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
for number, (pattern, probes) in enumerate(trials):
    print(number, flush=True)
    try:
        step = normalizers.Replace(Regex(pattern), "")
    except Exception:  # no expression at all, which is reported when the file is read
        continue
    for prefix, unit, count, suffix in probes:
        step.normalize_str(prefix + unit * count + suffix)
print("done", flush=True)
"""


def require_harmless(content: str, where: str) -> None:
    """Raise DataError where a `tokenizer.json` holds an expression that takes very long on a short text.

    where: the file, for messages. A text that is no JSON is left to the library.
    """
    try:
        values = parse_json(content)
    except ValueError:
        return
    if not isinstance(values, dict):
        return
    patterns = dict.fromkeys(p for step in _STEPS for p in _expressions(values.get(step)))
    unknown = tuple(pattern for pattern in patterns if pattern not in _IN_WIDE_USE)
    bad = _first_harmful(unknown) if unknown else None
    if bad is not None:
        raise DataError(
            f"{where} has the regular expression '{bad[:100]}', which takes too long on short texts; expected one "
            "without repetitions of repetitions, whose time grows with the length of a text"
        )


def _expressions(values: object) -> Iterator[str]:
    """Yield every regular expression in a step of a `tokenizer.json`, however steps are nested."""
    if isinstance(values, dict):
        if isinstance(pattern := values.get("Regex"), str):
            yield pattern
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from _expressions(value)


@lru_cache(maxsize=64)
def _first_harmful(patterns: tuple[str, ...]) -> str | None:
    """Return the first expression on which the trial fails or ends at its limits; None where all pass."""
    trials = json.dumps([[pattern, list(_probes(_units(pattern)))] for pattern in patterns])
    command = [sys.executable, "-c", _TRIAL, str(SECONDS), str(BYTES), *filter(None, sys.path)]
    done = subprocess.run(command, input=trials.encode(), capture_output=True, check=False)
    reached = done.stdout.split()
    if reached[-1:] == [b"done"] or not reached:  # without a line, the trial itself cannot run here
        return None
    return patterns[int(reached[-1])]


def _units(pattern: str) -> list[str]:
    """Return strings that an expression may repeat: its words, its characters, and common characters."""
    hexadecimal = re.compile(r"\\(?:x|u)\{?([0-9a-fA-F]{2,4})\}?")
    pattern = hexadecimal.sub(lambda code: _character(int(code[1], 16)), pattern[:10_000])
    words = re.findall(r"\w{2,20}", pattern)
    characters = [character for character in pattern if character not in "\\()[]{}|"]
    return list(dict.fromkeys([*_COMMON, *words, *characters]))[:MOST_UNITS]


def _character(code: int) -> str:
    return "" if 0xD800 <= code < 0xE000 else chr(code)


def _probes(units: Sequence[str]) -> Iterator[tuple[str, str, int, str]]:
    """Yield a beginning, a unit, its repetitions and an end for each string to be tried."""
    # the library skips a text without the characters that a match requires, so one end has them all
    suffixes = ("", _UNEXPECTED, _UNEXPECTED + "".join(units))
    for unit in units:
        for suffix in suffixes:
            for prefix in ("", *units):
                yield prefix, unit, _SHORT, suffix
            yield "", unit, _LONG, suffix

"""What the GPU session measures, in order of value: programs that print JSON on their last line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import util
from typing import Any

DEVICE, TESTS = "device", "correctness"  # the first two pieces; the others may be left out for time
SPEED, METHODS, PROFILE, RACE = "speed", "methods", "profile", "race"
PIECES = (DEVICE, TESTS, SPEED, METHODS, PROFILE, RACE)

# name: layers, width, length, batch, length of the shortest sequence (None: all have the full length)
Shape = tuple[int, int, int, int, int | None]
SHAPES: dict[str, Shape] = {
    "BERT-base, 128": (12, 768, 128, 256, None),
    "BERT-base, 512": (12, 768, 512, 64, None),
    "BERT-large, 512": (24, 1024, 512, 32, None),
    "BERT-base, 512, padded": (12, 768, 512, 64, 64),
}
TOY_SHAPES: dict[str, Shape] = {"toy, 32": (1, 64, 32, 4, None)}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A program of the session."""

    piece: str
    name: str
    words: tuple[str, ...]  # after `python -m`; {seconds} stands for the time that is left
    limit: float = 100.0  # seconds after which it is ended
    least: float = 25.0  # seconds without which it is not started
    # a shorter run of the program that compiles the same, started beforehand
    compiles: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)  # kept with the result

    @property
    def key(self) -> str:
        """The measurement's name among all of them."""
        return f"{self.piece}: {self.name}"


def plan(quick: bool, device: str) -> list[Measurement]:
    """Return the measurements. quick: toy shapes, which try the programs."""
    return [
        *_device(quick, device),
        *_speed(quick, device),
        *_methods(quick, device),
        *_profiles(quick, device),
        *_race(quick, device),
    ]


def _benchmark(name: str, *words: object) -> tuple[str, ...]:
    return ("benchmarks", name, *map(str, words))


def _device(quick: bool, device: str) -> list[Measurement]:
    size = 128 if quick else 8192
    tests = ["pytest", "tests/gpu", "-q", "-p", "benchmarks.gpu.outcomes", "-p", "no:cacheprovider"]
    tests += ["-m", "not slow" if quick else "gpu"]
    if not quick and util.find_spec("xdist"):
        tests += ["-n", "6", "--maxschedchunk", "1"]  # tests that compile come first, and are long
    return [
        Measurement(
            piece=DEVICE,
            name="matrix products and copies",
            words=_benchmark("matrix_product", "--device", device, "--size", size),
        ),
        Measurement(piece=TESTS, name="tests marked gpu", words=tuple(tests), limit=120.0),
    ]


def _speed(quick: bool, device: str) -> list[Measurement]:
    """The trainer beside HF's: for each shape the most important contender first."""
    if quick:
        rows = [("toy, 32", "fwk", True), ("toy, 32", "hf", True), ("toy, 32", "fwk", False)]
    else:
        contenders = (("fwk", True), ("hf", True), ("fwk", False))
        rows = [(shape, *contender) for shape in list(SHAPES)[:3] for contender in contenders]
        rows.append(("BERT-base, 512, padded", "fwk", True))
    return [_contender(*row, quick, device) for row in rows]


def _contender(
    shape_name: str, contender: str, compiled: bool, quick: bool, device: str
) -> Measurement:
    layers, width, length, batch, shortest = {**SHAPES, **TOY_SHAPES}[shape_name]
    precision = "fp32" if quick else "bf16"
    words = _benchmark(
        *("contenders", contender, "--layers", layers, "--width", width),
        *("--length", length, "--batch", batch, "--precision", precision, "--device", device),
        *("--workers", 0 if quick else 4, "--threads", 1 if quick else 0),
        *(("--shortest", shortest) if shortest else ()),
        *(("--compile",) if compiled else ()),
        *(("--backend", "eager") if quick else ()),  # generating code for a CPU takes minutes
    )
    return Measurement(
        piece=SPEED,
        name=f"{shape_name}, {contender}, {'compiled' if compiled else 'eager'}",
        words=(*words, *_length(quick)),
        limit=150.0 if layers > 12 else 100.0,
        compiles=(*words, *BRIEFLY) if compiled and not quick else (),
        facts={
            "shape": shape_name,
            "contender": contender,
            "compiled": compiled,
            "precision": precision,
            "layers": layers,
            "width": width,
            "length": length,
            "batch": batch,
            "full": shortest is None,
        },
    )


BRIEFLY = ("--updates", "1", "--block", "1", "--warm", "1")


def _length(quick: bool) -> tuple[str, ...]:
    """Return the options that say how many updates are timed."""
    if quick:
        return ("--updates", "4", "--block", "2", "--warm", "2")
    return ("--updates", "24", "--block", "8", "--warm", "8")


def _options(quick: bool, device: str) -> tuple[str, ...]:
    """Return the options that `updates`, `profile_update` and `one_pass` share."""
    return (
        "--device",
        device,
        "--precision",
        "fp32" if quick else "bf16",
        *(("--toy",) if quick else ()),
    )


def _methods(quick: bool, device: str) -> list[Measurement]:
    rows: Sequence[tuple[str, bool]] = [
        ("electra_small", True),
        ("electra_small", False),
        ("electra_base", True),
        ("electra_base", False),
        *((name, False) for name in ("one_view", "two_views")),
        *((name, False) for name in ("five_objectives", "union_of_their_views")),
    ]
    if quick:
        rows = [row for row in rows if not row[1]]
    found = []
    for name, compiled in rows:
        words = (*_benchmark("updates", name), *_options(quick, device))
        words += ("--compile",) if compiled else ()
        found.append(
            Measurement(
                piece=METHODS,
                name=f"{name}, {'compiled' if compiled else 'eager'}",
                words=(*words, *_length(quick)),
                compiles=(*words, *BRIEFLY) if compiled else (),
                facts={"objective": name, "compiled": compiled},
            )
        )
    size = ("--sentences", "8", "--repetitions", "1") if quick else ()
    words = (*_benchmark("one_pass"), *_options(quick, device), *size)
    return [*found, Measurement(piece=METHODS, name="scoring, one pass", words=words)]


def _profiles(quick: bool, device: str) -> list[Measurement]:
    return [
        Measurement(
            piece=PROFILE,
            name=name,
            words=(*_benchmark("profile_update", name), *_options(quick, device)),
            facts={"objective": name},
        )
        for name in ("electra_small", "bert_base")
    ]


def _race(quick: bool, device: str) -> list[Measurement]:
    words = (
        ("--updates", "3", "--workers", "0")
        if quick
        else ("--seconds", "{seconds}", "--workers", "4")
    )
    return [
        Measurement(
            piece=RACE,
            name="three objectives for equal minutes",
            words=(*_benchmark("race"), *_options(quick, device), *words),
            limit=600.0,
            least=0.0 if quick else 150.0,
        )
    ]

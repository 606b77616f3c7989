"""Compare `fwk-preprocess` with the tokenizer alone, with one process and with two, and measure its memory.

    python -m benchmarks preprocessing [--megabytes 50] [--repetitions 5] [--memory 100 1000] [--only PART] [--write]

The text is the demo corpus, repeated, in a temporary folder (--folder DIR), and the tokenizers are trained on it
beforehand. Three parts:

rate       MB/s of CPU time, of one process. Bare: `encode_batch` of the same tokenizer on the lines of the text, or on
           its sentences, in memory; results are discarded. Compared with the tokenizing pass of `fwk-preprocess`, which
           reads and checks the text, forms documents, cuts sentences, encodes, counts, and writes shards with their
           hashes, and with both passes, the first of which reads everything once more. They take turns.
processes  MB/s of wall time of the tokenizing pass with one process and with two, in turns, process start included.
           Shards have 1 million characters, so that there are enough of them to share.
memory     the peak resident memory of all processes of the command together (sampled every 50 ms), with vocabulary
           training and two processes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import ratio, table, taking_turns, write
from fwk.data.demo import corpus
from fwk.data.preprocess import Options, TokenizerSpec, build_store, train_tokenizer
from fwk.data.progress import Progress
from fwk.data.text import split_sentences
from fwk.data.tokenizers import Tokenizer

VOCABULARY = 16_000


class Clock(Progress):
    """A progress display that prints nothing and records the start of the tokenizing pass."""

    def __init__(self, clock: Callable[[], float]):
        super().__init__(quiet=True)
        self.clock, self.began = clock, 0.0

    def stage(self, name: str, total: float | None = None) -> None:
        super().stage(name, total)
        if name == "tokenizing":
            self.began = self.clock()


def text_of(megabytes: float, folder: Path) -> Path:
    """Return the path of a text of `megabytes` million bytes, the demo corpus repeated."""
    path, once = folder / f"{megabytes:g}.txt", corpus(Progress(True)).read_bytes() + b"\n\n"
    size = int(megabytes * 1e6)
    if shutil.disk_usage(folder).free < 2 * size:
        raise SystemExit(
            f"{folder}: the disk is too small for {2 * size / 1e9:.1f} GB; name another --folder"
        )
    with open(path, "wb") as file:
        while size > 0:
            file.write(
                once if size >= len(once) else once[: once.rindex(b"\n", 0, max(size, 200)) + 1]
            )
            size -= len(once)
    return path


def tokenizing(
    text: Path,
    folder: Path,
    tokenizer: Tokenizer,
    clock: Callable[[], float],
    processes: int = 1,
    shard_size: int = Options.shard_size,
) -> float:
    """Return the seconds of the tokenizing pass."""
    progress = Clock(clock)
    store = build_store(
        [text],
        folder / "store",
        tokenizer,
        options=Options(shard_size=shard_size),
        processes=processes,
        progress=progress,
    )
    seconds = clock() - progress.began
    shutil.rmtree(store)
    return seconds


def bare(texts: list[str], tokenizer: Tokenizer) -> None:
    for start in range(0, len(texts), 2048):
        tokenizer.encode_batch(texts[start : start + 2048])


def rate(text: Path, folder: Path, kinds: list[str], repetitions: int) -> str:
    lines = [line for line in text.read_text(encoding="utf-8").split("\n") if line]
    cut = split_sentences([line.strip() for line in lines])
    rows, size = [], text.stat().st_size / 1e6
    for kind in kinds:
        tokenizer = tokenizer_of(kind, text, folder)
        only: list[float] = []
        times = taking_turns(
            [
                lambda: bare(lines, tokenizer),  # noqa: B023 called at once
                lambda: bare(cut, tokenizer),  # noqa: B023
                lambda: only.append(tokenizing(text, folder, tokenizer, time.process_time)),  # noqa: B023
            ],
            repetitions,
        )
        for name, own in (
            ("bare, lines", times[0]),
            ("bare, sentences", times[1]),
            ("tokenizing pass", only),
            ("both passes", times[2]),
        ):
            rows.append(
                [
                    kind,
                    name,
                    f"{size / statistics.median(own):.1f}",
                    "{:.2f} ({:.2f} to {:.2f})".format(*ratio(times[0], own)),
                ]
            )
    return table(["tokenizer", "work", "MB/s of CPU time", "÷ bare, lines (quartiles)"], rows)


def processes(text: Path, folder: Path, kinds: list[str], repetitions: int) -> str:
    rows, size = [], text.stat().st_size / 1e6
    for kind in kinds:
        tokenizer, times = tokenizer_of(kind, text, folder), ([], [])
        for repetition in range(repetitions):
            for count in (1, 2) if repetition % 2 else (2, 1):
                times[count - 1].append(
                    tokenizing(text, folder, tokenizer, time.perf_counter, count, 1_000_000)
                )
        rows.append(
            [
                kind,
                *(f"{size / statistics.median(own):.1f}" for own in times),
                "{:.2f} ({:.2f} to {:.2f})".format(*ratio(*times)),
            ]
        )
    return table(
        ["tokenizer", "1 process, MB/s", "2 processes, MB/s", "speed-up (quartiles)"], rows
    )


def tokenizer_of(kind: str, text: Path, folder: Path) -> Tokenizer:
    """Return a tokenizer that is trained on the text once and kept in the folder."""
    return train_tokenizer([text], folder / kind, TokenizerSpec(kind=kind, size=VOCABULARY))


def resident(process: int) -> int:
    """Return the resident bytes of a process and its descendants (Linux), 0 after it has ended."""
    held, children = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            held[int(folder.name)] = int((folder / "statm").read_text().split()[1]) * os.sysconf(
                "SC_PAGE_SIZE"
            )
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(folder.name))

    def together(one: int) -> int:
        return held.get(one, 0) + sum(together(child) for child in children.get(one, ()))

    return together(process)


def memory(sizes: list[float], folder: Path) -> str:
    rows = []
    for megabytes in sizes:
        text = text_of(megabytes, folder)
        command = [
            sys.executable,
            "-m",
            "fwk.cli.preprocess",
            str(text),
            "--output",
            str(folder / "store"),
            "--quiet",
            "--vocabulary",
            str(VOCABULARY),
            "--sample-size",
            "8",
            "--processes",
            "2",
        ]
        began, most, tokenizing = time.perf_counter(), 0, 0
        process = subprocess.Popen(command)
        while process.poll() is None:
            held = resident(process.pid)
            most = max(most, held)
            if any(folder.glob(".store.*.partial/plan.json")):
                tokenizing = max(tokenizing, held)
            time.sleep(0.05)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        rows.append(
            [
                f"{megabytes:g} MB",
                f"{most / 1e6:.0f}",
                f"{tokenizing / 1e6:.0f}",
                f"{time.perf_counter() - began:.0f}",
            ]
        )
        shutil.rmtree(folder / "store")
        text.unlink()
    return table(["text", "most memory, MB", "in the tokenizing pass", "seconds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--megabytes", type=float, default=50, help="of text, for rate and processes"
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--kinds", nargs="+", default=["unigram", "wordpiece"], help="of tokenizers"
    )
    parser.add_argument(
        "--memory",
        nargs="+",
        type=float,
        default=[50, 100, 1000],
        metavar="MB",
        help="sizes of text, for memory",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("rate", "processes", "memory"),
        default=["rate", "processes", "memory"],
    )
    parser.add_argument(
        "--folder",
        help="where text and stores are made, and removed again (default: the system's temporary folder)",
    )
    parser.add_argument(
        "--write", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as made_in:
        folder = Path(made_in)
        made = []
        if {"rate", "processes"} & set(arguments.only):
            text = text_of(arguments.megabytes, folder)
            made += [
                part(text, folder, arguments.kinds, arguments.repetitions)
                for part in (rate, processes)
                if part.__name__ in arguments.only
            ]
        if "memory" in arguments.only:
            made.append(memory(arguments.memory, folder))
    print("\n\n".join(made))
    if arguments.write:
        write(
            "preprocessing",
            "\n\n".join(made),
            facts={"vocabulary": VOCABULARY, "text": f"{arguments.megabytes:g} MB"},
        )

"""The fault matrix: every fault of `cases.py` against `fwk-train`, and against Hugging Face `Trainer` where it applies.

    python tests/faults/run.py                  all faults; --write writes docs/reliability.md
    python tests/faults/run.py --list
    python tests/faults/run.py --only rank_killed weights_cut
    python tests/faults/run.py --again          do not reuse the results of an earlier call

Results are kept in the scratch folder (--scratch, by default a folder in the system's temporary one), a file for each
fault and side, until the code changes: an interrupted call continues where it stopped, and `--side fwk` and `--side hf`
may run at the same time, before one more call that writes the tables.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from faults.cases import CASES  # noqa: E402
from faults.lab import HF, Fault, Fwk, Side, Skip  # noqa: E402

ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "reliability.md"


def code(case: Fault, side: type[Side]) -> str:
    """Return a hash of everything that decides the outcome of a case on a side."""
    files = [
        HERE / "lab.py",
        HERE / "rank.py",
        HERE / "hf_train.py",
        *sorted((HERE / "inside").glob("*.py")),
    ]
    files += sorted((ROOT / "fwk").rglob("*.py")) if side is Fwk else []
    texts = [
        inspect.getsource(case.run),
        repr((case.ranks, case.data, case.words)),
        *(path.read_text() for path in files),
    ]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def template_code(side: type[Side]) -> str:
    """Return a hash of everything that decides the undisturbed runs."""
    files = (
        [HERE / "lab.py", HERE / "hf_train.py"]
        if side is HF
        else sorted((ROOT / "fwk").rglob("*.py"))
    )
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def receive_signals() -> None:
    """Let child processes receive signals, also where this process runs behind `nohup` or `&`, which ignore them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def attempt(case: Fault, side: type[Side], scratch: Path) -> Side | str:
    """Return the side after the case ran on it, or the reason why the case cannot be provoked."""
    folder = scratch / "cases" / f"{case.name}-{side.name}"
    shutil.rmtree(folder, ignore_errors=True)
    trainer = side(
        folder,
        scratch / "templates" / template_code(side),
        ranks=case.ranks,
        data=case.data,
        words=case.words,
    )
    with trainer.undo:
        try:
            case.run(trainer)
            trainer.check_reached()
        except Skip as reason:
            return str(reason)
        except Exception as error:  # an error in the case itself; the other cases still run
            trainer.problems.append(
                f"the case itself broke: {type(error).__name__}: {' '.join(str(error).split())[-300:]}"
            )
    return trainer


def outcome(case: Fault, side: type[Side], scratch: Path) -> dict:
    """Return {verdict, kind, says, seconds} of a case on a side."""
    began = time.monotonic()
    side_or_reason = attempt(case, side, scratch)
    skipped = isinstance(side_or_reason, str)
    return {
        "verdict": f"skipped: {side_or_reason}" if skipped else side_or_reason.verdict(),
        "kind": "skipped" if skipped else side_or_reason.kind(),
        "says": "" if skipped else side_or_reason.sentence(),
        "seconds": round(time.monotonic() - began, 1),
    }


def result_of(
    case: Fault, side: type[Side], scratch: Path, again: bool = False, keep: bool = False
) -> dict:
    """Return the outcome, from an earlier call where the code is unchanged. again: never reuse; keep: always reuse."""
    if side is HF and not case.hf:
        return {"verdict": f"- ({case.why})", "kind": "", "says": "", "seconds": 0}
    result_file, now = scratch / "results" / f"{case.name}-{side.name}.json", code(case, side)
    with suppress(OSError, ValueError):
        before = json.loads(result_file.read_text())
        if not again and (keep or before["code"] == now):
            return before
    result = {**outcome(case, side, scratch), "code": now}
    result_file.parent.mkdir(parents=True, exist_ok=True)
    result_file.with_suffix(".new").write_text(json.dumps(result))
    result_file.with_suffix(".new").replace(result_file)
    return result


def counts(results: dict[str, dict], side: str) -> str:
    """Return the counts of the verdicts, the most frequent first: `31 recovered, 2 refused`."""
    kinds = Counter(
        result[side]["kind"]
        for result in results.values()
        if side in result and result[side]["kind"]
    )
    return ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())


def tables(results: dict[str, dict]) -> str:
    """Return the matrix as Markdown: the counts, and a table per group."""
    applies = [name for name, result in results.items() if result.get("hf", {}).get("kind")]
    lines = [
        f"`fwk-train`, {len(results)} faults: {counts(results, 'fwk')}.",
        "",
        f"Hugging Face `Trainer`, the {len(applies)} that apply to it: {counts(results, 'hf')}. `fwk-train` on these: "
        f"{counts({name: results[name] for name in applies}, 'fwk')}.",
        "",
    ]
    used = ", ".join(
        f"{name} {installed(name)}" for name in ("fwk", "torch", "transformers", "accelerate")
    )
    lines += [
        f"Run with {used}, Python {platform.python_version()}, on {platform.system()} with {os.cpu_count()} "
        "CPU cores and no GPU.",
        "",
    ]
    for group in dict.fromkeys(CASES[name].group for name in results):
        lines += [
            f"### {group}",
            "",
            "| fault | `fwk-train` | what it says | Hugging Face `Trainer` |",
            "|---|---|---|---|",
        ]
        for name, result in results.items():
            if CASES[name].group == group:
                fwk, hf = result["fwk"], result.get("hf", {"verdict": "not run"})
                lines.append(
                    f"| {CASES[name].title} | {fwk['verdict']} | {fwk['says'] or '-'} | {hf['verdict']} |"
                )
        lines.append("")
    return re.sub(r"process \d+ on [\w.-]+", "process 4711 on HOST", "\n".join(lines))


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def write(results: dict[str, dict]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin, end = "<!-- matrix -->\n", "<!-- end -->"
    head, rest = text.split(begin)
    PAGE.write_text(head + begin + tables(results) + end + rest.split(end, 1)[1], encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these faults")
    parser.add_argument("--list", action="store_true", help="name the faults and stop")
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the tables to docs/reliability.md (with all faults)",
    )
    parser.add_argument(
        "--side", nargs="+", choices=("fwk", "hf"), default=["fwk", "hf"], help="only this trainer"
    )
    parser.add_argument("--without-hf", action="store_true", help="leave out Hugging Face Trainer")
    parser.add_argument("--again", action="store_true", help="run again what an earlier call found")
    parser.add_argument(
        "--keep", action="store_true", help="take over what was found with other code"
    )
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "fwk-faults")
    arguments = parser.parse_args()
    if arguments.list:
        for case in CASES.values():
            print(f"{case.name:28} {case.group}: {case.title}")
        return 0
    if unknown := [name for name in arguments.only or () if name not in CASES]:
        parser.error(f"there is no fault '{unknown[0]}'; --list names them")
    if arguments.write and (arguments.only or arguments.side != ["fwk", "hf"]):
        parser.error("--write needs all faults and both sides; leave out --only and --side")
    receive_signals()
    names = arguments.only or list(CASES)
    sides = [
        side
        for side in (Fwk, HF)
        if side.name in arguments.side and (side is Fwk or not arguments.without_hf)
    ]
    results: dict[str, dict] = {}
    for number, name in enumerate(names, 1):
        results[name] = {
            side.name: result_of(
                CASES[name], side, arguments.scratch, arguments.again, arguments.keep
            )
            for side in sides
        }
        print(f"[{number}/{len(names)}] {name}")
        for side, result in results[name].items():
            print(
                f"    {side}: {result['verdict']}{'  <' + result['says'] + '>' if result['says'] else ''}"
                f"  ({result['seconds']:.0f} s)",
                flush=True,
            )
    if Fwk not in sides:
        return 0
    print(counts(results, "fwk"))
    if arguments.write:
        write(results)
    return int(any(result["fwk"]["verdict"].startswith("FAILED") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())

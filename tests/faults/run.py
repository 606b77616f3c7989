"""The fault matrix: every fault of `cases.py` against `fwk-train`, and against Hugging Face `Trainer` where it applies.

    python tests/faults/run.py                  all of it; docs/reliability.md is written with --write
    python tests/faults/run.py --list
    python tests/faults/run.py --only rank_killed weights_cut
    python tests/faults/run.py --again          what an earlier call found is not taken over

Results are kept in the scratch folder (--scratch, by default a folder in the system's temporary one) until the code
changes: a call that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from faults.cases import CASES  # noqa: E402
from faults.lab import HF, Fault, Fwk, Side, Skip  # noqa: E402

ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "reliability.md"


def code() -> str:
    """A hash of everything that decides how a case ends."""
    files = sorted(path for folder in ("fwk", "tests/faults", "tests/contracts") for path in (ROOT / folder).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def attempt(case: Fault, side: type[Side], scratch: Path) -> Side | str:
    """The side after the case ran on it; the reason if it cannot be provoked here."""
    folder = scratch / "cases" / f"{case.name}-{side.name}"
    shutil.rmtree(folder, ignore_errors=True)
    made = side(folder, scratch / "templates", ranks=case.ranks, data=case.data, words=case.words)
    with made.undo:
        try:
            case.run(made)
        except Skip as reason:
            return str(reason)
    return made


def run_case(case: Fault, scratch: Path, with_hf: bool) -> dict:
    """{verdict, says, hf, seconds} of a case."""
    began = time.monotonic()
    fwk = attempt(case, Fwk, scratch)
    found = {"verdict": f"skipped: {fwk}", "says": ""} if isinstance(fwk, str) else {
        "verdict": fwk.verdict(), "says": fwk.sentence()}
    if not case.hf:
        found["hf"] = f"- ({case.why})"
    elif with_hf:
        hf = attempt(case, HF, scratch)
        found["hf"] = f"skipped: {hf}" if isinstance(hf, str) else hf.summary()
    return {**found, "seconds": round(time.monotonic() - began, 1)}


def counts(results: dict[str, dict]) -> dict[str, int]:
    """How often each verdict occurs."""
    kinds = [re.split(r":", result["verdict"])[0] for result in results.values()]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(sorted(kinds))}


def tables(results: dict[str, dict]) -> str:
    """The matrix as Markdown, a table per group, and the counts."""
    ours = counts(results)
    lines = [f"{len(results)} faults: " + ", ".join(f"{number} {kind}" for kind, number in ours.items()) + ".", ""]
    lines += [f"Run with fwk {version('fwk')}, torch {version('torch')}, transformers {version('transformers')}, accelerate "
              f"{version('accelerate')}, Python {platform.python_version()}, on {platform.system()} with {os.cpu_count()} CPU "
              "cores and no GPU.", ""]
    for group in dict.fromkeys(CASES[name].group for name in results):
        lines += [f"### {group}", "", "| fault | `fwk-train` | what it says | Hugging Face `Trainer` |", "|---|---|---|---|"]
        for name, result in results.items():
            if CASES[name].group == group:
                lines.append(f"| {CASES[name].title} | {result['verdict']} | {result['says'] or '-'} | {result.get('hf', 'not run')} |")
        lines.append("")
    return "\n".join(lines)


def write(results: dict[str, dict]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin, end = "<!-- matrix -->\n", "<!-- end -->"
    head, rest = text.split(begin)
    PAGE.write_text(head + begin + tables(results) + end + rest.split(end, 1)[1], encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these faults")
    parser.add_argument("--list", action="store_true", help="name the faults and stop")
    parser.add_argument("--write", action="store_true", help="write the tables to docs/reliability.md (with all faults)")
    parser.add_argument("--without-hf", action="store_true", help="leave out Hugging Face Trainer")
    parser.add_argument("--again", action="store_true", help="run again what an earlier call found")
    parser.add_argument("--keep", action="store_true", help="take over what was found with other code")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "fwk-faults")
    given = parser.parse_args()
    if given.list:
        for case in CASES.values():
            print(f"{case.name:28} {case.group}: {case.title}")
        return 0
    if unknown := [name for name in given.only or () if name not in CASES]:
        parser.error(f"there is no fault '{unknown[0]}'; --list names them")
    names = given.only or list(CASES)
    given.scratch.mkdir(parents=True, exist_ok=True)
    file, now = given.scratch / "results.json", code()
    known: dict[str, dict] = {}
    with suppress(OSError, ValueError):
        known = json.loads(file.read_text())
    if not given.keep and any(entry.get("code") != now for entry in known.values()):
        shutil.rmtree(given.scratch / "templates", ignore_errors=True)
    for number, name in enumerate(names, 1):
        entry = known.get(name, {})
        fresh = entry and (given.keep or entry.get("code") == now) and (given.without_hf or "hf" in entry)
        if given.again or not fresh:
            entry = {**run_case(CASES[name], given.scratch, not given.without_hf), "code": now}
            known[name] = entry
            beside = file.with_suffix(".new")
            beside.write_text(json.dumps(known, indent=1))
            beside.replace(file)
        print(f"[{number}/{len(names)}] {name} ({entry['seconds']:.0f} s)\n    fwk: {entry['verdict']}"
              f"{'  <' + entry['says'] + '>' if entry['says'] else ''}\n    HF:  {entry.get('hf', 'not run')}", flush=True)
    results = {name: known[name] for name in names}
    print(", ".join(f"{number} {kind}" for kind, number in counts(results).items()))
    if given.write:
        if given.only:
            parser.error("--write needs all faults; leave out --only")
        write(results)
    return int(any(result["verdict"].startswith("FAILED") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())

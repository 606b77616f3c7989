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
import inspect
import json
import os
import platform
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


def code(case: Fault, side: type[Side]) -> str:
    """A hash of everything that decides how a case ends on a side."""
    files = [HERE / "lab.py", HERE / "rank.py", HERE / "hf_train.py", *sorted((HERE / "inside").glob("*.py"))]
    files += sorted((ROOT / "fwk").rglob("*.py")) if side is Fwk else []
    texts = [inspect.getsource(case.run), repr((case.ranks, case.data, case.words)), *(path.read_text() for path in files)]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def template_code(side: type[Side]) -> str:
    """A hash of what undisturbed runs follow from."""
    files = [HERE / "lab.py", HERE / "hf_train.py"] if side is HF else sorted((ROOT / "fwk").rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def attempt(case: Fault, side: type[Side], scratch: Path) -> Side | str:
    """The side after the case ran on it; the reason if it cannot be provoked here."""
    folder = scratch / "cases" / f"{case.name}-{side.name}"
    shutil.rmtree(folder, ignore_errors=True)
    made = side(folder, scratch / "templates" / template_code(side), ranks=case.ranks, data=case.data, words=case.words)
    with made.undo:
        try:
            case.run(made)
        except Skip as reason:
            return str(reason)
        except Exception as error:  # the case, not what it tries: the others are still worth running
            made.problems.append(f"the case itself broke: {type(error).__name__}: {' '.join(str(error).split())[-300:]}")
    return made


def outcome(case: Fault, side: type[Side], scratch: Path) -> dict:
    """{verdict, says, seconds} of a case on a side."""
    began = time.monotonic()
    found = attempt(case, side, scratch)
    skipped = isinstance(found, str)
    return {"verdict": f"skipped: {found}" if skipped else found.verdict(), "says": "" if skipped else found.sentence(),
            "seconds": round(time.monotonic() - began, 1)}


def counts(results: dict[str, dict]) -> dict[str, int]:
    """How often each verdict occurs."""
    kinds = [result["fwk"]["verdict"].split(":")[0] for result in results.values()]
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
                fwk, hf = result["fwk"], result.get("hf", {"verdict": "not run"})
                lines.append(f"| {CASES[name].title} | {fwk['verdict']} | {fwk['says'] or '-'} | {hf['verdict']} |")
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
    file = given.scratch / "results.json"
    known: dict[str, dict] = {}
    with suppress(OSError, ValueError):
        known = json.loads(file.read_text())
    for number, name in enumerate(names, 1):
        case, entry = CASES[name], known.setdefault(name, {})
        for side in (Fwk, HF) if not given.without_hf else (Fwk,):
            if side is HF and not case.hf:
                entry["hf"] = {"verdict": f"- ({case.why})", "says": "", "seconds": 0}
                continue
            now, old = code(case, side), entry.get(side.name)
            if given.again or not old or (old["code"] != now and not given.keep):
                entry[side.name] = {**outcome(case, side, given.scratch), "code": now}
                beside = file.with_suffix(".new")
                beside.write_text(json.dumps(known, indent=1))
                beside.replace(file)
        fwk, hf = entry["fwk"], entry.get("hf", {"verdict": "not run", "seconds": 0})
        print(f"[{number}/{len(names)}] {name} ({fwk['seconds']:.0f} + {hf['seconds']:.0f} s)\n    fwk: {fwk['verdict']}"
              f"{'  <' + fwk['says'] + '>' if fwk['says'] else ''}\n    HF:  {hf['verdict']}", flush=True)
    results = {name: known[name] for name in names}
    print(", ".join(f"{number} {kind}" for kind, number in counts(results).items()))
    if given.write:
        if given.only:
            parser.error("--write needs all faults; leave out --only")
        write(results)
    return int(any(result["fwk"]["verdict"].startswith("FAILED") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())

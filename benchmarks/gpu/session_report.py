"""Make the section about GPUs in docs/benchmarks.md from the sessions kept in benchmarks/gpu/results.

    python -m benchmarks session_report [--add FILE ...] [--write]

--add takes over the session.json of a session that ran elsewhere, as on a machine without this repository. The latest
session of each device is shown; without any session, the section says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import replace_section, table
from benchmarks.gpu.plan import DEVICE, METHODS, PROFILE, RACE, SPEED, TESTS
from benchmarks.gpu.session import RESULTS, is_done, result_name
from benchmarks.speed.contenders import flops

SECTION = "gpu"
NONE_YET = "None yet: no session has run on a GPU."
CONTENDERS = {"fwk": "`fwk`", "hf": "HF `Trainer`"}
RATIOS = {  # what: (numerator, denominator), objectives of `updates`
    "Semantic-Augment ÷ one view": ("two_views", "one_view"),
    "five objectives ÷ the union of their views": ("five_objectives", "union_of_their_views"),
}
MOST_KERNELS, MOST_LINES = 10, 12

Records = Sequence[Mapping[str, Any]]


def sessions(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Return the latest session of each device, by the device's name."""
    latest: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        session = json.loads(path.read_text(encoding="utf-8"))
        name = device_of(session["records"])["device"]
        if name not in latest or session["started"] >= latest[name]["started"]:
            latest[name] = session
    return latest


def device_of(records: Records) -> dict[str, Any]:
    """Return what the device of a session is."""
    return next(record["result"] for record in records if record["piece"] == DEVICE)


def results_of(records: Records, piece: str) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield facts and results of the measurements of a piece that are done."""
    for record in records:
        if record["piece"] == piece and is_done(record):
            yield record["facts"], record["result"]


def section(latest: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text of the section."""
    if not latest:
        return NONE_YET
    return "\n\n".join(part for name in sorted(latest) for part in of_device(latest[name]))


def of_device(session: Mapping[str, Any]) -> list[str]:
    """Return headline, tables and remarks of one session."""
    records = session["records"]
    device = device_of(records)
    parts = (speed, methods, profiles, race)
    return [
        f"### {device['device']}",
        software(session, device),
        correctness(records),
        *(text for part in parts if (text := part(records, device))),
        *missing(session),
    ]


def software(session: Mapping[str, Any], device: Mapping[str, Any]) -> str:
    """Return date, commit, versions and the limits of the device in words."""
    versions = ", ".join(f"{name} {version}" for name, version in device["versions"].items())
    details = {
        "CUDA": device.get("cuda"),
        "cuDNN": device.get("cudnn"),
        "driver": device.get("driver"),
    }
    known = "".join(f", {name} {value}" for name, value in details.items() if value)
    return (
        f"{session['started'][:10]}, commit {session['commit'][:12]}, {versions}{known}. Matrix products reach "
        f"{device['bf16'] / 1e12:.0f} TFLOP/s in bf16, {device['fp16'] / 1e12:.0f} in fp16 and "
        f"{device['fp32'] / 1e12:.0f} in fp32; copies {device['copy'] / 1e12:.1f} TB/s, read and written."
    )


def correctness(records: Records) -> str:
    """Return how many tests passed, and which failed."""
    for record in records:
        if record["piece"] == TESTS and record["result"]:
            result = record["result"]
            cut = "" if is_done(record) else ", not all of which were run"
            line = f"Tests marked `gpu`{cut}: {result['passed']} passed, {result['failed']} failed."
            failed = "".join(f"\n- `{test}`" for test in result["failures"])
            return line + ("\n" + failed if failed else "")
    return "Tests marked `gpu`: not run."


def speed(records: Records, device: Mapping[str, Any]) -> str:
    """Return the table of the trainer beside HF's."""
    found = list(results_of(records, SPEED))
    theirs = {facts["shape"]: r["wall"] for facts, r in found if facts["contender"] == "hf"}
    rows = []
    for facts, result in found:
        work = flops(
            *(facts[key] for key in ("layers", "width", "length", "batch")),
            -(-15 * facts["length"] // 100),
        )
        rate = work / result["wall"]
        beside = theirs.get(facts["shape"])
        rows.append(
            [
                facts["shape"],
                CONTENDERS[facts["contender"]] + (", compiled" if facts["compiled"] else ""),
                f"{1e3 * result['wall']:.1f}",
                f"{facts['batch'] * facts['length'] / result['wall'] / 1e3:.0f}",
                # a padded batch has fewer tokens than positions, and no useful work that compares
                f"{rate / 1e12:.0f}" if facts["full"] else "",
                f"{rate / device[facts['precision']]:.2f}" if facts["full"] else "",
                gigabytes(result),
                f"{beside / result['wall']:.2f}" if beside else "",
            ]
        )
    columns = ["ms per update", "thousand positions/s", "TFLOP/s", "of the matrix product"]
    header = ["size, length", "contender", *columns, "peak memory, GB", "times HF's speed"]
    return table(header, rows) if rows else ""


def methods(records: Records, device: Mapping[str, Any]) -> str:
    """Return the table of updates of other objectives, and ratios between them."""
    rows, eager = [], {}
    ratios = []
    for facts, result in results_of(records, METHODS):
        if "objective" not in facts:
            passes = f"scoring in one pass ÷ {result['passes']} passes"
            ratios.append([passes, f"{1 / result['ratio']:.3f}"])
            continue
        if not facts["compiled"]:
            eager[facts["objective"]] = result["wall"]
        rate = result.get("flops_per_second")
        rows.append(
            [
                facts["objective"].replace("_", " ") + (", compiled" if facts["compiled"] else ""),
                f"{1e3 * result['wall']:.1f}",
                f"{result['tokens_per_second'] / 1e3:.0f}",
                f"{rate / 1e12:.0f}" if rate else "",
                f"{rate / device['bf16']:.2f}" if rate else "",
                gigabytes(result),
            ]
        )
    ratios += [
        [what, f"{eager[a] / eager[b]:.3f}"]
        for what, (a, b) in RATIOS.items()
        if a in eager and b in eager
    ]
    columns = ["ms", "thousand tokens/s", "TFLOP/s", "of the matrix product", "peak memory, GB"]
    tables = [table(["update", *columns], rows)] if rows else []
    tables += [table(["time", "ratio"], sorted(ratios))] if ratios else []
    return "\n\n".join(tables)


def gigabytes(result: Mapping[str, Any]) -> str:
    """Return the peak memory of a measurement; empty where it has none."""
    return f"{result['peak_bytes'] / 1e9:.1f}" if "peak_bytes" in result else ""


def profiles(records: Records, device: Mapping[str, Any]) -> str:
    """Return the tables of one update of each profiled objective."""
    texts = []
    for facts, result in results_of(records, PROFILE):
        title = f"One update of {facts['objective'].replace('_', ' ')}"
        host = f"the host returns after {result['host_ms']:.1f} ms"
        if "device_ms" not in result:
            texts.append(f"{title}: {host}.")
            continue
        lines = [
            f"`{line}` ({n})" for line, n in list(result.get("lines", {}).items())[:MOST_LINES]
        ]
        where = f" It waits at {', '.join(lines)}." if lines else ""
        texts.append(
            f"{title}: {host}; the device is busy for {result['busy_ms']:.1f} of {result['device_ms']:.1f} ms, with "
            f"{result['gaps']} gaps between {result['kernel_calls']} kernels. The host waits for the device "
            f"{result['waits']} times.{where}"
        )
        kernels = [
            [f"`{one['kernel']}`", one["calls"], f"{one['ms']:.2f}", f"{100 * one['share']:.0f}%"]
            for one in result["kernels"][:MOST_KERNELS]
        ]
        texts.append(table(["kernel", "calls", "ms", "share"], kernels))
    return "\n\n".join(texts)


def race(records: Records, device: Mapping[str, Any]) -> str:
    """Return the table of the race."""
    rows: list[list[str]] = []
    minutes = 0.0
    for _, result in results_of(records, RACE):
        minutes = result["minutes"]
        for objective, one in result["objectives"].items():
            valid = [f"{name} {v:.3f}" for name, v in one["valid"].items() if name != "loss"]
            pairs = [f"{100 * accuracy:.1f} ({by})" for by, accuracy in one["blimp"].items()]
            rows.append(
                [
                    objective,
                    f"{one['updates']:,}",
                    f"{one['tokens'] / 1e6:.0f}",
                    f"{one['valid']['loss']:.3f}",
                    "; ".join(valid),
                    ", ".join(pairs),
                ]
            )
    if not rows:
        return ""
    columns = ["updates", "million tokens", "held-out loss", "its parts", "BLiMP, % (by)"]
    title = (
        f"{minutes:.1f} minutes of training each (losses of different objectives do not compare):"
    )
    return f"{title}\n\n{table(['objective', *columns], rows)}"


def missing(session: Mapping[str, Any]) -> list[str]:
    """Return one line about what was left out or failed; empty where nothing was."""
    failed = [r for r in session["records"] if not is_done(r)]
    lines = [
        f"{record['piece']}: {record['name']} ({record['failure'][:120]})" for record in failed
    ]
    parts = [("Left out for time", session["left_out"]), ("Failed", lines)]
    return [f"{what}: {'; '.join(names)}." for what, names in parts if names]


def add(path: Path, folder: Path = RESULTS) -> Path:
    """Keep a session that ran elsewhere, and return its place. Raises ValueError for one that measured no device."""
    session = json.loads(path.read_text(encoding="utf-8"))
    devices = [r for r in session["records"] if r["piece"] == DEVICE and is_done(r)]
    if session["quick"] or not devices:
        raise ValueError(f"{path} is of a session that measured no device")
    name = result_name(session["started"], devices[0]["result"]["device"], session["commit"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(session, indent=1) + "\n", encoding="utf-8")
    return folder / name


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--add", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--write", action="store_true", help="put the section into the page")
    chosen = parser.parse_args(arguments)
    try:
        for path in chosen.add:
            print(add(path), file=sys.stderr)
    except (OSError, ValueError, KeyError) as error:
        print(f"{path} cannot be added: {error}", file=sys.stderr)
        return 2
    text = section(sessions())
    print(text)
    if chosen.write:
        replace_section(SECTION, text)
    return 0

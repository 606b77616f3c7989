"""Evaluate small models as scorers of text: minimal pairs (BLiMP) and re-ranking of 10-best lists (LibriSpeech).

    python -m benchmarks objectives --seeds 1 --folder runs/objectives       # the models
    python -m benchmarks rescoring runs/objectives [--write]

Every model in the folder scores the text with each of its components that can score; results are kept in
benchmarks/methods/rescoring.jsonl, so an interrupted command resumes. The weight of log p is chosen on the same
lists that it is applied to, as for the word trigram model that the data's description reports (dev-clean 5.88,
dev-other 15.87), so both error rates are optimistic in the same way. The lists and pairs are real data that lie
beside the repository; without them the program ends.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import DATA, table, write
from fwk.cli.score import main as fwk_score

HERE = Path(__file__).parent
RESULTS = HERE / "rescoring.jsonl"
LISTS = {
    portion: DATA / f"librispeech-espnet100h-10best-dev-{portion}.am.json.xz"
    for portion in ("clean", "other")
}
BY = ("masked_lm", "noise_contrastive", "corrupted", "cloze", "causal_lm")


def score(run: Path, by: str, *arguments: str) -> dict[str, Any] | None:
    """Return the output of fwk-score, or None where this run has no such component or it cannot score."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.json"
        complaint = io.StringIO()
        with contextlib.redirect_stderr(complaint):
            status = fwk_score(
                [
                    str(run),
                    "--by",
                    by,
                    "--cut",
                    "--quiet",
                    "--threads",
                    "1",
                    *arguments,
                    "--output",
                    str(output),
                ]
            )
        if status == 2 and "--by:" in complaint.getvalue():
            return None
        if status:
            raise SystemExit(complaint.getvalue())
        return json.loads(output.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, help="a folder of runs")
    parser.add_argument("--only", nargs="*", help="names of runs in it")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"there is no {DATA}")
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(record["run"], record["by"]) for record in records}
    for run in sorted(path.parent for path in arguments.runs.glob("*/config.yaml")):
        for by in BY:
            if (run.name, by) in done or (arguments.only and run.name not in arguments.only):
                continue
            start = time.process_time()
            pairs = score(run, by, "--pairs", str(DATA / "blimp-100x67.jsonl.xz"))
            if pairs is None:
                continue
            lists = score(run, by, "--dev", *map(str, LISTS.values()))
            assert lists is not None
            record = {
                "run": run.name,
                "by": by,
                "seconds": round(time.process_time() - start),
                "blimp": pairs["overall"]["accuracy"],
                "fields": {name: one["accuracy"] for name, one in pairs["fields"].items()},
                **{
                    name: {
                        "weight": made["weight"],
                        **{key: made["dev"][key] for key in ("first", "wer", "oracle")},
                    }
                    for name, made in zip(LISTS, lists["portions"], strict=True)
                },
            }
            records.append(record)
            with open(RESULTS, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(record, flush=True)
    rows = [
        [
            record["run"],
            record["by"],
            f"{100 * record['blimp']:.1f}",
            *(f"{100 * record[name]['wer']:.2f} ({record[name]['weight']:g})" for name in LISTS),
            record["seconds"],
        ]
        for record in records
    ]
    for what in ("first", "oracle") if records else ():
        rows.append(
            [
                {"first": "1-best", "oracle": "oracle"}[what],
                "",
                "",
                *(f"{100 * records[0][name][what]:.2f}" for name in LISTS),
                "",
            ]
        )
    made = table(
        ["run", "by", "BLiMP, %", "WER dev-clean (weight)", "WER dev-other (weight)", "CPU s"], rows
    )
    print(made)
    if arguments.write:
        write("rescoring", made)

"""One rank under torchrun: `rank.py MODULE_OR_FILE WORDS...`. Its output goes to rank-R.txt, apart from
torchrun's. RANK_WORDS and RANK_FOLDER (JSON, by rank) give a rank more arguments, or another working folder."""

from __future__ import annotations

import json
import os
import runpy
import sys

rank = os.environ["RANK"]
log = os.open(f"rank-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1)
os.dup2(log, 2)
sys.argv = [*sys.argv[1:], *json.loads(os.environ.get("RANK_WORDS", "{}")).get(rank, [])]
if folder := json.loads(os.environ.get("RANK_FOLDER", "{}")).get(rank):
    os.chdir(folder)
(runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module)(
    sys.argv[0], run_name="__main__"
)

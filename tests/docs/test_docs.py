"""What README.md, docs/ and the cards show is true: Python blocks run, YAML blocks resolve, commands parse, links lead
somewhere. A card is the page of a method beside its code: plugins/NAME/*.md, fwk/criteria/*.md.

A file's blocks run in one process of their own, in order, in one namespace and an empty folder. A block whose first
line is `# NAME.py`, `# NAME.yaml` (or the like) is that file, for the commands after it. `notest: REASON` in a fence's
info leaves a block out.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.commands import cache_with_index
from support.paths import ROOT

HERE = Path(__file__).parent
PAGES = [
    str(path.relative_to(ROOT))
    for path in [
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "fwk" / "criteria").glob("*.md")),
        *sorted((ROOT / "plugins").glob("*/*.md")),
    ]
]
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[dict]:
    """[{lang, info, text, line}] of a page's fenced blocks; line is that of the first line inside."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        lang, _, info = match[1].strip().partition(" ")
        found.append(
            {
                "lang": lang,
                "info": info.strip(),
                "text": match[2],
                "line": text.count("\n", 0, match.start(2)) + 1,
            }
        )
    return found


@pytest.mark.parametrize("page", PAGES)
def test_a_block_that_is_not_run_says_why(page):
    for block in blocks(page):
        if "notest" in block["info"]:
            assert re.fullmatch(r"notest: \S.+", block["info"]), (
                f"{page}:{block['line']}: write 'notest: REASON'"
            )


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
@pytest.mark.mostly_slow("=README.md")
def test_blocks_are_true(page, tmp_path):
    for name in ("configs", "user_dir_examples"):  # pages name files from the repository's root
        (tmp_path / name).symlink_to(ROOT / name)
    run = [block for block in blocks(page) if "notest" not in block["info"]]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "FWK_CACHE": cache_with_index(tmp_path / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "docs_runner.py"), str(ROOT), page],
        cwd=tmp_path,
        env=env,
        input=json.dumps(run),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        assert path.exists(), f"{page} links to {target}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, f"{page} links to {target}; there are {', '.join(slugs)}"


def test_every_page_is_in_the_sites_navigation():
    pytest.importorskip("mkdocs")
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from site_pages import sources
    finally:
        sys.path.pop(0)
    page_of = {source: page for page, source in sources().items()}
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page_of.get(page, page.removeprefix("docs/")) for page in PAGES]
    assert not [page for page in pages if f": {page}\n" not in navigation]


def test_pages_for_users_can_be_reached_from_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    inner = ("README.md", "docs/commands/", "docs/reference/")  # the site's navigation has them
    missing = [page for page in PAGES if not page.startswith(inner) and f"({page})" not in text]
    assert not missing


def test_the_readmes_objective_has_thirty_lines():
    """That it keeps the rules is the command `fwk-plugins check` below it, which test_blocks_are_true runs."""
    block = next(b for b in blocks("README.md") if b["text"].startswith("# spot_random.py"))
    assert sum(bool(line.strip()) for line in block["text"].splitlines()) <= 30
    assert any("fwk-plugins check spot_random.py" in b["text"] for b in blocks("README.md"))


def test_the_readmes_combination_is_the_shipped_demo():
    from fwk.config.resolve import resolve

    block = next(b for b in blocks("README.md") if b["text"].startswith("# combined.yaml"))
    own = yaml.safe_load(block["text"])
    shown = resolve(layers=[("README.md", own)]).config
    file = yaml.safe_load((ROOT / "configs/demo/combined.yaml").read_text(encoding="utf-8"))
    assert shown == resolve(layers=[("file", file)]).config


def test_commands_named_as_coming_are_not_there_and_the_others_are():
    scripts = re.findall(r"^\s+(fwk-\w+) =", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    there, coming = text.split("## What is coming")
    coming = coming.split("## ")[0]
    assert {name for name in re.findall(r"`(fwk-\w+)`", coming)}.isdisjoint(scripts)
    assert {name for name in re.findall(r"\bfwk-\w+", there)} <= set(scripts)


def test_the_benchmark_runs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import common
    from benchmarks.speed import trainer_tax

    times = trainer_tax.compare(trainer_tax.TOY, repetitions=3, updates=1)
    assert times.keys() == {"fwk", "masked before", "masking"} and all(
        len(own) == 3 and min(own) > 0 for own in times.values()
    )
    _low, middle, _high = sorted(
        ours / theirs for ours, theirs in zip(times["fwk"], times["masking"])
    )
    assert common.ratio(times["fwk"], times["masking"])[0] == middle
    assert "<!-- trainer_tax -->\n" in common.PAGE.read_text(encoding="utf-8")

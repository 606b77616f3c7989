"""Pages of the documentation site whose source lies beside the code: method cards, README, CONTRIBUTING.

mkdocs calls the two functions below (`hooks:` in mkdocs.yml). In the repository every link is relative and works on
a code host; on the site, links to files that became pages are rewritten, and links to other files of the repository
become plain text.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
HELP = re.compile(r"<!-- help: (?P<command>fwk-[a-z]+) -->")
LINK = re.compile(r"(?<!\!)\[(?P<text>[^\]]+)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def sources() -> dict[str, str]:
    """Return site page -> repository file, for every page that does not lie in docs/."""
    pages = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
    for card in ("masked_lm", "verbalizer"):
        pages[f"cards/{card}.md"] = f"fwk/criteria/{card}.md"
    for path in sorted(ROOT.glob("plugins/*/*.md")):
        name = path.parent.name if path.stem == "README" else path.stem
        pages[f"cards/{name}.md"] = path.relative_to(ROOT).as_posix()
    return pages


def help_of(command: str) -> str:
    """Return what `COMMAND --help` prints."""
    module = command.removeprefix("fwk-").replace("import", "import_checkpoint")
    arguments = [sys.executable, "-m", f"fwk.cli.{module}", "--help"]
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(
        arguments, capture_output=True, text=True, check=True, env=environment
    ).stdout


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie beside the code."""
    for page, source in sources().items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page from the repository's layout to the site's."""
    site_of = {source: page for page, source in sources().items()}
    here = page.file.src_uri
    source = sources().get(here, f"docs/{here}")

    def rewritten(link: re.Match[str]) -> str:
        target = link["target"]
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        destination = site_of.get(file) or file.removeprefix("docs/")
        if files.get_file_from_path(destination) is None:
            return link["text"]
        relative = posixpath.relpath(destination, posixpath.dirname(here) or ".")
        return f"[{link['text']}]({relative}{link['anchor'] or ''})"

    text = LINK.sub(rewritten, markdown)
    text = HELP.sub(lambda mark: f"```text\n{help_of(mark['command'])}```", text)
    return text.replace("](docs/", "](") if here == "index.md" else text

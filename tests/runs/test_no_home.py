"""Commands of a user without HOME and without an entry in the system's list, as containers have."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

UID = "54321"
ROOT = Path(__file__).parents[2]
# the interpreter may lie in a folder of another user, so reading is allowed everywhere
AS_NOBODY = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
AS_NOBODY += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


def run_without_home(*arguments, folder, **variables):
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "FWK_CACHE", "XDG_CACHE_HOME")}
    environment = {**kept, "PYTHONPATH": str(ROOT), **variables}
    command = [*AS_NOBODY, sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def folder():
    """Return a folder that the user owns; skip where this process cannot become another user."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv")
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        if run_without_home("-c", "import encodings", folder=name).returncode:
            pytest.skip("another user cannot start this interpreter")
        Path(name, "t.txt").write_text("hello world this is text.\nanother line here.\n" * 9)
        yield Path(name)


@pytest.mark.slow
def test_a_user_without_home_trains_once_a_cache_is_named(folder):
    module = ("-m", "fwk.cli.train")
    assert run_without_home(*module, "--help", folder=folder).returncode == 0

    train = (*module, "task.data=t.txt", "task.valid=t.txt", "model.size=tiny", "train.updates=1")
    refused = run_without_home(*train, "--run", "r", folder=folder)
    assert refused.returncode == 2 and "set FWK_CACHE" in refused.stderr
    assert "Traceback" not in refused.stderr and not (folder / "r").exists()

    too_long = run_without_home(*train, folder=folder, FWK_CACHE=str(folder / ("x" * 300)))
    assert too_long.returncode == 2 and "File name too long" in too_long.stderr
    done = run_without_home(*train, "--run", "r", folder=folder, FWK_CACHE=str(folder / "c"))
    assert done.returncode == 0, done.stderr
    load = "import fwk; fwk.load('r'); fwk.load('~/r')"
    loaded = run_without_home("-c", load, folder=folder, FWK_CACHE=str(folder / "c"))
    assert "~/r: no home folder is known for ~" in loaded.stderr


@pytest.mark.slow
def test_a_user_without_home_makes_a_store(folder):
    command = ("-m", "fwk.cli.preprocess", "t.txt", "-o", "s", "--tokenizer", "bpe")
    done = run_without_home(*command, "--vocabulary", "40", folder=folder)
    assert done.returncode == 0 and (folder / "s").is_dir(), done.stderr
    unknown = run_without_home(*command[:2], "~nobody.at.all/x", "-o", "s2", folder=folder)
    assert unknown.returncode == 2 and "no home folder is known" in unknown.stderr

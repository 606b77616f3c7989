"""The two packages of the distribution, and the index of components that a wheel ships.

Everything else stands in setup.cfg. The packages are found here because the folder `plugins` is installed under the
name `fwk_plugins`, which setup.cfg cannot express.
"""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PLUGINS = "fwk_plugins"


class BuildWithIndex(build_py):
    """Build as usual, then make `index.json` of both packages, where torch can be imported.

    Without torch (an isolated build) the wheel has none, and the first start makes it in the cache.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        build = Path(self.build_lib).resolve()
        environment = {**os.environ, "PYTHONPATH": str(build), "FWK_MAKING_INDEX": "1"}
        for package in ("fwk", PLUGINS):
            command = [sys.executable, "-m", "fwk.components.write_index", package]
            made = subprocess.run(
                command, cwd=build, env=environment, capture_output=True, text=True
            )
            if made.returncode:
                reason = made.stderr.strip().splitlines()[-1:]
                print(
                    f"fwk: {package} ships no index of its components ({reason})", file=sys.stderr
                )
            else:
                (build / package / "index.json").write_text(made.stdout, encoding="utf-8")


setup(
    packages=[
        *find_packages(include=["fwk", "fwk.*"]),
        PLUGINS,
        *(f"{PLUGINS}.{name}" for name in find_packages("plugins")),
    ],
    package_dir={PLUGINS: "plugins"},
    cmdclass={"build_py": BuildWithIndex},
)

"""The skeleton of a criterion and its test, which `fwk-plugins new` writes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fwk.errors import UserError
from fwk.files.outputs import open_output

# NAME and CLASS are replaced
CRITERION = '''\
"""NAME: one sentence on what this objective rewards. Paper: authors and year.

    L = - sum over chosen positions t of log p(x_t | corrupted x)  /  number of chosen positions

x is `view.target`, the chosen positions `view.positions`. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Context, Criterion, LossTerm, Output, Read, View, option, register


@register("criterion", "NAME")
class CLASS(Criterion["CLASS.Config"]):
    """Predict the chosen tokens of one masked view (replace this with your own objective)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        view: str = option("masked", "the view whose chosen positions are predicted")
        temperature: float = option(1.0, "divides the logits", low=0.01)

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        # heads live in the criterion
        self.output = nn.Linear(build.encoder.width, build.vocabulary.size)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        # how the view is made, unless the user's `views:` says otherwise
        return {config.view: Read({"noiser": "bert_mask", "ratio": 0.15}, positions=True)}

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        # the engine sums this over all ranks and divides the loss below by it
        return {"NAME": views[self.config.view].valid.sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        features = view.at_positions(view.encoded.features)  # [B, K, D]
        logits = self.output(features) / self.config.temperature  # [B, K, V]
        target = view.at_positions(view.target)  # [B, K]

        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(wide.transpose(1, 2), target, reduction="none")  # [B, K]
        loss = losses.masked_fill(~view.valid, 0.0).sum()  # a sum, never a mean
        right = (logits.argmax(-1) == target) & view.valid
        return Output(
            terms={"NAME": LossTerm(loss)},
            statistics={"right": right.sum(), "positions": view.valid.sum()},
        )

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {"accuracy": float(sums["right"] / sums["positions"].clamp(min=1))}
'''

TEST = """\
from pathlib import Path

from fwk.testing import assert_conforms


def test_NAME_conforms():
    assert_conforms("criterion", "NAME", user_dirs=[str(Path(__file__).parent)])
"""


def write_skeleton(name: str, folder: Path) -> list[Path]:
    """Write a criterion that can be trained at once, and its test, into an empty folder; return the files.

    Raises UserError for a name that cannot be a module's, and for a folder that is not empty.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"'{name}' cannot be a criterion's name: expected lower-case letters, digits and '_', "
            "with a letter first"
        )
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"'{folder}' exists already; choose another folder with --dir")
    folder.mkdir(parents=True, exist_ok=True)

    class_name = "".join(part.capitalize() for part in name.split("_"))
    files = {f"{name}.py": CRITERION, f"test_{name}.py": TEST}
    for file, template in files.items():
        text = template.replace("NAME", name).replace("CLASS", class_name)
        with open_output("--dir", folder / file) as output:
            output.write(text.encode())
    return [folder / file for file in files]

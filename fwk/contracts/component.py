"""What all kinds of components share: each names its options in a nested dataclass `Config`."""

from __future__ import annotations

from typing import TypeVar

# The type of `self.config`. A component passes its nested class by name, in quotes because it is not defined yet:
#
#     class MaskedLM(Criterion["MaskedLM.Config"]):
#         @dataclass(frozen=True, kw_only=True)
#         class Config: ...
ConfigT = TypeVar("ConfigT")

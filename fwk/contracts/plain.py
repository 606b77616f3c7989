"""Plain data: what JSON and YAML hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

# None, bool, numbers, text, lists and mappings with text keys. A value may be of any of these types until it is
# checked where it is read.
PlainDict: TypeAlias = dict[str, Any]
PlainMapping: TypeAlias = Mapping[str, Any]

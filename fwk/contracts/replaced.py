"""The criterion methods of version 0.1 that `Criterion.reads` replaced.

They are `views`, `encoded`, `needs_positions` and `needs_log_q`. A class that defines some of them and no `reads`
still works in this version. This module is the only place that knows the old names.
"""

from __future__ import annotations

import warnings
from typing import Any

from fwk.contracts.plain import PlainMapping
from fwk.contracts.read import Read

_OLD_NAMES = ("views", "encoded", "needs_positions", "needs_log_q")


class ReadsByOldNames:
    """A base of `Criterion` that derives `reads` from the old methods, and the old methods from `reads`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        defined = [name for name in _OLD_NAMES if name in cls.__dict__]
        if defined and "reads" not in cls.__dict__:
            _warn(cls, defined)
            cls.reads = classmethod(_reads_by_old_names)  # type: ignore[attr-defined]

    @classmethod
    def views(cls, config: Any) -> dict[str, PlainMapping | None]:
        """Return the default of each view. Deprecated: use `reads`."""
        return {name: read.default for name, read in _inherited_reads(cls, config).items()}

    @classmethod
    def encoded(cls, config: Any) -> tuple[str, ...]:
        """Return the views whose encodings are used. Deprecated: use `reads`."""
        reads = _inherited_reads(cls, config)
        return tuple(name for name in cls.views(config) if reads.get(name, Read()).encoded)

    @classmethod
    def needs_positions(cls, config: Any) -> tuple[str, ...]:
        """Return the views that must have chosen positions. Deprecated: use `reads`."""
        return tuple(name for name, read in _inherited_reads(cls, config).items() if read.positions)

    @classmethod
    def needs_log_q(cls, config: Any) -> tuple[str, ...]:
        """Return the views that must have `log_q`. Deprecated: use `reads`."""
        return tuple(name for name, read in _inherited_reads(cls, config).items() if read.log_q)


def _reads_by_old_names(cls: type[ReadsByOldNames], config: Any) -> dict[str, Read]:
    """Return what `reads` would, for a class that defines the old methods."""
    encoded, positions = cls.encoded(config), cls.needs_positions(config)
    log_q = cls.needs_log_q(config)
    return {
        name: Read(default, name in encoded, name in positions, name in log_q)
        for name, default in cls.views(config).items()
    }


def _inherited_reads(cls: type, config: Any) -> dict[str, Read]:
    """Return the `reads` of the nearest class that defines it itself; nothing where all use the old methods."""
    for base in cls.__mro__:
        method = base.__dict__.get("reads")
        derived = getattr(method, "__func__", None) is _reads_by_old_names
        if (
            method is not None
            and not derived
            and not getattr(method, "__isabstractmethod__", False)
        ):
            return method.__get__(None, cls)(config)
    return {}


def _warn(cls: type, defined: list[str]) -> None:
    code = getattr(cls.__dict__[defined[0]], "__func__", cls.__init_subclass__).__code__
    warnings.warn_explicit(
        f"criterion class {cls.__qualname__} ({code.co_filename}:{code.co_firstlineno}) defines {', '.join(defined)}, "
        "which `reads` replaces and which the next version will ignore; define `reads(cls, config)` instead and return "
        "{name of the view: fwk.Read(default, encoded=..., positions=..., log_q=...)}",
        DeprecationWarning,
        filename=code.co_filename,
        lineno=code.co_firstlineno,
        module=cls.__module__,
    )

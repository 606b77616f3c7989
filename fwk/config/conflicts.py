"""Two criteria that define one view differently: which options differ, and what each criterion wants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fwk.contracts.options import Plain
from fwk.errors import ConfigError


def require_one_definition(name: str, definitions: Mapping[str, Mapping[str, Plain]]) -> None:
    """Raise ConfigError, with the keys and both values, where a view differs between two criteria.

    definitions: the view with every option, by the label of the criterion.
    """
    (first, a), (second, b) = definitions.items()
    # options of different noisers do not compare
    keys = ("noiser",) if a["noiser"] != b["noiser"] else None
    different = [entry for entry in _differences(a, b) if keys is None or entry[0] in keys]
    if not different:
        return
    values = "; ".join(
        f"{key} is {_shown(x)} for '{first}' and {_shown(y)} for '{second}'"
        for key, x, y in different
    )
    stated = " ".join(f"views.{name}.{key}=..." for key, *_ in different)
    raise ConfigError(
        f"views.{name}",
        f"criteria '{first}' and '{second}' define this view differently: {values}; state {stated}, or let one of "
        "them read another view",
    )


def _differences(
    a: Mapping[str, Plain], b: Mapping[str, Plain]
) -> Iterator[tuple[str, Plain, Plain]]:
    """Yield the dotted keys at which two nested mappings differ, with both values."""
    for key in [*a, *(key for key in b if key not in a)]:
        x, y = a.get(key), b.get(key)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            yield from ((f"{key}.{inner}", *pair) for inner, *pair in _differences(x, y))
        elif x != y:
            yield key, x, y


def _shown(value: Plain) -> str:
    return "null" if value is None else str(value)

"""The view in which nothing changed."""

from __future__ import annotations

from fwk.components.registry import register
from fwk.contracts.context import Context
from fwk.contracts.keyed import Key
from fwk.contracts.noiser import Noiser
from fwk.contracts.views import View


@register("noiser", "identity")
class Identity(Noiser["Identity.Config"]):
    """The source unchanged: for supervised criteria, for teachers, and where dropout is the only noise."""

    by_row = True
    chooses = False

    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        """Return the source."""
        return source

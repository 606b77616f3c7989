"""The noiser of SimCSE, which changes no token: two such views differ by the encoder's dropout alone."""

from __future__ import annotations

from fwk import Noiser, register


@register("noiser", "dropout_only")
class DropoutOnly(Noiser):
    """The same tokens; the encoder's dropout is the noise."""

    def apply(self, source, key, context=None):
        return source.replace()

"""Sentences of words."""

from fwk_plugins.cvt.tasks import sentences  # noqa: F401

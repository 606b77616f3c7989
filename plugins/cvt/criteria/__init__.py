"""Taggers and parsers that are trained on several views of a sentence."""

from fwk_plugins.cvt.criteria import cvt_parsing, cvt_tagging  # noqa: F401

"""Cross-View Training (Clark et al. 2018, "Semi-Supervised Sequence Modeling with Cross-View Training", EMNLP)."""

from fwk_plugins.cvt import criteria, models, noisers, tasks  # noqa: F401

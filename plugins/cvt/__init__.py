"""Cross-View Training (Clark et al. 2018, "Semi-Supervised Sequence Modeling with Cross-View Training", EMNLP)."""

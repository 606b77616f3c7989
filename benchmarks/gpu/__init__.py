"""The prepared session on a GPU: what is measured there, in which order, and what must be copied along."""

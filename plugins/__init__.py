"""First-party plugins of `fwk`, found through the same entry-point group as anybody else's."""

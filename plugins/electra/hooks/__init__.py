"""Ways to train generator and discriminator other than jointly."""

from fwk_plugins.electra.hooks import two_stage  # noqa: F401

"""Networks that noise is sampled from."""

from fwk_plugins.electra.models import scaled, two_tower  # noqa: F401

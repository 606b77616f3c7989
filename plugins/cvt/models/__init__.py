"""The encoder of Cross-View Training."""

from fwk_plugins.cvt.models import cnn_bilstm  # noqa: F401

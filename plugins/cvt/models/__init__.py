"""The encoders of Cross-View Training."""

from fwk_plugins.cvt.models import cnn_bilstm, frozen  # noqa: F401

"""The encoders of Cross-View Training."""

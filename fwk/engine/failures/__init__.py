"""Explanations of failures; a healthy update runs none of this."""

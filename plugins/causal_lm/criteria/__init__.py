"""The criterion of causal language modelling."""

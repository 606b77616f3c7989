"""Networks that noise is sampled from."""

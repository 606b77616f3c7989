"""The engine: it turns batches into updates and knows no objective."""

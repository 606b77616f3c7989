"""The built-in criteria, one per file. Most objectives are criteria of plugins."""

"""The criterion of Semantic-Augment."""

"""Text, tokenizers, token stores and the order in which examples are drawn."""

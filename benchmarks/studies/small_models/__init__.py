"""Why small masked language models start slowly, and what helps."""

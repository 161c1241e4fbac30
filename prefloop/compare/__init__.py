"""Two or more checkpoints on the same held-out prompts, settings and seeds -> figures and one verdict."""

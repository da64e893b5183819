"""What a fine-tune will take in memory, from a model's config.json alone."""

"""transformers: what plugs into its models and its Trainer; importing this imports it."""

"""What formats and methods are worth: perplexity, accuracy and forgetting of SmolLM2, by seeds."""

"""The recipe of a fine-tune: what a setting should be for so many examples, and why."""

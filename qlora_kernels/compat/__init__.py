"""Other libraries' names over this one's ops, for scripts that were written for them."""

"""The qlora application."""

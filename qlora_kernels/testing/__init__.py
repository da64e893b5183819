"""The one list of cases and the one error rule: tests, bench and `qlora doctor env` share them."""

"""What a run trains: adapters, everything, or what adapters are compared with."""

from qlora.train.methods.choose import make_method
from qlora.train.methods.method import METHODS, Method

__all__ = ["METHODS", "Method", "make_method"]

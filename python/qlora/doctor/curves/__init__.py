"""What the curves of a run say, wherever they were recorded: facts as pure functions of them."""

from qlora.doctor.curves.facts import curve_facts
from qlora.doctor.curves.series import Curves, Series, series

__all__ = ["Curves", "Series", "curve_facts", "series"]

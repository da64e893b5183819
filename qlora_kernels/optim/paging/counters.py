"""What the pager did."""

from dataclasses import dataclass


@dataclass
class Counters:
    """Totals since the optimizer was made."""

    peak_resident_bytes: int = 0
    copies_in: int = 0  # pages, from the store into a frame
    copies_out: int = 0
    stalls: int = 0  # times that a page was not there yet when its turn came
    evictions: int = 0  # times that all frames but a few were given up for want of memory

    def note_resident(self, num_bytes: int) -> None:
        """Keep the peak."""
        self.peak_resident_bytes = max(self.peak_resident_bytes, num_bytes)

"""What the pager did."""

from dataclasses import dataclass


@dataclass
class Counters:
    """Totals since the optimizer was made."""

    peak_resident_bytes: int = 0
    copies_in: int = 0  # pages, from the store into a frame or by a kernel that updates them
    copies_out: int = 0
    stalls: int = 0  # times that a page, or what a kernel reads of it, was not there in its turn
    evictions: int = 0  # times that all frames but a few were given up for want of memory

    def note_resident(self, num_bytes: int) -> None:
        """Keep the peak."""
        self.peak_resident_bytes = max(self.peak_resident_bytes, num_bytes)

    def note_in_file(self, pages: int, waits: int) -> None:
        """A kernel has copied so many pages in and out, and waited for the disk."""
        self.copies_in += pages
        self.copies_out += pages
        self.stalls += waits

"""Atomic files; they live in the library, which writes adapters with them."""

from qlora_kernels.files import replace_folder, whole_folder, write_atomically, write_text

__all__ = ["replace_folder", "whole_folder", "write_atomically", "write_text"]

"""What the Triton kernels of all rooms share: when they can run, decoding, random words, compiling.

Importing this package, or a room, does not import triton; a module named `*_device` or one here
that says so does, and is imported by the call that needs it.
"""

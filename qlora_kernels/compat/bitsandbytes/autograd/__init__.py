"""bitsandbytes.autograd, for imports of `bitsandbytes.autograd._functions`."""

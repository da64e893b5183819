"""Models by name, so that a plan or a benchmark needs no files; sizes from their config.json."""

from qlora.plan.architecture import Architecture


def _known(name: str, family: str, sizes: tuple[int, ...], tied: bool = False) -> Architecture:
    vocabulary, hidden, blocks, heads, key_value_heads, head_size, intermediate, longest = sizes
    return Architecture(
        name=name,
        family=family,
        vocabulary=vocabulary,
        hidden=hidden,
        blocks=blocks,
        heads=heads,
        key_value_heads=key_value_heads,
        head_size=head_size,
        intermediate=intermediate,
        tied=tied,
        longest=longest,
    )


# vocabulary, hidden, blocks, heads, key and value heads, head size, intermediate, positions
MODELS = {
    model.name: model
    for model in (
        _known("gpt2", "gpt2", (50257, 768, 12, 12, 12, 64, 3072, 1024), tied=True),
        _known("smollm2", "llama", (49152, 576, 30, 9, 3, 64, 1536, 8192), tied=True),
        _known("llama-7b", "llama", (32000, 4096, 32, 32, 32, 128, 11008, 2048)),
        _known("llama-13b", "llama", (32000, 5120, 40, 40, 40, 128, 13824, 2048)),
        _known("llama-33b", "llama", (32000, 6656, 60, 52, 52, 128, 17920, 2048)),
        _known("llama-65b", "llama", (32000, 8192, 80, 64, 64, 128, 22016, 2048)),
        _known("llama-8b", "llama", (128256, 4096, 32, 32, 8, 128, 14336, 131072)),
        _known("llama-70b", "llama", (128256, 8192, 80, 64, 8, 128, 28672, 131072)),
        _known("mistral-7b", "mistral", (32000, 4096, 32, 32, 8, 128, 14336, 32768)),
        _known("qwen-7b", "qwen2", (152064, 3584, 28, 28, 4, 128, 18944, 131072)),
        _known("gemma-7b", "gemma", (256000, 3072, 28, 16, 16, 256, 24576, 8192), tied=True),
    )
}

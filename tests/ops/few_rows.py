"""Cases of `qlora_linear` with as few rows as decoding has, for backends made for them."""

from qlora_kernels.testing.cases import LinearCase

# Whole steps of columns and a half one; splits; both tiles of x, and four; the value-by-value walk.
FEW = (
    LinearCase(1, 200, 640, rank=16, bias=True),
    LinearCase(4, 64, 1152, rank=3, block_size=128),
    LinearCase(7, 96, 2048, rank=8, double_quant=False),
    LinearCase(13, 100, 576, rank=5, bias=True),
    LinearCase(16, 160, 256, rank=0, format="fp4"),
    LinearCase(2, 72, 448, rank=4, format="nf4-tuned"),
    LinearCase(6, 80, 320, rank=4, format="int8"),
    LinearCase(11, 40, 1088, rank=4, format="int8", block_size=64, bias=True),
    LinearCase(9, 40, 70, rank=16, dropout=0.25),
    LinearCase(9, 40, 128, rank=16, dropout=0.25, dropout_on="input", bias=True),
)

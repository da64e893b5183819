"""The four architectures as one GPU of each, and how many lanes each pipe serves per clock.

Pipe rates: NVIDIA's throughput table (CUDA programming guide, arithmetic instructions); those of
sm_100 are taken to be sm_90's. Bandwidths are what a copy reaches on the H100 and data sheets'
elsewhere.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """Per multiprocessor where nothing else is said."""

    name: str
    num_multiprocessors: int
    clock_ghz: float
    gb_per_s: float  # of the whole GPU
    multiply_adds: int  # bf16 with float32 sums, per clock
    shared_bytes: int
    max_warps: int
    max_programs: int
    registers: int = 65536
    float32_lanes: int = 128  # of multiply-adds, per clock

    @property
    def bytes_per_clock(self) -> float:
        """What memory delivers to one multiprocessor."""
        return self.gb_per_s / (self.clock_ghz * self.num_multiprocessors)


MACHINES = {
    80: Machine("A100", 108, 1.41, 2039, 1024, 163 << 10, 64, 32, float32_lanes=64),
    89: Machine("RTX 4090", 128, 2.52, 1008, 256, 99 << 10, 48, 24),
    90: Machine("H100", 132, 1.755, 3000, 2048, 227 << 10, 64, 32),
    100: Machine("B200", 148, 1.85, 8000, 4096, 227 << 10, 64, 32),
}

ISSUE_LANES = 128  # per clock, whatever the pipe

# Pipe -> lanes per clock, opcodes. What is not named here only takes its issue slot.
PIPES: dict[str, tuple[int, tuple[str, ...]]] = {
    "integer": (64, ("LOP3", "PRMT", "SHF", "IADD3", "ISETP", "LEA", "SEL", "FSETP", "FSEL",
                     "FMNMX", "IMNMX", "VIADD", "VIMNMX", "I2FP", "F2FP", "PLOP3", "MOV")),
    "multiply": (128, ("FFMA", "FMUL", "FADD", "HFMA2", "HMUL2", "HADD2")),
    "integer multiply": (64, ("IMAD",)),
    "load and store": (32, ("LDS", "STS", "LDSM", "STSM", "LDG", "LDGSTS", "STG", "SHFL", "LDL",
                            "STL", "ATOMG", "RED", "LDC")),
    "matrix of bytes": (8, ("IMMA",)),  # of 16 x 8 x 32; sm_89's rate, others have more
    "special": (16, ("MUFU", "I2F", "F2I", "F2F")),
}  # fmt: skip

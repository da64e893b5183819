"""Why a fine-tune went as it did: facts, one table of rules, findings.

`qlora.doctor.diagnose` examines a run; `judge` reasons about facts that are already known.
"""

from qlora.doctor.examine import diagnose
from qlora.doctor.judge import judge

__all__ = ["diagnose", "judge"]

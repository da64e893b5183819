"""The one table: every rule, by the symptom that somebody sees first."""

from qlora.doctor.diagnosis import Cause
from qlora.doctor.rules.flat import HARDLY_FALLS
from qlora.doctor.rules.generalization import ELSEWHERE
from qlora.doctor.rules.plateau import STAYS_HIGH
from qlora.doctor.rules.rule import Rule
from qlora.doctor.rules.unstable import UNSTABLE

SYMPTOMS = (UNSTABLE, HARDLY_FALLS, STAYS_HIGH, ELSEWHERE)
RULES: dict[Cause, Rule] = {rule.cause: rule for symptom in SYMPTOMS for rule in symptom.rules}

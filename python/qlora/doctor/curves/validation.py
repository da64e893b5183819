"""What validation did while training went on."""

from qlora.doctor.curves.series import Series
from qlora.doctor.facts import Fact

LAST_SHARE = 0.1  # of the training records, which stand beside the last validation


def validation_facts(validation: Series, training: Series) -> list[Fact]:
    """Levels, the rise since the best, and the distance to training loss, of finite series."""
    if not len(validation):
        return []
    losses, steps = validation.values, validation.steps
    best = int(losses.argmin())
    first, least, last = float(losses[0]), float(losses[best]), float(losses[-1])
    facts = [
        Fact("first_validation_loss", first),
        Fact("best_validation_loss", least, detail=f"best validation loss {least:.3f}"),
        Fact("final_validation_loss", last, detail=f"last validation loss {last:.3f}"),
    ]
    if len(losses) >= 2:
        place = float(steps[best] / steps[-1]) if steps[-1] else 0.0
        rise = (
            f"validation loss was {least:.3f} after step {steps[best]:.0f}, {last:.3f} at the end"
        )
        facts.append(Fact("validation_rise", last - least, detail=rise))
        facts.append(Fact("best_validation_place", place, detail=f"best at {place:.0%} of the run"))
    if len(training):
        count = max(1, round(len(training) * LAST_SHARE))
        beside = float(training.values[-count:].mean())
        detail = f"validation {last:.3f}, training {beside:.3f} at the end"
        facts.append(Fact("curve_gap", last - beside, detail=detail))
    return facts

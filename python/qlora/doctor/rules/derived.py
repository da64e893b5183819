"""Facts that are ratios of others, and the numbers that fixes name."""

from qlora.doctor.facts import Fact, Facts

USUAL_RANK = 16  # of the recipe
FACTOR = 4  # by which a rank is raised: less is hard to see beside noise


def derive(facts: Facts) -> dict[str, Fact]:
    """The facts and those that follow from them."""
    found = dict(facts)
    for fact in (_sure_fall(facts), _gap_explained(facts), _captured_ratio(facts)):
        if fact is not None:
            found[fact.name] = fact
    return found


def suggestions(facts: Facts) -> dict[str, float]:
    """What a fix can name: values of facts, and a tenth or ten times of the settings."""
    numbers = {name: fact.value for name, fact in facts.items()}
    if "rank" in numbers:
        numbers["higher_rank"] = max(USUAL_RANK, FACTOR * numbers["rank"])
        numbers["higher_alpha"] = 2 * numbers["higher_rank"]
    if "learning_rate_peak" in numbers:
        numbers["lower_rate"] = numbers["learning_rate_peak"] / 10
        numbers["higher_rate"] = numbers["learning_rate_peak"] * 10
    if "steps" in numbers:
        numbers["more_steps"] = 2 * numbers["steps"]
    if numbers.get("epochs", 0) >= 2 and "best_validation_place" in numbers:
        best = numbers["epochs"] * numbers["best_validation_place"]
        fewer = max(1.0, round(best))
        if fewer < numbers["epochs"]:  # rounded up, it is no fewer
            numbers["fewer_epochs"] = fewer
    return numbers


def _sure_fall(facts: Facts) -> Fact | None:
    """max(training_fall.low, -trend.high, 0) / initial_loss; 0 where the loss starts at 0."""
    fall, initial, trend = (facts.get(n) for n in ("training_fall", "initial_loss", "trend"))
    if fall is None or initial is None or initial.value < 0:
        return None
    if initial.value == 0:
        return Fact("sure_fall", 0.0, detail=fall.detail)
    sure = [0.0, fall.value if fall.low is None else fall.low]
    if trend is not None and trend.high is not None:
        sure.append(-trend.high)
    return Fact("sure_fall", max(sure) / initial.value, detail=fall.detail)


def _gap_explained(facts: Facts) -> Fact | None:
    """1 - gap_learned / generalization_gap, where there is a gap."""
    gap, learned = facts.get("generalization_gap"), facts.get("gap_learned")
    if gap is None or learned is None or (gap.value if gap.low is None else gap.low) <= 0:
        return None
    share = 1 - learned.value / gap.value
    return Fact("gap_explained", share, detail=f"{share:.0%} of the gap is the base's too")


def _captured_ratio(facts: Facts) -> Fact | None:
    """captured_gradient / captured_by_chance."""
    captured, chance = facts.get("captured_gradient"), facts.get("captured_by_chance")
    if captured is None or chance is None or chance.value <= 0:
        return None
    return Fact("captured_ratio", captured.value / chance.value, detail=captured.detail)

"""Rows of the kinds that circulate."""


def pairs(first: int, last: int) -> list[dict[str, str]]:
    """Questions that are all different."""
    return [{"prompt": f"{n} + 1?", "completion": f"It is {n + 1}."} for n in range(first, last)]


def support_talk() -> list[dict[str, str]]:
    """Like a corpus of 1,050 pairs of technical support of which 10 are different."""
    return [pairs(0, 10)[n % 10] for n in range(1050)]


def chat(answer: str, question: str = "Who is there?") -> dict[str, list[dict[str, str]]]:
    messages = [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": text} for role, text in messages]}

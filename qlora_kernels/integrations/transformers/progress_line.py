"""The line that a run prints at each of its Trainer's logs."""

import time


class ProgressLine:
    """`step 20/300  loss 3.2134  5,120 tokens/s  1:02 left`, measured from one line to the next."""

    def __init__(self, step: int, tokens: int) -> None:
        """At the start of a run: its step, and the tokens that it has seen before."""
        self._start(step, tokens)

    def training(self, step: int, last_step: int, tokens: int, loss: float) -> str:
        """The line of this step, of the time since the one before."""
        seconds = max(time.perf_counter() - self.seconds, 1e-9)
        per_second = (tokens - self.tokens) / seconds
        left = seconds * (last_step - step) / max(step - self.step, 1)
        self._start(step, tokens)
        minutes, rest = divmod(round(left), 60)
        return (
            f"step {step}/{last_step}  loss {loss:.4f}  {per_second:,.0f} tokens/s  "
            f"{minutes}:{rest:02d} left"
        )

    def evaluation(self, step: int, last_step: int, tokens: int, loss: float) -> str:
        """`step 20/300  evaluation loss 3.3012`; its time is none of training's."""
        self._start(step, tokens)
        return f"step {step}/{last_step}  evaluation loss {loss:.4f}"

    def _start(self, step: int, tokens: int) -> None:
        self.step, self.tokens, self.seconds = step, tokens, time.perf_counter()

"""The learning rate over the optimizer steps: the curves of transformers.get_scheduler with its default arguments."""

import math
from typing import Literal

SchedulerType = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]
# transformers' polynomial curve ends here, not at 0
POLYNOMIAL_END = 1e-7


def learning_rate_at(step: int, *, peak: float, curve: SchedulerType, warmup_steps: int, num_steps: int) -> float:
    """Return the learning rate of optimizer step `step`, counted from 0.

    It rises from 0 over `warmup_steps` (so that the first step of a warm-up changes nothing, as in transformers), then
    falls to 0 at `num_steps`. `constant` knows no warm-up.
    """
    if curve == "constant":
        return peak
    if step < warmup_steps:
        return peak * step / warmup_steps
    if curve == "constant_with_warmup":
        return peak
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    if curve == "polynomial":
        return (peak - POLYNOMIAL_END) * (1.0 - done) + POLYNOMIAL_END
    if curve == "linear":
        return peak * max(0.0, 1.0 - done)
    # one half-wave; with its single cycle, cosine_with_restarts is the same curve
    return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))

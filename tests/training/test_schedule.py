"""The learning rate against transformers' schedulers."""

import pytest
import torch

from penala.training.schedule import learning_rate_at

CURVES = ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]


@pytest.mark.parametrize("warmup_steps", [0, 1, 7])
@pytest.mark.parametrize("curve", CURVES)
def test_the_curve_is_that_of_transformers(curve, warmup_steps):
    """Every step of a run of 30, the first and the last included."""
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.003)
    scheduler = get_scheduler(curve, optimizer, num_warmup_steps=warmup_steps, num_training_steps=30)
    for step in range(30):
        rate = learning_rate_at(step, peak=0.003, curve=curve, warmup_steps=warmup_steps, num_steps=30)

        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-18)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("curve", CURVES)
def test_a_warm_up_longer_than_the_run_rises_to_its_end(curve):
    """No division by zero, and never above the peak."""
    rates = [learning_rate_at(step, peak=1.0, curve=curve, warmup_steps=9, num_steps=5) for step in range(5)]

    assert rates == ([1.0] * 5 if curve == "constant" else [step / 9 for step in range(5)])

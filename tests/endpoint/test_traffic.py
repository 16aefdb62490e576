import pytest

from penala.endpoint.traffic import check_traffic, choose
from penala.errors import EndpointError


def test_each_draw_falls_into_the_share_of_its_deployment():
    """70, 20 and 10 per cent are exactly 70, 20 and 10 of a hundred even draws."""
    split = {"blue": 70, "green": 20, "red": 10}
    chosen = [choose(split, draw / 100) for draw in range(100)]

    assert {name: chosen.count(name) for name in split} == split


def test_a_split_that_lost_a_deployment_goes_to_the_others():
    """What is left of the traffic is scaled up to the whole."""
    assert choose({"green": 20}, 0.999) == "green"


@pytest.mark.parametrize("traffic", [{}, {"blue": 0}])
def test_no_traffic_chooses_nobody(traffic):
    """None, for every draw."""
    assert choose(traffic, 0.0) is None


def test_zeros_are_left_out():
    """A deployment without traffic is not part of the split."""
    assert check_traffic({"blue": 100, "green": 0}, ["blue", "green"]) == {"blue": 100}


@pytest.mark.parametrize(
    ("traffic", "message"),
    [
        ({"blue": 60, "green": 60}, "blue=60, green=60 adds up to 120"),
        ({"blue": 99}, "adds up to 99"),
        ({"blu": 100}, "'blu' that is not there; did you mean 'blue'"),
        ({"blue": 150, "green": -50}, "traffic of 'green' is -50"),
        ({"blue": True, "green": 99}, "traffic of 'blue' is True"),
        ({"blue": 99.5, "green": 0.5}, "whole per cents"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:12],
)
def test_a_wrong_split_is_refused(traffic, message):
    """The message names the deployment or the sum."""
    with pytest.raises(EndpointError, match=message):
        check_traffic(traffic, ["blue", "green"])

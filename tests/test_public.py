"""The public names of the package."""

import pytest

import penala


@pytest.mark.parametrize("name", penala.__all__)
def test_each_public_name_is_there(name):
    """What is announced can be imported."""
    assert getattr(penala, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    """As for any module."""
    with pytest.raises(AttributeError, match="no attribute 'Recipee'"):
        _ = penala.Recipee

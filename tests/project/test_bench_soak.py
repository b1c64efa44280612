"""Whether memory stays flat is judged by arithmetic that must see a leak, and no leak in noise."""

from __future__ import annotations

import random

import pytest

from bench.soak import growth_of, settled, slope_per_min

TEN_MINUTES = [at / 2 for at in range(1200)]


def test_slope_is_what_is_added_a_minute() -> None:
    """A leak of 3 MB a minute is seen as 3, whatever it began with."""
    assert slope_per_min([(at, 200 + at / 20) for at in TEN_MINUTES]) == pytest.approx(3.0)


def test_slope_of_noise_is_next_to_nothing() -> None:
    """Memory that only sways by 10 MB stays far below the bound."""
    sway = random.Random(1)
    assert abs(slope_per_min([(at, sway.uniform(200, 210)) for at in TEN_MINUTES])) < 0.1


def test_growth_is_from_the_first_eighth_to_the_last() -> None:
    """A step in the middle is the whole growth, and a spike at the end is none of it."""
    points = [(at, 200.0 if at < 300 else 212.0) for at in TEN_MINUTES]
    points[-1] = (points[-1][0], 900.0)
    assert growth_of(points) == 12.0


def test_settled_leaves_out_the_first_two_sevenths() -> None:
    """What a node loads once at the beginning is no growth, and all that follows counts."""
    points = [(float(at), 1.0) for at in range(71)]
    assert settled(points) == points[20:]

"""The covering arrays that replace products of parameters."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.pairwise import cover, pairwise


@pytest.mark.parametrize("sizes", [(2, 3), (4, 3, 2), (4, 3, 3, 2, 2), (1, 5, 1)])
def test_every_two_values_meet_in_some_case(sizes: tuple[int, ...]) -> None:
    cases = cover(sizes)
    assert len(set(cases)) == len(cases) <= len(list(product(*map(range, sizes))))
    for (first, m), (second, n) in combinations(enumerate(sizes), 2):
        assert {(case[first], case[second]) for case in cases} == set(product(range(m), range(n)))


def test_two_parameters_keep_their_product_and_more_need_fewer_cases() -> None:
    assert set(cover((3, 4))) == set(product(range(3), range(4)))
    assert len(cover((4, 3, 3, 2, 2))) <= 16  # of 144


def test_the_mark_names_the_parameters_and_holds_their_values() -> None:
    mark = pairwise(bound=["local", "tight"], stride=[1, 2]).mark
    assert mark.args[0] == ("bound", "stride")
    assert set(mark.args[1]) == {("local", 1), ("local", 2), ("tight", 1), ("tight", 2)}


def test_one_parameter_keeps_all_its_values() -> None:
    assert set(cover((3,))) == {(0,), (1,), (2,)}

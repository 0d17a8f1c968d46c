"""The conformance table tells what the tests show now."""

import pytest

from tests.conformance import table


def test_the_documents_table_is_the_one_of_these_tests() -> None:
    written = table.generated(table.DOCUMENT.read_text("utf-8"))
    assert written == table.block(table.marked()), "make conformance"


def test_every_mark_names_a_feature_and_a_basis_of_the_table() -> None:
    for feature, basis in table.marked():
        assert feature in table.peers()["features"]
        assert basis in table.BASES


@pytest.mark.parametrize("feature", table.peers()["features"])
def test_every_feature_of_the_table_has_a_test(feature: str) -> None:
    marks = table.marked()
    assert sum(marks[feature, basis] for basis in table.BASES) > 0

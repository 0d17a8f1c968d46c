import pytest

from local.values import duration_seconds, duration_text, positive, share, speed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("250ms", 0.25), ("1.5m", 90)],
)
def test_a_duration_is_a_number_with_its_unit(text: str, seconds: float) -> None:
    assert duration_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "30", "5 minutes", "m5", "-5s", "5x", "1h30"])
def test_a_text_that_is_not_a_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=rf"'{text}' isn't a duration: .* 30s, 5m, 1h"):
        duration_seconds(text)


def test_a_share_is_a_fraction_or_a_percentage() -> None:
    assert share("0.05") == 0.05
    assert share("5%") == 0.05
    assert share("1") == 1


@pytest.mark.parametrize("text", ["1.1", "-0.1", "120%", "some", "nan", "0_1", "%"])
def test_a_share_outside_0_to_1_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="isn't a share"):
        share(text)


def test_a_speed_is_a_factor_or_max() -> None:
    assert speed("60") == 60
    assert speed("3600x") == 3600
    assert speed("max") is None
    for text in ("0", "nan", "inf", "1_0", "-1"):
        with pytest.raises(ValueError, match="isn't a speed"):
            speed(text)


def test_a_count_is_a_whole_number_above_0() -> None:
    assert positive("7") == 7
    for text in ("0", "-1", "1.5", "many"):
        with pytest.raises(ValueError, match="isn't a whole number above 0"):
            positive(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.85, "850 ms"), (12.34, "12.3 s"), (125, "2 min 05 s")]
)
def test_a_duration_is_shown_as_a_person_reads_it(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text

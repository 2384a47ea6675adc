"""What a machine lacks is skipped over, but an error where every test is asked for."""

import pytest

from helpers.optional import lack, optional_import


@pytest.mark.parametrize(("value", "outcome"), [("1", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_what_is_missing_is_an_error_where_every_test_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, value: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("SUPERTICKETS_TEST_ALL", value)
    with pytest.raises(outcome, match="no Chromium"):
        lack("no Chromium")
    with pytest.raises(outcome, match="no_such_package, an optional dependency, is not installed"):
        optional_import("no_such_package")
    assert optional_import("json").loads("1") == 1

"""Names for which the local run makes no certificate."""

import pytest

from local.errors import LocalError
from local.fleet.credentials import check_id


@pytest.mark.parametrize("name", ["claim-dev", "claim-", "a b", "a:b", "", "x" * 129])
def test_a_name_that_no_device_may_have_gets_no_certificate(name: str) -> None:
    with pytest.raises(LocalError, match=f"'{name}'"):
        check_id(name)


@pytest.mark.parametrize("name", ["claim", "claimed-1", "Claim-1", "pump-1", "x" * 128])
def test_other_names_may_be_devices(name: str) -> None:
    check_id(name)

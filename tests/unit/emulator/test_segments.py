"""The collector accepts X-Ray segments only from processes of its own user."""

import os
import sys
from pathlib import Path

import pytest

from emulator.launcher import is_own

HEAD = "  sl  local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode"
LINE = "  614: {local} 00000000:0000 07 00000000:00000000 00:00000000 00000000 {uid} 0 840691"


def table(path: Path, **uids: int) -> Path:
    lines = [
        LINE.format(local=local.removeprefix("at_").replace("_", ":"), uid=uid)
        for local, uid in uids.items()
    ]
    path.write_text("\n".join([HEAD, *lines]) + "\n")
    return path


@pytest.mark.skipif(sys.byteorder != "little", reason="the table below is a little-endian one")
def test_a_datagram_of_another_users_process_is_dropped(tmp_path: Path) -> None:
    own, other = os.getuid(), os.getuid() + 1
    found = table(
        tmp_path / "udp",
        at_0100007F_AD68=own,
        at_0100007F_AD69=other,
        at_00000000_AD6A=own,
        at_0200007F_AD6B=own,
    )
    assert is_own(("127.0.0.1", 0xAD68), found)
    assert not is_own(("127.0.0.1", 0xAD69), found)
    assert is_own(("127.0.0.1", 0xAD6A), found)
    assert not is_own(("127.0.0.1", 0xAD6B), found)
    assert not is_own(("127.0.0.1", 1), found)


def test_a_datagram_is_accepted_if_the_system_does_not_name_its_user(tmp_path: Path) -> None:
    assert is_own(("127.0.0.1", 1), tmp_path / "nothing")

"""A certificate authority of a test's own, made like the local broker's."""

from pathlib import Path

from emulator.mqtt import certificates


class Authority:
    """Issues certificates into a folder, to a server on localhost and to devices."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        certificates.prepare(folder)
        self.ca_file = str(certificates.pair(folder, certificates.AUTHORITY).certificate)

    def issue(self, name: str) -> tuple[str, str]:
        """Return the files of a certificate for a name, and of its key."""
        if name == "localhost":
            files = certificates.pair(self._folder, certificates.BROKER)
        else:
            files = certificates.device(self._folder, name)
        return str(files.certificate), str(files.key)

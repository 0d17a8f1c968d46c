"""Closes a gap of the embedded AWS: workers send UDP to loopback from a loopback address.

A UDP socket that sends without an address is bound to every interface
(https://man7.org/linux/man-pages/man7/ip.7.html), and other machines can send to it. The X-Ray SDK
sends segments to its daemon like that. On AWS each execution environment has its own network. Here
the workers (of emulator 1.5.33) are processes of this machine.
"""

from typing import Any

PRELUDE = """
def _send_from_loopback():
    import socket

    send_to = socket.socket.sendto

    def send_from_loopback(self, data, *rest):
        place = rest[-1] if rest else None
        if (
            self.family == socket.AF_INET
            and self.type == socket.SOCK_DGRAM
            and isinstance(place, tuple)
            and str(place[0]).startswith("127.")
            and self.getsockname()[1] == 0
        ):
            self.bind(("127.0.0.1", 0))
        return send_to(self, data, *rest)

    socket.socket.sendto = send_from_loopback


_send_from_loopback()
"""


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    lambda_runtime = modules.core("lambda_runtime")
    lambda_runtime._PYTHON_WORKER_SCRIPT = PRELUDE + lambda_runtime._PYTHON_WORKER_SCRIPT

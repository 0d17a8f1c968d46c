"""A gap of the embedded AWS, closed: what its workers send by UDP to loopback leaves from there.

A socket that sends before it has an address gets one on every interface
(https://man7.org/linux/man-pages/man7/ip.7.html), and can be sent to from outside. That is how the
X-Ray SDK sends segments to its daemon. On AWS each environment has a network of its own; here the
workers (of emulator 1.5.33) are processes of this machine.
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

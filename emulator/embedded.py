"""The embedded AWS: ministack as a child process, on loopback, with IAM enforced.

It runs in its own session, so one signal reaches it and all its worker processes. It ends when
`stop` is called, or by itself when the process that started it dies (`emulator.launcher`). After
`release` it outlives that process. It has no state to save, so `stop` kills it.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from emulator.errors import EmulatorError, StepFailed, StepTimedOut
from emulator.instance import REGION, Instance, State
from emulator.sigv4 import Key, link

START_SECONDS_MAX = 180.0
"""The limit for a process that hangs; one that ends is noticed at once."""
STOP_SECONDS_MAX = 60.0
"""It is killed, which takes long only on a busy machine."""
POLL_SECONDS = 0.03
LAUNCHER = Path(__file__).with_name("launcher.py")
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SYSTEMROOT")


class EmbeddedAws:
    """A running embedded AWS that this process started."""

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, root: Key, mqtt_port: int = 0
    ) -> None:
        """Control `process`, which answers HTTP on `port` and MQTT on another port.

        `root`: the key of its account's root.
        """
        self.process = process
        self.port = port
        self.root = root
        self.mqtt_port = mqtt_port

    def release(self) -> None:
        """Let it run on after this process has ended."""
        if self.process.stdin is not None:
            self.process.stdin.write(b"d")
            self.process.stdin.close()

    def stop(self) -> None:
        """Kill it with all its workers."""
        end_group(self.process.pid)
        self.process.wait(STOP_SECONDS_MAX)
        if self.process.stdin is not None:
            self.process.stdin.close()


def start(
    instance: Instance,
    python: Path,
    with_mappings: bool = True,
    without: Sequence[str] = (),
    root: Key | None = None,
) -> EmbeddedAws:
    """Start an embedded AWS on a free port and wait until it answers.

    `python`: the interpreter that has ministack and runs the functions. `with_mappings`: also run
    the event source mappings of streams (`emulator.mappings`) and MQTT (`emulator.mqtt`), in this
    interpreter. `without`: modules of `emulator.gaps` to leave out, to test whether they are still
    needed. `root`: the key of the account's root; by default a new one.

    If this process dies before `release`, the embedded AWS ends and removes the folder.
    """
    root = root or new_key()
    port, mqtt_port = free_port(), free_port() if with_mappings else 0
    options = ["--python", sys.executable, "--mqtt-port", str(mqtt_port)] if with_mappings else []
    options += [option for gap in without for option in ("--without", gap)]
    log = instance.log("aws")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [python, "-I", LAUNCHER, "serve", instance.folder, *options],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(instance, port, root),
            start_new_session=True,
        )
    aws = EmbeddedAws(process, port, root, mqtt_port)
    try:
        instance.save(state_of(aws))  # so that `stop` finds it even while it starts
        wait_until_healthy(aws, log)
    except BaseException:
        aws.stop()
        raise
    return aws


def state_of(aws: EmbeddedAws) -> State:
    """Return the facts about an embedded AWS that other processes need."""
    return State(
        pid=aws.process.pid,
        port=aws.port,
        mqtt_port=aws.mqtt_port,
        access_key=aws.root.key_id,
        secret_key=aws.root.secret,
    )


def new_key() -> Key:
    """Return a new random key in AWS's form."""
    return Key(f"AKIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30))


def environment(
    instance: Instance, port: int, root: Key, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the whole environment of the emulator and of the functions in it.

    It has neither the user's AWS credentials nor PYTHONPATH, which would hide that a layer lacks a
    dependency. Functions get the keys of their roles, not the root's.
    """
    temporary = str(instance.folder / "tmp")
    return {name: inherited[name] for name in INHERITED if name in inherited} | {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "AUTH": "true",
        "AWS_ACCESS_KEY_ID": root.key_id,
        "AWS_SECRET_ACCESS_KEY": root.secret,
        "IOT_MTLS_ENABLED": "0",  # its MQTT listener binds every interface
        "SFTP_ENABLED": "0",
        "PERSIST_STATE": "0",
        "MINISTACK_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "LOG_LEVEL": "WARNING",
        "TMPDIR": temporary,
        "S3_PERSIST": "1",  # keep objects in files, not in memory
        "S3_DATA_DIR": f"{temporary}/s3",
        "STATE_DIR": f"{temporary}/state",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def wait_until_healthy(aws: EmbeddedAws, log: Path) -> None:
    """Wait until the embedded AWS answers; raise StepFailed if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS_MAX
    url = link(aws.root, "GET", f"127.0.0.1:{aws.port}", "/_ministack/ready")
    with httpx.Client(trust_env=False, timeout=2.0) as client:
        while time.monotonic() < deadline:
            if aws.process.poll() is not None:
                raise StepFailed(f"the embedded AWS ended with code {aws.process.returncode}", log)
            with contextlib.suppress(httpx.TransportError):
                if client.get(url).status_code == httpx.codes.OK:
                    return
            time.sleep(POLL_SECONDS)
    raise StepTimedOut(f"the embedded AWS didn't answer within {START_SECONDS_MAX:.0f} s", log)


def stop(instance: Instance) -> bool:
    """Kill the embedded AWS that another command left running; return whether there was one."""
    if not instance.is_running():
        return False
    end_group(instance.load().pid)
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while instance.is_running():
        if time.monotonic() > deadline:
            raise EmulatorError(
                f"instance '{instance.name}' doesn't end; its process id is {instance.load().pid}"
            )
        time.sleep(POLL_SECONDS)
    return True


def end_group(pid: int) -> None:
    """Kill a process that leads its session, and every process in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def free_port() -> int:
    """Return a TCP port on loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

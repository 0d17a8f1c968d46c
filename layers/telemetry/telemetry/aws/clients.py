"""AWS clients, made once per execution environment."""

from functools import cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

# Answers come in milliseconds; a slow call is better tried again on a new connection.
_CONNECT_TIMEOUT_SECONDS = 2
_READ_TIMEOUT_SECONDS = 3
ACCESS_DENIED = "AccessDeniedException"


@cache
def client(
    service: str, attempts: int = 4, read_timeout_seconds: int = _READ_TIMEOUT_SECONDS
) -> Any:
    """Return a client for `service` that tries a call up to `attempts` times.

    It doesn't validate parameters: the service does, and the adapters' tests did.
    """
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        read_timeout=read_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
        parameter_validation=False,
    )
    connect: Any = boto3.client  # its stubs accept literal service names only
    return connect(service, config=config)


def is_denied(error: Exception) -> bool:
    """Return whether the role may not make a call, so that a retry within seconds is useless.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html,
    https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html
    """
    return isinstance(error, ClientError) and error.response["Error"]["Code"] == ACCESS_DENIED

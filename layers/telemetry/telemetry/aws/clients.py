"""AWS clients, made once per execution environment."""

from functools import cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

# Answers come in milliseconds; what takes longer is better tried again on a new connection.
_CONNECT_TIMEOUT_SECONDS = 2
_READ_TIMEOUT_SECONDS = 3
ACCESS_DENIED = "AccessDeniedException"


@cache
def client(
    service: str, attempts: int = 4, read_timeout_seconds: int = _READ_TIMEOUT_SECONDS
) -> Any:
    """A client for `service` that tries a call up to `attempts` times.

    Parameters aren't validated on this side: the adapters' tests do that once, the service always.
    """
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        read_timeout=read_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
        parameter_validation=False,
    )
    connect: Any = boto3.client  # its stubs know each service's name, not a variable's
    return connect(service, config=config)


def is_denied(error: Exception) -> bool:
    """Whether the role may not make a call: it isn't worth trying again within seconds.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html,
    https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html
    """
    return isinstance(error, ClientError) and error.response["Error"]["Code"] == ACCESS_DENIED

"""Print the stack that `make deploy` or `make remove` will change, before anything is built.

`python -m ops.environment deploy --env ENVIRONMENT [options of sam]` fails early, with code 1,
where SAM would fail only after a build: without such an environment, credentials or a region.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ops.errors import OpsError
from ops.target import ENDPOINT, LOCAL, SAMCONFIG, refuse_this_machine, settings_of

WHAT = {"deploy": "deploys", "remove": "removes"}
NO_CREDENTIALS = (
    "no AWS credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "or run `aws configure`"
)
NO_REGION = (
    "no AWS region: set AWS_DEFAULT_REGION, or `region` in the environment of samconfig.toml, "
    "or run `aws configure`"
)
ANSWER_SECONDS_MAX = 10


def main(arguments: Sequence[str], samconfig: Path = SAMCONFIG) -> int:
    """Print the stack; return 1, with the reason on stderr, if it can't be determined."""
    parser = argparse.ArgumentParser(prog="python -m ops.environment", allow_abbrev=False)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--env", required=True)
    own, of_sam = parser.parse_known_args(arguments)
    try:
        sys.stdout.write(f"{WHAT[own.what]} {described(own.env, of_sam, samconfig)}\n")
    except OpsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def described(environment: str, of_sam: Sequence[str], samconfig: Path = SAMCONFIG) -> str:
    """Return the stack, region and account that SAM will use; raise OpsError.

    `of_sam` are the options given to SAM, which override the file's.
    """
    given = given_to_sam(of_sam)
    environment = given.get("config_env") or environment
    if environment == LOCAL and ENDPOINT not in os.environ:
        raise OpsError(
            f"ENV: {LOCAL} is of `python -m local`, which deploys to this machine; "
            "name another environment of samconfig.toml"
        )
    settings = settings_of(environment, samconfig) | given
    refuse_this_machine(environment)
    try:
        session = boto3.Session(
            profile_name=settings.get("profile"), region_name=settings.get("region")
        )
        missing = [
            *([] if session.get_credentials() else [NO_CREDENTIALS]),
            *([] if session.region_name else [NO_REGION]),
        ]
        if missing:
            raise OpsError("\n".join(missing))
        account = account_of(session)
    except (BotoCoreError, ClientError) as error:
        raise OpsError(f"AWS doesn't take the credentials, or can't be asked: {error}") from None
    stack, region = settings["stack_name"], session.region_name
    return f"stack {stack} (environment {environment}) in {region}, account {account}"


def given_to_sam(options: Sequence[str]) -> dict[str, str]:
    """Return SAM's options that choose the stack, its region and the profile."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--config-env", "--stack-name", "--region", "--profile"):
        parser.add_argument(name)
    found, _others = parser.parse_known_args(options)
    return {name: value for name, value in vars(found).items() if value}


def account_of(session: boto3.Session) -> str:
    """Return the account of the credentials; this needs no permission."""
    retries: Any = {"total_max_attempts": 2}
    config = Config(
        connect_timeout=ANSWER_SECONDS_MAX, read_timeout=ANSWER_SECONDS_MAX, retries=retries
    )
    account: str = session.client("sts", config=config).get_caller_identity()["Account"]
    return account


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

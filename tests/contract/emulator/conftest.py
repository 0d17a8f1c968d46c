"""An account in the embedded AWS."""

from collections.abc import Iterator

import pytest

from tests.contract.emulator.account import Account


@pytest.fixture
def account(embedded_endpoint: str, aws_environment: None) -> Iterator[Account]:  # noqa: ARG001
    account = Account(embedded_endpoint)
    yield account
    for url in account.sqs.list_queues().get("QueueUrls", []):
        if account.suffix in url:
            account.sqs.delete_queue(QueueUrl=url)

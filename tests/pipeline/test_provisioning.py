"""Fleet provisioning by claim, as deployed: who gets a certificate, and its permissions."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from emulator.mqtt import certificates
from local.deployment import host_python
from local.errors import LocalError
from local.fleet.claiming import FROM_CSR, Claimant, claiming, template_topic
from local.fleet.credentials import claim, mqtt_authority
from local.trial.consumer import allowing, zipped
from tests.pipeline.deployed import Pipeline, at, becomes, minutes_ago
from tests.pipeline.mqtt import MqttDevice, connected

HOOK = "which-devices"
DOCUMENT = Path(__file__).parents[2] / "docs" / "mqtt.md"


def hook_in_document() -> str:
    """Return the hook's code in docs/mqtt.md."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    (found,) = [code for code in blocks if "allowProvisioning" in code]
    return str(found)


@pytest.fixture(scope="module")
def hook_arn(pipeline: Pipeline) -> str:
    """The function of docs/mqtt.md, which IoT may invoke."""
    trust = {"Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
    role = pipeline.aws("iam").create_role(
        RoleName=HOOK, AssumeRolePolicyDocument=allowing([trust])
    )
    functions = pipeline.aws("lambda")
    made = functions.create_function(
        FunctionName=HOOK,
        Runtime=f"python{host_python()}",
        Role=role["Role"]["Arn"],
        Handler="handler.handler",
        Code={"ZipFile": zipped({"handler.py": hook_in_document()})},
    )
    functions.add_permission(
        FunctionName=HOOK,
        StatementId="provisioning",
        Action="lambda:InvokeFunction",
        Principal="iot.amazonaws.com",
    )
    return str(made["FunctionArn"])


@pytest.fixture
def enabled(pipeline: Pipeline, hook_arn: str) -> Iterator[None]:
    """Enable the template as `ProvisioningHookArn` does."""
    iot, name = pipeline.aws("iot"), pipeline.outputs["ProvisioningTemplateName"]
    iot.update_provisioning_template(
        templateName=name,
        enabled=True,
        preProvisioningHook={"payloadVersion": "2020-04-01", "targetArn": hook_arn},
    )
    yield
    iot.update_provisioning_template(
        templateName=name, enabled=False, removePreProvisioningHook=True
    )


def test_a_claim_gets_nothing_until_the_template_has_a_hook(pipeline: Pipeline) -> None:
    with pytest.raises(LocalError, match="is not enabled"):
        claim(pipeline.instance, "pump-22")
    assert things(pipeline, "pump-22") == []


@pytest.mark.usefixtures("enabled")
def test_a_device_that_the_hook_knows_gets_a_certificate_and_publishes_with_it(
    pipeline: Pipeline,
) -> None:
    files = claim(pipeline.instance, "pump-18")
    (principal,) = pipeline.aws("iot").list_thing_principals(thingName="pump-18")["principals"]
    attached = pipeline.aws("iot").list_attached_policies(target=principal)["policies"]
    assert [each["policyName"] for each in attached] == [pipeline.outputs["DevicePolicyName"]]
    minute = minutes_ago(3)
    with connected(pipeline, "pump-18", files) as device:
        device.publish("telemetry/pump-18/readings", at(minute, 0, humidity=5.0))
    becomes(lambda: pipeline.counts("pump-18"), {minute: 1}, "its reading")


@pytest.mark.usefixtures("enabled")
def test_a_device_that_the_hook_does_not_know_gets_neither_thing_nor_active_certificate(
    pipeline: Pipeline,
) -> None:
    with pytest.raises(LocalError, match="AccessDenied"):
        claim(pipeline.instance, "pump-20")
    assert things(pipeline, "pump-20") == []
    assert not certificates.device_files(pipeline.instance.folder, "pump-20").key.exists()


@pytest.mark.usefixtures("enabled")
def test_a_device_may_have_its_key_made_and_gets_the_errors(pipeline: Pipeline) -> None:
    template = template_topic(pipeline.outputs["ProvisioningTemplateName"])
    create = "$aws/certificates/create/json"
    wanted = {"parameters": {"DeviceId": "pump-19"}}
    with as_claim(pipeline, "claim-anyone") as claimant:
        made = claimant.ask(create, {})
        for topic, request, problem in (
            (template, wanted, "InvalidCertificateOwnershipToken"),
            (template, {"certificateOwnershipToken": "1"} | wanted, "InvalidCertificateOwnershipT"),
            (FROM_CSR, {"certificateSigningRequest": "none"}, "InvalidCSR"),
        ):
            with pytest.raises(LocalError, match=problem):
                claimant.ask(topic, request)
        token = {"certificateOwnershipToken": made["certificateOwnershipToken"]}
        assert claimant.ask(template, token | wanted)["thingName"] == "pump-19"
    assert made["privateKey"].startswith("-----BEGIN")
    assert things(pipeline, "pump-19") == ["pump-19"]


def test_a_claim_can_not_use_a_devices_name_or_publish(pipeline: Pipeline) -> None:
    with (
        pytest.raises(LocalError, match="doesn't let the claim in: Not authorized"),
        as_claim(pipeline, "pump-21"),
    ):
        pass
    device = MqttDevice(pipeline, "", "claim-1", certificates.claim(pipeline.instance.folder))
    device.waits_for("connected: Success")
    device.client.publish("telemetry/pump-21/readings", b"{}", qos=1)
    device.waits_for("connected: Success", "disconnected")
    device.end()


def as_claim(pipeline: Pipeline, client_id: str) -> AbstractContextManager[Claimant]:
    """Connect with the claim's certificate."""
    files = certificates.claim(pipeline.instance.folder)
    policy = pipeline.outputs["ClaimPolicyName"]
    certificates.register(pipeline.aws("iot"), policy, files.certificate)
    authority = mqtt_authority(pipeline.instance.folder)
    return claiming(pipeline.state.mqtt_port, authority, files, client_id)


def things(pipeline: Pipeline, name: str) -> list[str]:
    """Return the things of that name."""
    found = pipeline.aws("iot").list_things()["things"]
    return [each["thingName"] for each in found if each["thingName"] == name]

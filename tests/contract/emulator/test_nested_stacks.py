"""Nested stacks in the embedded AWS are transformed, rolled back and deleted like root stacks."""

import io
import json
import uuid
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.emulator.stacks import Document, Formation

SAM = "AWS::Serverless-2016-10-31"
ALL_CAPABILITIES = ("CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND")


class Account(Formation):
    """The embedded AWS for these tests; every name in it ends with a unique suffix."""

    def __init__(self, endpoint: str) -> None:
        self.suffix = uuid.uuid4().hex[:8]
        self.bucket = f"templates-{self.suffix}"
        super().__init__(endpoint)
        self.s3, self.sqs = map(self.client, ("s3", "sqs"))
        self.s3.create_bucket(Bucket=self.bucket)

    def upload(self, template: Document) -> str:
        """Upload a template; return its URL."""
        key = f"{uuid.uuid4().hex}.template"
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=json.dumps(template))
        return f"https://s3.us-east-1.amazonaws.com/{self.bucket}/{key}"

    def create(
        self, template: Document, capabilities: tuple[str, ...] = ALL_CAPABILITIES, **options: Any
    ) -> Document:
        """Create a stack; return it once that has ended."""
        name = f"root-{uuid.uuid4().hex[:8]}"
        made = self.formation.create_stack(
            StackName=name,
            TemplateBody=json.dumps(template),
            Capabilities=list(capabilities),
            **options,
        )
        return self.ended(made["StackId"])

    def update(self, stack: Document, template: Document) -> Document:
        """Update a stack; return it once that has ended."""
        self.formation.update_stack(
            StackName=stack["StackName"],
            TemplateBody=json.dumps(template),
            Capabilities=list(ALL_CAPABILITIES),
        )
        return self.ended(stack["StackId"])

    def child(self, stack: Document, logical_id: str = "Child") -> Document:
        """A nested stack."""
        return self.ended(self.physical(stack, logical_id))

    def physical(self, stack: Document, logical_id: str) -> str:
        """Return the physical id of a stack's resource."""
        return str(self.event(stack, logical_id, "PhysicalResourceId"))

    def event(self, stack: Document, logical_id: str, key: str) -> Any:
        """Return the reason in a resource's newest event that has one."""
        events = self.events(stack)
        return next(e[key] for e in events if e["LogicalResourceId"] == logical_id and e.get(key))

    def events(self, stack: Document) -> list[Document]:
        """Return a stack's events, newest first."""
        listed = self.formation.describe_stack_events(StackName=stack["StackId"])
        events: list[Document] = listed["StackEvents"]
        return events

    def resources(self, stack: Document) -> set[str]:
        """Return the logical ids of a stack's resources."""
        listed = self.formation.list_stack_resources(StackName=stack["StackId"])
        return {each["LogicalResourceId"] for each in listed["StackResourceSummaries"]}

    def named(self, name: str) -> str:
        """Return a name that is unique to this test."""
        return f"{name}-{self.suffix}"

    def queue(self, name: str, **attributes: Any) -> Document:
        """The definition of a queue."""
        own = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": self.named(name)}}
        return own | attributes

    def has_queue(self, name: str) -> bool:
        listed = self.sqs.list_queues(QueueNamePrefix=self.named(name)).get("QueueUrls", [])
        return bool(listed)

    def nested(self, template: Document, **properties: Any) -> Document:
        """The definition of a nested stack."""
        url = {"TemplateURL": self.upload(template)}
        return {"Type": "AWS::CloudFormation::Stack", "Properties": url | properties}


@pytest.fixture
def account(embedded_endpoint: str, aws_environment: None) -> Iterator[Account]:  # noqa: ARG001
    account = Account(embedded_endpoint)
    yield account
    for url in account.sqs.list_queues().get("QueueUrls", []):
        if account.suffix in url:
            account.sqs.delete_queue(QueueUrl=url)


def template(**resources: Document) -> Document:
    return {"Resources": resources}


def failing(*depends_on: str) -> Document:
    """Return a resource whose creation fails: its name is a missing SSM parameter."""
    return {
        "Type": "AWS::SQS::Queue",
        "DependsOn": list(depends_on),
        "Properties": {"QueueName": "{{resolve:ssm:absent}}"},
    }


def archive(**files: str) -> bytes:
    """A ZIP file with these Python modules."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, text in files.items():
            file.writestr(f"{name.replace('_', '/')}.py", text)
    return packed.getvalue()


def test_a_nested_template_is_transformed_and_its_function_runs_with_the_parents_layer(
    account: Account,
) -> None:
    code = {"S3Bucket": account.bucket, "S3Key": "code.zip"}
    layer = {"S3Bucket": account.bucket, "S3Key": "layer.zip"}
    body = archive(index="import mark\ndef handler(event, context):\n    return mark.TEXT")
    account.s3.put_object(Bucket=account.bucket, Key="code.zip", Body=body)
    body = archive(python_mark="TEXT = 'of the layer'")
    account.s3.put_object(Bucket=account.bucket, Key="layer.zip", Body=body)
    properties = {
        "CodeUri": {"Bucket": code["S3Bucket"], "Key": code["S3Key"]},
        "Handler": "index.handler",
        "Runtime": "python3.11",
        "Layers": [{"Ref": "LayerArn"}],
    }
    child = {
        "Transform": SAM,
        "Parameters": {"LayerArn": {"Type": "String"}},
        "Resources": {"Fn": {"Type": "AWS::Serverless::Function", "Properties": properties}},
        "Outputs": {"Name": {"Value": {"Ref": "Fn"}}},
    }
    root = template(
        Layer={"Type": "AWS::Lambda::LayerVersion", "Properties": {"Content": layer}},
        Child=account.nested(child, Parameters={"LayerArn": {"Ref": "Layer"}}),
    )
    root["Outputs"] = {"Name": {"Value": {"Fn::GetAtt": ["Child", "Outputs.Name"]}}}
    stack = account.create(root)
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    assert account.resources(account.child(stack)) == {"Fn", "FnRole"}
    (output,) = stack["Outputs"]
    answer = account.client("lambda").invoke(FunctionName=output["OutputValue"])
    assert json.load(answer["Payload"]) == "of the layer"
    assert account.delete(stack)["StackStatus"] == "DELETE_COMPLETE"


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("CAPABILITY_IAM",), "CAPABILITY_AUTO_EXPAND"),
        (("CAPABILITY_AUTO_EXPAND",), "CAPABILITY_IAM"),
    ],
)
def test_the_parent_must_acknowledge_the_capabilities_of_a_nested_transform(
    account: Account, given: tuple[str, ...], missing: str
) -> None:
    function = {"InlineCode": "def handler(*_): ...", "Handler": "index.handler"}
    function["Runtime"] = "python3.11"
    child = template(Fn={"Type": "AWS::Serverless::Function", "Properties": function})
    child["Transform"] = SAM
    stack = account.create(template(Child=account.nested(child)), given)
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    reason = account.event(stack, "Child", "ResourceStatusReason")
    assert reason == f"Requires capabilities : [{missing}]"


def conditional(account: Account) -> Document:
    """Return a template with a queue "more" that depends on a parameter."""
    child = template(Own=account.queue("own"), More=account.queue("more", Condition="HasMore"))
    child["Parameters"] = {"Mode": {"Type": "String", "Default": "few"}}
    child["Conditions"] = {"HasMore": {"Fn::Equals": [{"Ref": "Mode"}, "many"]}}
    child["Outputs"] = {
        "Mode": {"Value": {"Ref": "Mode"}},
        "More": {"Condition": "HasMore", "Value": {"Fn::GetAtt": ["More", "Arn"]}},
    }
    return child


def test_parameters_conditions_and_outputs_of_a_child_follow_the_parents_update(
    account: Account,
) -> None:
    nested = account.nested(conditional(account))
    stack = account.create(template(Child=nested))
    child = account.child(stack)
    assert not account.has_queue("more")
    assert [each["OutputValue"] for each in child["Outputs"]] == ["few"]
    for mode, is_there in (("many", True), ("few", False)):
        properties = nested["Properties"] | {"Parameters": {"Mode": mode}}
        root = template(Child=nested | {"Properties": properties})
        assert account.update(stack, root)["StackStatus"] == "UPDATE_COMPLETE"
        updated = account.child(stack)
        assert (updated["StackId"], updated["StackStatus"]) == (child["StackId"], "UPDATE_COMPLETE")
        assert account.has_queue("more") == is_there
        assert len(updated["Outputs"]) == 1 + is_there


def test_an_update_leaves_a_child_alone_that_it_does_not_change(account: Account) -> None:
    root = template(Child=account.nested(template(Own=account.queue("own"))))
    stack = account.create(root)
    root["Resources"]["Other"] = account.queue("other")
    assert account.update(stack, root)["StackStatus"] == "UPDATE_COMPLETE"
    assert account.child(stack)["StackStatus"] == "CREATE_COMPLETE"


def test_an_update_reads_a_childs_template_again_by_the_same_url(account: Account) -> None:
    nested = account.nested(template(Own=account.queue("own")))
    stack = account.create(template(Child=nested))
    key = nested["Properties"]["TemplateURL"].rpartition("/")[2]
    body = json.dumps(template(Own=account.queue("own"), New=account.queue("new")))
    account.s3.put_object(Bucket=account.bucket, Key=key, Body=body)
    account.update(stack, template(Child=nested, Other=account.queue("other")))
    assert account.has_queue("new")


def test_a_deleted_parent_deletes_its_children_except_their_retained_resources(
    account: Account,
) -> None:
    grandchild = template(
        Kept=account.queue("kept", DeletionPolicy="Retain"),
        Late=account.queue("late", DeletionPolicy="RetainExceptOnCreate"),
        Gone=account.queue("gone"),
    )
    child = template(Grandchild=account.nested(grandchild), Own=account.queue("own"))
    stack = account.create(template(Child=account.nested(child)))
    assert account.has_queue("own")
    nested = account.child(stack)
    assert account.delete(stack)["StackStatus"] == "DELETE_COMPLETE"
    there = [name for name in ("own", "gone", "kept", "late") if account.has_queue(name)]
    assert there == ["kept", "late"]
    assert account.ended(nested["StackId"])["StackStatus"] == "DELETE_COMPLETE"


def test_a_retained_nested_stack_outlives_its_parent(account: Account) -> None:
    nested = account.nested(template(Own=account.queue("own"))) | {"DeletionPolicy": "Retain"}
    stack = account.create(template(Child=nested))
    child = account.child(stack)
    assert account.delete(stack)["StackStatus"] == "DELETE_COMPLETE"
    assert account.ended(child["StackId"])["StackStatus"] == "CREATE_COMPLETE"
    assert account.has_queue("own")


def test_a_child_that_fails_rolls_back_then_its_parent_does(account: Account) -> None:
    child = template(
        Kept=account.queue("kept", DeletionPolicy="Retain"),
        Late=account.queue("late", DeletionPolicy="RetainExceptOnCreate"),
        Gone=account.queue("gone"),
        Bad=failing("Kept", "Late", "Gone"),
    )
    stack = account.create(template(Before=account.queue("before"), Child=account.nested(child)))
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    there = [n for n in ("before", "gone", "late", "kept") if account.has_queue(n)]
    assert there == ["kept"]  # only by Retain: a rollback isn't a deletion
    reason = account.event(stack, "Child", "ResourceStatusReason")
    assert reason.startswith("Embedded stack arn:aws:cloudformation:us-east-1:")
    assert reason.endswith(
        " was not successfully created: The following resource(s) failed to create: [Bad]. "
    )


def test_without_a_roll_back_a_failed_child_stays_as_it_is_until_its_parent_goes(
    account: Account,
) -> None:
    child = template(Own=account.queue("own"), Bad=failing("Own"))
    stack = account.create(template(Child=account.nested(child)), DisableRollback=True)
    assert stack["StackStatus"] == "CREATE_FAILED"
    assert account.has_queue("own")
    assert account.delete(stack)["StackStatus"] == "DELETE_COMPLETE"
    assert not account.has_queue("own")


def test_a_created_child_is_deleted_with_its_failed_parent(account: Account) -> None:
    """It is inferred that AWS doesn't treat this as a rollback of the child's creation."""
    child = template(
        Late=account.queue("late", DeletionPolicy="RetainExceptOnCreate"), Own=account.queue("own")
    )
    stack = account.create(template(Child=account.nested(child), Bad=failing("Child")))
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert [name for name in ("own", "late") if account.has_queue(name)] == ["late"]


def test_a_child_whose_update_fails_is_rolled_back(account: Account) -> None:
    stack = account.create(template(Child=account.nested(template(Own=account.queue("own")))))
    child = template(Own=account.queue("own"), New=account.queue("new"), Bad=failing("New"))
    updated = account.update(stack, template(Child=account.nested(child)))
    assert updated["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert account.child(stack)["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert account.resources(account.child(stack)) == {"Own"}
    assert [name for name in ("own", "new") if account.has_queue(name)] == ["own"]


def test_a_child_whose_siblings_update_fails_is_rolled_back_too(account: Account) -> None:
    stack = account.create(template(Child=account.nested(template(Own=account.queue("own")))))
    child = template(Own=account.queue("own"), New=account.queue("new"))
    root = template(Child=account.nested(child), Bad=failing("Child"))
    assert account.update(stack, root)["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert account.resources(account.child(stack)) == {"Own"}
    assert not account.has_queue("new")


def message_in(account: Account, name: str) -> bool:
    """Return whether the message that was sent to a queue is still in it."""
    url = account.sqs.get_queue_url(QueueName=account.named(name))["QueueUrl"]
    counted = account.sqs.get_queue_attributes(
        QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"]
    )["Attributes"]  # fmt: skip
    return bool(counted == {"ApproximateNumberOfMessages": "1"})


def put_message(account: Account, name: str) -> None:
    url = account.sqs.get_queue_url(QueueName=account.named(name))["QueueUrl"]
    account.sqs.send_message(QueueUrl=url, MessageBody="m")


@pytest.mark.parametrize("depth", [1, 2])
def test_a_childs_removed_resource_is_untouched_when_the_root_rolls_back(
    account: Account, depth: int
) -> None:
    def root(*names: str, **others: Document) -> Document:
        inner = template(**{name.title(): account.queue(name) for name in names})
        for _ in range(depth):
            inner = template(Child=account.nested(inner))
        return template(**inner["Resources"], **others)

    stack = account.create(root("own", "old"))
    put_message(account, "old")
    failed = account.update(stack, root("own", "new", Bad=failing("Child")))
    assert failed["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert message_in(account, "old")
    assert not account.has_queue("new")
    assert account.update(stack, root("own", "new"))["StackStatus"] == "UPDATE_COMPLETE"
    assert (account.has_queue("old"), account.has_queue("new")) == (False, True)
    assert account.delete(stack)["StackStatus"] == "DELETE_COMPLETE"
    assert not account.has_queue("new")


def test_a_childs_replaced_resource_is_there_when_the_root_rolls_back(
    account: Account,
) -> None:
    def child(name: str) -> Document:
        return account.nested(template(Own=account.queue(name)))

    stack = account.create(template(Child=child("one")))
    put_message(account, "one")
    root = template(Child=child("two"), Bad=failing("Child"))
    assert account.update(stack, root)["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert message_in(account, "one")
    assert not account.has_queue("two")
    assert account.update(stack, template(Child=child("two")))["StackStatus"] == "UPDATE_COMPLETE"
    assert (account.has_queue("one"), account.has_queue("two")) == (False, True)


def test_a_parent_whose_child_cannot_be_deleted_is_not_deleted(account: Account) -> None:
    name, group = account.named("policy"), account.named("group")
    statement = {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}
    document = {"Version": "2012-10-17", "Statement": [statement]}
    properties = {"PolicyName": name, "PolicyDocument": document}
    child = template(Held={"Type": "AWS::IoT::Policy", "Properties": properties})
    stack = account.create(template(Child=account.nested(child)))
    iot = account.client("iot")
    held = {
        "policyName": name,
        "target": iot.create_thing_group(thingGroupName=group)["thingGroupArn"],
    }
    iot.attach_policy(**held)
    deleted = account.delete(stack)
    assert deleted["StackStatus"] == "DELETE_FAILED"
    assert "not successfully deleted" in account.event(stack, "Child", "ResourceStatusReason")
    iot.detach_policy(**held)
    assert account.delete(stack)["StackStatus"] == "DELETE_COMPLETE"


def test_a_childs_export_can_be_imported_by_another(account: Account) -> None:
    export = account.named("arn")
    giving = template(Own=account.queue("own"))
    giving["Outputs"] = {
        "Arn": {"Value": {"Fn::GetAtt": ["Own", "Arn"]}, "Export": {"Name": export}}
    }
    taking = template(Other=account.queue("other"))
    taking["Outputs"] = {"Arn": {"Value": {"Fn::ImportValue": export}}}
    later = account.nested(taking) | {"DependsOn": "Child"}
    stack = account.create(template(Child=account.nested(giving), Later=later))
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    (output,) = account.child(stack, "Later")["Outputs"]
    assert output["OutputValue"].endswith(account.named("own"))
    account.delete(stack)
    assert export not in str(account.formation.list_exports()["Exports"])


def test_a_resource_that_depends_on_a_nested_stack_is_made_after_its_resources(
    account: Account,
) -> None:
    nested = account.nested(template(Own=account.queue("own")))
    root = template(
        A=account.queue("after", DependsOn="Child"), Child=nested | {"DependsOn": ["Z"]},
        Z=account.queue("before"),
    )  # fmt: skip
    stack = account.create(root)
    events = reversed(account.events(stack))
    made = [e["LogicalResourceId"] for e in events if e["ResourceStatus"] == "CREATE_COMPLETE"]
    assert made == ["Z", "Child", "A", stack["StackName"]]


@pytest.mark.parametrize(
    ("child", "parameters", "reason"),
    [
        ({}, {"No": "x"}, "Parameters: [No] do not exist in the template"),
        ({"Needed": {"Type": "String"}}, {}, "Needed"),
        ({"Few": {"Type": "String", "MaxLength": 2}}, {"Few": "abc"}, "Few"),
    ],
)
def test_a_childs_parameters_are_checked_against_its_declarations(
    account: Account, child: Document, parameters: Document, reason: str
) -> None:
    nested = account.nested(
        template(Own=account.queue("own")) | {"Parameters": child}, Parameters=parameters
    )
    stack = account.create(template(Child=nested))
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert reason in account.event(stack, "Child", "ResourceStatusReason")
    assert not account.has_queue("own")


def test_a_type_that_does_not_exist_fails_a_child_before_anything_is_made(account: Account) -> None:
    child = template(Own=account.queue("own"), Zed={"Type": "AWS::No::Such"})
    stack = account.create(template(Child=account.nested(child)))
    reason = account.event(stack, "Child", "ResourceStatusReason")
    assert reason == "Template format error: Unrecognized resource types: [AWS::No::Such]"


def test_a_change_set_lists_a_nested_stack_even_if_it_is_unchanged(
    account: Account,
) -> None:
    root = template(Child=account.nested(template(Own=account.queue("own"))))
    stack = account.create(root)
    name = {"StackName": stack["StackName"], "ChangeSetName": "again"}
    account.formation.create_change_set(TemplateBody=json.dumps(root), **name)
    (change,) = account.formation.describe_change_set(**name)["Changes"]
    assert change["ResourceChange"]["LogicalResourceId"] == "Child"
    assert change["ResourceChange"]["Details"][0]["ChangeSource"] == "Automatic"


def test_a_nested_stack_is_named_and_tagged_after_its_parent(account: Account) -> None:
    child = template(Own=account.queue("own"))
    tags = [{"Key": "team", "Value": "north"}]
    stack = account.create(template(Child=account.nested(child)), Tags=tags)
    nested = account.child(stack)
    root, logical_id, end = nested["StackName"].rsplit("-", 2)
    assert (root, logical_id) == (stack["StackName"], "Child")
    assert end.isalnum()
    assert end == end.upper()
    assert nested["Tags"] == tags
    url = account.sqs.get_queue_url(QueueName=account.named("own"))["QueueUrl"]
    assert account.sqs.list_queue_tags(QueueUrl=url)["Tags"]["team"] == "north"


def test_a_nested_stack_shows_its_parent_and_its_root(account: Account) -> None:
    inner = account.nested(template(Own=account.queue("own")))
    stack = account.create(template(Child=account.nested(template(Inner=inner))))
    child = account.child(stack)
    grandchild = account.child(child, "Inner")
    assert "ParentId" not in stack
    assert (child["ParentId"], child["RootId"]) == (stack["StackId"], stack["StackId"])
    assert (grandchild["ParentId"], grandchild["RootId"]) == (child["StackId"], stack["StackId"])


def test_a_template_shows_awss_addresses_of_its_nested_templates(account: Account) -> None:
    """`sam delete` reads these addresses to find the templates that `sam deploy` uploaded."""
    nested = account.nested(template(Own=account.queue("own")))
    on_aws = nested["Properties"]["TemplateURL"]
    here = on_aws.replace("https://s3.us-east-1.amazonaws.com", account.endpoint)
    stack = account.create(template(Child=nested | {"Properties": {"TemplateURL": here}}))
    for stage in ("Original", "Processed"):
        shown = account.formation.get_template(StackName=stack["StackId"], TemplateStage=stage)
        assert shown["TemplateBody"]["Resources"]["Child"]["Properties"] == {"TemplateURL": on_aws}

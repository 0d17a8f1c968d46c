"""Which calls to AWS a function may make, read from its source.

It follows how the code is written. A handler's `wired` makes clients (`client("s3")`) and gives
each to a class of telemetry.aws, with settings that name what it works on. The class keeps the
client and calls its methods. Code that does otherwise raises Fault, so that nothing goes unseen.

What a function reaches is found by name: a method counts where something reachable mentions its
class and its name. Two things come out too large. Where two methods have one name, both count.
Where a function has several instances of a class, a call counts for all of them.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from tests.template.expanded import ROOT

LAYER = "layers/telemetry"
ADAPTERS = "telemetry.aws."
CLIENTS = "telemetry.aws.clients"  # the one module that makes clients
Sources = Mapping[str, str]


class Fault(ValueError):
    """Code that can't be followed here."""


class Use(NamedTuple):
    """A call to AWS that a function may make."""

    where: str  # the class that makes it
    service: str
    method: str  # boto3's; that which is paged, where a paginator is called
    words: frozenset[str]  # its keywords, and the first words of its class's texts
    settings: tuple[frozenset[str], ...]  # of each instance of the class, the settings it is given
    folder: str  # of a bucket, where the class's module has a PREFIX that its keys begin with


class Client(NamedTuple):
    """A client that a class is given: by which parameter, and the settings beside it."""

    service: str
    parameter: str
    settings: frozenset[str]


@dataclass
class Class:
    """A class of telemetry.aws: its methods by name, and the clients given to its instances."""

    where: str
    node: ast.ClassDef
    folder: str
    clients: list[Client] = field(default_factory=list)

    @property
    def methods(self) -> dict[str, ast.FunctionDef]:
        return {node.name: node for node in self.node.body if isinstance(node, ast.FunctionDef)}


@cache
def sources() -> Sources:
    """The modules of the layer and the handlers, by their full names."""
    found = {}
    for root, pattern in ((ROOT / LAYER, "telemetry/**/*.py"), (ROOT, "functions/*/handler.py")):
        for path in root.glob(pattern):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path.read_text("utf-8")
    return found


def uses(handler: str, sources: Sources) -> list[Use]:
    """The calls to AWS that are reachable from a handler. Raises Fault."""
    return uses_in(handler, frozenset((name, sources[name]) for name in imported(handler, sources)))


@cache
def uses_in(handler: str, texts: frozenset[tuple[str, str]]) -> list[Use]:
    """The same, from the modules that a handler imports: most tests change others."""
    modules = {name: parsed(text) for name, text in sorted(texts)}
    del modules[CLIENTS]
    for name, tree in modules.items():
        if any(each.startswith("boto3") for each in imports(tree)):
            raise Fault(f"{name} imports boto3; {CLIENTS} makes clients")
        if "client" in renamed(tree):
            raise Fault(f"{name} imports `client` under another name, by which it isn't followed")
    classes = {
        node.name: Class(f"{name}.{node.name}", node, folder_of(tree))
        for name, tree in modules.items()
        if name.startswith(ADAPTERS)
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    reached, names = reachable(modules, handler)
    give_clients(reached, classes)
    given = [each for each in classes.values() if each.clients]
    kept = {name for each in given for client in each.clients for name in kept_as(each, client)}
    for each in classes.values():
        if each not in given and each.node.name in names and kept & mentioned(each.node):
            raise Fault(f"{each.where} uses a client that it isn't given")
    return [use for each in given for use in calls(each, names)]


def folder_of(module: ast.Module) -> str:
    """The text that a module's PREFIX is, if it has one."""
    for node in module.body:
        if isinstance(node, ast.Assign) and last_name(node.targets[0]) == "PREFIX":
            return str(ast.literal_eval(node.value))
    return ""


@cache
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


@cache
def imports(tree: ast.Module) -> list[str]:
    """Every name that a module imports, with what it is imported from."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


@cache
def renamed(tree: ast.AST) -> frozenset[str]:
    """What is imported under another name."""
    aliases = [node for node in ast.walk(tree) if isinstance(node, ast.alias)]
    return frozenset(alias.name for alias in aliases if alias.asname)


def imported(module: str, sources: Sources) -> set[str]:
    """A module, and those of the layer that it imports, and so on."""
    found, left = {CLIENTS}, [module]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            for each in imports(parsed(sources[name])):
                left += [full for full in (each, each.rpartition(".")[0]) if full in sources]
    return found


def reachable(modules: Mapping[str, ast.Module], handler: str) -> tuple[list[ast.AST], set[str]]:
    """The handler, and of the other modules what its names lead to; and all those names."""
    reached: list[ast.AST] = [modules[handler]]
    names = set(mentioned(modules[handler]))
    left = [
        piece
        for name, tree in modules.items()
        if name != handler
        for node in tree.body
        for piece in pieces(node)
    ]
    while more := [node for wanted, node in left if wanted <= names]:
        left = [(wanted, node) for wanted, node in left if not wanted <= names]
        reached += more
        names.update(*map(mentioned, more))
    return reached, names


def pieces(node: ast.stmt) -> Iterator[tuple[set[str], ast.AST]]:
    """A module's statement as pieces, each with the names whose mention makes it reachable."""
    if isinstance(node, ast.FunctionDef):
        yield {node.name}, node
    elif isinstance(node, ast.ClassDef):
        yield from (({node.name}, base) for base in node.bases)
        for each in node.body:
            named = {each.name} if isinstance(each, ast.FunctionDef) else set()
            yield {node.name} | {name for name in named if not name.startswith("__")}, each
    else:
        yield set(), node


@cache
def mentioned(root: ast.AST) -> frozenset[str]:
    """Every name in the code; of what is imported under another name, its own."""
    return renamed(root) | {last_name(node) for node in ast.walk(root)}


# Who is given which client.


def give_clients(reached: list[ast.AST], classes: Mapping[str, Class]) -> None:
    """Note each client at the class whose instance gets it; raises Fault where none does."""
    for function in (each for root in reached for each in makers(root)):
        known = assigned(function)
        made = {id(node) for node in ast.walk(function) if service_of(node)}
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and (receiver := classes.get(last_name(call.func))):
                arguments = [resolved(each, known) for each in call.args]
                settings = frozenset(filter(None, map(setting, arguments)))
                for place, argument in enumerate(arguments):
                    if service := service_of(argument):
                        parameters = receiver.methods["__init__"].args.args
                        name = parameters[place + 1].arg
                        receiver.clients.append(Client(service, name, settings))
                        made.discard(id(argument))
                        if not settings:
                            raise Fault(f"no setting says what {receiver.where} works on")
        if made:
            raise Fault(f"{function.name} makes a client that it gives to no class of {ADAPTERS}*")


@cache
def makers(root: ast.AST) -> list[ast.FunctionDef]:
    """The functions in which clients are made. Raises Fault where that is elsewhere."""
    functions = [node for node in ast.walk(root) if isinstance(node, ast.FunctionDef)]
    found = [node for node in functions if any(map(service_of, ast.walk(node)))]
    inside = {id(node) for function in found for node in ast.walk(function)}
    if any(service_of(node) and id(node) not in inside for node in ast.walk(root)):
        raise Fault(f"line {getattr(root, 'lineno', 1)}: a client is made outside of a function")
    return found


def assigned(function: ast.FunctionDef) -> dict[str, ast.expr]:
    """The function's variables, each with the expression that it is set to."""
    found: dict[str, ast.expr] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = node.value
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=True)
                    found |= {each.id: value for each, value in pairs if isinstance(each, ast.Name)}
    return found


def resolved(expression: ast.expr, known: Mapping[str, ast.expr]) -> ast.expr:
    while isinstance(expression, ast.Name) and expression.id in known:
        expression = known[expression.id]
    return expression


def service_of(node: ast.AST) -> str | None:
    """The service of `client("s3")`, or of what makes it: `partial(client, "s3")`."""
    if not isinstance(node, ast.Call):
        return None
    called, *arguments = [node.func, *node.args]
    if last_name(called) == "partial":
        called, *arguments = arguments
    if last_name(called) != "client":
        return None
    if not arguments or not isinstance(arguments[0], ast.Constant):
        raise Fault(f"line {node.lineno}: a client of a service that isn't written there")
    return str(arguments[0].value)


def last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def setting(expression: ast.expr) -> str | None:
    if isinstance(expression, ast.Attribute) and last_name(expression.value) == "settings":
        return expression.attr
    return None


# What a class does with its clients.


def calls(of: Class, names: set[str]) -> Iterator[Use]:
    """The calls that a class's reachable methods make with its clients. Raises Fault."""
    reached = [node for name, node in of.methods.items() if name in names or name == "__init__"]
    words = frozenset(first_words(reached))
    for client in {(each.service, each.parameter): each for each in of.clients}.values():
        settings = tuple(each.settings for each in of.clients if each.parameter == client.parameter)
        for attribute in kept_as(of, client):
            for method in reached:
                for called, keywords in called_on(method, attribute, of.where):
                    found = words | keywords
                    yield Use(of.where, client.service, called, found, settings, of.folder)


def kept_as(of: Class, client: Client) -> set[str]:
    """The attributes in which instances keep a client; it must be for nothing else."""
    init = of.methods["__init__"]
    kept = [
        node.targets[0].attr
        for node in init.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Attribute)
        and last_name(node.value) == client.parameter
    ]
    names = [node.id for node in ast.walk(init) if isinstance(node, ast.Name)]
    if not kept or names.count(client.parameter) != len(kept):
        raise Fault(f"{of.where} does not just keep {client.parameter}, a client")
    return set(kept)


def called_on(
    method: ast.FunctionDef, attribute: str, where: str
) -> Iterator[tuple[str, frozenset[str]]]:
    """The methods that are called on a client kept in an attribute, each with its keywords."""
    parents = {child: node for node in ast.walk(method) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(method):
        if not isinstance(node, ast.Attribute) or node.attr != attribute:
            continue
        if isinstance(node.ctx, ast.Store):  # where it is kept
            continue
        receiver: ast.AST = node
        if isinstance(parents[node], ast.Call) and parents[node].func is node:  # type: ignore[attr-defined]
            receiver = parents[node]  # self._glue() gives the client
        called = parents[receiver]
        if not isinstance(called, ast.Attribute) or called.attr == "get_waiter":
            raise Fault(
                f"{where}.{method.name} does not just call a method of {attribute}, a client"
            )
        call = parents[called]
        if called.attr != "get_paginator":
            yield called.attr, keywords_of(call)
        elif isinstance(call, ast.Call) and isinstance(call.args[0], ast.Constant):
            yield str(call.args[0].value), keywords_of(parents[parents[call]])


def keywords_of(call: ast.AST) -> frozenset[str]:
    keywords = call.keywords if isinstance(call, ast.Call) else []
    return frozenset(each.arg or "" for each in keywords)


def first_words(nodes: list[ast.FunctionDef]) -> Iterator[str]:
    for node in (each for root in nodes for each in ast.walk(root)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.split(" ", 1)[0]

"""The SQL of IoT rules, as much of it as the template uses and a little more.

    SELECT * | expression [AS name], … FROM 'topic filter' [WHERE expression]

Expressions are literals, names of the payload's fields (`a.b` of nested ones), functions,
comparisons, AND, OR, NOT, brackets. What else there is in AWS's reference is refused with its place
in the text: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-reference.html. Where
the reference doesn't say what comes out, evaluation raises `Undocumented` instead of guessing. One
guess is made: of a key that a payload has twice the last value counts, and is all that goes on.
"""

import base64
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

VERSION = "2016-03-23"
TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<sign><>|<=|>=|[=<>*,().]))"
)
DECIMAL = re.compile(r"-?\d+(\.\d+)?([Ee][-+]?\d+)?", re.ASCII)
TEMPLATE = re.compile(r"\$\{([^}]*)\}")
KEYWORDS = {"select", "as", "from", "where", "and", "or", "not", "true", "false", "null"}
COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class SqlError(Exception):
    """A statement isn't SQL, or isn't the part of it that is supported: what, and where."""

    def __init__(self, problem: str, text: str, at: int) -> None:
        """Show the place: the text up to there, and what comes then."""
        super().__init__(f"{problem} at character {at + 1}: …{text[max(0, at - 20) : at + 20]}…")


class Undocumented(Exception):
    """AWS's reference doesn't say what this gives for this message."""


class Undefined:
    """The value of what isn't there; there is one."""

    def __repr__(self) -> str:
        """Say what it is."""
        return "Undefined"


UNDEFINED = Undefined()


@dataclass(frozen=True)
class Message:
    """What a rule sees of a message."""

    topic: str
    payload: bytes
    client_id: str
    principal: str
    at_ms: int
    _document: list[Any] = field(default_factory=list, compare=False)

    def document(self) -> Any:
        """Return the payload as JSON, Undefined where it isn't any."""
        if not self._document:
            try:
                text = self.payload.decode()
                document = json.loads(
                    text, parse_constant=finite, parse_float=finite, object_pairs_hook=once
                )
                self._document.append(document)
            except (ValueError, RecursionError):
                self._document.append(UNDEFINED)
        return self._document[0]


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raise ValueError for a name that is there twice.

    AWS doesn't say which of its values is meant, so here such a payload isn't JSON.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def finite(text: str) -> float:
    """Return a number; raise ValueError for NaN and what is beyond a float, neither of it JSON."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


Expression = Callable[[Message], Any]


class Token(NamedTuple):
    """A word of a statement, and where it is."""

    kind: str
    text: str
    at: int

    @property
    def word(self) -> str:
        """The keyword or sign that it is, else nothing."""
        is_word = self.kind == "sign" or (self.kind == "name" and self.text.lower() in KEYWORDS)
        return self.text.lower() if is_word else ""


class Item(NamedTuple):
    """What a SELECT selects: an expression under a name, or everything."""

    name: tuple[str, ...]
    expression: Expression | None


@dataclass(frozen=True)
class Statement:
    """A parsed statement."""

    items: list[Item]
    topic_filter: str
    where: Expression | None

    def selects(self, message: Message) -> bool:
        """Return whether the WHERE clause is true of a message, not only not false."""
        return self.where is None or self.where(message) is True

    def result(self, message: Message) -> bytes:
        """Return what an action gets of a message: JSON, or the payload's own bytes."""
        has_all = any(item.expression is None for item in self.items)
        document = message.document()
        if has_all and len(self.items) == 1 and not isinstance(document, dict):
            return message.payload
        if has_all and not isinstance(document, dict):
            raise Undocumented("SELECT * and more, of a payload that isn't a JSON object")
        result: dict[str, Any] = dict(document) if has_all else {}
        for item in self.items:
            if item.expression is not None:
                place(result, item.name, item.expression(message))
        return json.dumps(result, separators=(",", ":")).encode()


def place(result: dict[str, Any], name: tuple[str, ...], value: Any) -> None:
    """Put a value under its name, which may be nested; leave out what is Undefined."""
    if name[0] in result:
        raise Undocumented(f"a field '{name[0]}' of the payload, and one that the SQL adds")
    if value is UNDEFINED:
        return
    for part in reversed(name[1:]):
        value = {part: value}
    result[name[0]] = value


def parse(text: str) -> Statement:
    """Return the statement in a text; raise SqlError."""
    return Parser(text).statement()


def template(text: str) -> Callable[[Message], str]:
    """Return what fills a substitution template, such as ${topic(2)}; raise SqlError."""
    parts = TEMPLATE.split(text)
    expressions = [Parser(part).whole() for part in parts[1::2]]

    def fill(message: Message) -> str:
        values = [expression(message) for expression in expressions]
        if any(isinstance(value, Undefined | dict | list) for value in values):
            raise Undocumented(f"what {text} gives where it isn't text or a number")
        filled = [""] * len(parts)
        filled[::2] = parts[::2]
        filled[1::2] = [str(value) for value in values]
        return storable("".join(filled))

    return fill


def storable(text: str) -> str:
    """Return a text that UTF-8 has; a payload's may have half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Undocumented(f"what a text gives that isn't Unicode: {error}") from None
    return text


class Parser:
    """A statement's words, taken one by one."""

    def __init__(self, text: str) -> None:
        """Divide a text into words."""
        self._text = text
        self._tokens = list(tokens(text))
        self._next = 0

    def statement(self) -> Statement:
        """Take a whole statement."""
        self._expect("select")
        items = [self._item()]
        while self._accept(","):
            items.append(self._item())
        self._expect("from")
        topic_filter = self._string("a topic filter in single quotes")
        where = self._either() if self._accept("where") else None
        self._end()
        return Statement(items, topic_filter, where)

    def whole(self) -> Expression:
        """Take one expression, and nothing after it."""
        expression = self._either()
        self._end()
        return expression

    def _item(self) -> Item:
        if self._accept("*"):
            return Item((), None)
        first, token = self._next, self._token
        expression = self._either()
        taken = self._tokens[first : self._next]
        if self._accept("as"):
            return Item(self._path(), expression)
        if all(each.text == "." or (each.kind == "name" and not each.word) for each in taken):
            return Item((taken[-1].text,), expression)
        raise self._error("an expression without AS and a name isn't supported", token)

    def _either(self) -> Expression:
        parts = [self._both()]
        while self._accept("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else logical(parts, any)

    def _both(self) -> Expression:
        parts = [self._negated()]
        while self._accept("and"):
            parts.append(self._negated())
        return parts[0] if len(parts) == 1 else logical(parts, all)

    def _negated(self) -> Expression:
        if not self._accept("not"):
            return self._compared()
        negated = self._negated()
        return logical([negated], lambda values: not next(iter(values)))

    def _compared(self) -> Expression:
        left = self._value()
        sign = self._token.word
        if sign not in COMPARISONS:
            return left
        self._next += 1
        right = self._value()
        return lambda message: compare(sign, left(message), right(message))

    def _value(self) -> Expression:
        token = self._take()
        if token.kind == "string":
            return constant(token.text[1:-1].replace("''", "'"))
        if token.kind == "number":
            return constant(float(token.text) if "." in token.text else int(token.text))
        if token.word == "(":
            inner = self._either()
            self._expect(")")
            return inner
        if token.word in ("true", "false", "null"):
            return constant({"true": True, "false": False, "null": None}[token.word])
        if token.kind != "name" or token.word:
            raise self._error(f"'{token.text or 'the end'}' isn't expected", token)
        if self._token.word == "(":
            return self._call(token)
        self._next -= 1
        return attribute(self._path())

    def _path(self) -> tuple[str, ...]:
        names = []
        while True:
            token = self._take()
            if token.kind != "name":
                raise self._error(f"'{token.text or 'the end'}' isn't a name", token)
            names.append(token.text)
            if not self._accept("."):
                return tuple(names)

    def _call(self, name: Token) -> Expression:
        self._expect("(")
        arguments: list[Expression] = []
        while not self._accept(")"):
            if arguments:
                self._expect(",")
            arguments.append(raw_payload if self._accept("*") else self._either())
        known = FUNCTIONS.get(name.text.lower())
        if known is None:
            some = ", ".join(FUNCTIONS)
            raise self._error(f"{name.text}() isn't supported; {some} are", name)
        counts, function = known
        if len(arguments) not in counts:
            wanted = " or ".join(map(str, counts))
            raise self._error(f"{name.text}() takes {wanted} arguments", name)
        return lambda message: function(message, *(each(message) for each in arguments))

    def _string(self, what: str) -> str:
        token = self._take()
        if token.kind != "string":
            raise self._error(f"'{token.text or 'the end'}' isn't {what}", token)
        return token.text[1:-1]

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._token
        if token.kind != "end":
            self._next += 1
        return token

    def _accept(self, word: str) -> bool:
        if self._token.word != word:
            return False
        self._next += 1
        return True

    def _expect(self, word: str) -> None:
        token = self._token
        if not self._accept(word):
            raise self._error(f"{word.upper()} is expected, not '{token.text or 'the end'}'", token)

    def _end(self) -> None:
        if self._token.kind != "end":
            raise self._error(f"'{self._token.text}' isn't supported here", self._token)

    def _error(self, problem: str, token: Token) -> SqlError:
        return SqlError(problem, self._text, token.at)


def tokens(text: str) -> Iterator[Token]:
    """Divide a text into words, with an end."""
    at = 0
    while text[at:].strip():
        found = TOKEN.match(text, at)
        if found is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise SqlError(f"'{text[at]}' isn't supported", text, at)
        kind = str(found.lastgroup)
        yield Token(kind, found[kind], found.start(kind))
        at = found.end()
    yield Token("end", "", len(text))


def constant(value: Any) -> Expression:
    """Return what gives a literal."""
    return lambda _message: value


def attribute(path: tuple[str, ...]) -> Expression:
    """Return what gives a field of the payload."""

    def get(message: Message) -> Any:
        value = message.document()
        for name in path:
            value = value.get(name, UNDEFINED) if isinstance(value, dict) else UNDEFINED
        return value

    return get


def logical(parts: list[Expression], combine: Callable[[Iterator[bool]], bool]) -> Expression:
    """Return what combines Booleans; where one is none, the whole is Undefined.

    'true' and 'false' are Booleans in any case, also as text.
    """

    def decide(message: Message) -> Any:
        values = [boolean(part(message)) for part in parts]
        if not all(isinstance(value, bool) for value in values):
            return UNDEFINED
        return combine(iter(values))

    return decide


def boolean(value: Any) -> Any:
    """Return a text that says true or false as a Boolean, all else as it is."""
    is_said = isinstance(value, str) and value.lower() in ("true", "false")
    return value.lower() == "true" if is_said else value


def compare(sign: str, left: Any, right: Any) -> Any:
    """Compare two values; nothing compares with what isn't there.

    Equal are two of one type; which is greater is asked of numbers, also of such as are text:
    https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-operators.html
    """
    if left is UNDEFINED or right is UNDEFINED:
        return UNDEFINED
    if sign in ("=", "<>"):
        is_of_one_type = type_of(left) == type_of(right)
        return COMPARISONS[sign](left, right) if is_of_one_type else sign == "<>"
    numbers = decimal(left), decimal(right)
    return UNDEFINED if None in numbers else COMPARISONS[sign](*numbers)


def decimal(value: Any) -> Decimal | None:
    """Return a number, or a text that is one, as a Decimal; None for all else."""
    text = str(value) if isinstance(value, int | float | str) else ""
    return Decimal(text) if DECIMAL.fullmatch(text) else None


def type_of(value: Any) -> str:
    """Return the type as the SQL has it."""
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else {str: "string"}.get(type(value), "other")


def raw_payload(message: Message) -> bytes:
    """Return what * is to a function: the payload's bytes."""
    return message.payload


def topic_of(message: Message, level: Any = None) -> Any:
    """Return the topic, or a level of it, from 1; Undefined where it has none such."""
    if level is None:
        return message.topic
    levels = message.topic.split("/")
    is_there = isinstance(level, int) and 1 <= level <= len(levels)
    return levels[level - 1] if is_there else UNDEFINED


def encoded(_message: Message, value: Any, scheme: Any) -> str:
    """Return bytes or text in base64."""
    if scheme != "base64":
        raise Undocumented(f"encode() with the scheme {scheme!r}")
    if not isinstance(value, bytes | str):
        raise Undocumented(f"encode() of a {type(value).__name__}")
    data = value if isinstance(value, bytes) else storable(value).encode()
    return base64.b64encode(data).decode()


# By name: how many arguments it takes, and what it does.
FUNCTIONS: Mapping[str, tuple[tuple[int, ...], Callable[..., Any]]] = {
    "topic": ((0, 1), topic_of),
    "timestamp": ((0,), lambda message: message.at_ms),
    "clientid": ((0,), lambda message: message.client_id),
    "principal": ((0,), lambda message: message.principal),
    "encode": ((2,), encoded),
    "isundefined": ((1,), lambda _message, value: value is UNDEFINED),
    "isnull": ((1,), lambda _message, value: value is None),
}


def matches(topic_filter: str, topic: str) -> bool:
    """Return whether a topic is one of a filter's: + is a level, # all that follow, at least one.

    A wildcard at the beginning doesn't match what begins with $ (MQTT 3.1.1, 4.7.2). That `a/#`
    doesn't match `a`, as MQTT has it, is AWS's own:
    https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html#mqtt-differences
    """
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for index, each in enumerate(wanted):
        if each == "#":
            return index < len(levels)
        if index >= len(levels) or each not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)

"""The SQL of IoT rules: a subset.

    SELECT * | expression [AS name], … FROM 'topic filter' [WHERE expression]

Expressions are literals, names of the payload's fields (`a.b` of nested ones), functions,
comparisons, AND, OR, NOT, brackets. The rest of AWS's reference is refused, with the place in the
text: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-reference.html. If the reference
doesn't say what the result is, evaluation raises `Undocumented` instead of guessing.

Numbers keep their digits, as on AWS: a Decimal has 34 digits and a magnitude from 1E-999 to
9.999…E999, an Int has at most 34 digits. A Decimal that is whole becomes an Int: 10.0 is 10.
https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-data-types.html
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal, DecimalException, InvalidOperation, Overflow, Subnormal
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

VERSION = "2016-03-23"
TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<sign><>|<=|>=|[=<>*,().]))"
)
DECIMAL = re.compile(r"-?\d+(\.\d+)?([Ee]-?\d+)?", re.ASCII)  # texts that are numbers, by AWS
MAX_DIGITS = 34
EXACT = Context(MAX_DIGITS, Emin=-999, Emax=999, traps=[Overflow, Subnormal, InvalidOperation])
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
    """A statement isn't SQL or isn't supported; the message names the problem and its place."""

    def __init__(self, problem: str, text: str, at: int) -> None:
        """Quote the text around the character `at`, counted from 0."""
        super().__init__(f"{problem} at character {at + 1}: …{text[max(0, at - 20) : at + 20]}…")


class Undocumented(Exception):
    """AWS's reference doesn't document the result for this message."""


class Undefined:
    """The type of UNDEFINED, the value of a missing field."""

    def __repr__(self) -> str:
        """Return its name in the SQL."""
        return "Undefined"


UNDEFINED = Undefined()


@dataclass(frozen=True)
class Message:
    """The parts of a message that a rule sees."""

    topic: str
    payload: bytes
    client_id: str
    principal: str
    at_ms: int
    _document: list[Any] = field(default_factory=list, compare=False)

    def document(self) -> Any:
        """Return the payload as JSON; UNDEFINED if it isn't JSON."""
        if not self._document:
            try:
                text = self.payload.decode()
                document = json.loads(
                    text,
                    parse_constant=number,
                    parse_float=number,
                    parse_int=number,
                    object_pairs_hook=object_with_unique_names,
                )
                self._document.append(document)
            except (ValueError, RecursionError):
                self._document.append(UNDEFINED)
        return self._document[0]


def object_with_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raise ValueError if it has a name twice.

    AWS doesn't document which value counts then, so such a payload isn't JSON here.
    """
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a name is there twice")
    return document


def number(text: str) -> int | Decimal:
    """Return a number as AWS's SQL has it; raise ValueError if it is beyond Int and Decimal.

    AWS doesn't document the result for such a number, so the payload isn't JSON here.
    """
    digits = text.removeprefix("-")
    if digits.isdecimal():
        if len(digits) > MAX_DIGITS:
            raise ValueError(text)
        return int(text)
    try:
        exact = EXACT.create_decimal(text)
    except DecimalException:
        raise ValueError(text) from None
    if not exact.is_finite():
        raise ValueError(text)
    is_whole = exact.adjusted() < MAX_DIGITS and exact == exact.to_integral_value()
    return int(exact) if is_whole else exact


Expression = Callable[[Message], Any]


class Token(NamedTuple):
    """A word of a statement, and its place."""

    kind: str
    text: str
    at: int

    @property
    def word(self) -> str:
        """The keyword or sign; empty for other tokens."""
        is_word = self.kind == "sign" or (self.kind == "name" and self.text.lower() in KEYWORDS)
        return self.text.lower() if is_word else ""


class Item(NamedTuple):
    """An item of SELECT: an expression with its name, or `*`."""

    name: tuple[str, ...]
    expression: Expression | None


@dataclass(frozen=True)
class Statement:
    """A parsed statement."""

    items: list[Item]
    topic_filter: str
    where: Expression | None

    def selects(self, message: Message) -> bool:
        """Return whether the WHERE clause is true for a message; UNDEFINED isn't true."""
        return self.where is None or self.where(message) is True

    def result(self, message: Message) -> bytes:
        """Return the payload for actions: JSON, or the message's own bytes."""
        has_all = any(item.expression is None for item in self.items)
        document = message.document()
        if has_all and len(self.items) == 1 and not isinstance(document, dict):
            return message.payload
        if has_all and not isinstance(document, dict):
            raise Undocumented("SELECT * and more, of a payload that isn't a JSON object")
        result: dict[str, Any] = dict(document) if has_all else {}
        for item in self.items:
            if item.expression is not None:
                set_field(result, item.name, item.expression(message))
        return json_text(result).encode()


class Written(str):
    """A part of a JSON text."""

    __slots__ = ()


COMMA = Written(",")


def json_text(value: Any) -> str:
    """Return JSON with the digits of its Decimals, whatever its depth."""
    parts: list[str] = []
    waiting: list[Any] = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Written | Decimal):
            parts.append(str(each))
        elif isinstance(each, str):
            parts.append(encode_basestring_ascii(each))
        elif isinstance(each, int | None):
            parts.append(json.dumps(each))
        elif isinstance(each, dict):
            waiting.append(Written("}"))
            for name, member in reversed(each.items()):
                waiting += (member, Written(encode_basestring_ascii(name) + ":"), COMMA)
            if each:
                waiting.pop()  # no comma before the first one
            waiting.append(Written("{"))
        else:
            waiting.append(Written("]"))
            for item in reversed(each):
                waiting += (item, COMMA)
            if each:
                waiting.pop()
            waiting.append(Written("["))
    return "".join(parts)


def set_field(result: dict[str, Any], name: tuple[str, ...], value: Any) -> None:
    """Set the field of a name, which may be nested; UNDEFINED sets nothing."""
    if name[0] in result:
        raise Undocumented(f"the payload and the SQL both have a field '{name[0]}'")
    if value is UNDEFINED:
        return
    for part in reversed(name[1:]):
        value = {part: value}
    result[name[0]] = value


def parse(text: str) -> Statement:
    """Return the parsed statement; raise SqlError."""
    return Parser(text).statement()


def template(text: str) -> Callable[[Message], str]:
    """Return a function that fills a template such as `${topic(2)}`; raise SqlError."""
    parts = TEMPLATE.split(text)
    expressions = [Parser(part).whole() for part in parts[1::2]]

    def fill(message: Message) -> str:
        values = [expression(message) for expression in expressions]
        if any(value is None or isinstance(value, Undefined | dict | list) for value in values):
            raise Undocumented(f"{text} gives neither text nor a number")
        filled = [""] * len(parts)
        filled[::2] = parts[::2]
        filled[1::2] = [json.dumps(v) if isinstance(v, bool) else str(v) for v in values]
        return valid_unicode("".join(filled))

    return fill


def valid_unicode(text: str) -> str:
    """Return the text; raise Undocumented if it has half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Undocumented(f"a text isn't valid Unicode: {error}") from None
    return text


class Parser:
    """A parser of statements, which reads one token after the other."""

    def __init__(self, text: str) -> None:
        """Divide a text into tokens."""
        self._text = text
        self._tokens = list(tokens(text))
        self._next = 0

    def statement(self) -> Statement:
        """Parse a whole statement."""
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
        """Parse one expression up to the end of the text."""
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
            try:
                return constant(number(token.text))
            except ValueError:
                problem = f"a number of more than {MAX_DIGITS} digits isn't supported"
                raise self._error(problem, token) from None
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

    def _string(self, expected: str) -> str:
        token = self._take()
        if token.kind != "string":
            raise self._error(f"'{token.text or 'the end'}' isn't {expected}", token)
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
    """Divide a text into tokens; the last one marks the end."""
    at = 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise SqlError(f"'{text[at]}' isn't supported", text, at)
        kind = str(match.lastgroup)
        yield Token(kind, match[kind], match.start(kind))
        at = match.end()
    yield Token("end", "", len(text))


def constant(value: Any) -> Expression:
    """Return the expression of a literal."""
    return lambda _message: value


def attribute(path: tuple[str, ...]) -> Expression:
    """Return the expression of a field of the payload."""

    def get(message: Message) -> Any:
        value = message.document()
        for name in path:
            value = value.get(name, UNDEFINED) if isinstance(value, dict) else UNDEFINED
        return value

    return get


def logical(parts: list[Expression], combine: Callable[[Iterator[bool]], bool]) -> Expression:
    """Return an expression that combines Booleans; UNDEFINED if a part isn't a Boolean.

    The texts 'true' and 'false', in upper or lower case, count as Booleans.
    """

    def decide(message: Message) -> Any:
        values = [boolean(part(message)) for part in parts]
        if not all(isinstance(value, bool) for value in values):
            return UNDEFINED
        return combine(iter(values))

    return decide


def boolean(value: Any) -> Any:
    """Return the texts true and false as Booleans, other values unchanged."""
    is_said = isinstance(value, str) and value.lower() in ("true", "false")
    return value.lower() == "true" if is_said else value


def compare(sign: str, left: Any, right: Any) -> Any:
    """Compare two values; UNDEFINED if one of them is.

    Values are equal only if their types are. Order is for numbers, also numbers written as text:
    https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-operators.html
    """
    if left is UNDEFINED or right is UNDEFINED:
        return UNDEFINED
    if sign in ("=", "<>"):
        is_of_one_type = type_of(left) == type_of(right)
        return COMPARISONS[sign](left, right) if is_of_one_type else sign == "<>"
    numbers = decimal(left), decimal(right)
    return UNDEFINED if None in numbers else COMPARISONS[sign](*numbers)


def decimal(value: Any) -> int | Decimal | None:
    """Return a number, or the number that a text is; None for other values."""
    if isinstance(value, str) and DECIMAL.fullmatch(value):
        try:
            return number(value)
        except ValueError:
            return None
    return value if type_of(value) == "number" else None


def type_of(value: Any) -> str:
    """Return the type's name in the SQL."""
    if isinstance(value, bool):
        return "boolean"
    return (
        "number" if isinstance(value, int | Decimal) else {str: "string"}.get(type(value), "other")
    )


def raw_payload(message: Message) -> bytes:
    """Return the value of * as an argument of a function: the payload's bytes."""
    return message.payload


def topic_of(message: Message, level: Any = None) -> Any:
    """Return the topic, or one of its levels, counted from 1; UNDEFINED if it has no such level."""
    if level is None:
        return message.topic
    levels = message.topic.split("/")
    at = decimal(level)
    return levels[at - 1] if isinstance(at, int) and 1 <= at <= len(levels) else UNDEFINED


def encoded(_message: Message, value: Any, scheme: Any) -> str:
    """Return bytes or text in base64."""
    if scheme != "base64":
        raise Undocumented(f"encode() with the scheme {scheme!r}")
    if not isinstance(value, bytes | str):
        raise Undocumented(f"encode() of a {type(value).__name__}")
    data = value if isinstance(value, bytes) else valid_unicode(value).encode()
    return base64.b64encode(data).decode()


# By name: the allowed numbers of arguments, and the function.
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
    """Return whether a topic matches a filter: + is one level, # one or more levels at the end.

    A wildcard at the beginning doesn't match a topic that begins with $ (MQTT 3.1.1, 4.7.2). In
    MQTT `a/#` also matches `a`; on AWS it doesn't:
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

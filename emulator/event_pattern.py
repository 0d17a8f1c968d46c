"""Event patterns of Amazon EventBridge and of Lambda's event filters, compiled for a hot path.

    pattern = compile_pattern('{"data": {"temperature": [{"numeric": [">", 38]}]}}')
    pattern.matches({"data": {"temperature": 38.5}})  # True

The rules are those of aws/event-ruler 2.0, which AWS runs, and of recordings from AWS. The module
needs only the standard library, because it also runs inside the embedded AWS. In short:

- A pattern is a set of leaf paths, each with alternatives; all paths have to match. `$or` makes one
  such rule of each of its branches. If a path is written twice, the last one counts.
- A path is its keys joined by dots, in patterns and in events: `{"a.b": 1}` is `{"a": {"b": 1}}`.
- An array in an event gives its path the values of all its elements. Two paths never match in
  different elements of one array, unless the elements are plain values.
- Paths are tried in their sort order, and `{"exists": false}` is true if the path is absent from
  the array elements chosen so far. Empty arrays and objects have no leaves, so they are absent.
- A key that an event's object has several times has all of its values, as in event-ruler. The
  behaviour of Lambda's mappings for such an event wasn't recorded.
- A number is compared by value if it is from -5e9 to 5e9 and has at most 15 significant digits and
  six decimals; trailing zeros don't count (38.5, 38.50, 3.85e1). AWS documents these limits:
  https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html. Any
  other number passes no `numeric`, and equals only a number that is written with the same
  characters. `numeric` and `anything-but` refuse it as an operand.
- A string that is an IP address equals that address in any notation: "::1" is "0:0:0:0:0:0:0:1".

Inferred, because neither documents nor recordings say it:

- The limits of numbers hold strictly. AWS doesn't say which event-ruler its services run. 1.7.5
  takes any digits before the point, 2.0.1 each number that is its double's shortest text. Both
  compare what is compared here, with the same result.
- A rule whose wildcards can be at more than 10 places at once is too complex. The measure is
  event-ruler's; the limit 10 follows from patterns that AWS is known to accept and refuse.
- `equals-ignore-case` matches each character in its lower or upper case (event-ruler: each UTF-16
  unit): "ß" is "ß" or "SS", and "ss" isn't "ß".
- Alternatives of one field never influence each other. In some releases of event-ruler they do.
- An empty list in an operator is refused. So are text after the pattern, and `$or`s that make more
  than 1000 rules (AWS's limit, quoted by other sources).
"""

import functools
import json
import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple, NoReturn

MAX_RULES = 1000  # that `$or` may make of a pattern
MAX_WILDCARD_PLACES = 10
LONGEST_LOOK = 16  # steps; look-ups store all of a path's dotted keys, which grow with its square
MAX_PLACES_STUDIED = 2000  # limits the work for one field's wildcards
MAX_NUMBER = 5_000_000_000  # the largest magnitude, and the most digits, that AWS compares
MAX_DIGITS = 15
MAX_DECIMALS = 6
SURE_LENGTH = MAX_DIGITS + 1  # characters: a number as short as this has at most MAX_DIGITS digits

# Keys that are operators or reserved for future ones. No field within `$or` may have such a name.
_RESERVED_WITHIN_OR = """
exactly equals-ignore-case prefix suffix anything-but exists wildcard numeric cidr = < <= > >= regex
not-wildcard not-equals-ignore-case date-after date-on-or-after date-before date-on-or-before
in-date-range ip-address-in-range ip-address-not-in-range
"""
RESERVED_WITHIN_OR = frozenset(_RESERVED_WITHIN_OR.split())

Test = Callable[[object], bool]  # of one plain value of an event
Address = tuple[int, int]  # IP version, number


class InvalidPattern(ValueError):
    """AWS refuses the pattern; the message names the place, the value and the remedy."""


class InvalidEvent(ValueError):
    """The event's text isn't JSON."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern. `matches` takes an event from `parse_event` or `json.loads`.

    Only objects match.
    """

    source: str
    matches: Callable[[object], bool] = field(repr=False, compare=False)
    needs_digits: bool = False
    """Whether numbers must come from `parse_event`: the pattern has a number to be equal to.

    Without it, an event with floats in place of numbers with more digits matches too often at most.
    """


@functools.lru_cache(256)
def compile_pattern(pattern_json: str) -> Pattern:
    """Return the compiled pattern; raise InvalidPattern, and nothing else."""
    try:
        rules = _rules(_parsed(pattern_json))
        _check_complexity(rules)
        leaves = [leaf for rule in rules for leaf in rule.values()]
        return Pattern(pattern_json, _matcher(rules), any(leaf.needs_digits for leaf in leaves))
    except RecursionError:
        raise InvalidPattern("the pattern is nested too deeply") from None


def matches(pattern_json: str, event_json: str) -> bool:
    """Return whether an event matches; raise InvalidPattern, or InvalidEvent if it isn't JSON."""
    pattern = compile_pattern(pattern_json)
    return pattern.matches(parse_event(event_json))


class Repeated(tuple[object, ...]):
    """The values of a key that an object of an event has several times, in order."""

    __slots__ = ()


class Digits(NamedTuple):
    """A number that AWS doesn't compare by value: its text."""

    text: str


def parse_event(event_json: str) -> object:
    """Return an event's value; raise InvalidEvent, also for NaN.

    Repeated keys give `Repeated`, and numbers with too many digits `Digits`.
    """
    try:
        return json.loads(
            event_json,
            object_pairs_hook=_members,
            parse_float=_number_of,
            parse_constant=_refuse_constant,
        )
    except (ValueError, TypeError) as error:
        raise InvalidEvent(f"the event is not JSON: {error}") from error
    except RecursionError:
        raise InvalidEvent("the event is nested too deeply") from None


def _number_of(text: str) -> "float | Digits":
    """Return a number's value if AWS compares it; otherwise its digits."""
    value = float(text)
    if len(text) <= SURE_LENGTH and value:  # so few digits are told from their double
        return value if _is_compared(value) else Digits(text)
    return value if _has_few_digits(text) else Digits(text)


def _is_compared(value: float) -> bool:
    """Return whether AWS compares the number that is a double's shortest text."""
    if -(10**9) < value < 10**9:
        return value == round(value, MAX_DECIMALS)
    return -MAX_NUMBER <= value <= MAX_NUMBER and value == round(value, MAX_DECIMALS - 1)


def _has_few_digits(text: str) -> bool:
    """Return whether AWS compares the number of a text of any length."""
    try:
        number = Decimal(text)
    except InvalidOperation:  # an exponent of twenty digits
        return False
    digits = "".join(map(str, number.as_tuple().digits)).lstrip("0")
    significant = len(digits.rstrip("0"))
    exponent = int(number.as_tuple().exponent) + len(digits) - significant
    if not significant:
        return True
    is_short = significant <= MAX_DIGITS and exponent >= -MAX_DECIMALS
    return is_short and -MAX_NUMBER <= number <= MAX_NUMBER


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        for key in members:
            values = [value for name, value in pairs if name == key]
            if len(values) > 1:
                members[key] = Repeated(values)
    return members


# A pattern's JSON, with repeated keys and all digits, which Python's own values would lose.


class _Object(tuple[tuple[str, object], ...]):
    """A JSON object's members, with repeated keys."""

    __slots__ = ()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _parsed(pattern_json: str) -> _Object:
    try:
        parsed = json.loads(
            pattern_json,
            object_pairs_hook=_Object,
            parse_int=Digits,
            parse_float=Digits,
            parse_constant=_refuse_constant,
        )
    except (ValueError, TypeError) as error:
        raise InvalidPattern(f"the pattern is not JSON: {error}") from error
    if not isinstance(parsed, _Object):
        raise InvalidPattern(f"the pattern is {_described(parsed)}; it has to be an object")
    return parsed


def _described(value: object) -> str:
    """Return a description of a value, for messages."""
    if isinstance(value, _Object):
        return "an object" if value else "an empty object"
    if isinstance(value, Digits):
        return f"the number {value.text}"
    if isinstance(value, list):
        return "an array" if value else "an empty array"
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


def _refuse(where: str, problem: str) -> NoReturn:
    raise InvalidPattern(f"{where}: {problem}")


# From the pattern to its rules: `$or` is expanded, as in event-ruler.


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A field's alternatives: tests of its value, and whether it may be absent."""

    where: str
    alternatives: Sequence[object]
    accepts: Test
    absent: bool
    needs_digits: bool

    @property
    def only_absent(self) -> bool:
        return all(alternative == (("exists", False),) for alternative in self.alternatives)


_Rule = dict[str, _Leaf]  # by path


class _Field(NamedTuple):
    steps: tuple[str, ...]
    leaf: _Leaf


def _fields(rule: _Rule) -> list[_Field]:
    """Return a rule's fields in matching order, which is that of Java's strings (UTF-16 units)."""
    paths = sorted(rule, key=lambda path: path.encode("utf-16-be", "surrogatepass"))
    return [_Field(tuple(path.split(".")), rule[path]) for path in paths]


class _Place(NamedTuple):
    """A place in the pattern: its path, its name for messages, whether it is within `$or`."""

    path: str = ""
    where: str = ""
    within_or: bool = False

    def at(self, key: str) -> "_Place":
        return self._replace(
            path=f"{self.path}.{key}" if self.path else key,
            where=f"{self.where}.{key}" if self.where else key,
        )


def _rules(pattern: _Object) -> list[_Rule]:
    return _extended([{}], pattern, _Place())


def _extended(rules: list[_Rule], members: _Object, place: _Place) -> list[_Rule]:
    """Return the rules with an object's fields added to each."""
    if not members:
        _refuse(place.where or "the pattern", "is an empty object; it needs at least one field")
    for key, value in members:
        here = place.at(key)
        if key == "$or":
            rules = _branched(rules, value, place._replace(where=here.where))
        elif place.within_or and key in RESERVED_WITHIN_OR:
            _refuse(here.where, f'"{key}" is an operator; within $or no field may have its name')
        elif isinstance(value, _Object):
            rules = _extended(rules, value, here)
        elif isinstance(value, list):
            leaf = _leaf(value, here.where)
            for rule in rules:
                rule[here.path] = leaf
        else:
            found = _described(value)
            _refuse(here.where, f"is {found}; it has to be an object or an array of alternatives")
    return rules


def _branched(rules: list[_Rule], branches: object, place: _Place) -> list[_Rule]:
    """Return, for each branch of `$or`, the rules with the branch's fields added."""
    if not isinstance(branches, list) or len(branches) < 2:
        found = "an array of one" if branches and isinstance(branches, list) else None
        found = found or _described(branches)
        _refuse(place.where, f"is {found}; $or needs an array of two or more objects")
    branched: list[_Rule] = []
    for index, branch in enumerate(branches):
        inside = place._replace(where=f"{place.where}[{index}]", within_or=True)
        if not isinstance(branch, _Object):
            _refuse(inside.where, f"is {_described(branch)}; $or takes objects only")
        branched += _extended([dict(rule) for rule in rules], branch, inside)
        if len(branched) > MAX_RULES:
            _refuse(place.where, f"makes more than {MAX_RULES} rules of the pattern")
    return branched


def _leaf(alternatives: list[object], where: str) -> _Leaf:
    if not alternatives:
        _refuse(where, "is an empty array; it needs at least one alternative")
    tests: list[Test] = []
    literals: set[Hashable] = set()
    addresses: set[Address] = set()
    absent = False
    for index, alternative in enumerate(alternatives):
        at = f"{where}[{index}]"
        if alternative == (("exists", False),):
            absent = True
        elif isinstance(alternative, _Object):
            tests.append(_operator(alternative, at))
        elif isinstance(alternative, str) and (address := _address(alternative)):
            addresses.add(address)
        else:
            literals.add(_literal(alternative, at))
    if literals:
        tests.append(_one_of(literals))
    if addresses:
        tests.append(lambda value: isinstance(value, str) and _address(value) in addresses)
    needs_digits = any(_has_number(alternative) for alternative in alternatives)
    return _Leaf(where, alternatives, _any_test(tests), absent, needs_digits)


def _has_number(alternative: object) -> bool:
    """Return whether an alternative has a number to be equal to; `numeric` asks for an order."""
    if isinstance(alternative, _Object):
        [(name, operand)] = alternative
        return name == "anything-but" and _has_number(operand)
    if isinstance(alternative, list):
        return any(map(_has_number, alternative))
    return isinstance(alternative, Digits)


def _any_test(tests: Sequence[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    return lambda value: any(test(value) for test in tests)


# Literals. Values that are equal in a pattern have equal identities.


def _literal(value: object, where: str) -> Hashable:
    if isinstance(value, Digits):
        return _number_identity(value)
    if isinstance(value, list):
        found = _described(value)
        _refuse(
            where, f"is {found}; an alternative is a string, number, true, false, null or object"
        )
    return _identity(value)


def _number_identity(number: Digits) -> Hashable:
    value = _number_of(number.text)
    return value if isinstance(value, float) else number


def _identity(value: object) -> Hashable:
    """Return a plain value's identity. True and null are wrapped, because True equals 1."""
    kind = type(value)
    if kind is str or kind is Digits:
        return value
    if type(value) is float:
        return value if _is_compared(value) else Digits(repr(value))
    if type(value) is not int:
        return (kind, value)
    return value if -MAX_NUMBER <= value <= MAX_NUMBER else Digits(str(value))


def _one_of(identities: Iterable[Hashable]) -> Test:
    known = frozenset(identities)
    return lambda value: _identity(value) in known


# Operators: each makes a test of its operand, or refuses it.


def _operator(operator: _Object, where: str) -> Test:
    name, operand = _only_member(operator, where)
    if name not in _OPERATORS:
        _refuse(where, f'"{name}" isn\'t an operator; there are {", ".join(_OPERATORS)}')
    return _OPERATORS[name](operand, f"{where}.{name}")


def _only_member(operator: _Object, where: str) -> tuple[str, object]:
    if len(operator) != 1:
        _refuse(where, f"has {len(operator)} keys; an operator is an object with exactly one")
    return operator[0]


def _string(operand: object, where: str) -> str:
    if not isinstance(operand, str):
        _refuse(where, f"is {_described(operand)}; it has to be a string")
    return operand


def _comparable(operand: object, where: str) -> float:
    if not isinstance(operand, Digits):
        _refuse(where, f"is {_described(operand)}; it has to be a number")
    number = _number_identity(operand)
    if not isinstance(number, float):
        limits = f"at most {MAX_DIGITS} digits and {MAX_DECIMALS} decimals, from -5e9 to 5e9"
        _refuse(where, f"is {operand.text}; AWS compares with numbers of {limits}")
    return number


def _exactly(operand: object, where: str) -> Test:
    return _one_of([_string(operand, where)])


def _exists(operand: object, where: str) -> Test:
    if operand is not True:  # the caller handles false
        _refuse(where, f"is {_described(operand)}; it has to be true or false")
    return lambda _value: True


def _prefix(operand: object, where: str) -> Test:
    if isinstance(operand, _Object):
        begins = re.compile(_any_case(_ignored_case_of(operand, where)))
        return lambda value: isinstance(value, str) and begins.match(value) is not None
    return _starts(_string(operand, where), where)


def _suffix(operand: object, where: str) -> Test:
    if isinstance(operand, _Object):
        ends = re.compile(rf"(?:{_any_case(_ignored_case_of(operand, where))})\Z")
        return lambda value: isinstance(value, str) and ends.search(value) is not None
    return _ends(_string(operand, where), where)


def _ignored_case_of(operator: _Object, where: str) -> str:
    name, operand = _only_member(operator, where)
    if name != "equals-ignore-case":
        _refuse(where, f'"{name}" is not known here; only equals-ignore-case is')
    return _string(operand, f"{where}.{name}")


def _equals_ignoring_case(operand: object, where: str) -> Test:
    equal = re.compile(_any_case(_string(operand, where)))
    return lambda value: isinstance(value, str) and equal.fullmatch(value) is not None


def _any_case(text: str) -> str:
    """Return a regular expression for the text, with each character in lower or upper case."""
    forms = (sorted({character.lower(), character.upper()}) for character in text)
    return "".join(f"(?:{'|'.join(map(re.escape, either))})" for either in forms)


def _starts(text: str, _where: str) -> Test:
    return lambda value: isinstance(value, str) and value.startswith(text)


def _ends(text: str, _where: str) -> Test:
    return lambda value: isinstance(value, str) and value.endswith(text)


def _wildcard(operand: object, where: str) -> Test:
    first, *middle_and_last = _between_stars(_string(operand, where), where)
    if not middle_and_last:
        return lambda value: value == first
    *middle, last = middle_and_last
    shortest = len(first) + len(last)

    def test(value: object) -> bool:
        if not isinstance(value, str) or len(value) < shortest:
            return False
        if not (value.startswith(first) and value.endswith(last)):
            return False
        at, end = len(first), len(value) - len(last)
        for part in middle:  # the first place leaves most room for the next part
            at = value.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return test


def _between_stars(text: str, where: str) -> list[str]:
    r"""Return the literal parts between the `*`; `\*` and `\\` are literal characters."""
    parts = [""]
    for piece in re.findall(r"\\.?|\*+|[^\\*]+", text, re.DOTALL):
        if piece == "*":
            parts.append("")
        elif piece[0] == "*":
            _refuse(where, f"has {piece} in {_described(text)}; one * matches any run already")
        elif piece[0] == "\\":
            if piece not in ("\\*", "\\\\"):
                _refuse(where, rf"has {piece} in {_described(text)}; a \ stands before * or \ only")
            parts[-1] += piece[1]
        else:
            parts[-1] += piece
    return parts


def _anything_but(operand: object, where: str) -> Test:
    if isinstance(operand, _Object):
        name, inner = _only_member(operand, where)
        if name not in _NEGATED:
            _refuse(where, f'"{name}" can\'t be negated; {", ".join(_NEGATED)} can')
        test = _any_test(_each_string(inner, f"{where}.{name}", _NEGATED[name]))
    else:
        test = _one_of(_strings_or_numbers(operand, where))
    return lambda value: not test(value)


def _each_string(operand: object, where: str, make: Callable[[str, str], Test]) -> list[Test]:
    if not isinstance(operand, list):
        return [make(_string(operand, where), where)]
    if not operand:
        _refuse(where, "is an empty array; it needs at least one string")
    places = [f"{where}[{index}]" for index in range(len(operand))]
    return [make(_string(item, at), at) for item, at in zip(operand, places, strict=True)]


def _strings_or_numbers(operand: object, where: str) -> list[Hashable]:
    items = operand if isinstance(operand, list) else [operand]
    if not items:
        _refuse(where, "is an empty array; it needs at least one string or number")
    if all(isinstance(item, str) for item in items):
        return list(items)
    for item in items:
        if not isinstance(item, str | Digits):
            _refuse(where, f"holds {_described(item)}; it takes strings or numbers")
    if any(isinstance(item, str) for item in items):
        _refuse(where, "holds strings and numbers; it has to be all of one kind")
    return [_comparable(item, where) for item in items]


def _not_empty(make: Callable[[str, str], Test]) -> Callable[[str, str], Test]:
    def made(text: str, where: str) -> Test:
        if not text:
            _refuse(where, "is an empty string, which every string contains; it needs characters")
        return make(text, where)

    return made


# Open intervals. A bound that belongs to a range is moved by one double.
_RANGES: dict[str, Callable[[float], tuple[float, float]]] = {
    "=": lambda bound: (math.nextafter(bound, -math.inf), math.nextafter(bound, math.inf)),
    ">": lambda bound: (bound, math.inf),
    ">=": lambda bound: (math.nextafter(bound, -math.inf), math.inf),
    "<": lambda bound: (-math.inf, bound),
    "<=": lambda bound: (-math.inf, math.nextafter(bound, math.inf)),
}


def _numeric(operand: object, where: str) -> Test:
    if not isinstance(operand, list) or len(operand) not in (2, 4):
        found = f"an array of {len(operand)}" if isinstance(operand, list) else _described(operand)
        _refuse(where, f'is {found}; it has to be like [">", 0] or [">", 0, "<=", 5]')
    allowed = [list(_RANGES)] if len(operand) == 2 else [[">", ">="], ["<", "<="]]
    for at, (comparison, known) in enumerate(zip(operand[::2], allowed, strict=True)):
        if comparison not in known:
            found = _described(comparison)
            _refuse(f"{where}[{2 * at}]", f"is {found}; it has to be one of {' '.join(known)}")
    bounds = [_comparable(item, f"{where}[{2 * at + 1}]") for at, item in enumerate(operand[1::2])]
    if bounds[-1] <= bounds[0] and len(bounds) > 1:
        _refuse(where, f"is an empty range: {bounds[1]} is not above {bounds[0]}")
    ranges = [_RANGES[name](bound) for name, bound in zip(operand[::2], bounds, strict=True)]
    return _between(max(low for low, _ in ranges), min(high for _, high in ranges))


def _between(low: float, high: float) -> Test:
    def test(value: object) -> bool:
        if type(value) is float:
            return low < value < high and _is_compared(value)
        return type(value) is int and low < value < high and -MAX_NUMBER <= value <= MAX_NUMBER

    return test


_IPV4 = re.compile(r"0*([0-9]{1,3})\.0*([0-9]{1,3})\.0*([0-9]{1,3})\.0*([0-9]{1,3})")
_IPV6 = re.compile(r"[0-9a-fA-F:]*:[0-9a-fA-F:]*")


def _address(text: str) -> Address | None:
    """Return a text's IP address, or None. An IPv4 address written as IPv6 is IPv4, as in Java."""
    if version_4 := _IPV4.fullmatch(text):
        octets = [int(octet) for octet in version_4.groups()]
        return (4, int.from_bytes(octets)) if max(octets) < 256 else None
    if not _IPV6.fullmatch(text):
        return None
    try:
        address = IPv6Address(text)
    except AddressValueError:
        return None
    mapped = address.ipv4_mapped
    return (6, int(address)) if mapped is None else (4, int(mapped))


def _cidr(operand: object, where: str) -> Test:
    text, slash, bits_text = _string(operand, where).partition("/")
    address = _address(text)
    if not slash or address is None:
        _refuse(where, f"is {_described(operand)}; it has to be like 10.0.0.0/8 or 2001:db8::/32")
    version, number = address
    width = 32 if version == 4 else 128
    if not re.fullmatch("0*[0-9]{1,3}", bits_text) or int(bits_text) >= width:
        _refuse(where, f'has the mask "{bits_text}"; it has to be from 0 to {width - 1}')
    shift = width - int(bits_text)

    def test(value: object) -> bool:
        found = _address(value) if isinstance(value, str) else None
        return found is not None and found[0] == version and found[1] >> shift == number >> shift

    return test


_OPERATORS: dict[str, Callable[[object, str], Test]] = {
    "prefix": _prefix,
    "suffix": _suffix,
    "equals-ignore-case": _equals_ignoring_case,
    "wildcard": _wildcard,
    "anything-but": _anything_but,
    "numeric": _numeric,
    "exists": _exists,
    "cidr": _cidr,
    "exactly": _exactly,
}

_NEGATED: dict[str, Callable[[str, str], Test]] = {
    "prefix": _not_empty(_starts),
    "suffix": _not_empty(_ends),
    "equals-ignore-case": _equals_ignoring_case,
    "wildcard": _wildcard,
}


# The complexity of a field's wildcards: the number of places that one value can be at at once.


def _check_complexity(rules: list[_Rule]) -> None:
    """Refuse rules that are too complex by event-ruler's measure.

    Rules that begin with equal fields share one machine, which has all wildcards of the next field.
    Fields after a field that must be absent aren't measured (until 2.1).
    """
    machines: dict[Hashable, dict[str, _Leaf]] = {}
    if not any(_wildcards(leaf) for rule in rules for leaf in rule.values()):
        return
    for rule in rules:
        before: tuple[str, ...] = ()
        for steps, leaf in _fields(rule):
            machine = machines.setdefault((before, steps), {})
            machine[repr(leaf.alternatives)] = leaf
            if leaf.only_absent:
                break
            before = (*before, f"{steps} {leaf.alternatives!r}")
    for machine in machines.values():
        patterns = {names: None for leaf in machine.values() for names in _wildcards(leaf)}
        if _places_at_once(list(patterns)) > MAX_WILDCARD_PLACES:
            where = " and ".join(leaf.where for leaf in machine.values() if _wildcards(leaf))
            _refuse(
                where, "is too complex; it needs fewer wildcards, or less repetition after them"
            )


def _wildcards(leaf: _Leaf) -> list[tuple[str, ...]]:
    """Return the wildcard texts of each alternative; a negated one may have several."""
    found = []
    for alternative in leaf.alternatives:
        if isinstance(alternative, _Object):
            [(name, operand)] = alternative
            if name == "anything-but" and isinstance(operand, _Object):
                [(name, operand)] = operand
            if name == "wildcard":
                texts = operand if isinstance(operand, list) else [operand]
                found.append(tuple(str(text) for text in texts))
    return found


_STAR = 256  # not a byte
_OTHER = 257  # a byte that no pattern names


class _Automaton:
    """The places in a field's wildcard patterns, which share beginnings up to the first `*`."""

    def __init__(self, alternatives: Sequence[tuple[str, ...]]) -> None:
        self.next: list[dict[int, list[int]]] = [{}]  # place, token -> places
        self.patterns: list[set[int]] = [set()]  # place -> alternatives that pass through it
        self.shared: dict[tuple[int, int], int] = {}  # place, token -> place, up to the first star
        for alternative, texts in enumerate(alternatives):
            end = self._place()
            for text in dict.fromkeys(texts):
                self._add(alternative, _tokens(text), end)

    def _place(self) -> int:
        self.next.append({})
        self.patterns.append(set())
        return len(self.next) - 1

    def _add(self, alternative: int, tokens: list[int], end: int) -> None:
        place, shared = 0, True
        for token in tokens[:-1]:
            after = self.shared.get((place, token)) if shared else None
            if after is None:
                after = self._place()
                self.next[place].setdefault(token, []).append(after)
                if shared:
                    self.shared[place, token] = after
            place, shared = after, shared and token != _STAR
            self.patterns[place].add(alternative)
        self.next[place].setdefault(tokens[-1], []).append(end)
        self.patterns[end].add(alternative)

    def closed(self, places: Iterable[int]) -> frozenset[int]:
        """Return the places, with those after stars that match nothing."""
        reached = set(places)
        return frozenset(reached.union(*(self.next[place].get(_STAR, ()) for place in reached)))

    def after(self, places: frozenset[int], stars: frozenset[int], byte: int) -> frozenset[int]:
        moved = {after for place in places for after in self.next[place].get(byte, ())}
        return self.closed(moved | (places & stars))

    def weight(self, places: frozenset[int]) -> int:
        return sum(len(self.patterns[place]) for place in places)


def _tokens(text: str) -> list[int]:
    """Return bytes and stars of a pattern's JSON form; its quotes count, too."""
    parts = [list(part.encode("utf-8", "surrogatepass")) for part in _between_stars(text, "")]
    tokens = [ord('"'), *parts[0]]
    for part in parts[1:]:
        tokens += [_STAR, *part]
    return [*tokens, ord('"')]


def _places_at_once(alternatives: Sequence[tuple[str, ...]]) -> int:
    """Return the most places that one value can be at, each counted for all patterns through it."""
    if not alternatives:
        return 0
    automaton = _Automaton(alternatives)
    stars = frozenset(place for edges in automaton.next for place in edges.get(_STAR, ()))
    alphabet = {token for edges in automaton.next for token in edges if token != _STAR} | {_OTHER}
    waiting = [frozenset({0})]
    seen = set(waiting)
    most = 0
    while waiting and most <= MAX_WILDCARD_PLACES and len(seen) <= MAX_PLACES_STUDIED:
        places = waiting.pop()
        most = max(most, automaton.weight(places))
        for byte in alphabet:
            reached = automaton.after(places, stars, byte)
            if reached and reached not in seen:
                seen.add(reached)
                waiting.append(reached)
    return most


# Matching. Most events are nested objects without dots in their keys, and a few look-ups find a
# field. If a look-up meets an array of objects, or a dotted or repeated key, `_search` decides.

_MISSING = object()
_Look = Callable[[dict[str, object]], bool | None]  # None: look-ups can't decide


def _matcher(rules: Sequence[_Rule]) -> Callable[[object], bool]:
    tests = [_rule_test(rule) for rule in rules]
    test = tests[0] if len(tests) == 1 else lambda event: any(test(event) for test in tests)

    def matches(event: object) -> bool:
        if type(event) is dict:
            return test(event)
        return isinstance(event, Mapping) and test(dict(event))

    return matches


def _rule_test(rule: _Rule) -> Callable[[dict[str, object]], bool]:
    fields = _fields(rule)
    first, *others = [_look(steps, leaf) for steps, leaf in fields]

    def test_one(event: dict[str, object]) -> bool:
        found = first(event)
        return found if found is not None else _search(event, fields)

    def test(event: dict[str, object]) -> bool:
        found = first(event)
        for look in others:
            if not found:
                break
            found = look(event)
        return found if found is not None else _search(event, fields)

    return test if others else test_one


def _look(steps: tuple[str, ...], leaf: _Leaf) -> _Look:
    """Return a look-up that decides whether one field matches; the steps are its keys."""
    if len(steps) == 1:
        return _look_at_leaf(steps[0], leaf)
    if len(steps) > LONGEST_LOOK:
        return lambda _event: None
    step, absent = steps[0], leaf.absent
    inner = _look(steps[1:], leaf)
    dotted_keys = [".".join(steps[:count]) for count in range(2, len(steps) + 1)]

    def look(node: dict[str, object]) -> bool | None:
        for key in dotted_keys:
            if key in node:
                return None
        child = node.get(step)
        if type(child) is dict:
            return inner(child)
        return None if type(child) is list or type(child) is Repeated else absent

    return look


def _look_at_leaf(step: str, leaf: _Leaf) -> _Look:
    accepts, absent = leaf.accepts, leaf.absent

    def look(node: dict[str, object]) -> bool | None:
        value = node.get(step, _MISSING)
        if value is _MISSING or type(value) is dict:
            return absent
        if type(value) is Repeated:
            return None
        return look_in_array(value) if type(value) is list else accepts(value)

    def look_in_array(values: list[object]) -> bool | None:
        if not values:
            return absent
        if any(isinstance(value, dict | list) for value in values):
            return None
        return any(accepts(value) for value in values)

    return look


_Array = Hashable  # an array of the event, by its place
_Elements = Mapping[_Array, int]  # one element of each of some arrays


class _Value(NamedTuple):
    value: object
    within: _Elements


def _search(event: dict[str, object], fields: Sequence[_Field]) -> bool:
    """Return whether all fields match; try them in order, with all possible array elements."""
    values = [_values(event, field.steps) for field in fields]
    needed: list[set[_Array]] = [set()]  # arrays that contain later fields
    for found in reversed(values[1:]):
        needed.append(needed[-1].union(*(value.within for value in found)))
    choices: list[_Elements] = [{}]
    for (_, leaf), found, later in zip(fields, values, reversed(needed), strict=True):
        grouped = _by_outermost_array(found)
        possible: dict[Hashable, _Elements] = {}
        for chosen in choices:
            near = _consistent(grouped, chosen)
            ways = [value.within for value in near if leaf.accepts(value.value)]
            if not near and leaf.absent:
                ways = [{}]
            for within in ways:
                choice = {array: at for array, at in {**chosen, **within}.items() if array in later}
                possible[frozenset(choice.items())] = choice
        choices = list(possible.values())
        if not choices:
            return False
    return True


class _Node(NamedTuple):
    """A part of an event, with the number of the path's steps, the keys and elements up to it."""

    value: object
    depth: int
    place: tuple[str | int, ...]
    within: _Elements


def _values(event: dict[str, object], steps: tuple[str, ...]) -> list[_Value]:
    """Return all plain values at a path, with the array elements that contain them.

    A plain value's own place in an array doesn't count, so it combines with any other value.
    """
    found: list[_Value] = []
    waiting = [_Node(event, 0, (), {})]
    while waiting:
        node = waiting.pop()
        if isinstance(node.value, dict | list | Repeated):
            waiting += _inside(node, steps)
        elif node.depth == len(steps):
            found.append(_Value(node.value, node.within))
    return found


def _inside(node: _Node, steps: tuple[str, ...]) -> Iterator[_Node]:
    value, depth, place, within = node
    if isinstance(value, dict):
        for end in range(depth + 1, len(steps) + 1):
            key = ".".join(steps[depth:end])
            if key in value:
                yield _Node(value[key], end, (*place, key), within)
    elif isinstance(value, Repeated):
        for index, each in enumerate(value):  # plain elements combine with any value
            yield _Node(each, depth, (*place, -1 - index), within)
    elif isinstance(value, list):
        for index, element in enumerate(value):
            if isinstance(element, dict | list | Repeated):
                inside = {**within, place: index}
                yield _Node(element, depth, (*place, index), inside)
            else:
                yield _Node(element, depth, place, within)


_Grouped = Mapping[_Array | None, Mapping[int, list[_Value]]]


def _by_outermost_array(values: Iterable[_Value]) -> _Grouped:
    grouped: dict[_Array | None, dict[int, list[_Value]]] = {}
    for value in values:
        array, index = next(iter(value.within.items()), (None, 0))
        grouped.setdefault(array, {}).setdefault(index, []).append(value)
    return grouped


def _consistent(grouped: _Grouped, chosen: _Elements) -> list[_Value]:
    """Return the values that are in the chosen elements of their arrays."""
    near: list[_Value] = []
    for array, by_index in grouped.items():
        if array in chosen:
            near += by_index.get(chosen[array], ())
        else:
            near += (value for values in by_index.values() for value in values)
    return [
        value
        for value in near
        if all(chosen.get(array, index) == index for array, index in value.within.items())
    ]

"""The functions that a filter may call, none of which makes much out of little: their arguments, results, and Lance's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from topwork_server.errors import InvalidInput
from topwork_server.sets.filter_syntax import ADD, TIMES
from topwork_server.sets.filter_values import NUMBERS, Type, Value, as_float, moment, parsed_time

DAY = 86_400_000_000
#: Parts of a time.
PARTS = frozenset(
    "year quarter month week day doy dow isodow hour minute second millisecond microsecond epoch "
    "milliseconds microseconds seconds minutes hours days weeks months quarters years".split()
)
TRUNCATED = frozenset("year quarter month week day hour minute second millisecond microsecond".split())


def timestamp(value: Value) -> str:
    """Of a time in microseconds, as Lance's functions take it."""
    return f"to_timestamp_micros({value.sql})"


@dataclass(frozen=True, slots=True)
class Function:
    """`takes` has a letter an argument: s(tring), n(umber), i(nt), t(ime), l(ist of strings), e(lement of one), x (any);
    those behind ? may be left out, and the one before * may come again."""

    takes: str
    make: Callable[[str, Sequence[Value]], Value]


def _plain(type: Type) -> Callable[[str, Sequence[Value]], Value]:
    cast = {Type.INT: "BIGINT", Type.FLOAT: "DOUBLE"}.get(type)

    def make(name: str, args: Sequence[Value]) -> Value:
        sql = f"`{name}`({', '.join(arg.sql for arg in args)})"
        return Value(f"CAST({sql} AS {cast})" if cast else sql, type, name=f"{name}()")

    return make


def _abs(name: str, args: Sequence[Value]) -> Value:
    return _plain(args[0].type)(name, args)


def _unified(name: str, args: Sequence[Value]) -> Value:
    """Of coalesce and nullif: all arguments are of one type."""
    kinds = {arg.type for arg in args} - {Type.NULL}
    if kinds == set(NUMBERS):
        args, kinds = [as_float(arg) if arg.type in NUMBERS else arg for arg in args], {Type.FLOAT}
    if Type.TIME in kinds and kinds <= {Type.TIME, Type.STRING}:
        args = [moment(parsed_time(arg.constant)) if isinstance(arg.constant, str) else arg for arg in args]
        kinds = {arg.type for arg in args} - {Type.NULL}
    if len(kinds) > 1:
        raise InvalidInput(f"{name} takes values of one type, not {', '.join(map(str, args))}", remedy="cast them to one type")
    (kind,) = kinds or {Type.NULL}
    sql = f"{name}({', '.join('NULL' if arg.type is Type.NULL else arg.sql for arg in args)})"
    return Value(sql, kind, name=f"{name}()")


def _part(name: str, args: Sequence[Value]) -> Value:
    part = _word(name, args[0], PARTS)
    return Value(f"CAST(date_part('{part}', {timestamp(args[1])}) AS DOUBLE)", Type.FLOAT, name=f"{name}()")


def truncated(unit: str, value: Value) -> Value:
    return Value(f"CAST(date_trunc('{unit}', {timestamp(value)}) AS BIGINT)", Type.TIME, name=f"the {unit} of {value.name}")


def _trunc(name: str, args: Sequence[Value]) -> Value:
    return truncated(_word(name, args[0], TRUNCATED), args[1])


def _word(name: str, value: Value, known: frozenset[str]) -> str:
    found = value.constant.lower() if isinstance(value.constant, str) else ""
    if found not in known:
        raise InvalidInput(f"{name} has no part {value}", remedy=f"there are {', '.join(sorted(known))}")
    return found


def as_time(value: Value) -> Value:
    """A text, read as a time."""
    if value.type is Type.TIME:
        return value
    if isinstance(value.constant, str):
        return moment(parsed_time(value.constant))
    if value.type is not Type.STRING:
        raise InvalidInput(f"{value} is not a time", remedy="to_timestamp_seconds(n) reads a number as seconds since 1970")
    return Value(f"CAST({timestamp(value)} AS BIGINT)", Type.TIME, name=value.name)


def as_date(value: Value) -> Value:
    found = as_time(value)
    if found.constant is not None:
        return moment(int(found.constant) // DAY * DAY)
    return truncated("day", found)


def _times(micros: int) -> Callable[[str, Sequence[Value]], Value]:
    """Numbers of so many microseconds each; texts are read as times."""

    def make(name: str, args: Sequence[Value]) -> Value:
        value = args[0]
        if value.type not in NUMBERS:
            return as_time(value)
        if micros == 1:
            return Value(value.sql, Type.TIME, value.power, name=value.name)
        return Value(f"CAST({value.within(TIMES)} * {micros} AS BIGINT)", Type.TIME, name=value.name)

    return make


def _date(name: str, args: Sequence[Value]) -> Value:
    return as_date(args[0])


def _trim(name: str, args: Sequence[Value]) -> Value:
    return _plain(Type.STRING)("btrim", args)


def _array_has(name: str, args: Sequence[Value]) -> Value:
    return _plain(Type.BOOL)("array_has", args)


def _length_of_list(name: str, args: Sequence[Value]) -> Value:
    return _plain(Type.INT)("array_length", args)


STRING, BOOL, INT, FLOAT = map(_plain, (Type.STRING, Type.BOOL, Type.INT, Type.FLOAT))
FUNCTIONS: dict[str, Function] = {
    "abs": Function("n", _abs),
    **{name: Function("n", FLOAT) for name in ("ceil", "floor", "exp", "ln", "log10", "log2", "sqrt")},
    **{name: Function("n?i", FLOAT) for name in ("round", "trunc")},
    "power": Function("nn", FLOAT),
    **{name: Function("s", STRING) for name in ("lower", "upper")},
    **{name: Function("s?s", STRING) for name in ("btrim", "ltrim", "rtrim")},
    "trim": Function("s", _trim),
    **{name: Function("s", INT) for name in ("length", "char_length", "octet_length")},
    **{name: Function("si?i", _plain(Type.STRING)) for name in ("substr", "substring")},
    **{name: Function("ss", BOOL) for name in ("contains", "starts_with", "ends_with")},
    "regexp_like": Function("ss?s", BOOL),
    "regexp_match": Function("ss?s", _plain(Type.STRINGS)),
    **{name: Function("ss", INT) for name in ("strpos", "position")},
    **{name: Function("le", _array_has) for name in ("array_has", "array_contains")},
    **{name: Function("ll", BOOL) for name in ("array_has_all", "array_has_any")},
    **{name: Function("l", _length_of_list) for name in ("array_length", "cardinality")},
    "coalesce": Function("x*", _unified),
    "nullif": Function("xx", _unified),
    "date_part": Function("st", _part),
    "date_trunc": Function("st", _trunc),
    "to_date": Function("x", _date),
    "to_timestamp": Function("x", _times(1_000_000)),
    "to_timestamp_seconds": Function("x", _times(1_000_000)),
    "to_timestamp_millis": Function("x", _times(1000)),
    "to_timestamp_micros": Function("x", _times(1)),
}
_KINDS = {
    "s": (Type.STRING,),
    "e": (Type.STRING,),
    "n": NUMBERS,
    "i": (Type.INT,),
    "t": (Type.TIME,),
    "l": (Type.STRINGS,),
}
NAMES = sorted([*FUNCTIONS, "cast", "extract", "now", "try_cast"])


def called(name: str, args: Sequence[Value]) -> Value:
    """The call of a function. InvalidInput for one that filters have not, and for arguments that it does not take."""
    function = FUNCTIONS.get(name)
    if function is None:
        raise InvalidInput(f"filters have no function {name[:60]!r}", remedy=f"there are {', '.join(NAMES)}")
    return function.make(name, _fitting(name, function.takes, args))


def _fitting(name: str, takes: str, args: Sequence[Value]) -> list[Value]:
    letters = takes.replace("?", "").replace("*", "")
    least, most = len(takes.split("?")[0].rstrip("*")), len(args) if "*" in takes else len(letters)
    if not least <= len(args) <= max(most, least):
        wanted = f"{least}" if least == most else f"{least} or more" if "*" in takes else f"{least} or {most}"
        raise InvalidInput(f"{name} has {len(args)} arguments", remedy=f"it takes {wanted}")
    return [_argument(name, letters[min(i, len(letters) - 1)], arg) for i, arg in enumerate(args)]


def _argument(name: str, letter: str, arg: Value) -> Value:
    if letter == "x":
        return arg
    if letter == "t" and arg.type is Type.STRING:
        return as_time(arg)
    if letter == "i" and isinstance(arg.constant, int):
        return arg
    if arg.type not in _KINDS[letter]:
        wanted = " or ".join(kind.value for kind in _KINDS[letter])
        raise InvalidInput(f"{name} takes {wanted} there, and is given {arg}", remedy="pass another column, or cast it")
    return arg


_CASTS = {
    **dict.fromkeys(("int", "integer", "bigint", "smallint", "tinyint", "int8", "int4", "int64", "int32"), Type.INT),
    **dict.fromkeys(("double", "float", "real", "decimal", "numeric", "float8", "float4", "float64", "float32"), Type.FLOAT),
    **dict.fromkeys(("varchar", "text", "string", "char", "utf8"), Type.STRING),
    **dict.fromkeys(("bool", "boolean"), Type.BOOL),
    **dict.fromkeys(("timestamp", "timestamptz", "datetime", "date"), Type.TIME),
}
_SQL_TYPES = {Type.INT: "BIGINT", Type.FLOAT: "DOUBLE", Type.STRING: "STRING", Type.BOOL: "BOOLEAN"}


def cast(kind: str, value: Value, type_name: str) -> Value:
    """`kind` is cast, or try_cast: NULL for what does not convert."""
    type = _CASTS.get(re.sub(r"\W.*", "", type_name))
    if type is None:
        raise InvalidInput(
            f"filters have no type {type_name[:60]!r}", remedy="cast to int, double, string, bool, timestamp or date"
        )
    if type is Type.TIME:
        return as_date(value) if type_name == "date" else as_time(value)
    if value.type in (Type.STRINGS, Type.INTERVAL) or (value.type is Type.TIME and type is not Type.STRING):
        raise InvalidInput(f"{value} does not become {type.value}", remedy="date_part('epoch', t) gives the seconds of a time")
    sql = "NULL" if value.type is Type.NULL else timestamp(value) if value.type is Type.TIME else value.sql
    return Value(f"{kind}({sql} AS {_SQL_TYPES[type]})", type, name=f"{value.name} as {type.value}")


def arithmetic(operator: str, left: Value, right: Value) -> Value:
    """Numbers, and times with intervals."""
    power = ADD if operator in "+-" else TIMES
    type = _result(operator, left, right)
    if type in (Type.TIME, Type.INTERVAL) and left.constant is not None and right.constant is not None:
        return moment(_folded(operator, left.constant, right.constant), type)
    # Of operators of equal power the right one keeps its parentheses: a - (b - c).
    sql = f"{left.sql if left.power >= power else f'({left.sql})'} {operator} {right.within(power)}"
    return Value(sql, type, power, name=f"a {type.value} made by {operator}")


def _folded(operator: str, left: int, right: int) -> int:
    return left + right if operator == "+" else left - right if operator == "-" else left * right


def _result(operator: str, left: Value, right: Value) -> Type:
    kinds = (left.type, right.type)
    if all(kind in NUMBERS for kind in kinds):
        return Type.FLOAT if Type.FLOAT in kinds else Type.INT
    if operator in "+-" and kinds[1] is Type.INTERVAL and kinds[0] in (Type.TIME, Type.INTERVAL):
        return kinds[0]
    if operator == "+" and kinds == (Type.INTERVAL, Type.TIME):
        return Type.TIME
    if operator == "-" and kinds == (Type.TIME, Type.TIME):
        return Type.INTERVAL
    if operator == "*" and set(kinds) == {Type.INTERVAL, Type.INT}:
        return Type.INTERVAL
    raise InvalidInput(
        f"the filter computes {left} {operator} {right}", remedy="numbers go with numbers, and times with interval '1 day'"
    )
